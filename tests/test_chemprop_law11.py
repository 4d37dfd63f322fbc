"""The prediction depends on the clusters, and the task teaches every part of the model."""

import copy
import random

import pytest
import torch
from chemprop.data import TrainingBatch
from chemprop.models import MPNN
from chemprop.nn import RegressionFFN
from molecules import dataset

from tritonpool.chemprop import DiffPoolBondMessagePassing, DiffPoolMPNN, GraphReadout
from tritonpool.chemprop.collate import build_dataloader

UNITS = ["CC", "CO", "c1ccc(cc1)", "C=C", "CN", "C(=O)", "c1sc(cc1)", "C(F)(F)"]


def chains(number: int) -> TrainingBatch:
    """Random chains; the target is how often a thiophene follows a ring."""
    draw = random.Random(0)
    found = [draw.choices(UNITS, k=draw.randint(6, 10)) for _ in range(number)]
    rings = [
        sum(b == "c1sc(cc1)" and "1" in a for a, b in zip(c, c[1:], strict=False)) for c in found
    ]
    y = torch.tensor(rings).double()[:, None]
    data = dataset(["".join(c) for c in found], ((y - y.mean()) / y.std()).numpy())
    return next(iter(build_dataloader(data, batch_size=number, shuffle=False)))


def relative_shift(model: MPNN, batch: TrainingBatch) -> float:
    """How far uniform clusters move the predictions, in their standard deviations."""
    uniform = copy.deepcopy(model)
    for pool in uniform.message_passing.pools:
        pool.scores = lambda graph, K=pool.max_clusters: graph.x.new_zeros(len(graph.x), K)
    with torch.inference_mode():
        before, after = (m.eval()(batch.bmg) for m in (model, uniform))
    return float((after - before).abs().mean() / before.std())


@pytest.mark.parametrize("assignment", ["mlp", "gnn"])
@pytest.mark.parametrize("readout", ["concat", "last"])
@pytest.mark.parametrize("coarse_encoder", ["bond", "atom"])
def test_predictions_depend_on_the_clusters(assignment: str, readout: str, coarse_encoder: str):
    batch = chains(64)
    clusters = torch.ceil(batch.bmg.plan.nodes * 0.25)
    assert clusters.min() >= 3 and len(clusters) == 64
    mp = DiffPoolBondMessagePassing(
        d_h=32, assignment=assignment, readout=readout, coarse_encoder=coarse_encoder
    )
    head = RegressionFFN(input_dim=mp.output_dim, hidden_dim=32)
    model = MPNN(mp, GraphReadout(), head)
    assert relative_shift(model, batch) > 0.01
    optimizer = torch.optim.Adam(model.parameters(), 3e-3)
    history = []
    for _ in range(25):
        optimizer.zero_grad()
        Z = model.train().fingerprint(batch.bmg)
        loss = (model.predictor(Z) - batch.Y).square().mean()
        loss.backward()
        optimizer.step()
        history.append(float(loss.detach()))
    assert history[-1] < history[0]
    assert relative_shift(model, batch) > 0.01


@pytest.mark.parametrize("coarse_encoder", ["bond", "atom"])
def test_the_task_reaches_every_part(coarse_encoder: str):
    """Without the auxiliary losses, so that nothing but the task can be the cause."""
    batch = chains(16)
    mp = DiffPoolBondMessagePassing(
        d_h=32, link_weight=0.0, entropy_weight=0.0, levels=2, coarse_encoder=coarse_encoder
    )
    model = DiffPoolMPNN(mp, GraphReadout(), RegressionFFN(input_dim=mp.output_dim))
    batch.bmg.E.requires_grad_()
    model.training_step(batch, 0).backward()
    parts = {
        "encoder": [mp.W_i, mp.W_h, mp.W_o],
        "assignment": [mp.pools[0].assignment.hidden, mp.pools[0].assignment.scores],
        "second assignment": [mp.pools[1].assignment.hidden, mp.pools[1].assignment.scores],
        "coarse encoder": [mp.encoders[0].W_i, mp.encoders[0].W_h, mp.encoders[0].W_o],
    }
    for name, layers in parts.items():
        for layer in layers:
            assert layer.weight.grad.norm() > 1e-8, name
    direct = batch.bmg.E.grad
    assert direct.isfinite().all() and direct.norm() > 1e-6


@pytest.mark.parametrize("coarse_encoder", ["bond", "atom"])
def test_bond_features_reach_the_coarse_graph(coarse_encoder: str):
    """Only through pooling: the encoder of the molecule does not see them here."""
    batch = chains(16)
    settings = dict(readout="last", link_weight=0.0, entropy_weight=0.0)
    mp = DiffPoolBondMessagePassing(d_h=32, coarse_encoder=coarse_encoder, **settings)
    with torch.no_grad():
        mp.W_i.weight[:, 72:] = 0
    batch.bmg.E.requires_grad_()
    mp(batch.bmg).square().sum().backward()
    assert (batch.bmg.E.grad != 0).any(1).all()
