"""Any chemprop model becomes a DiffPool model that trains, with every kind of head and input."""

import copy
from dataclasses import replace

import numpy as np
import pytest
import torch
from chemprop import nn as cnn
from chemprop.data import (
    MoleculeDatapoint,
    MoleculeDataset,
    MulticomponentDataset,
    ReactionDatapoint,
    ReactionDataset,
)
from chemprop.models import MPNN, MolAtomBondMPNN, MulticomponentMPNN, load_model, save_model
from chemprop.nn.transforms import GraphTransform, ScaleTransform, UnscaleTransform
from lightning import pytorch as pl
from molecules import MOLECULES, POLYMERS, REACTIONS, dataset, target

from tritonpool.chemprop import (
    DiffPoolAtomMessagePassing,
    DiffPoolBondMessagePassing,
    DiffPoolMPNN,
    DiffPoolMulticomponentMPNN,
    GraphReadout,
)
from tritonpool.chemprop.collate import build_dataloader
from tritonpool.chemprop.convert import to_diffpool
from tritonpool.chemprop.settings import DiffPoolSettings

SMILES = POLYMERS[:16]
SMALL = DiffPoolSettings(max_clusters=6, coarse_depth=2)


def stock(ffn: type = cnn.RegressionFFN, mp: object = None, extra: int = 0, **more: object) -> MPNN:
    mp = mp or cnn.BondMessagePassing(d_h=16, dropout=0.1)
    head = ffn(input_dim=mp.output_dim + extra, hidden_dim=16, **more.pop("head", {}))
    return MPNN(mp, more.pop("agg", cnn.MeanAggregation()), head, **more)


def losses(model: MPNN, loader, steps: int = 12) -> list[float]:
    """Train on one batch, checking every gradient, and return the loss of each step."""
    model.train()
    batch, optimizer = next(iter(loader)), torch.optim.Adam(model.parameters(), 1e-2)
    found = []
    for _ in range(steps):
        optimizer.zero_grad()
        loss = model.training_step(batch, 0)
        loss.backward()
        for name, p in model.named_parameters():
            assert p.grad is not None and p.grad.isfinite().all(), name
        optimizer.step()
        found.append(float(loss.detach()))
    return found


HEADS = {
    "regression": (cnn.RegressionFFN, {}),
    "classification": (cnn.BinaryClassificationFFN, {}),
    "multiclass": (cnn.MulticlassClassificationFFN, {"n_classes": 3}),
    "mve": (cnn.MveFFN, {}),
    "evidential": (cnn.EvidentialFFN, {}),
    "quantile": (cnn.QuantileFFN, {}),
}


@pytest.mark.parametrize("head", HEADS)
def test_every_head_trains(head: str, tmp_path):
    ffn, more = HEADS[head]
    y = np.array([[target(s)] for s in SMILES])
    y = (y - y.mean()) / y.std()
    if head == "classification":
        y = (y > 0).astype(float)
    elif head == "multiclass":
        y = np.digitize(y, [-0.5, 0.5]).astype(float)
    model = to_diffpool(stock(ffn, cnn.BondMessagePassing(d_h=16), head=more), SMALL)
    data = dataset(SMILES, y)
    found = losses(model, build_dataloader(data, shuffle=False))
    assert np.isfinite(found).all() and min(found[-3:]) < found[0]
    save_model(tmp_path / "model.pt", model)
    bmg = next(iter(build_dataloader(data, shuffle=False))).bmg
    assert torch.equal(load_model(tmp_path / "model.pt").eval()(bmg), model.eval()(bmg))


def test_the_encoder_keeps_its_weights_and_the_head_its_settings():
    agg = cnn.NormAggregation(norm=25.0)
    head = dict(
        n_tasks=2, n_layers=2, dropout=0.2, activation="elu", criterion=cnn.metrics.MAE(),
        task_weights=torch.tensor([1.0, 3.0]),
        output_transform=UnscaleTransform([1.0, 1.0], [2.0, 2.0]),
    )  # fmt: skip
    old = stock(agg=agg, head=head, batch_norm=True, warmup_epochs=5, init_lr=3e-4, max_lr=5e-3,
                metrics=[cnn.metrics.RMSE()])  # fmt: skip
    before = copy.deepcopy(old.state_dict())
    new = to_diffpool(old, SMALL)
    assert type(new) is DiffPoolMPNN and type(new.agg) is GraphReadout
    mp = new.message_passing
    assert type(mp) is DiffPoolBondMessagePassing
    assert mp.aggregation == "norm" and mp.aggregation_norm == 25.0 and mp.hparams["dropout"] == 0.1
    assert mp.hparams["max_clusters"] == 6 and mp.hparams["coarse_depth"] == 2
    for name, value in old.message_passing.state_dict().items():
        assert torch.equal(mp.state_dict()[name], value)
    assert new.bn.num_features == new.predictor.input_dim == mp.output_dim == 32
    assert type(new.criterion) is cnn.metrics.MAE and new.n_tasks == 2
    assert len(new.predictor.ffn) == len(old.predictor.ffn) == 3
    assert torch.equal(new.predictor.output_transform.scale, torch.full((1, 2), 2.0))
    assert (new.warmup_epochs, new.init_lr, new.max_lr, new.final_lr) == (5, 3e-4, 5e-3, 1e-4)
    assert [type(m) for m in new.metrics] == [cnn.metrics.RMSE, cnn.metrics.MAE]
    assert all(torch.equal(v, before[k]) for k, v in old.state_dict().items())


