"""Batches that carry their plan: the same results, and no copy to the host."""

import copy
import dataclasses
import pickle
from collections import Counter

import numpy as np
import pytest
import torch
from chemprop.data import (
    CuikmolmakerDataset,
    LazyMoleculeDatapoint,
    MolAtomBondDatapoint,
    MolAtomBondDataset,
    MulticomponentDataset,
    ReactionDatapoint,
    ReactionDataset,
)
from chemprop.data import build_dataloader as stock_dataloader
from chemprop.featurizers import CuikmolmakerMolGraphFeaturizer
from molecules import MOLECULES, POLYMERS, REACTIONS, dataset, target
from torch.utils._python_dispatch import TorchDispatchMode

from tritonpool.chemprop import DiffPoolBondMessagePassing
from tritonpool.chemprop.collate import PlannedMolGraph, build_dataloader
from tritonpool.chemprop.settings import DiffPoolSettings
from tritonpool.coarse_plan import CoarsePlan
from tritonpool.plan import Plan, move_together


def cuik(smiles: list[str]) -> CuikmolmakerDataset:
    points = [LazyMoleculeDatapoint(s, y=np.array([target(s)])) for s in smiles]
    return CuikmolmakerDataset(points, CuikmolmakerMolGraphFeaturizer())


class Copies(TorchDispatchMode):
    """Notes where every copy between devices goes, and whether the host waits for it. ``meta``
    stands for a GPU."""

    def __init__(self):
        super().__init__()
        self.found = []

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        kwargs = kwargs or {}
        if function is not torch.ops.aten._to_copy.default:
            return function(*args, **kwargs)
        there = kwargs["device"]
        self.found.append((there.type, not kwargs.get("non_blocking", False)))
        return torch.zeros(args[0].shape, dtype=args[0].dtype, device=there)


def reactions() -> ReactionDataset:
    return ReactionDataset([ReactionDatapoint.from_smi(r, [1.0]) for r in REACTIONS])


@pytest.mark.parametrize("make", [dataset, cuik], ids=["chemprop", "cuik"])
def test_same_results_as_the_stock_loader(make):
    ours = next(iter(build_dataloader(make(POLYMERS), shuffle=False)))
    stock = next(iter(stock_dataloader(make(POLYMERS), shuffle=False)))
    assert isinstance(ours.bmg, PlannedMolGraph) and len(ours.bmg) == len(stock.bmg) == 32
    assert torch.equal(ours.Y, stock.Y)
    mp = DiffPoolBondMessagePassing(d_h=16, levels=2).eval()
    assert torch.equal(mp(ours.bmg), mp(stock.bmg))


def test_only_copies_to_the_host_are_waited_for():
    settings = DiffPoolSettings(max_clusters=8, positions=2)
    loader = build_dataloader(dataset(POLYMERS), shuffle=False, settings=settings)
    bmg = next(iter(loader)).bmg
    assert bmg.plan.extras and bmg.plan._coarse
    with Copies() as there:
        bmg.to("meta")
    with Copies() as back:
        bmg.to("cpu")
    assert {*there.found} == {("meta", False)} and {*back.found} == {("cpu", True)}
    assert len(there.found) == len(back.found) > 6


