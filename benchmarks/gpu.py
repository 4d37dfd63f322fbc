"""Correctness, then speed, on a GPU: ``python -m benchmarks.gpu``.

Every case is first compared with the ``sparse`` backend in float64 on the CPU and with itself (two
runs must agree bitwise). Then forward and backward are timed with the plan made beforehand, as the
data loader makes it: by events over inputs that take turns, so that the cache is cold, and replayed
from a CUDA graph. Rows are added to a CSV file with chip, driver, versions and commit.
"""

from __future__ import annotations

import argparse
import csv
import statistics
import sys
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import torch
from torch import Tensor

from benchmarks.inputs import Inputs, leaves, make_inputs
from benchmarks.machine import machine
from benchmarks.peers import pyg_einsum, pyg_einsum_compiled
from tritonpool import Graph, coarsen, use_backend
from tritonpool.coarse_plan import coarse_plan
from tritonpool.losses import assignment_losses

__all__ = ["CASES", "check", "main", "prepare", "time_rotated"]

CASES = {
    "64 molecules": {"number": 64},
    "64 molecules, ratio 0.25": {"number": 64, "ratio": 0.25},
    "64 molecules, bfloat16": {"number": 64, "dtype": torch.bfloat16},
    "4096 molecules": {"number": 4096},
    "4096 molecules, bfloat16": {"number": 4096, "dtype": torch.bfloat16},
    "1024 molecules, 64 bond features": {"number": 1024, "bond_features": 64},
    "1024 molecules, 300 bond features": {"number": 1024, "bond_features": 300},
}
TOLERANCE = {torch.float32: 1e-5, torch.bfloat16: 2e-2}
COPIES = 4


def _on(inputs: Inputs, device: str, dtype: torch.dtype | None = None) -> Inputs:
    """The inputs on a device; the cluster counts stay on the host."""
    moved = {k: getattr(inputs, k).to(device) for k in ("edge_index", "batch")}
    for name in ("x", "edge_attr", "S"):
        moved[name] = getattr(inputs, name).to(device, dtype or inputs.x.dtype)
    return replace(inputs, **moved)


def prepare(inputs: Inputs, losses: bool, edges: bool) -> tuple[Callable, dict[str, Tensor]]:
    """A function that runs forward and backward of the op with a plan made here, and the tensors
    that hold its gradients afterwards.

    Parameters
    ----------
    inputs : Inputs
        the batch, on its device
    losses : bool
        whether the auxiliary losses are part of it
    edges : bool
        whether the bond features need a gradient
    """
    S, x, F = leaves(inputs, edges)
    graph = Graph(x, inputs.edge_index, F, None, inputs.batch, inputs.num_graphs)
    coarse_plan(graph.plan, inputs.clusters, True)
    held: dict[str, Tensor] = {}

    def run() -> None:
        coarse = coarsen(graph, S, inputs.clusters)
        outputs = [coarse.x, coarse.edge_weight, coarse.edge_attr]
        if losses:
            outputs += assignment_losses(graph, S, inputs.clusters)
        given = [torch.ones_like(t) for t in outputs]
        wanted = [S, x, F] if edges else [S, x]
        grads = torch.autograd.grad(outputs, wanted, given)
        held.update(zip(("dS", "dX", "dF"), grads, strict=False))
        held.update(zip(("X'", "W", "F'", "link", "entropy"), outputs, strict=False))

    return run, held


def check(inputs: Inputs, device: str) -> dict[str, float]:
    """The relative error of every output and gradient on ``device``.

    Raises
    ------
    AssertionError
        if two runs differ in a bit
    """
    run, exact = prepare(_on(inputs, "cpu", torch.float64), True, True)
    with use_backend("sparse"):
        run()
    run, held = prepare(_on(inputs, device), True, True)
    run()
    first = {name: value.detach().clone() for name, value in held.items()}
    run()
    errors = {}
    for name, value in first.items():
        if not torch.equal(value, held[name]):
            raise AssertionError(f"{name} differs between two runs")
        expected = exact[name].detach()
        error = (value.cpu().double() - expected).square().mean().sqrt()
        errors[name] = float(error / expected.square().mean().sqrt())
    return errors


