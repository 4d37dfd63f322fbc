"""Does pooling help, and do learned clusters? ``python -m benchmarks.accuracy --data-path X.csv``.

Trains every model on the same random splits and compares each with the reference model split by
split. Finished rows are kept in the output folder and skipped when the script is started again.
``--rows`` makes the tables and the plot from the rows of an earlier ``--csv``, and trains nothing.
"""

from __future__ import annotations

import argparse
import itertools
import statistics
from collections.abc import Sequence
from pathlib import Path

from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure

from benchmarks import MOST_CLUSTERS
from benchmarks.experiment import WHEN, Experiment, load, run_all, save
from tritonpool.compare.paired import Comparison, compare, ratio

__all__ = [
    "BASELINES",
    "MODELS",
    "POOLED",
    "Comparison",
    "compare",
    "comparisons",
    "main",
    "overlap",
    "plot",
    "ratio_table",
    "table",
]

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


def overlap(rows: dict[tuple[str, int], dict], model: str, seeds: Sequence[int]) -> float:
    """What intervals are corrected by: the size of the test part over that of the training part, or
    0 if each seed has data of its own, so that no two trainings share any."""
    found = [rows[model, seed] for seed in seeds]
    data = {row.get("data") for row in found}  # older rows do not say
    if None not in data and len(data) == len(found) > 1:
        return 0.0
    return found[0]["test_molecules"] / found[0]["train_molecules"]


def comparisons(
    rows: dict[tuple[str, int], dict], models: Sequence[str], seeds: Sequence[int], when: str
) -> dict[str, Comparison]:
    """Every model against the first, by their RMSE at the ``"best"`` or the ``"last"`` epoch."""

    def errors(model: str) -> list[float]:
        return [rows[model, seed][when]["rmse"] for seed in seeds]

    share = overlap(rows, models[0], seeds)
    return {model: compare(errors(model), errors(models[0]), share) for model in models}


def plot(
    rows: dict[tuple[str, int], dict], models: Sequence[str], seeds: Sequence[int], path: Path
) -> None:
    """Differences from the first model with their intervals, as PNG."""
    figure = Figure(figsize=(7, 1.2 + 0.4 * (len(models) - 1)), layout="constrained")
    axes = figure.subplots()
    names = list(models[1:])
    for offset, when in zip((-0.12, 0.12), WHEN, strict=True):
        found = comparisons(rows, models, seeds, when)
        axes.errorbar(
            [found[name].difference for name in names],
            [i + offset for i in range(len(names))],
            xerr=[found[name].half_width for name in names],
            fmt="o",
            label=f"{when} epoch",
        )
    axes.axvline(0, color="0.6", linewidth=1)
    axes.set_yticks(range(len(names)), names)
    axes.set_ylim(len(names) - 0.5, -0.5)
    axes.set_xlabel(f"test RMSE minus that of {models[0]}, 95 % interval, {len(seeds)} splits")
    axes.legend(loc="center left", bbox_to_anchor=(1, 0.5))
    FigureCanvasAgg(figure).print_png(path)


def table(rows: dict[tuple[str, int], dict], models: Sequence[str], seeds: Sequence[int]) -> str:
    """A line for each model: errors at the best and at the last epoch, the differences from the
    first model with their intervals, and the time."""
    head = (
        "| model | RMSE | R2 | minus D-MPNN | RMSE, last epoch | minus D-MPNN "
        "| parameters | s / epoch |"
    )
    lines = [head.replace("D-MPNN", models[0]), "| --- |" + " ---: |" * 7]
    found = {when: comparisons(rows, models, seeds, when) for when in WHEN}
    for model in models:
        seconds = statistics.median(rows[model, seed]["seconds_per_epoch"] for seed in seeds)
        r2 = statistics.mean(rows[model, seed]["best"]["r2"] for seed in seeds)
        best, last = found["best"][model], found["last"][model]
        differences = [
            "" if model == models[0] else f"{c.difference:+.3f} ± {c.half_width:.3f}"
            for c in (best, last)
        ]
        lines.append(
            f"| {model} | {best.mean:.3f} ± {best.sd:.3f} | {r2:.3f} | {differences[0]} "
            f"| {last.mean:.3f} ± {last.sd:.3f} | {differences[1]} "
            f"| {rows[model, seeds[0]]['parameters']:,} | {seconds:.1f} |"
        )
    return "\n".join(lines)


