"""The DiffPool message passing: what it returns, keeps, refuses, and how its losses arrive."""

import copy
import dataclasses
import pickle

import numpy as np
import pytest
import torch
from chemprop.data import BatchMolGraph, MolGraph
from chemprop.models import MPNN
from chemprop.nn import (
    Activation,
    AtomMessagePassing,
    BondMessagePassing,
    MeanAggregation,
    NormAggregation,
    RegressionFFN,
    SumAggregation,
)
from chemprop.nn.transforms import GraphTransform, ScaleTransform
from molecules import ATOMS, MOLECULES, POLYMERS, batch_of, dataset
from torch import nn

from tritonpool import coarsen
from tritonpool.chemprop import (
    DiffPoolAtomMessagePassing,
    DiffPoolBondMessagePassing,
    DiffPoolMPNN,
    GraphReadout,
)
from tritonpool.chemprop.auxiliary import exposed
from tritonpool.chemprop.settings import DiffPoolSettings

BOTH = pytest.mark.parametrize("cls", [DiffPoolBondMessagePassing, DiffPoolAtomMessagePassing])


def bmg_of(smiles: list[str]) -> BatchMolGraph:
    return batch_of(smiles).bmg


def model_of(mp: nn.Module, cls: type[MPNN] = DiffPoolMPNN, **arguments: object) -> MPNN:
    return cls(mp, GraphReadout(), RegressionFFN(input_dim=mp.output_dim), **arguments)


@BOTH
@pytest.mark.parametrize("readout, width", [("concat", 16 + 24 + 24), ("last", 24)])
def test_one_row_for_each_molecule(cls: type, readout: str, width: int):
    mp = cls(d_h=16, levels=2, coarse_hidden=24, readout=readout)
    H = mp(bmg_of(MOLECULES))
    assert mp.output_dim == width and H.shape == (len(MOLECULES), width)
    assert H.isfinite().all() and H.std(0).max() > 0


@BOTH
def test_hparams_are_plain_and_rebuild_the_module(cls: type):
    settings = dict(ratio=0.5, levels=2, max_clusters=5, assignment="gnn", readout="last")
    more = dict(aggregation="norm", aggregation_norm=10.0, coarse_hidden=12, coarse_depth=2)
    losses = dict(link_weight=0.3, entropy_weight=0.0, coarse_encoder="atom")
    mp = cls(72, 14, 16, aux="expose", **settings, **more, **losses)
    plain = (type(None), bool, int, float, str, Activation)
    kept = {k: v for k, v in mp.hparams.items() if k != "cls"}
    assert all(isinstance(v, plain) for v in kept.values()), kept
    assert kept.items() >= (settings | more | losses).items()
    assert "aux" not in kept and kept["d_h"] == 16 and mp.hparams["cls"] is cls
    again = cls(**kept)
    again.load_state_dict(mp.state_dict())
    bmg = bmg_of(MOLECULES)
    assert torch.equal(again.eval()(bmg), mp.eval()(bmg))
    assert again.aux == "inject"


def test_class_paths_are_the_file_format():
    for cls in (DiffPoolBondMessagePassing, DiffPoolAtomMessagePassing, GraphReadout, DiffPoolMPNN):
        assert cls.__module__ == "tritonpool.chemprop"
    assert issubclass(DiffPoolBondMessagePassing, BondMessagePassing)
    assert issubclass(DiffPoolAtomMessagePassing, AtomMessagePassing)


