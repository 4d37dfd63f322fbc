"""What the machine allows at best: a lower bound of the time of each row, and what sets it.

The bound is the longest of three times, all measured here:

* the bytes that must move (every input read once, every output and gradient written once, what
  backward needs read again; scratch not counted) at the speed of copying as many bytes,
* the operations of the cheaper of the two ways to sum, pair by pair or node by node, at the speed
  of a large matrix product in the same dtype,
* one call of an autograd function that does nothing.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass
from functools import cache

import torch
from torch import Tensor
from torch.utils.flop_counter import FlopCounterMode

from benchmarks.inputs import Inputs
from benchmarks.peers import Peer

__all__ = ["PHASES", "Limit", "Work", "limit", "product_seconds", "work"]

PHASES = ("forward", "backward", "both")


@dataclass(frozen=True)
class Work:
    """Bytes that must move, and floating-point operations (a multiplication and an addition are
    two)."""

    bytes: int
    operations: int

    def __add__(self, other: Work) -> Work:
        return Work(self.bytes + other.bytes, self.operations + other.operations)


def work(inputs: Inputs, peer: Peer, phase: str) -> Work:
    """The work of a candidate's part of the job.

    Parameters
    ----------
    inputs : Inputs
        the batch
    peer : Peer
        says which part it does
    phase : str
        ``"forward"``, ``"backward"`` or ``"both"``
    """
    if phase == "both":
        return work(inputs, peer, "forward") + work(inputs, peer, "backward")
    G = inputs.num_graphs
    n = torch.bincount(inputs.batch, minlength=G)
    e = torch.bincount(inputs.batch[inputs.edge_index[0]], minlength=G)
    c = inputs.clusters
    features = 1 + (inputs.edge_attr.shape[1] if peer.bonds else 0)  # the weight is one more
    V, D = inputs.x.shape
    E, P, Q = len(inputs.edge_attr), int(c.sum()), int((c * (c - 1)).sum())
    shares = int((n * c).sum())
    item, index = inputs.S.element_size(), inputs.edge_index.element_size()

    by_pair = 2 * e * c * c * features
    by_node = 2 * (e * c + n * c * c) * features
    sums = int(torch.minimum(by_pair, by_node).sum())
    if peer.nodes:
        sums += 2 * shares * D
        losses = int((2 * n * c * c + 2 * e * c).sum())
    else:
        losses = 0
    bonds_in, bonds_out = E * (features - 1), Q * (features - 1)
    nodes_in, nodes_out = (V * D, P * D) if peer.nodes else (0, 0)
    ends = 2 * E * index
    if phase == "forward":
        moved = shares + nodes_in + bonds_in + nodes_out + Q + bonds_out
        return Work(moved * item + ends, sums + losses)
    moved = 2 * shares + 2 * nodes_in + nodes_out + bonds_in + 2 * (Q + bonds_out)
    operations = 2 * sums + losses
    if peer.bond_gradient:
        moved += bonds_in
    elif peer.bonds:
        operations -= int((2 * e * c).sum()) * (features - 1)
    return Work(moved * item + ends, operations)


def _best_seconds(function: Callable[[], object], rounds: int = 7) -> float:
    function()
    times = []
    for _ in range(rounds):
        start = time.perf_counter()
        function()
        times.append(time.perf_counter() - start)
    return min(times)


def _copy_seconds(count: int) -> float:
    """Time to move that many bytes: half are read, half are written."""
    source = torch.ones(max(1, count // 2), dtype=torch.uint8)
    target = torch.empty_like(source)
    return _best_seconds(lambda: target.copy_(source))


@cache
def _operations_per_second(dtype: torch.dtype) -> float:
    n = 1024
    A, B = torch.randn(n, n).to(dtype), torch.randn(n, n).to(dtype)
    return 2 * n**3 / _best_seconds(lambda: A @ B)


class _Nothing(torch.autograd.Function):
    @staticmethod
    def forward(ctx, S: Tensor) -> Tensor:
        return S.new_empty(())

    @staticmethod
    def backward(ctx, grad: Tensor) -> Tensor:
        return grad.new_empty(1)


@cache
def _call_seconds(phase: str) -> float:
    leaf = torch.zeros(1, requires_grad=True)

    def run() -> None:
        for _ in range(100):
            found = _Nothing.apply(leaf)
            if phase != "forward":
                found.backward()

    forward_or_both = _best_seconds(run) / 100
    return forward_or_both - (_call_seconds("forward") if phase == "backward" else 0)


def product_seconds(function: Callable[[], object], dtype: torch.dtype = torch.float32) -> float:
    """The least time for the dense matrix products that a function runs; what is not a dense
    product counts nothing."""
    with FlopCounterMode(display=False) as counter:
        function()
    return counter.get_total_flops() / _operations_per_second(dtype)


@dataclass(frozen=True)
class Limit:
    """A lower bound of the time in seconds, and which of the three sets it."""

    seconds: float
    bound: str


def limit(inputs: Inputs, peer: Peer, phase: str) -> Limit:
    """The least time for a candidate's part of the job on this machine."""
    todo = work(inputs, peer, phase)
    times = {
        "bytes": _copy_seconds(todo.bytes),
        "operations": todo.operations / _operations_per_second(inputs.S.dtype),
        "calls": _call_seconds(phase),
    }
    bound = max(times, key=times.__getitem__)
    return Limit(times[bound], bound)