def _wait(device: str) -> None:
    if device == "cuda":
        torch.cuda.synchronize()


def time_rotated(runs: list[Callable], device: str, rounds: int) -> list[float]:
    """Milliseconds of each call, the functions taking turns; by events on a GPU."""
    for run in runs:
        run()
    _wait(device)
    if device != "cuda":
        times = []
        for i in range(rounds):
            start = time.perf_counter()
            runs[i % len(runs)]()
            times.append(1e3 * (time.perf_counter() - start))
        return times
    marks = [torch.cuda.Event(enable_timing=True) for _ in range(rounds + 1)]
    marks[0].record()
    for i in range(rounds):
        runs[i % len(runs)]()
        marks[i + 1].record()
    _wait(device)
    return [a.elapsed_time(b) for a, b in zip(marks, marks[1:], strict=False)]


def _captured(run: Callable) -> Callable:
    """The function as a CUDA graph to replay."""
    stream = torch.cuda.Stream()
    stream.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(stream):
        for _ in range(3):
            run()
    torch.cuda.current_stream().wait_stream(stream)
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        run()
    return graph.replay


def _peer(peer: Callable, inputs: Inputs) -> Callable:
    def run() -> None:
        outputs = peer(inputs)
        sum(value.sum() for value in outputs.values()).backward()

    return run


def measure(name: str, inputs: Inputs, device: str, rounds: int) -> list[dict]:
    """The rows of one case: ours eager and captured, with and without losses and gradient of the
    bond features, and PyG with an einsum."""
    copies = [_on(inputs, device) for _ in range(COPIES)]
    ways: dict[str, list[Callable]] = {}
    for losses, edges in ((False, True), (False, False), (True, True)):
        words = ["coarsen"] + ["losses"] * losses + ["no gradient of F"] * (not edges)
        runs = [prepare(made, losses, edges)[0] for made in copies]
        ways[", ".join(words)] = runs
        if device == "cuda":
            ways[", ".join(words) + ", CUDA graph"] = [_captured(run) for run in runs]
    ways["PyG + einsum"] = [_peer(pyg_einsum, made) for made in copies]
    if device == "cuda":
        ways["PyG + einsum, compiled"] = [_peer(pyg_einsum_compiled, made) for made in copies]
    rows = []
    for way, runs in ways.items():
        times = sorted(time_rotated(runs, device, rounds))
        low, high = times[len(times) // 5], times[-1 - len(times) // 5]
        row = {"case": name, "way": way, "ms": statistics.median(times), "p20": low, "p80": high}
        rows.append({key: round(v, 5) if isinstance(v, float) else v for key, v in row.items()})
    return rows


def main(arguments: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--device", default="cuda", choices=["cuda", "cpu"])
    parser.add_argument("--cases", nargs="+", default=list(CASES), choices=list(CASES))
    parser.add_argument("--rounds", type=int, default=100)
    parser.add_argument("--output", type=Path, default=Path("gpu.csv"))
    args = parser.parse_args(arguments)
    if args.device == "cuda" and not torch.cuda.is_available():
        print("torch finds no GPU; --device cpu tries the script on the CPU", file=sys.stderr)
        return 2
    where = {k: v for k, v in machine().items() if k != "threads"}
    rows, worst = [], 0.0
    for name in args.cases:
        inputs = make_inputs(**CASES[name])
        errors = check(inputs, args.device)
        worst = max(worst, max(errors.values()) / TOLERANCE[inputs.x.dtype])
        print(name, {key: f"{value:.1e}" for key, value in errors.items()}, flush=True)
        found = measure(name, inputs, args.device, args.rounds)
        for row in found:
            print("  {way:45} {ms:9.4f} ms ({p20:.4f} to {p80:.4f})".format(**row), flush=True)
        rows += [{**row, "device": args.device, **where} for row in found]
    new = not args.output.exists()
    with args.output.open("a", newline="") as file:
        writer = csv.DictWriter(file, list(rows[0]), lineterminator="\n")
        if new:
            writer.writeheader()
        writer.writerows(rows)
    print(f"largest error over what is allowed: {worst:.2f}")
    return int(worst > 1)


if __name__ == "__main__":
    sys.exit(main())
