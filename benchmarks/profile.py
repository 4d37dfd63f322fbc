"""Where a training step's time goes, by kind of operation: ``python -m benchmarks.profile``.

Times are torch's own (the profiler's self time); what is left of the step is Python, NumPy and the
cost of calling.
"""

from __future__ import annotations

import argparse
import statistics
import time
from collections import Counter
from collections.abc import Callable

import torch
from torch.profiler import ProfilerActivity, profile

from benchmarks.step import make_step

__all__ = ["KINDS", "breakdown", "main"]

# the first kind with a word that the operation's name contains
KINDS = {
    "dense products": ("mm", "linear", "baddbmm"),
    "sums over edges and shares": ("embedding_bag", "sparse", "sampled", "segment", "scatter"),
    "gathering rows": ("index", "gather", "repeat_interleave"),
    "optimizer": ("optimizer", "_foreach", "adam", "addcdiv", "lerp", "sqrt"),
    "making and copying tensors": ("copy", "clone", "cat", "stack", "empty", "zero", "fill"),
    "sums, norms and softmax": ("sum", "norm", "softmax", "mean"),
    "element by element": ("",),
}


def kind(name: str) -> str:
    """The kind of an operation, by its name in the profiler."""
    return next(k for k, words in KINDS.items() if any(word in name for word in words))


def breakdown(step: Callable[[], object], rounds: int) -> dict[str, float]:
    """Milliseconds of a step by kind of operation, the largest first; ``"whole step"`` is last and
    was timed without the profiler."""
    for _ in range(3):
        step()
    times = []
    for _ in range(rounds):
        start = time.perf_counter()
        step()
        times.append(time.perf_counter() - start)
    with profile(activities=[ProfilerActivity.CPU]) as found:
        for _ in range(rounds):
            step()
    sums: Counter[str] = Counter()
    for event in found.key_averages():
        if event.key.startswith(("aten::", "Optimizer")):
            sums[kind(event.key.lower())] += event.self_cpu_time_total / 1e3 / rounds
    whole = 1e3 * statistics.median(times)
    sums["Python, NumPy and calls"] = max(0.0, whole - sum(sums.values()))
    return {**dict(sums.most_common()), "whole step": whole}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("-n", type=int, default=64, help="molecules in the batch")
    parser.add_argument("--ratio", type=float, nargs="+", default=[0.25, 0.5])
    parser.add_argument("--encoders", nargs="+", default=["bond", "atom"])
    parser.add_argument("--rounds", type=int, default=15)
    args = parser.parse_args()
    steps = {"D-MPNN": make_step(None, args.n)}
    for encoder in args.encoders:
        for ratio in args.ratio:
            steps[f"{ratio:g}, {encoder}"] = make_step(ratio, args.n, coarse_encoder=encoder)
    found = {name: breakdown(step, args.rounds) for name, step in steps.items()}
    rows = [*KINDS, "Python, NumPy and calls", "whole step"]
    print(f"ms per step, {args.n} molecules, {torch.get_num_threads()} threads\n")
    print(f"| | {' | '.join(found)} |\n| --- |{' ---: |' * len(found)}")
    for row in rows:
        cells = (f"{columns.get(row, 0):.1f}" for columns in found.values())
        print(f"| {row} | {' | '.join(cells)} |")


if __name__ == "__main__":
    main()