@pytest.mark.parametrize("undirected", [False, True])
@pytest.mark.parametrize(
    "cls, stock",
    [
        (DiffPoolBondMessagePassing, BondMessagePassing),
        (DiffPoolAtomMessagePassing, AtomMessagePassing),
    ],
)
def test_atom_embeddings_are_those_of_chemprop(cls: type, stock: type, undirected: bool):
    arguments = dict(d_h=16, d_vd=3, depth=4, undirected=undirected, bias=True)
    transforms = dict(
        V_d_transform=ScaleTransform([1.0, 2, 3], [2.0, 2, 2]),
        graph_transform=GraphTransform(
            ScaleTransform([0.1] * 72, [2.0] * 72), ScaleTransform([0.2] * 14, [3.0] * 14)
        ),
    )
    ours, theirs = cls(**arguments, **transforms).eval(), stock(**arguments, **transforms).eval()
    theirs.load_state_dict({k: v for k, v in ours.state_dict().items() if k in theirs.state_dict()})
    bmg = bmg_of(MOLECULES)
    V_d = torch.randn(len(bmg.V), 3)
    torch.testing.assert_close(ours.atom_embeddings(bmg, V_d), theirs(bmg, V_d), rtol=0, atol=1e-6)
    assert ours.output_dim == 16 + 3 + 16


@pytest.mark.parametrize(
    "name, aggregation",
    [("mean", MeanAggregation()), ("sum", SumAggregation()), ("norm", NormAggregation(norm=7.0))],
)
def test_the_first_columns_are_chemprops_aggregation(name: str, aggregation: nn.Module):
    mp = DiffPoolBondMessagePassing(d_h=16, aggregation=name, aggregation_norm=7.0)
    bmg = bmg_of(MOLECULES)
    expected = aggregation(mp.atom_embeddings(bmg), bmg.batch)
    torch.testing.assert_close(mp(bmg)[:, :16], expected, rtol=1e-5, atol=1e-6)


class CountingTransform(nn.Module):
    """Doubles the bond features and counts its calls."""

    def __init__(self):
        super().__init__()
        self.calls = 0

    def forward(self, bmg: BatchMolGraph) -> BatchMolGraph:
        self.calls += 1
        bmg = copy.copy(bmg)
        bmg.E = 2 * bmg.E
        return bmg


def test_graph_transform_runs_once_and_reaches_pooling():
    transform = CountingTransform()
    mp = DiffPoolBondMessagePassing(d_h=16, graph_transform=transform)
    seen = []
    mp.pools[0].register_forward_pre_hook(lambda _, args: seen.append(args[0].edge_attr))
    bmg = bmg_of(MOLECULES)
    mp(bmg)
    assert transform.calls == 1
    assert torch.equal(seen[0], 2 * bmg.E)


def test_the_coarse_encoder_sees_sums_and_weights():
    """Pooled states as they are, mean bond features, and W twice: as a feature and as weight."""
    mp = DiffPoolBondMessagePassing(d_h=16, ratio=0.5, levels=2, normalize="none")
    bmg = bmg_of(POLYMERS[:6])
    pooled, encoded, states = [], [], [mp.atom_embeddings(bmg)]
    for pool, encoder in zip(mp.pools, mp.encoders, strict=True):
        pool.register_forward_hook(lambda _, args, out: pooled.append((args[0], out[1])))
        encoder.register_forward_hook(lambda _, args, out: encoded.append(args[0]))
        encoder.register_forward_hook(lambda _, args, out: states.append(out))
    mp(bmg)
    for (graph, S), found, x in zip(pooled, encoded, states, strict=False):
        assert torch.equal(graph.x, x)
        expected = coarsen(graph, S, found.plan.nodes)
        W = expected.edge_weight
        assert torch.equal(found.x, expected.x) and torch.equal(found.edge_weight, W)
        assert torch.equal(found.edge_attr, torch.cat([expected.edge_attr, W[:, None]], 1))
        assert found.x.requires_grad and found.edge_weight.requires_grad
        assert W.std() > 0
    assert pooled[1][0].edge_attr.shape[1] == 14  # W is weight there, and no feature


