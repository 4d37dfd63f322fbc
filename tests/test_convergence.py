"""A short training run, step by step: the sparse backend against the Triton kernels."""

import pytest
import torch
from chemprop.nn import RegressionFFN
from molecules import POLYMERS, dataset

from tritonpool import use_backend
from tritonpool.chemprop import DiffPoolBondMessagePassing, DiffPoolMPNN, GraphReadout
from tritonpool.chemprop.collate import build_dataloader

STEPS = 9  # three rounds


def train(backend: str, autocast: bool = False, **settings) -> tuple[list[float], dict]:
    """Losses of every step and the final parameters of a small model."""
    torch.manual_seed(0)
    mp = DiffPoolBondMessagePassing(d_h=24, ratio=0.5, max_clusters=32, **settings)
    model = DiffPoolMPNN(mp, GraphReadout(), RegressionFFN(input_dim=mp.output_dim, hidden_dim=24))
    model.log = lambda *args, **kwargs: None  # there is no trainer
    optimizer = torch.optim.Adam(model.parameters(), lr=4e-3)
    loader = build_dataloader(dataset(POLYMERS[:6]), batch_size=2, shuffle=False)
    losses = []
    with use_backend(backend):
        while len(losses) < STEPS:
            for batch in loader:
                optimizer.zero_grad()
                with torch.autocast("cpu", torch.bfloat16, enabled=autocast):
                    loss = model.training_step(batch, 0)
                loss.backward()
                optimizer.step()
                losses.append(loss.item())
    return losses, {name: p.detach() for name, p in model.named_parameters()}


ATOMS = {"coarse_encoder": "atom", "assignment": "gnn", "cluster_features": True}


@pytest.mark.parametrize(
    "settings", [{}, {"levels": 2}, ATOMS], ids=["default", "2 levels", "atom encoder"]
)
def test_backends_train_alike(settings):
    expected, parameters = train("sparse", **settings)
    losses, found = train("triton", **settings)
    assert sum(expected[-3:]) < 0.9 * sum(expected[:3])  # it learns something
    assert losses == pytest.approx(expected, rel=1e-4)
    for name, value in found.items():
        error = (value - parameters[name]).norm() / parameters[name].norm().clamp(min=1e-3)
        assert float(error) < 2e-3, name


def test_backends_train_alike_in_bfloat16():
    expected, _ = train("sparse", autocast=True)
    losses, _ = train("triton", autocast=True)
    assert all(torch.isfinite(torch.tensor(losses)))
    assert losses == pytest.approx(expected, rel=5e-2)
