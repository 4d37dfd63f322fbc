"""Correctness, then speed, on a GPU: ``python -m benchmarks.gpu``.

Every case is first compared with the ``sparse`` backend in float64 on the CPU and with itself (two
runs must agree bitwise, and the replay of a CUDA graph with a call). Then forward and backward are
timed by events over inputs that take turns, so that the cache is cold, with all that depends on
integers made beforehand; and replayed from a CUDA graph. PyG has no such plan: its rows, and those
of ours "with the plan", make what they need in the timed call. The floor is the time of the bytes
that must move (:func:`benchmarks.limits.work`) at the speed of a large copy, or that of one launch
in a CUDA graph, measured in the same run. Rows are added to a CSV file after each case, with chip,
driver, versions and commit; a way that fails leaves a row without times. The kernels that one
forward and backward with losses launches have rows of their own, timed by torch's profiler.
"""

from __future__ import annotations

import argparse
import csv
import statistics
import sys
from collections.abc import Callable
from pathlib import Path

import torch
from torch import Tensor

from benchmarks.clocks import bytes_per_ms, kernel_times, launch_ms, time_rotated
from benchmarks.inputs import Inputs, leaves, make_inputs
from benchmarks.limits import work
from benchmarks.machine import machine
from benchmarks.peers import Peer, pyg_einsum, pyg_einsum_compiled, tritonpool_op
from tritonpool import Graph, coarsen, use_backend
from tritonpool.losses import assignment_losses
from tritonpool.planning import coarse_plan

__all__ = ["CASES", "check", "main", "prepare"]

CASES = {
    "64 molecules": {"number": 64},
    "64 molecules, ratio 0.25": {"number": 64, "ratio": 0.25},
    "1 molecule": {"number": 1},
    "64 molecules, bfloat16": {"number": 64, "dtype": torch.bfloat16},
    "4096 molecules": {"number": 4096},
    "4096 molecules, bfloat16": {"number": 4096, "dtype": torch.bfloat16},
    "1024 molecules, 64 bond features": {"number": 1024, "bond_features": 64},
    "1024 molecules, 300 bond features": {"number": 1024, "bond_features": 300},
}
TOLERANCE = {torch.float32: 1e-5, torch.bfloat16: 2e-2}
LEAST_COPIES = 4


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
        # detached, lest they keep nodes of autograd that belong to the stream of an earlier call
        values = [value.detach() for value in outputs]
        held.update(zip(("X'", "W", "F'", "link", "entropy"), values, strict=False))

    return run, held


def _same(name: str, found: Tensor, expected: Tensor, what: str) -> None:
    if not bool(found.isfinite().all()):
        raise AssertionError(f"{name} is not finite")
    if not torch.equal(found, expected):
        raise AssertionError(f"{name} differs between {what}")


def check(inputs: Inputs, device: str) -> dict[str, float]:
    """The relative error of every output and gradient on ``device``.

    Raises
    ------
    AssertionError
        if two runs differ in a bit, or a number is not finite
    """
    run, exact = prepare(inputs.to("cpu", torch.float64), True, True)
    with use_backend("sparse"):
        run()
    run, held = prepare(inputs.to(device), True, True)
    run()
    first = {name: value.detach().clone() for name, value in held.items()}
    run()
    errors = {}
    for name, value in first.items():
        _same(name, held[name], value, "two runs")
        expected = exact[name].detach()
        error = (value.cpu().double() - expected).square().mean().sqrt()
        errors[name] = float(error / expected.square().mean().sqrt())
    return errors


def _captured(run: Callable, held: dict[str, Tensor]) -> Callable:
    """The function as a CUDA graph to replay, which gives the very tensors that a call gives."""
    run()
    expected = {name: value.detach().clone() for name, value in held.items()}
    stream = torch.cuda.Stream()
    stream.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(stream):
        for _ in range(3):
            run()
    torch.cuda.current_stream().wait_stream(stream)
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        run()
    graph.replay()
    for name, value in expected.items():
        _same(name, held[name], value, "a call and a replay")

    def replay() -> None:
        graph.replay()

    replay.keeps = run, held  # the graph reads and writes their memory
    return replay


