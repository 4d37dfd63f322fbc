"""What is offered against uniform clusters, clusters by type and large sums."""

import numpy as np
import pytest
import torch
from chemprop.nn import RegressionFFN
from molecules import ATOMS, MOLECULES, POLYMERS, batch_of, dataset, graph_of, shuffled

from tritonpool import DiffPool, Graph, coarsen
from tritonpool.chemprop import (
    DiffPoolAtomMessagePassing,
    DiffPoolBondMessagePassing,
    DiffPoolMPNN,
    GraphReadout,
)
from tritonpool.chemprop.coarse_inputs import coarse_inputs
from tritonpool.chemprop.collate import build_dataloader
from tritonpool.chemprop.positions import positions
from tritonpool.chemprop.rings import ring_fragments
from tritonpool.chemprop.settings import DiffPoolSettings

REMEDIES = [
    {"temperature": 0.3},
    {"top_k": 2},
    {"positions": 4},
    {"positions": 4, "assignment": "gnn"},
    {"prior": "rings"},
    {"assignment": "rings"},
    {"normalize": "none"},
    {"normalize": "both"},
    {"cluster_features": True},
    {"gate": True},
]
ALL = {k: v for remedy in REMEDIES for k, v in remedy.items()} | {"assignment": "gnn"}


def pooled(keep_loops: bool) -> tuple[Graph, torch.Tensor, torch.Tensor]:
    """A coarse batch in float64, the mass of its clusters, and which of its pairs are loops."""
    graph = graph_of(POLYMERS[:3])
    graph = Graph(
        graph.x.double(), graph.edge_index, graph.edge_attr.double(), None, graph.batch, 3
    )
    S = torch.rand(graph.num_nodes, 4, dtype=torch.float64).softmax(1)
    coarse = coarsen(graph, S, drop_self_loops=not keep_loops)
    mass = torch.stack([S[graph.batch == g].sum(0) for g in range(3)]).reshape(-1, 1)
    return coarse, mass, coarse.edge_index[0] == coarse.edge_index[1]


@pytest.mark.parametrize("smiles", [ATOMS, ["CC", *ATOMS, ""], POLYMERS[:4]], ids=str)
@pytest.mark.parametrize("settings", [*REMEDIES, ALL], ids=str)
def test_every_parameter_gets_a_gradient_and_the_model_can_be_rebuilt(settings, smiles):
    mp = DiffPoolBondMessagePassing(d_h=16, levels=2, **settings)
    model = DiffPoolMPNN(mp, GraphReadout(), RegressionFFN(input_dim=mp.output_dim))
    batch = batch_of(smiles)
    model.training_step(batch, 0).backward()
    for name, p in model.named_parameters():
        assert p.grad is not None and p.grad.isfinite().all(), name
    kept = {k: v for k, v in mp.hparams.items() if k != "cls"}
    again = DiffPoolBondMessagePassing(**kept)
    again.load_state_dict(mp.state_dict())
    assert torch.equal(again.eval()(batch.bmg), mp.eval()(batch.bmg))


@pytest.mark.parametrize("settings", REMEDIES[:-1], ids=str)
def test_a_remedy_changes_the_prediction(settings):
    bmg = batch_of([*POLYMERS[:6], "NCCO" * 15]).bmg  # the last has places
    without = {"ratio": 0.5, "positions": 0}
    assignment = "gnn" if settings.get("assignment") == "gnn" else "mlp"
    torch.manual_seed(1)
    plain = DiffPoolBondMessagePassing(d_h=16, assignment=assignment, **without)
    torch.manual_seed(1)
    other = DiffPoolBondMessagePassing(d_h=16, **(without | settings))
    assert torch.equal(plain.atom_embeddings(bmg), other.atom_embeddings(bmg))
    shift = (other(bmg) - plain(bmg)).abs().mean() / plain(bmg).std()
    assert shift > 1e-3


