"""Tile sizes: a plain function of the kernel, the precision, the sizes and the target.

Never of the batch: the sizes fix the order in which sums are formed, so a graph's result would
depend on its batch mates. The figures behind the table are in docs/kernels.md.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cache

import torch

__all__ = ["TARGETS", "Tile", "blocks_of", "nearest_target", "tile_for", "trying"]

TARGETS = ("sm_80", "sm_90", "sm_100", "gfx942")
ROWS = "segment_sum", "segment_spread", "messages", "messages_grad"  # add up rows of segments
SHARES = "shares", "shares_grad"
SOFTMAX = "softmax", "softmax_grad"


@dataclass(frozen=True)
class Tile:
    """The shape of one program."""

    # BP x BQ pairs, BE edges, BS edges of a node, BV nodes, BG graphs, BK clusters, BC or BD
    # features, PART features of a program
    blocks: dict[str, int]
    warps: int
    precision: str  # "x3" or "ieee", see precision.py
    registers: int | None = None  # how many a thread may have; None: as the compiler likes


def blocks_of(size: int, block: int) -> int:
    """How many blocks a dimension has (``triton.cdiv`` takes 40 times as long)."""
    return -(-size // block)


def nearest_target(target: str) -> str:
    """The entry of :data:`TARGETS` whose tiles fit ``target``.

    Cards between two entries take the smaller one; consumer cards of generation 12 have the shared
    memory of generation 8, and the interpreter follows sm_90.
    """
    if target in TARGETS:
        return target
    if target == "interpret":
        return "sm_90"
    if target.startswith("gfx"):
        return "gfx942"
    capability = int(target.removeprefix("sm_"))
    if capability < 90 or capability >= 120:
        return "sm_80"
    return "sm_90" if capability < 100 else "sm_100"


def _single(kernel: str, C: int, target: str) -> tuple[dict[str, int], int]:
    """Sizes and warps where sums are formed in float32."""
    if kernel == "coarsen_fwd":
        if C < 16:
            return dict(BP=8, BQ=8, BC=16, BE=16), 1
        return dict(BP=8, BQ=8, BC=64 if C < 128 else 128, BE=16), 4
    if kernel == "coarsen_bwd_assignment":
        if C < 16:
            return dict(BP=4, BQ=16, BC=16, BE=64), 4
        return dict(BP=8, BQ=8, BC=16, BE=64), 4
    if kernel == "coarsen_bwd_features":
        if C < 16:
            return dict(BP=4, BQ=8, BC=16, BE=64), 4
        return dict(BP=4, BQ=8, BC=32, BE=64), 4
    return {
        "pool": (dict(BV=16, BK=16, BD=64, PART=128), 2),
        "lift": (dict(BV=16, BK=16, BD=64, PART=128), 2),
        "node_grad": (dict(BV=16 if target == "sm_80" else 32, BK=16, BD=32), 2),
        "weight_grad": (dict(BE=128), 4),
        **dict.fromkeys(ROWS, (dict(BS=4, BD=128), 1)),
        **dict.fromkeys(SHARES, (dict(BS=32), 1)),
        **dict.fromkeys(SOFTMAX, (dict(BV=32, BK=8), 1)),
    }[kernel]


def _double(kernel: str) -> tuple[dict[str, int], int]:
    """Sizes and warps where sums are formed in float64."""
    if kernel == "coarsen_fwd":
        return dict(BP=4, BQ=8, BC=16, BE=16), 4
    if kernel in ("coarsen_bwd_assignment", "coarsen_bwd_features"):
        return dict(BP=4, BQ=8, BC=16, BE=32), 4
    return {
        "pool": (dict(BV=16, BK=16, BD=32, PART=128), 4),
        "lift": (dict(BV=16, BK=16, BD=32, PART=128), 4),
        "node_grad": (dict(BV=16, BK=16, BD=32), 4),
        "weight_grad": (dict(BE=128), 4),
        "losses_fwd": (dict(BV=16, BK=16, BE=16), 1),
        "losses_total": (dict(BV=64, BG=256), 1),
        "losses_bwd": (dict(BV=16, BK=32, BE=16), 2),
        "losses_weight_grad": (dict(BE=32, BK=16), 4),
        **dict.fromkeys(ROWS, (dict(BS=4, BD=64), 1)),
        **dict.fromkeys(SHARES, (dict(BS=32), 1)),
        **dict.fromkeys(SOFTMAX, (dict(BV=32, BK=8), 1)),
    }[kernel]


def _registers(kernel: str, accumulate: torch.dtype, target: str) -> int | None:
    """NVIDIA's assembler sometimes spills to fit one more program on a multiprocessor. Where it
    was seen to, it is told that a thread may have all 255 registers."""
    if target.startswith("gfx"):
        return None
    hungry = kernel in ("node_grad", "losses_fwd", "coarsen_fwd") or "bwd" in kernel
    seen = {
        ("node_grad", "sm_80"),
        ("coarsen_bwd_assignment", "sm_80"),
        ("coarsen_bwd_features", "sm_100"),
    }
    if (kernel, target) in seen:
        return 255
    return 255 if hungry and accumulate == torch.float64 else None


_tried: dict[str, Tile] = {}  # not a context variable: backward runs in threads of its own


@contextmanager
def trying(kernel: str, tile: Tile) -> Iterator[None]:
    """Run the enclosed calls with another tile of one kernel, to time it."""
    _tried[kernel] = tile
    try:
        yield
    finally:
        del _tried[kernel]


def tile_for(kernel: str, accumulate: torch.dtype, target: str, C: int = 0) -> Tile:
    """The tile of ``kernel`` for sums in ``accumulate`` with ``C`` bond features on ``target``.

    Parameters
    ----------
    kernel : str
        the name of the kernel, without ``_kernel``
    accumulate : torch.dtype
        ``torch.float32`` or ``torch.float64``
    target : str
        what :func:`target_of` says
    C : int, default=0
        bond features; fewer than 16 fit one block together with the total weight

    Returns
    -------
    Tile
        its sizes; the same for every batch
    """
    return _tried[kernel] if kernel in _tried else _tile(kernel, accumulate, target, C)


@cache
def _tile(kernel: str, accumulate: torch.dtype, target: str, C: int) -> Tile:
    target = nearest_target(target)
    if accumulate == torch.float64:
        blocks, warps = _double(kernel)
        precision = "ieee"
    else:
        blocks, warps = _single(kernel, C, target)
        precision = "ieee" if target.startswith("gfx") else "x3"
    return Tile(blocks, warps, precision, _registers(kernel, accumulate, target))
