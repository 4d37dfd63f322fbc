"""A whole training step (forward, loss, backward, Adam) of chemprop's D-MPNN and of ours.

``python -m benchmarks.step`` prints our time over that of stock D-MPNN, taken in turn; with
``--device cuda`` on a GPU, where a step includes the copy of the batch and waits for the loss.
"""

from __future__ import annotations

import argparse
import copy
import statistics
from collections.abc import Callable
from functools import partial

import torch
from chemprop.data import BatchMolGraph
from chemprop.models import MPNN
from chemprop.nn import BondMessagePassing, MeanAggregation, RegressionFFN
from torch import Tensor

from benchmarks import MOST_CLUSTERS
from benchmarks.inputs import mol_graphs, smiles
from benchmarks.tracking import Tracker
from tritonpool.chemprop import DiffPoolBondMessagePassing, DiffPoolMPNN, GraphReadout
from tritonpool.chemprop.collate import PlannedMolGraph

__all__ = ["main", "make_model", "make_step", "train_one"]


def make_model(ratio: float | None, width: int = 300, **settings: object) -> MPNN:
    """A model with hidden layers of that width; ``ratio=None`` is stock D-MPNN."""
    if ratio is None:
        mp = BondMessagePassing(d_h=width)
        return MPNN(mp, MeanAggregation(), RegressionFFN(input_dim=width, hidden_dim=width))
    settings = {"max_clusters": MOST_CLUSTERS} | settings
    mp = DiffPoolBondMessagePassing(d_h=width, ratio=ratio, **settings)
    predictor = RegressionFFN(input_dim=mp.output_dim, hidden_dim=width)
    return DiffPoolMPNN(mp, GraphReadout(), predictor)


def train_one(
    model: MPNN, optimizer: torch.optim.Optimizer, batch: BatchMolGraph, targets: Tensor
) -> Tensor:
    """One training step; returns the loss."""
    optimizer.zero_grad()
    predicted = model.predictor.train_step(model.fingerprint(batch))
    loss = torch.nn.functional.mse_loss(predicted, targets)
    loss.backward()
    optimizer.step()
    return loss.detach()


def make_step(
    ratio: float | None,
    number: int = 64,
    seed: int = 0,
    device: str = "cpu",
    **settings: object,
) -> Callable[[], float]:
    """A function that trains one batch and returns the loss; ``ratio=None`` is stock D-MPNN. In
    every step the batch is copied to the device, and ours makes its plan, as a data loader would.
    """
    torch.manual_seed(seed)
    _, texts = smiles(number, seed)
    bmg = BatchMolGraph(mol_graphs(texts))
    targets = torch.randn(number, 1).to(device)
    model = make_model(ratio, **settings).to(device)
    optimizer = torch.optim.Adam(model.parameters(), lr=1e-4, fused=ratio is not None)

    def step() -> float:
        batch = copy.copy(bmg) if ratio is None else PlannedMolGraph(bmg)
        batch.to(device)
        return float(train_one(model, optimizer, batch, targets))

    return step


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("-n", type=int, default=64, help="molecules in the batch")
    parser.add_argument("--ratio", type=float, nargs="+", default=[0.1, 0.25, 0.5])
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--blocks", type=int, default=5)
    parser.add_argument("--rounds", type=int, default=8)
    args = parser.parse_args()
    make = partial(make_step, number=args.n, device=args.device)
    stock = make(None)
    steps = {f"ratio {ratio}": make(ratio) for ratio in args.ratio}
    steps |= {f"ratio {ratio}, top 2": make(ratio, top_k=2) for ratio in args.ratio}
    steps["one cluster"] = make(0.25, max_clusters=1)
    steps["rings"] = make(0.25, assignment="rings")
    for name, step in steps.items():
        tracker = Tracker(step, stock, args.blocks, args.rounds)
        times = tracker.run()
        found, ours = tracker.summary(times), 1e3 * statistics.median(times)
        print(
            f"{name}: {ours:.1f} ms, D-MPNN {1e3 * statistics.median(tracker.yard):.1f} ms, "
            f"{found['ratio']:.2f}x (spread {found['spread']:.2f})"
        )


if __name__ == "__main__":
    main()