def test_integers_are_not_copied_while_a_cuda_graph_is_captured(monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_current_stream_capturing", lambda: True)
    with pytest.raises(RuntimeError, match="forward and backward once before capturing"):
        move_together([torch.arange(3)], torch.device("cuda"))


def test_cuik_and_chemprop_featurize_alike():
    mp = DiffPoolBondMessagePassing(d_h=16).eval()
    ours, cuiks = (mp(next(iter(build_dataloader(make(MOLECULES), shuffle=False))).bmg)
                   for make in (dataset, cuik))  # fmt: skip
    torch.testing.assert_close(ours, cuiks, rtol=1e-4, atol=1e-4)


def test_reactions_and_components():
    both = MulticomponentDataset([dataset(MOLECULES[:6]), dataset(POLYMERS[:6])])
    batch = next(iter(build_dataloader(both, shuffle=False)))
    assert [type(bmg) for bmg in batch.bmgs] == [PlannedMolGraph] * 2
    batch = next(iter(build_dataloader(reactions(), shuffle=False)))
    mp = DiffPoolBondMessagePassing(106, 28, d_h=16)
    assert mp(batch.bmg).shape == (len(REACTIONS), 32)


def test_the_plan_survives_workers_copies_and_moves():
    for batch in build_dataloader(dataset(POLYMERS), batch_size=16, num_workers=1, shuffle=False):
        assert batch.bmg.plan.num_nodes == len(batch.bmg.V)
    bmg = batch.bmg
    for same in (pickle.loads(pickle.dumps(bmg)), copy.copy(bmg)):
        assert torch.equal(same.plan.batch, bmg.batch) and len(same) == 16
    values = [getattr(bmg, field.name) for field in dataclasses.fields(bmg)]
    assert values[-1] == 16 and all(isinstance(v, torch.Tensor) for v in values[:-1])
    plan = bmg.plan
    bmg.to("cpu")
    assert bmg.plan is plan
    bmg.to("meta")
    assert bmg.plan.device.type == bmg.V.device.type == "meta"


@pytest.mark.parametrize("change", ["copy", "here", "moved"])
def test_a_batch_whose_bonds_were_exchanged_has_no_plan(change):
    """An augmentation, as chemprop's ``graph_transform`` may be."""
    ours = next(iter(build_dataloader(dataset(POLYMERS[:6]), shuffle=False))).bmg
    stock = next(iter(stock_dataloader(dataset(POLYMERS[:6]), shuffle=False))).bmg
    if change == "copy":
        ours, plan = copy.copy(ours), ours.plan
        assert ours.plan is plan
    for bmg in (ours, stock):  # atoms of each molecule in the opposite order
        start = torch.searchsorted(bmg.batch, bmg.batch)
        last = torch.searchsorted(bmg.batch, bmg.batch, right=True) - 1
        new = start + last - torch.arange(len(bmg.batch))
        bmg.edge_index = new[bmg.edge_index]
    if change == "moved":
        ours.to("cpu")
    assert ours.plan is None and len(ours) == 6
    mp = DiffPoolBondMessagePassing(d_h=16).eval()
    assert torch.equal(mp(ours), mp(stock))


def count_plans(monkeypatch: pytest.MonkeyPatch) -> Counter:
    calls, build = Counter(), Plan.build.__func__

    def counting(cls, *args: object) -> Plan:
        calls["build"] += 1
        return build(cls, *args)

    monkeypatch.setattr(Plan, "build", classmethod(counting))
    return calls


def test_one_plan_for_each_batch(monkeypatch: pytest.MonkeyPatch):
    mp = DiffPoolBondMessagePassing(d_h=16, levels=2, assignment="gnn")
    planned = next(iter(build_dataloader(dataset(POLYMERS), shuffle=False))).bmg
    plain = next(iter(stock_dataloader(dataset(POLYMERS), shuffle=False))).bmg
    calls = count_plans(monkeypatch)
    mp(planned).sum().backward()
    assert calls["build"] == 0
    mp(plain).sum().backward()
    assert calls["build"] == 1


@pytest.mark.parametrize(
    "given, copies",
    [({}, 0), ({"positions": 2}, 0), ({"prior": "rings"}, 0), ({"assignment": "gnn"}, 0)]
    + [({"assignment": "rings"}, 1)],
)
def test_what_a_loader_without_settings_leaves_to_copy(
    given: dict, copies: int, monkeypatch: pytest.MonkeyPatch
):
    mp, settings = DiffPoolBondMessagePassing(d_h=16, **given), DiffPoolSettings(**given)
    taken, cpu = [], torch.Tensor.cpu
    monkeypatch.setattr(torch.Tensor, "cpu", lambda t: taken.append(t) or cpu(t))
    for known, expected in ((settings, 0), (None, copies)):
        loader = build_dataloader(dataset(POLYMERS), shuffle=False, settings=known)
        bmg = next(iter(loader)).bmg
        taken.clear()
        mp(bmg)
        assert len(taken) == expected


@pytest.mark.gpu
@pytest.mark.parametrize("loader, copies", [(build_dataloader, 0), (stock_dataloader, 1)])
def test_copies_to_the_host_on_a_gpu(loader, copies: int, monkeypatch: pytest.MonkeyPatch):
    mp = DiffPoolBondMessagePassing(d_h=16, levels=2).cuda()
    warm, batch = (next(iter(loader(dataset(POLYMERS), shuffle=False))).bmg for _ in range(2))
    warm.to("cuda"), batch.to("cuda")
    mp(warm).sum().backward()
    taken, cpu = [], torch.Tensor.cpu
    monkeypatch.setattr(torch.Tensor, "cpu", lambda t: taken.append(t) or cpu(t))
    torch.cuda.synchronize()
    torch.cuda.set_sync_debug_mode("error" if copies == 0 else "default")
    try:
        mp(batch).sum().backward()
    finally:
        torch.cuda.set_sync_debug_mode("default")
    assert len(taken) == copies


def test_options_are_those_of_chemprop():
    data = dataset(POLYMERS)
    for options in ({"seed": 3}, {"shuffle": False, "drop_last": True, "batch_size": 12}):
        ours = [b.Y for b in build_dataloader(data, **options)]
        stock = [b.Y for b in stock_dataloader(data, **options)]
        assert all(torch.equal(a, b) for a, b in zip(ours, stock, strict=True))
    labels = dataset(POLYMERS, np.arange(32)[:, None] % 4 == 0)
    balanced = next(iter(build_dataloader(labels, class_balance=True, seed=0)))
    assert balanced.Y.mean() == 0.5


def test_atom_targets_are_refused():
    point = MolAtomBondDatapoint.from_smi("CCO", atom_y=np.ones((3, 1)))
    with pytest.raises(ValueError, match="dataset must have molecule targets only"):
        build_dataloader(MolAtomBondDataset([point]))


@pytest.mark.gpu
def test_the_loader_pins_batches_for_the_gpu():
    batch = next(iter(build_dataloader(dataset(POLYMERS), shuffle=False, pin_memory=True)))
    assert all(getattr(batch.bmg, name).is_pinned() for name in ("V", "E", "edge_index", "batch"))
    batch.bmg.to("cuda")
    assert batch.bmg.V.is_cuda and batch.bmg.plan.device.type == "cuda"


@pytest.mark.parametrize("most", [6, (6, 1)])
def test_the_loader_plans_the_coarse_graphs_too(most, monkeypatch: pytest.MonkeyPatch):
    settings = DiffPoolSettings(ratio=0.5, levels=2, max_clusters=most)
    both = [dataset(MOLECULES[:6]), dataset(POLYMERS[:6])]
    planned = next(iter(build_dataloader(both[1], shuffle=False, settings=settings))).bmg
    components = next(
        iter(build_dataloader(MulticomponentDataset(both), shuffle=False, settings=settings))
    )
    assert all(bmg.plan._coarse for bmg in components.bmgs)
    mp = DiffPoolBondMessagePassing(d_h=16, ratio=0.5, levels=2, max_clusters=most).eval()
    expected = mp(next(iter(stock_dataloader(both[1], shuffle=False))).bmg)
    monkeypatch.setattr(CoarsePlan, "build", lambda *_: pytest.fail("planned in forward"))
    assert torch.equal(mp(planned), expected)