def test_batch_mates_change_nothing():
    mp = DiffPoolBondMessagePassing(d_h=32, ratio=0.5, **ALL).eval()
    mp.gates.data.fill_(1.0)
    together = mp(batch_of(POLYMERS[:12]).bmg)
    for i, smiles in enumerate(POLYMERS[:12]):
        alone = mp(batch_of([smiles]).bmg)
        torch.testing.assert_close(together[i : i + 1], alone, rtol=1e-5, atol=1e-5)


def test_temperature_divides_the_scores():
    graph = graph_of(POLYMERS[:3])
    layer = DiffPool(graph.x.shape[1], 4, 0.5, temperature=0.5)
    twice = DiffPool(graph.x.shape[1], 4, 0.5)
    twice.load_state_dict(layer.state_dict())
    twice.assignment[-1].weight.data *= 2
    twice.assignment[-1].bias.data *= 2
    torch.testing.assert_close(layer(graph)[1], twice(graph)[1])
    for wrong in (-1, "0.5", None, True, float("inf")):
        with pytest.raises(ValueError, match="temperature must be a number above 0, but is "):
            DiffPool(3, 4, temperature=wrong)


@pytest.mark.parametrize("normalize", ["weights", "both"])
def test_normalized_weights_sum_to_one_and_states_are_means(normalize: str):
    coarse, mass, _ = pooled(keep_loops=False)
    seen = coarse_inputs(coarse, mass if normalize == "both" else None, normalize, False)
    torch.testing.assert_close(seen.x, coarse.x / mass if normalize == "both" else coarse.x)
    into = seen.x.new_zeros(coarse.num_nodes).index_add_(0, coarse.edge_index[1], seen.edge_weight)
    torch.testing.assert_close(into, torch.ones_like(into))
    torch.testing.assert_close(seen.edge_attr[:, -1], seen.edge_weight)
    single = coarsen(graph_of(ATOMS), torch.ones(len(ATOMS), 1))
    assert coarse_inputs(single, torch.ones(len(ATOMS), 1), normalize, False).x.isfinite().all()


@pytest.mark.parametrize("saved, meant", [(False, "none"), (True, "both")])
def test_settings_saved_before_there_was_a_choice(saved: bool, meant: str):
    mp = DiffPoolBondMessagePassing(d_h=16, normalize=saved)
    assert mp.normalize == mp.hparams["normalize"] == meant


@pytest.mark.parametrize("normalize", ["none", "weights", "both"])
def test_cluster_features_tell_size_and_inside(normalize: str):
    coarse, mass, loops = pooled(keep_loops=True)
    seen = coarse_inputs(coarse, mass, normalize, True)
    D = coarse.x.shape[1]
    torch.testing.assert_close(seen.x[:, D : D + 1], mass.log())
    torch.testing.assert_close(seen.x[:, D + 1], coarse.edge_weight[loops])
    torch.testing.assert_close(seen.x[:, D + 2 :], coarse.edge_attr[loops])
    assert not seen.edge_weight[loops].any() and (seen.edge_weight[~loops] > 0).all()


@pytest.mark.parametrize(
    "message_passing", [DiffPoolBondMessagePassing, DiffPoolAtomMessagePassing]
)
@pytest.mark.parametrize(
    "settings",
    [{}, {"levels": 2}, *(remedy for remedy in REMEDIES if "prior" not in remedy)],
    ids=str,
)
def test_a_prediction_is_that_of_the_molecule_and_not_of_its_smiles(settings, message_passing):
    torch.manual_seed(0)
    smiles = [*ATOMS, *MOLECULES, *POLYMERS, "NCCCO", "CCO.CCO", "C" * 30]
    mp = message_passing(d_h=32, ratio=0.5, **settings)
    model = DiffPoolMPNN(mp, GraphReadout(), RegressionFFN(input_dim=mp.output_dim)).eval()
    with torch.no_grad():
        expected = model(batch_of(smiles).bmg)
        found = model(shuffled(smiles, 0)[0])
    torch.testing.assert_close(found, expected, atol=1e-4 * float(expected.std()), rtol=1e-4)