@BOTH
@pytest.mark.parametrize("assignment", ["mlp", "gnn"])
@pytest.mark.parametrize("encoder", ["bond", "atom"])
@pytest.mark.parametrize("smiles", [ATOMS, ["CC", *ATOMS, ""], POLYMERS[:4]], ids=str)
def test_every_parameter_gets_a_gradient(cls, assignment: str, encoder: str, smiles: list[str]):
    mp = cls(d_h=16, levels=2, assignment=assignment, coarse_encoder=encoder)
    model = model_of(mp, batch_norm=True)
    model.training_step(batch_of(smiles), 0).backward()
    for name, p in model.named_parameters():
        assert p.grad is not None and p.grad.isfinite().all(), name


def test_no_bond_features():
    mp = DiffPoolBondMessagePassing(d_h=16, d_e=0)
    bmg = bmg_of(MOLECULES)
    bmg.E = bmg.E[:, :0]
    mp(bmg).sum().backward()
    assert all(p.grad is not None and p.grad.isfinite().all() for p in mp.parameters())


def test_a_molecule_without_atoms_gets_zeros():
    mp = DiffPoolBondMessagePassing(d_h=16, levels=2)
    nothing = MolGraph(
        np.zeros((0, 72)), np.zeros((0, 14)), np.zeros((2, 0), int), np.zeros(0, int)
    )
    ethanol, ethane = (datum.mg for datum in dataset(["CCO", "CC"]))
    H = mp(BatchMolGraph([ethanol, nothing, ethane, nothing]))
    assert H.shape == (4, 48)
    assert not H[1].any() and not H[3].any() and H[0].any() and H[2].any()


@pytest.mark.parametrize("assignment", ["mlp", "gnn"])
@pytest.mark.parametrize("encoder", ["bond", "atom"])
def test_batch_mates_change_nothing(assignment: str, encoder: str):
    settings = dict(levels=2, ratio=0.5, assignment=assignment, coarse_encoder=encoder)
    mp = DiffPoolBondMessagePassing(d_h=32, **settings).eval()
    together = mp(bmg_of(POLYMERS[:12]))
    for i, smiles in enumerate(POLYMERS[:12]):
        alone = mp(bmg_of([smiles]))
        torch.testing.assert_close(together[i : i + 1], alone, rtol=1e-5, atol=1e-5)


def gradients(model: MPNN, batch: object) -> list[torch.Tensor]:
    model.zero_grad()
    model.training_step(batch, 0).backward()
    return [p.grad.clone() for p in model.parameters()]


@pytest.mark.parametrize("levels", [1, 2])
def test_injected_and_exposed_gradients_agree(levels: int):
    mp = DiffPoolBondMessagePassing(d_h=16, levels=levels, link_weight=1.0, entropy_weight=0.5)
    batch = batch_of(POLYMERS[:12])
    ours = model_of(mp)
    plain = MPNN(mp, ours.agg, ours.predictor)
    shown, injected = gradients(ours, batch), gradients(plain, batch)
    for a, b in zip(shown, injected, strict=True):
        torch.testing.assert_close(a, b, rtol=1e-5, atol=1e-7)
    mp.link_weight = mp.entropy_weight = 0.0
    without = gradients(plain, batch)
    assert max((a - b).abs().max() for a, b in zip(injected, without, strict=True)) > 1e-4


def test_the_objective_holds_the_losses_once():
    mp = DiffPoolBondMessagePassing(d_h=16, link_weight=2.0, entropy_weight=3.0)
    batch = batch_of(POLYMERS[:8])
    ours = model_of(mp)
    plain = MPNN(mp, ours.agg, ours.predictor)
    logged = {}
    ours.log = lambda name, value, **_: logged.update({name: value})
    total = ours.training_step(batch, 0)
    ours.on_train_epoch_end()
    task = plain.training_step(batch, 0)
    link, entropy = logged["train_link"], logged["train_entropy"]
    assert link > 0 and entropy > 0 and not link.requires_grad
    torch.testing.assert_close(total, task + 2 * link + 3 * entropy)