def test_nothing_is_shared_with_the_model():
    transform = ScaleTransform(np.zeros(2), np.ones(2))
    model = stock(extra=2, X_d_transform=transform, metrics=[cnn.RMSE(), cnn.MAE()]).eval()
    new = to_diffpool(model, SMALL)
    theirs = {id(module) for module in model.modules()}
    assert not theirs & {id(module) for module in new.modules()}
    assert new.training and not model.training
    last = to_diffpool(model, replace(SMALL, readout="last"))  # with a predictor of the same width
    assert not theirs & {id(module) for module in last.modules()}
    for model in (last, to_diffpool(new.eval())):
        assert all(module.training for module in model.modules())


def test_the_encoder_stays_frozen_and_of_its_dtype():
    model = stock().double()
    model.message_passing.W_h.requires_grad_(False)
    new = to_diffpool(model, SMALL)
    assert {p.dtype for p in new.parameters()} == {torch.float64}
    frozen = [name for name, p in new.named_parameters() if not p.requires_grad]
    assert frozen == ["message_passing.W_h.weight"]


def test_what_a_subclass_does_otherwise_is_not_lost():
    class Silent(cnn.BondMessagePassing):
        def message(self, H, bmg):
            return 0 * H

    with pytest.raises(ValueError, match="BondMessagePassing or AtomMessagePassing, but is Silent"):
        to_diffpool(stock(mp=Silent(d_h=16)))


def test_settings_may_name_another_aggregation():
    assert to_diffpool(stock(agg=cnn.SumAggregation())).message_passing.aggregation == "sum"
    chosen = DiffPoolSettings(aggregation="mean")
    attentive = stock(agg=cnn.AttentiveAggregation(output_size=16))
    assert to_diffpool(attentive, chosen).message_passing.aggregation == "mean"
    with pytest.raises(ValueError, match="but the model has AttentiveAggregation"):
        to_diffpool(attentive)


def test_a_diffpool_model_passes_through():
    """A foundation or checkpoint that is DiffPool already keeps weights and settings."""
    mp = DiffPoolBondMessagePassing(d_h=16, ratio=0.5)
    head = cnn.RegressionFFN(input_dim=mp.output_dim)
    model = MPNN(mp, GraphReadout(), head, batch_norm=True)
    bmg = next(iter(build_dataloader(dataset(SMILES), shuffle=False))).bmg
    model(bmg)  # moves the batch norm's statistics
    new = to_diffpool(model, SMALL)
    assert type(new) is DiffPoolMPNN and new.message_passing.hparams == mp.hparams
    shared = {p.data_ptr() for p in model.parameters()} & {p.data_ptr() for p in new.parameters()}
    assert not shared
    assert torch.equal(new.eval()(bmg), model.eval()(bmg))


def described(smiles: list[str]) -> MoleculeDataset:
    """Molecules with two descriptors each, and one more for every atom."""
    points = []
    for i, s in enumerate(smiles):
        point = MoleculeDatapoint.from_smi(s, [target(s)], x_d=np.array([i, 1.0]))
        point.V_d = np.full((point.mol.GetNumAtoms(), 1), float(i))
        points.append(point)
    return MoleculeDataset(points)