def test_a_closed_gate_leaves_the_plain_model():
    bmg = batch_of(POLYMERS[:6]).bmg
    mp = DiffPoolBondMessagePassing(d_h=16, levels=2, gate=True)
    H = mp(bmg)
    assert not H[:, 16:].any() and H[:, :16].any()
    H.square().sum().backward()
    H = mp(bmg)
    (H @ torch.randn(48)).sum().backward()
    assert (mp.gates.grad != 0).all()
    mp.gates.data.fill_(1.0)
    assert mp(bmg)[:, 16:].any()


def test_the_ring_prior_starts_from_rings():
    mp = DiffPoolBondMessagePassing(d_h=32, ratio=0.5, prior="rings")
    assignments = []
    mp.pools[0].register_forward_hook(lambda _, args, out: assignments.append(out[1].detach()))
    graph = graph_of(POLYMERS[:12])
    mp(batch_of(POLYMERS[:12]).bmg)
    fragment, total = ring_fragments(graph.plan).unbind(1)
    (S,) = assignments
    c = torch.ceil(graph.plan.nodes * 0.5).long()[graph.batch]
    assert (total <= c).all()
    assert (S.argmax(1) == fragment).float().mean() > 0.9
    assert float(S.gather(1, fragment[:, None]).mean()) > 0.7


def test_more_fragments_than_clusters_share_them_in_order():
    smiles = ["c1ccccc1Cc1ccccc1Cc1ccccc1Cc1ccccc1"]  # seven fragments
    mp = DiffPoolBondMessagePassing(d_h=16, max_clusters=3, prior="rings")
    plain = DiffPoolBondMessagePassing(d_h=16, max_clusters=3)
    plain.load_state_dict(mp.state_dict())
    graph = graph_of(smiles)
    states = mp.atom_embeddings(batch_of(smiles).bmg)
    graph = graph.replace(x=states)
    added = mp.pools[0].scores(graph) - plain.pools[0].scores(graph)
    fragment = ring_fragments(graph.plan)[:, 0]
    expected = torch.zeros(graph.num_nodes, 3)
    expected[torch.arange(graph.num_nodes), fragment * 3 // 7] = 4
    torch.testing.assert_close(added, expected)


@pytest.mark.parametrize("workers", [0, 2])
def test_the_loader_knows_what_the_model_will_ask(workers: int, monkeypatch):
    settings = DiffPoolSettings(positions=3, prior="rings", cluster_features=True)
    loader = build_dataloader(dataset(POLYMERS[:8]), 8, workers, shuffle=False, settings=settings)
    plan = next(iter(loader)).bmg.plan
    assert set(plan.extras) == {("positions", 3), "rings"}
    assert [drop for _, drop in plan._coarse] == [False]
    expected = graph_of(POLYMERS[:8]).plan
    assert torch.equal(plan.extras["rings"], ring_fragments(expected))
    assert np.allclose(plan.extras["positions", 3], positions(expected, 3))
    kept = plan.to("meta").extras
    assert {k: v.device.type for k, v in kept.items()} == dict.fromkeys(plan.extras, "meta")


@pytest.mark.parametrize(
    "settings",
    [
        {},
        {"assignment": "rings"},
        {"normalize": "none"},
        {"normalize": "both"},
        {"cluster_features": True},
    ],
    ids=str,
)
def test_sharp_clusters_are_finite_in_half_precision(settings):
    """Clusters that hardly any atom belongs to: their sizes are 0 in float16."""
    mp = DiffPoolBondMessagePassing(d_h=64, ratio=0.5, temperature=0.1, **settings)
    with torch.autocast("cpu", dtype=torch.float16):
        H = mp(batch_of(POLYMERS).bmg)
    assert H.isfinite().all()
    H.float().square().sum().backward()
    assert all(p.grad.isfinite().all() for p in mp.parameters())


@pytest.mark.parametrize("dtype", [torch.float64, torch.bfloat16])
def test_a_model_of_another_dtype(dtype):
    mp = DiffPoolBondMessagePassing(d_h=16, ratio=0.5, **ALL).to(dtype)
    bmg = batch_of(POLYMERS[:3]).bmg
    bmg.V, bmg.E = bmg.V.to(dtype), bmg.E.to(dtype)
    H = mp(bmg)
    assert H.dtype == dtype and H.isfinite().all()