def test_nothing_is_kept_after_a_step():
    mp = DiffPoolBondMessagePassing(d_h=16)
    model, batch = model_of(mp), batch_of(MOLECULES)
    model.training_step(batch, 0).backward()
    assert mp.aux == "inject" and mp.pop_aux() is None
    copied = copy.deepcopy(mp)
    assert torch.equal(copied.eval()(batch.bmg), mp.eval()(batch.bmg))
    mp.train()
    with pytest.raises(RuntimeError, match="stop"), exposed([mp]):
        mp(batch.bmg)
        raise RuntimeError("stop")
    assert mp.aux == "inject" and mp.pop_aux() is None
    copy.deepcopy(mp)


def test_losses_that_are_kept_stay_behind():
    mp = DiffPoolBondMessagePassing(d_h=16, aux="expose")
    mp(batch_of(MOLECULES).bmg)
    for other in (copy.deepcopy(mp), pickle.loads(pickle.dumps(mp))):
        assert other.aux == "expose" and other.pop_aux() is None
    assert mp.pop_aux() is not None


def test_settings_make_another_of_its_kind():
    given = dict(ratio=0.5, levels=2, assignment="gnn", max_clusters=[6, 2], positions=2, gate=True)
    mp = DiffPoolBondMessagePassing(d_h=16, **given)
    assert mp.settings == DiffPoolSettings(**given, aggregation="mean")
    other = DiffPoolBondMessagePassing(d_h=16, **dataclasses.asdict(mp.settings))
    assert other.hparams == mp.hparams
    # those of no model leave the aggregation open
    open_ = DiffPoolBondMessagePassing(**dataclasses.asdict(DiffPoolSettings()))
    assert open_.aggregation == "mean"


@pytest.mark.parametrize("cls", [DiffPoolBondMessagePassing, DiffPoolAtomMessagePassing])
def test_a_subclass_may_have_messages_of_its_own(cls: type):
    class Doubled(cls):
        def message(self, H, bmg):
            return 2 * super().message(H, bmg)

    class DoubledStock(cls.__mro__[2]):
        def message(self, H, bmg):
            return 2 * super().message(H, bmg)

    bmg = batch_of(POLYMERS[:6]).bmg
    ours, stock = Doubled(d_h=16).eval(), DoubledStock(d_h=16).eval()
    stock.load_state_dict({name: ours.state_dict()[name] for name in stock.state_dict()})
    torch.testing.assert_close(ours.atom_embeddings(bmg), stock(bmg))


def test_losses_only_in_training_mode():
    mp = DiffPoolBondMessagePassing(d_h=16, aux="expose", levels=2)
    bmg = bmg_of(MOLECULES)
    mp.eval()(bmg)
    assert mp.pop_aux() is None
    mp.train()(bmg)
    once = mp.pop_aux()
    mp(bmg), mp(bmg)
    link, entropy = mp.pop_aux()
    torch.testing.assert_close(link, 2 * once[0])
    torch.testing.assert_close(entropy, 2 * once[1])
    assert mp.pop_aux() is None


def test_bonds_must_come_molecule_by_molecule():
    bmg = bmg_of(["CCO", "CC"])
    mixed = torch.tensor([4, 0, 1, 2, 3, 5])
    bmg.edge_index = bmg.edge_index[:, mixed]
    with pytest.raises(ValueError, match="edge_index must list the edges graph by graph"):
        DiffPoolBondMessagePassing(d_h=16)(bmg)


def test_dropout_is_made_of_modules():
    """chemprop switches MC dropout on by looking for nn.Dropout."""
    mp = DiffPoolBondMessagePassing(d_h=16, dropout=0.5, readout="last").eval()
    bmg = bmg_of(MOLECULES)
    assert torch.equal(mp(bmg), mp(bmg))
    mp.dropout.eval()
    for encoder in mp.encoders:
        encoder.dropout.train()
    assert not torch.equal(mp(bmg), mp(bmg))


def test_activation_modules_keep_their_own_weights():
    mp = DiffPoolBondMessagePassing(d_h=16, activation=nn.PReLU())
    assert mp.encoders[0].tau is not mp.tau
    mp(bmg_of(MOLECULES)).sum().backward()
    assert mp.encoders[0].tau.weight.grad is not None and mp.tau.weight.grad is not None


