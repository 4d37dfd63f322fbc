"""Clocks of a GPU: of calls that take turns, of single kernels, and of what no kernel can beat."""

from __future__ import annotations

import re
import statistics
import time
from collections import defaultdict
from collections.abc import Callable
from functools import cache

import torch

__all__ = ["by_kernel", "bytes_per_ms", "kernel_times", "launch_ms", "time_rotated"]


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


def kernel_times(runs: list[Callable], rounds: int = 20) -> dict[str, tuple[float, float]]:
    """Launches and milliseconds in one call, on a GPU: of ``"all"`` kernels, copies and fills, of
    each of our kernels by name, and of those of torch."""
    activities = [torch.profiler.ProfilerActivity.CUDA]
    with torch.profiler.profile(activities=activities) as profile:
        for i in range(rounds):
            runs[i % len(runs)]()
        torch.cuda.synchronize()
    kind = torch.autograd.DeviceType.CUDA
    return by_kernel(
        [(e.name, e.device_time) for e in profile.events() if e.device_type == kind], rounds
    )


def by_kernel(events: list[tuple[str, float]], rounds: int) -> dict[str, tuple[float, float]]:
    """Launches and milliseconds per call from names and microseconds, the longest first."""
    found = defaultdict(lambda: (0.0, 0.0))
    for name, spent in events:
        own = re.fullmatch(r"\w+_kernel", name)
        for key in ("all", name if own else "of torch"):
            count, total = found[key]
            found[key] = count + 1 / rounds, total + spent / 1e3 / rounds
    return dict(sorted(found.items(), key=lambda item: -item[1][1]))


@cache
def bytes_per_ms() -> float:
    """The speed of a copy of 2 GiB, bytes read and written."""
    source = torch.ones(2**30, dtype=torch.uint8, device="cuda")
    target = torch.empty_like(source)
    times = time_rotated([lambda: target.copy_(source)], "cuda", 20)
    return 2 * source.nbytes / statistics.median(times)


@cache
def launch_ms() -> float:
    """One kernel that does next to nothing, replayed from a CUDA graph."""
    value = torch.zeros(1, device="cuda")
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        value.add_(1)
    return statistics.median(time_rotated([graph.replay], "cuda", 100))