@pytest.mark.parametrize("block", [cnn.BondMessagePassing, cnn.AtomMessagePassing])
def test_descriptors(block: type):
    mp = block(
        d_h=16, d_vd=1, V_d_transform=ScaleTransform([1.0], [2.0]),
        graph_transform=GraphTransform(
            ScaleTransform([0.0] * 72, [1.0] * 72), ScaleTransform([0.5] * 14, [2.0] * 14)
        ),
    )  # fmt: skip
    model = stock(mp=mp, extra=2, X_d_transform=ScaleTransform([3.0, 0.0], [2.0, 1.0]))
    new = to_diffpool(model, SMALL)
    assert new.predictor.input_dim == 17 + 16 + 2 == new.message_passing.output_dim + 2
    assert torch.equal(new.X_d_transform.mean, model.X_d_transform.mean)
    assert torch.equal(new.message_passing.V_d_transform.scale, torch.full((1, 1), 2.0))
    loader = build_dataloader(described(SMILES), shuffle=False)
    found = losses(new, loader)
    assert found[-1] < found[0]
    batch = next(iter(loader))
    result = new.eval()(batch.bmg, batch.V_d, batch.X_d)
    assert (new(batch.bmg, batch.V_d + 1, batch.X_d) - result).abs().max() > 1e-4
    assert (new(batch.bmg, batch.V_d, batch.X_d + 1) - result).abs().max() > 1e-4
    embeddings = new.message_passing.atom_embeddings(batch.bmg, batch.V_d)
    stock_mp = block(**{k: v for k, v in mp.hparams.items() if k != "cls"}).eval()
    stock_mp.load_state_dict(
        {k: new.message_passing.state_dict()[k] for k in stock_mp.state_dict()}
    )
    torch.testing.assert_close(embeddings, stock_mp(batch.bmg, batch.V_d))


@pytest.mark.parametrize("shared", [False, True])
def test_components(shared: bool, tmp_path):
    blocks = [cnn.BondMessagePassing(d_h=16) for _ in range(1 if shared else 2)]
    mp = cnn.MulticomponentMessagePassing(blocks, 2, shared)
    head = cnn.RegressionFFN(input_dim=mp.output_dim, hidden_dim=16)
    new = to_diffpool(MulticomponentMPNN(mp, cnn.MeanAggregation(), head, batch_norm=True), SMALL)
    assert type(new) is DiffPoolMulticomponentMPNN and new.predictor.input_dim == 64
    assert (new.message_passing.blocks[0] is new.message_passing.blocks[1]) == shared
    data = MulticomponentDataset([dataset(MOLECULES), dataset(POLYMERS[: len(MOLECULES)])])
    loader = build_dataloader(data, shuffle=False)
    found = losses(new, loader)
    assert found[-1] < found[0]
    batch = next(iter(loader))
    logged = {}
    new.log = lambda name, value, **_: logged.update({name: value})
    new.on_train_epoch_start()
    new.training_step(batch, 0)
    new.on_train_epoch_end()
    block = new.message_passing.blocks[0]
    alone = []
    for part, bmg in zip(new.message_passing.blocks, batch.bmgs, strict=True):
        part.aux = "expose"
        part(bmg)
        alone.append(part.pop_aux()[0])
        part.aux = "inject"
    torch.testing.assert_close(logged["train_link"], sum(alone).detach())
    assert block.pop_aux() is None
    save_model(tmp_path / "multi.pt", new)
    again = load_model(tmp_path / "multi.pt", multicomponent=True)
    assert type(again) is MulticomponentMPNN
    arguments = batch.bmgs, batch.V_ds, batch.X_d
    assert torch.equal(again.eval()(*arguments), new.eval()(*arguments))
    assert type(to_diffpool(again)) is DiffPoolMulticomponentMPNN


def test_reactions():
    points = [ReactionDatapoint.from_smi(r, [float(i)]) for i, r in enumerate(REACTIONS)]
    model = to_diffpool(stock(mp=cnn.BondMessagePassing(106, 28, d_h=16)), SMALL)
    found = losses(model, build_dataloader(ReactionDataset(points), shuffle=False))
    assert found[-1] < found[0]


def test_training_under_lightning_can_be_copied():
    model = to_diffpool(stock(warmup_epochs=1), SMALL)
    trainer = pl.Trainer(
        max_epochs=2, accelerator="cpu", logger=False, enable_checkpointing=False,
        enable_progress_bar=False, enable_model_summary=False,
    )  # fmt: skip
    loader = build_dataloader(dataset(SMILES), batch_size=8, seed=0)
    trainer.fit(model, loader, loader)
    copied = copy.deepcopy(model)
    bmg = next(iter(loader)).bmg
    assert torch.equal(copied.eval()(bmg), model.eval()(bmg))


def test_atom_targets_are_refused():
    mp = cnn.MABBondMessagePassing(d_h=16)
    model = MolAtomBondMPNN(mp, None, None, cnn.RegressionFFN(input_dim=16), None)
    with pytest.raises(ValueError, match="it cannot predict atom or bond targets"):
        to_diffpool(model)


def test_atom_messages_stay_atom_messages():
    new = to_diffpool(stock(mp=cnn.AtomMessagePassing(d_h=16)))
    assert type(new.message_passing) is DiffPoolAtomMessagePassing