def test_bf16_autocast():
    mp = DiffPoolBondMessagePassing(d_h=16)
    model, batch = model_of(mp), batch_of(MOLECULES)
    exact = mp.eval()(batch.bmg)
    model.train()
    with torch.autocast("cpu", torch.bfloat16):
        rough = mp.eval()(batch.bmg)
        model.train()
        loss = model.training_step(batch, 0)
    loss.backward()
    torch.testing.assert_close(rough.float(), exact, rtol=0.05, atol=0.05)
    assert all(p.grad.isfinite().all() for p in model.parameters())


@pytest.mark.parametrize("levels", [1, 2])
def test_atoms_without_neighbours_in_half_precision(levels: int):
    """With the GNN as assignment network; one cluster has no neighbour either."""
    mp = DiffPoolBondMessagePassing(d_h=16, assignment="gnn", levels=levels)
    with torch.autocast("cpu", torch.float16):
        H = mp(bmg_of(["CCO", "C", "CCO.[Na+]", "CCCO"]))
    assert H.isfinite().all()
    H.float().square().sum().backward()
    assert all(p.grad.isfinite().all() for p in mp.parameters() if p.grad is not None)


def test_undirected_messages_between_clusters_in_another_dtype():
    mp = DiffPoolBondMessagePassing(d_h=16, coarse_encoder="atom", undirected=True).bfloat16()
    bmg = bmg_of(MOLECULES)
    bmg.V, bmg.E = bmg.V.bfloat16(), bmg.E.bfloat16()
    assert mp(bmg).dtype == torch.bfloat16


@pytest.mark.parametrize("assignment, most", [("mlp", 8), ("gnn", 8), ("rings", 32)])
def test_the_most_clusters_depend_on_what_assigns_atoms(assignment: str, most: int):
    mp = DiffPoolBondMessagePassing(d_h=8, levels=2, assignment=assignment)
    assert mp.hparams["max_clusters"] == most
    assert [pool.max_clusters for pool in mp.pools] == [most, most]
    assert DiffPoolSettings(assignment=assignment).most_clusters == (most,)  # the loader's
    other = dataclasses.replace(DiffPoolSettings(), assignment=assignment)
    assert other.most_clusters == (most,)
    asked = DiffPoolBondMessagePassing(d_h=8, assignment=assignment, max_clusters=5)
    assert asked.hparams["max_clusters"] == asked.pools[0].max_clusters == 5
    each = DiffPoolBondMessagePassing(d_h=8, levels=2, assignment=assignment, max_clusters=[5, 1])
    assert each.hparams["max_clusters"] == (5, 1)
    assert [pool.max_clusters for pool in each.pools] == [5, 1]
    clusters = each.assignments(batch_of(MOLECULES[:4]).bmg)[1]
    assert all(torch.allclose(S, torch.ones(len(S), 1)) for S in clusters)


def test_numbers_of_numpy_become_pythons():
    """A checkpoint could not be loaded with them."""
    given = {"ratio": 0.5, "levels": 2, "max_clusters": [8, 1], "coarse_depth": 2, "top_k": 2}
    arrays = {name: np.asarray(value)[()] for name, value in given.items()}
    assert isinstance(arrays["ratio"], np.float64) and isinstance(arrays["levels"], np.int64)
    mp = DiffPoolBondMessagePassing(d_h=8, gate=True, **arrays)
    kept = {name: mp.hparams[name] for name in given}
    assert kept == given | {"max_clusters": (8, 1)}
    assert [type(value) for value in kept.values()] == [float, int, tuple, int, int]
    assert mp.output_dim == 24 and len(mp.gates) == 2