def _copies(inputs: Inputs, device: str) -> int:
    """How many inputs take turns: together they are four times what the card's cache holds."""
    if device != "cuda":
        return LEAST_COPIES
    size = torch.cuda.get_device_properties(0).L2_cache_size
    own = sum(getattr(inputs, name).nbytes for name in ("x", "edge_attr", "S", "edge_index"))
    return min(64, max(LEAST_COPIES, -(-4 * size // own)))


def _planning(inputs: Inputs) -> Callable:
    """Forward and backward of the op with losses, from tensors to tensors: plan and work lists
    are made anew."""

    def run() -> None:
        prepare(inputs, True, True)[0]()

    return run


def _sparse(inputs: Inputs) -> Callable:
    """The same with the other backend, the plan made beforehand."""
    op, _ = prepare(inputs, True, True)

    def run() -> None:
        with use_backend("sparse"):
            op()

    return run


def _peer(peer: Callable, inputs: Inputs) -> Callable:
    def run() -> None:
        outputs = peer(inputs)
        sum(value.sum() for value in outputs.values()).backward()

    return run


def floor_ms(inputs: Inputs, edges: bool) -> float:
    """The least time of forward and backward of ``coarsen`` on the GPU at hand."""
    moved = work(inputs, Peer(tritonpool_op, bond_gradient=edges), "both").bytes
    return max(moved / bytes_per_ms(), launch_ms())


def _kernel_rows(name: str, copies: list[Inputs]) -> list[dict]:
    times = kernel_times([prepare(made, True, True)[0] for made in copies])
    return [
        {
            **_EMPTY,
            "case": name,
            "way": f"kernels: {kernel}",
            "ms": round(spent, 5),
            "launches": round(count, 2),
        }
        for kernel, (count, spent) in times.items()
    ]


def measure(name: str, inputs: Inputs, device: str, rounds: int) -> list[dict]:
    """The rows of one case: ours eager and captured, with and without losses and gradient of the
    bond features, ours with the plan, the sparse backend, and PyG with an einsum."""
    copies = [inputs.to(device) for _ in range(_copies(inputs, device))]
    floors = {e: floor_ms(inputs, e) if device == "cuda" else None for e in (False, True)}
    ways: dict[str, Callable[[], list[Callable]]] = {}
    for losses, edges in ((False, True), (False, False), (True, True)):
        words = ", ".join(["coarsen"] + ["losses"] * losses + ["no gradient of F"] * (not edges))

        def eager(losses: bool = losses, edges: bool = edges) -> list[Callable]:
            return [prepare(made, losses, edges)[0] for made in copies]

        def captured(losses: bool = losses, edges: bool = edges) -> list[Callable]:
            return [_captured(*prepare(made, losses, edges)) for made in copies]

        ways[words] = eager
        if device == "cuda":
            ways[words + ", CUDA graph"] = captured
    ways["coarsen, losses, with the plan"] = lambda: [_planning(made) for made in copies]
    if device == "cuda":
        ways["coarsen, losses, sparse backend"] = lambda: [_sparse(made) for made in copies]
    ways["PyG + einsum"] = lambda: [_peer(pyg_einsum, made) for made in copies]
    if device == "cuda":
        ways["PyG + einsum, compiled"] = lambda: [_peer(pyg_einsum_compiled, m) for m in copies]
    rows = [_row(name, way, make, device, rounds) for way, make in ways.items()]
    for row in rows:
        floor = floors["no gradient of F" not in row["way"]]
        if floor and row["ms"] and row["way"].startswith("coarsen"):
            row["floor_ms"] = round(floor, 5)
            row["over_floor"] = round(row["ms"] / floor, 2)
    return rows + (_kernel_rows(name, copies) if device == "cuda" else [])


_EMPTY = dict.fromkeys(
    ("case", "way", "ms", "p20", "p80", "floor_ms", "over_floor", "launches", "error")
)


def _row(name: str, way: str, make: Callable, device: str, rounds: int) -> dict:
    """Median and quantiles, or what went wrong: a peer may well need more memory than there is."""
    row = {**_EMPTY, "case": name, "way": way, "error": ""}
    try:
        times = sorted(time_rotated(make(), device, rounds))
    except RuntimeError as error:  # out of memory is one, too
        return {**row, "error": f"{type(error).__name__}: {str(error).splitlines()[0][:100]}"}
    finally:
        if device == "cuda":
            torch.cuda.empty_cache()
    low, high = times[len(times) // 5], times[-1 - len(times) // 5]
    found = {"ms": statistics.median(times), "p20": low, "p80": high}
    return {**row, **{key: round(value, 5) for key, value in found.items()}}


def _add(path: Path, rows: list[dict]) -> None:
    new = not path.exists()
    if not new and path.read_text().partition("\n")[0] != ",".join(rows[0]):
        raise ValueError(f"{path} has other columns: name another --output")
    with path.open("a", newline="") as file:
        writer = csv.DictWriter(file, list(rows[0]), lineterminator="\n")
        if new:
            writer.writeheader()
        writer.writerows(rows)


def _words(row: dict) -> str:
    if row["launches"] is not None:
        return f"{row['ms']:9.4f} ms in {row['launches']:g} launches"
    if row["error"]:
        return row["error"]
    floor = f", {row['over_floor']:.2f} x the floor" if row["over_floor"] else ""
    return f"{row['ms']:9.4f} ms ({row['p20']:.4f} to {row['p80']:.4f}){floor}"


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
    if args.device == "cpu":
        where["chip"] = "CPU"
    worst, failed = 0.0, False
    for name in args.cases:
        inputs = make_inputs(**CASES[name])
        errors = check(inputs, args.device)
        worst = max(worst, max(errors.values()) / TOLERANCE[inputs.x.dtype])
        print(name, {key: f"{value:.1e}" for key, value in errors.items()}, flush=True)
        found = measure(name, inputs, args.device, args.rounds)
        for row in found:
            print(f"  {row['way']:45}", _words(row), flush=True)
            failed |= bool(row["error"]) and not row["way"].startswith("PyG")
        _add(args.output, [{**row, "device": args.device, **where} for row in found])
    print(f"largest error over what is allowed: {worst:.2f}")
    return int(worst > 1 or failed)


if __name__ == "__main__":
    sys.exit(main())
