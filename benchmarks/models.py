"""The models of the accuracy study by their names: baselines, what pools, and controls."""

from __future__ import annotations

from benchmarks import MOST_CLUSTERS

__all__ = ["BASELINES", "MODELS", "POOLED"]

PLAIN = ("--diffpool-levels", "0")
# what a name says about clusters comes later on the line and counts
MOST = ("--diffpool-max-clusters", str(MOST_CLUSTERS))
EIGHT = ("--diffpool-max-clusters", "8")
THEN_ONE = ("--diffpool-levels", "2", "--diffpool-max-clusters")
PLACES = (*EIGHT, "--diffpool-positions", "8")
GNN = ("--diffpool-assignment", "gnn")
TOP = ("--diffpool-top-k", "2")
NO_LOSSES = ("--diffpool-link-weight", "0", "--diffpool-entropy-weight", "0")


def dropout(share: float) -> tuple[str, str]:
    """chemprop's option, which acts on all layers."""
    return "--dropout", str(share)


# the options of `tritonpool train`, and the change of the model (benchmarks.controls)
Models = dict[str, tuple[tuple[str, ...], str | None]]
BASELINES: Models = {
    "D-MPNN": (PLAIN, None),
    "D-MPNN, norm": ((*PLAIN, "--aggregation", "norm"), None),
    "D-MPNN, sum": ((*PLAIN, "--aggregation", "sum"), None),
    "D-MPNN, mean and sum": (PLAIN, "mean and sum"),
    "D-MPNN, attentive": (PLAIN, "attentive"),
    "D-MPNN, 555 wide": ((*PLAIN, "--message-hidden-dim", "555"), None),
    "D-MPNN, dropout 0.1": ((*PLAIN, *dropout(0.1)), None),
    "D-MPNN, dropout 0.2": ((*PLAIN, *dropout(0.2)), None),
    "D-MPNN, 2 FFN layers": ((*PLAIN, "--ffn-num-layers", "2"), None),
    "D-MPNN, 6 steps": ((*PLAIN, "--depth", "6"), None),
}
POOLED: Models = {
    "DiffPool": ((), None),
    "DiffPool, norm": (("--aggregation", "norm"), None),
    "DiffPool, sum": (("--aggregation", "sum"), None),
    "DiffPool, ratio 0.05": (("--diffpool-ratio", "0.05"), None),
    "DiffPool, ratio 0.1": (("--diffpool-ratio", "0.1"), None),
    "DiffPool, ratio 0.5": (("--diffpool-ratio", "0.5"), None),
    "DiffPool, at most 8 clusters": (EIGHT, None),
    "DiffPool, at most 8 clusters, norm": ((*EIGHT, "--aggregation", "norm"), None),
    "DiffPool, at most 4 clusters": (("--diffpool-max-clusters", "4"), None),
    "DiffPool, at most 8 clusters, ratio 0.1": ((*EIGHT, "--diffpool-ratio", "0.1"), None),
    "DiffPool, at most 8 clusters, ratio 0.5": ((*EIGHT, "--diffpool-ratio", "0.5"), None),
    "DiffPool, at most 8 clusters, 2 levels": ((*EIGHT, "--diffpool-levels", "2"), None),
    "DiffPool, at most 8 clusters, last readout": ((*EIGHT, "--diffpool-readout", "last"), None),
    "DiffPool, at most 8 clusters, 2 coarse steps": ((*EIGHT, "--diffpool-depth", "2"), None),
    "DiffPool, at most 8 clusters, 2 FFN layers": ((*EIGHT, "--ffn-num-layers", "2"), None),
    "DiffPool, at most 8 clusters, no auxiliary losses": ((*EIGHT, *NO_LOSSES), None),
    "DiffPool, at most 8 clusters, dropout 0.1": ((*EIGHT, *dropout(0.1)), None),
    "DiffPool, at most 8 clusters, dropout 0.2": ((*EIGHT, *dropout(0.2)), None),
    "DiffPool, top 2": (TOP, None),
    "DiffPool, ratio 0.5, top 2": (("--diffpool-ratio", "0.5", *TOP), None),
    "DiffPool, at most 8 clusters, top 2": ((*EIGHT, *TOP), None),
    "DiffPool, at most 8 clusters, top 2, 8 positions, GNN assignment": (
        (*PLACES, *GNN, *TOP),
        None,
    ),
    "DiffPool, at most 8 clusters, atom encoder": ((*EIGHT, "--diffpool-encoder", "atom"), None),
    "DiffPool, atom encoder": (("--diffpool-encoder", "atom"), None),
    "DiffPool, GNN assignment": (GNN, None),
    "DiffPool, last readout": (("--diffpool-readout", "last"), None),
    "DiffPool, 2 levels": (("--diffpool-levels", "2"), None),
    "DiffPool, no auxiliary losses": (NO_LOSSES, None),
    "DiffPool, temperature 0.2": (("--diffpool-temperature", "0.2"), None),
    "DiffPool, 8 positions": (("--diffpool-positions", "8"), None),
    "DiffPool, at most 8 clusters, 8 positions": (PLACES, None),
    "DiffPool, at most 8 clusters, rings as prior": ((*EIGHT, "--diffpool-prior", "rings"), None),
    "DiffPool, at most 8 clusters, 8 positions, rings as prior": (
        (*PLACES, "--diffpool-prior", "rings"),
        None,
    ),
    "DiffPool, at most 8 clusters, GNN assignment": ((*EIGHT, *GNN), None),
    "DiffPool, at most 8 clusters, 8 positions, GNN assignment": ((*PLACES, *GNN), None),
    "DiffPool, at most 8 clusters, 8 positions, GNN assignment, rings as prior": (
        (*PLACES, *GNN, "--diffpool-prior", "rings"),
        None,
    ),
    "DiffPool, at most 8 clusters, 8 positions, GNN assignment, no auxiliary losses": (
        (*PLACES, *GNN, *NO_LOSSES),
        None,
    ),
    "DiffPool, rings as prior": (("--diffpool-prior", "rings"), None),
    "DiffPool, cluster features": (("--diffpool-cluster-features",), None),
    "DiffPool, gate": (("--diffpool-gate",), None),
    "DiffPool, then one cluster": ((*THEN_ONE, str(MOST_CLUSTERS), "1"), None),
    "DiffPool, at most 8 clusters, then one cluster": ((*THEN_ONE, "8", "1"), None),
    "DiffPool, ratio 0.05, then one cluster": (
        ("--diffpool-ratio", "0.05", *THEN_ONE, str(MOST_CLUSTERS), "1"),
        None,
    ),
    "control: no bond features": ((), "no bond features"),
    "control: no bond features, at most 8 clusters": (EIGHT, "no bond features"),
    "control: one cluster": (("--diffpool-max-clusters", "1"), None),
    "control: fixed random": ((), "fixed random"),
    "control: fixed random, ratio 0.05": (("--diffpool-ratio", "0.05"), "fixed random"),
    "control: frozen head": ((), "frozen head"),
    "control: shuffled": ((), "shuffled"),
    "control: rings and pieces between": (("--diffpool-assignment", "rings"), None),
    "control: fixed random, at most 8 clusters": (EIGHT, "fixed random"),
    "control: fixed random, at most 8 clusters, top 2": ((*EIGHT, *TOP), "fixed random"),
    "control: fixed random, at most 8 clusters, then one cluster": (
        (*THEN_ONE, "8", "1"),
        "fixed random",
    ),
    "control: frozen head, at most 8 clusters, 8 positions": (PLACES, "frozen head"),
    "control: frozen head, at most 8 clusters, 8 positions, GNN assignment": (
        (*PLACES, *GNN),
        "frozen head",
    ),
    "control: shuffled, at most 8 clusters": (EIGHT, "shuffled"),
    "control: pieces of the chain, at most 8 clusters": (
        ("--diffpool-assignment", "rings", *EIGHT),
        None,
    ),
    "control: rings and pieces between, at most 64 clusters": (
        ("--diffpool-assignment", "rings", "--diffpool-max-clusters", "64"),
        None,
    ),
}
# what pools also with nothing normalised, and with states and weights normalised
MODELS = BASELINES | {
    f"{name}{kind}": ((*MOST, *options, "--diffpool-normalize", value), control)
    for kind, value in (("", "weights"), (", sums", "none"), (", normalized", "both"))
    for name, (options, control) in POOLED.items()
}