@pytest.mark.parametrize(
    "setting, message",
    [
        ({"ratio": 0.0}, "ratio must be a number above 0 and at most 1, but is 0.0"),
        ({"ratio": 1.5}, "ratio must be a number above 0 and at most 1, but is 1.5"),
        ({"levels": 0}, "levels must be a whole number of at least 1, but is 0"),
        ({"max_clusters": 0}, "max_clusters must be a whole number of at least 1, but is 0"),
        (
            {"max_clusters": (5, 0), "levels": 2},
            "max_clusters must be a whole number of at least 1",
        ),
        ({"max_clusters": "8"}, "max_clusters must be a whole number of at least 1, but is '8'"),
        (
            {"max_clusters": [8, 1]},
            r"max_clusters must be one number or one for each of the 1 levels, but is \(8, 1\)",
        ),
        ({"coarse_depth": 0}, "coarse_depth must be a whole number of at least 1, but is 0"),
        ({"coarse_hidden": 0}, "coarse_hidden must be a whole number of at least 1, but is 0"),
        ({"assignment": "gcn"}, "assignment must be one of mlp, gnn, rings, but is 'gcn'"),
        ({"assignment": nn.Linear(1, 1)}, "assignment must be one of mlp, gnn"),
        ({"readout": "first"}, "readout must be one of concat, last, but is 'first'"),
        ({"coarse_encoder": "gat"}, "coarse_encoder must be one of bond, atom, but is 'gat'"),
        ({"aggregation": "max"}, "aggregation must be one of mean, sum, norm, but is 'max'"),
        ({"aggregation": "max"}, "aggregation must be one of mean, sum, norm, but is 'max'"),
        ({"aggregation_norm": 0}, "aggregation_norm must be above 0, but is 0"),
        ({"link_weight": -1.0}, "link_weight must be a number of at least 0, but is -1.0"),
        ({"entropy_weight": "a"}, "entropy_weight must be a number of at least 0, but is 'a'"),
        ({"temperature": 0.0}, "temperature must be a number above 0, but is 0.0"),
        ({"top_k": 1}, "top_k must be a whole number of at least 2, but is 1"),
        ({"top_k": 2, "assignment": "rings"}, "top_k must be left out with assignment='rings'"),
        ({"positions": -1}, "positions must be a whole number of at least 0, but is -1"),
        ({"prior": "brics"}, "prior must be one of none, rings, but is 'brics'"),
        ({"normalize": "yes"}, "normalize must be one of none, weights, both, but is 'yes'"),
        ({"gate": True, "readout": "last"}, "gate must be False with readout='last'"),
        ({"aux": "add"}, "aux must be one of inject, expose, but is 'add'"),
    ],
    ids=lambda value: "" if isinstance(value, str) else next(iter(value)),
)
def test_wrong_settings_are_named(setting: dict, message: str):
    with pytest.raises(ValueError, match=message):
        DiffPoolBondMessagePassing(d_h=16, **setting)


def test_aux_takes_no_other_word_later():
    mp = DiffPoolBondMessagePassing(d_h=16)
    mp.aux = "expose"
    with pytest.raises(ValueError, match="aux must be one of inject, expose, but is 'exposed'"):
        mp.aux = "exposed"
    assert mp.aux == "expose"


def test_a_stock_message_passing_is_refused():
    with pytest.raises(ValueError, match="but holds BondMessagePassing"):
        model_of(BondMessagePassing())


def test_an_aggregation_of_atoms_is_refused():
    mp = DiffPoolBondMessagePassing(d_h=16)
    with pytest.raises(ValueError, match="agg must be GraphReadout"):
        DiffPoolMPNN(mp, MeanAggregation(), RegressionFFN(input_dim=mp.output_dim))


def test_readout_checks_the_number_of_rows():
    readout, batch = GraphReadout(), torch.tensor([0, 0, 1, 2])
    H = torch.randn(4, 2)  # the last molecule has no atoms
    assert readout(H, batch) is H
    with pytest.raises(ValueError, match="H must have a row for each of the 3 molecules"):
        readout(H[:2], batch)