def ratio_table(
    rows: dict[tuple[str, int], dict],
    models: Sequence[str],
    seeds: Sequence[int],
    references: Sequence[str],
    when: str = "last",
) -> str:
    """Each model's RMSE over that of each reference, as the geometric mean over the splits with its
    interval."""

    def errors(model: str) -> list[float]:
        return [rows[model, seed][when]["rmse"] for seed in seeds]

    share = overlap(rows, models[0], seeds)

    def cell(model: str, reference: str) -> str:
        if model == reference:
            return ""
        middle, low, high = ratio(errors(model), errors(reference), share)
        return f"{middle:.2f} ({low:.2f} to {high:.2f})"

    lines = [f"| {when} epoch | {' | '.join(f'over {name}' for name in references)} |"]
    lines.append("| --- |" + " ---: |" * len(references))
    for model in models:
        cells = [cell(model, reference) for reference in references]
        lines += [f"| {model} | {' | '.join(cells)} |"] if any(cells) else []
    return "\n".join(lines)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    source = parser.add_mutually_exclusive_group(required=True)
    source.add_argument(
        "--data-path",
        type=Path,
        help="CSV file; with '{seed}' in its name each seed has a file of its own, whose trainings "
        "share nothing with the others, so that intervals need no correction",
    )
    source.add_argument("--rows", type=Path, help="CSV file of an earlier --csv; trains nothing")
    parser.add_argument("--smiles-column", default="smiles")
    parser.add_argument("--target-column", default="bandgap_chain")
    parser.add_argument("--epochs", type=int, default=50)
    parser.add_argument("--patience", type=int, default=15, help="of early stopping")
    parser.add_argument("--batch-size", type=int, default=64)
    parser.add_argument("--train-size", type=int, help="training molecules of each split")
    parser.add_argument(
        "--models",
        nargs="+",
        default=[*BASELINES, *POOLED],
        choices=list(MODELS),
        metavar="MODEL",
        help=f"some of {'; '.join([*BASELINES, *POOLED])} (default: all of these); what pools also "
        "with ', sums' or ', normalized' behind its name",
    )
    parser.add_argument("--seeds", type=int, nargs="+", default=[42, 43, 44, 45, 46])
    parser.add_argument("--jobs", type=int, default=1, help="trainings at a time")
    parser.add_argument("--output", type=Path, default=Path("accuracy-results"))
    parser.add_argument("--plot", type=Path, help="PNG file for the differences")
    parser.add_argument("--csv", type=Path, help="file for all rows")
    parser.add_argument(
        "--ratios-to",
        nargs="+",
        default=[],
        choices=list(MODELS),
        metavar="MODEL",
        help="also print the errors of the last epoch over those of these models",
    )
    args = parser.parse_args()
    if args.rows is None:
        rows = _train(args)
    else:
        rows = {(row["name"].rpartition(", seed ")[0], row["seed"]): row for row in load(args.rows)}
        for model, seed in itertools.product([*args.models, *args.ratios_to], args.seeds):
            if (model, seed) not in rows:
                parser.error(f"{str(args.rows)!r} has no row of {model!r} with seed {seed}")
    print(f"\n{table(rows, args.models, args.seeds)}")
    if args.ratios_to:
        print(f"\n{ratio_table(rows, args.models, args.seeds, args.ratios_to)}")
    if args.csv is not None:
        save(rows.values(), args.csv)
    if args.plot is not None:
        plot(rows, args.models, args.seeds, args.plot)


def _train(args: argparse.Namespace) -> dict[tuple[str, int], dict]:
    """The rows of all models and seeds, by both."""
    common = ["--smiles-columns", args.smiles_column]
    common += ["--target-columns", args.target_column, "--epochs", str(args.epochs)]
    common += ["--patience", str(args.patience), "--aggregation", "mean"]
    if args.batch_size != 64:
        common += ["--batch-size", str(args.batch_size)]
    common += ["--train-size", str(args.train_size)] if args.train_size else []

    def experiment(model: str, seed: int) -> Experiment:
        options, control = MODELS[model]
        data = "--data-path", str(args.data_path).replace("{seed}", str(seed))
        return Experiment(f"{model}, seed {seed}", seed, (*data, *common, *options), control)

    plan = {(m, s): experiment(m, s) for s in args.seeds for m in args.models}
    return dict(zip(plan, run_all(plan.values(), args.output, args.jobs), strict=True))


if __name__ == "__main__":
    main()
