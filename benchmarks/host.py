"""What a training step on a GPU asks of the host, without a GPU: ``python -m benchmarks.host``.

Small batches wait for the host, which has to call torch and start kernels faster than the card
works. Here a step runs on a few small molecules with narrow layers, so that calling torch costs
more than its arithmetic on the CPU does; kernels are compiled for a card and go through all of
Triton's launcher but are not run. So results are meaningless and times too, but the time over that
of chemprop's D-MPNN, measured in turn, was about the same on an H200 (docs/benchmarks.md).
"""

from __future__ import annotations

import argparse
import importlib
import os
import statistics
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from typing import Any
from unittest.mock import patch

import torch
from chemprop.data import BatchMolGraph
from torch.utils._python_dispatch import TorchDispatchMode
from triton.backends.compiler import GPUTarget
from triton.backends.driver import DriverBase
from triton.runtime import driver

from benchmarks import MOST_CLUSTERS
from benchmarks.inputs import mol_graphs, smiles
from benchmarks.step import make_model, train_one
from benchmarks.tracking import Tracker
from tritonpool import use_backend
from tritonpool.chemprop.collate import PlanCollate
from tritonpool.chemprop.settings import DiffPoolSettings

__all__ = ["Calls", "Idle", "main", "make_host_step", "on_the_host_only"]


class Idle(DriverBase):
    """Compiles for one target, and lists the builds that it should start and does not."""

    def __init__(self):
        self.target = GPUTarget("cuda", 90, 32)
        self.started: list[str] = []
        self.utils = self

    def launcher_cls(self, src: object, metadata: Any) -> Callable[..., None]:
        def note(*arguments: object, **more: object) -> None:
            self.started.append(metadata.hash)

        return note

    def load_binary(self, *arguments: object) -> tuple[int, ...]:
        return 0, 0, 0, 0, 1024

    def get_device_properties(self, device: int) -> dict[str, int]:
        return {"max_shared_mem": 227 << 10}

    @classmethod
    def is_active(cls) -> bool:
        return True

    def map_python_to_cpp_type(self, ty: str) -> str:
        return ty

    def get_current_target(self) -> GPUTarget:
        return self.target

    def get_active_torch_device(self) -> torch.device:
        return torch.device("cpu")

    def get_benchmarker(self) -> Callable:
        raise NotImplementedError("nothing runs")

    def get_current_device(self) -> int:
        return 0

    def get_current_stream(self, device: int) -> int:
        return 0


class Calls(TorchDispatchMode):
    """Counts the operations that reach torch's dispatcher, views included."""

    def __init__(self):
        super().__init__()
        self.number = 0

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        self.number += 1
        return function(*args, **(kwargs or {}))


def make_host_step(ratio: float | None, molecules: int = 4, width: int = 16) -> Callable[[], None]:
    """A training step on a new batch each time, whose plan the loader has made; ``ratio=None`` is
    stock D-MPNN. Each 64th call makes the batches of the next 64, which medians do not see."""
    torch.manual_seed(0)
    graphs = mol_graphs(sorted(smiles(64, 0)[1], key=len)[:molecules])
    model = make_model(ratio, width)
    kind = {"foreach": True} if ratio is None else {"fused": True}  # what a card has by default
    optimizer = torch.optim.Adam(model.parameters(), **kind)
    targets = torch.randn(molecules, 1)
    collate = PlanCollate(None, DiffPoolSettings(ratio=ratio or 0.25, max_clusters=MOST_CLUSTERS))
    ready: list[BatchMolGraph] = []

    def step() -> None:
        if not ready:
            made = (BatchMolGraph(graphs) for _ in range(64))
            ready.extend(bmg if ratio is None else collate.planned(bmg) for bmg in made)
        train_one(model, optimizer, ready.pop(), targets)

    return step


@contextmanager
def on_the_host_only() -> Iterator[Idle]:
    """Within this context the Triton backend takes tensors on the CPU and starts nothing; the
    driver stays for the rest of the process. What kernels would have written is whatever was in
    memory, so scores and weights are not checked."""
    os.environ.pop("TRITON_INTERPRET", None)
    importlib.import_module("tritonpool.kernels")  # compiled, although the next lines ask otherwise
    idle = Idle()
    driver.set_active(idle)
    with ExitStack() as stack:
        stack.enter_context(patch.dict(os.environ, TRITON_INTERPRET="1"))
        stack.enter_context(use_backend("triton"))
        for name in ("check_scores", "check_weights"):
            stack.enter_context(patch(f"tritonpool.diffpool.{name}"))
        yield idle


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--ratio", type=float, nargs="+", default=[0.25])
    parser.add_argument("--blocks", type=int, default=7)
    parser.add_argument("--rounds", type=int, default=60)
    args = parser.parse_args()
    torch.set_num_threads(1)
    stock = make_host_step(None)
    with on_the_host_only() as idle:
        for ratio in args.ratio:
            step = make_host_step(ratio)
            for _ in range(3):
                step()
            idle.started.clear()
            with Calls() as calls:
                step()
            launches = len(idle.started)
            tracker = Tracker(step, stock, args.blocks, args.rounds)
            times = tracker.run()
            found = tracker.summary(times)
            print(
                f"ratio {ratio}: {calls.number} calls of torch, {launches} kernels, "
                f"{1e3 * statistics.median(times):.2f} ms, "
                f"D-MPNN {1e3 * statistics.median(tracker.yard):.2f} ms: {found['ratio']:.2f}x "
                f"(spread {found['spread']:.2f})"
            )


if __name__ == "__main__":
    main()
