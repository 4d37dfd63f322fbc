"""Sums of rows over segments, as the edges of a node or the nodes of a graph, with their gradients.

A program owns one segment and BD features. It adds rows up in the order in which the plan lists
them, so no atomics are needed and repeated runs agree bitwise.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
import triton
import triton.language as tl
from torch import Tensor

from tritonpool.dtypes import accumulate_in

from .launch import launch, ready, target_of
from .loads import load_features, load_segment, load_slots, load_weights
from .precision import TRITON, convert
from .tiles import blocks_of, tile_for

__all__ = [
    "arguments_of",
    "gathered",
    "neighbours_bwd",
    "neighbours_fwd",
    "segments_bwd",
    "segments_fwd",
    "sum_parts",
    "weight_parts",
]

UNALIGNED = "ptr_ptr", "index_ptr", "order_ptr"


@triton.jit
def gathered(
    X_ptr, w_ptr, index_ptr, order_ptr, start, n, d, D,
    HAS_W: tl.constexpr, LISTED: tl.constexpr, ACC: tl.constexpr, BS: tl.constexpr,
    BD: tl.constexpr,
):  # fmt: skip
    """``sum_s w[order[s]] X[index[s]]`` over the ``n`` slots from ``start``, BS of them at once."""
    total = tl.zeros((BD,), ACC)
    for s0 in tl.range(0, n, BS, num_stages=1):
        s = s0 + tl.arange(0, BS)
        k = load_slots(index_ptr, start, s, s < n, LISTED)
        rows = load_features(X_ptr, k, s < n, d, D, ACC)
        if HAS_W:
            e = load_slots(order_ptr, start, s, s < n, LISTED)
            rows *= load_weights(w_ptr, e, s < n, True, ACC)[:, None]
        total += tl.sum(rows, 0)
    return total


@triton.jit(do_not_specialize=("D",), do_not_specialize_on_alignment=UNALIGNED)
def segment_sum_kernel(
    ptr_ptr,  # [N + 1] where each segment starts
    index_ptr,  # rows of X, segment by segment
    order_ptr,  # places in w, segment by segment
    w_ptr,
    X_ptr,  # [., D]
    Y_ptr,  # [N, D]
    D,
    HAS_W: tl.constexpr,
    LISTED: tl.constexpr,
    MEAN: tl.constexpr,
    EVEN_D: tl.constexpr,
    ACC: tl.constexpr,
    BS: tl.constexpr,
    BD: tl.constexpr,
):
    """``Y[i] = sum_s w[order[s]] X[index[s]]``, or the mean, over the slots of segment ``i``."""
    i = tl.program_id(0).to(tl.int64)
    d = tl.program_id(1) * BD + tl.arange(0, BD)
    if EVEN_D:
        D = D // 4 * 4
    start, n = load_segment(ptr_ptr, i)
    total = gathered(
        X_ptr, w_ptr, index_ptr, order_ptr, start, n, d, D, HAS_W, LISTED, ACC, BS, BD
    )  # fmt: skip
    if MEAN:
        total = total / tl.maximum(n, 1).to(ACC)
    tl.store(Y_ptr + i * D + d, convert(total, Y_ptr.dtype.element_ty), d < D)


@triton.jit(do_not_specialize=("D", "E", "G_row"), do_not_specialize_on_alignment=UNALIGNED)
def segment_spread_kernel(
    ptr_ptr,  # [N + 1] where each segment starts
    index_ptr,  # rows of X, segment by segment
    order_ptr,  # places in w and rows of dX, segment by segment
    w_ptr,  # [E]
    X_ptr,  # [., D]
    G_ptr,  # [N, D] gradient of the sums, perhaps some columns of a wider matrix
    dX_ptr,  # [E, D]
    dw_ptr,  # [blocks of D, E]
    D,
    E,
    G_row,  # from one row of G to the next
    HAS_W: tl.constexpr,
    LISTED: tl.constexpr,
    MEAN: tl.constexpr,
    NEED_X: tl.constexpr,
    NEED_W: tl.constexpr,
    EVEN_D: tl.constexpr,
    ACC: tl.constexpr,
    BS: tl.constexpr,
    BD: tl.constexpr,
):
    """``dX[order[s]] = w[order[s]] G[i]`` and ``dw[order[s]] = <X[index[s]], G[i]>`` for the slots
    of segment ``i``, the latter over a block of features only."""
    i = tl.program_id(0).to(tl.int64)
    d = tl.program_id(1) * BD + tl.arange(0, BD)
    if EVEN_D:
        D = D // 4 * 4
        G_row = G_row // 4 * 4
    start, n = load_segment(ptr_ptr, i)
    grad = convert(tl.load(G_ptr + i * G_row + d, d < D, 0.0), ACC)
    if MEAN:
        grad = grad / tl.maximum(n, 1).to(ACC)
    dw_ptr += tl.program_id(1).to(tl.int64) * E
    for s0 in tl.range(0, n, BS, num_stages=1):
        s = s0 + tl.arange(0, BS)
        there = s < n
        e = load_slots(order_ptr, start, s, there, LISTED)
        if NEED_W:
            k = load_slots(index_ptr, start, s, there, LISTED)
            rows = load_features(X_ptr, k, there, d, D, ACC)
            tl.store(dw_ptr + e, tl.sum(rows * grad[None, :], 1), there)
        if NEED_X:
            own = tl.broadcast_to(grad[None, :], (BS, BD))
            if HAS_W:
                own = own * load_weights(w_ptr, e, there, True, ACC)[:, None]
            dx_ptr = dX_ptr + e[:, None] * D + d[None, :]
            mask = there[:, None] & (d < D)[None, :]
            tl.store(dx_ptr, convert(own, dX_ptr.dtype.element_ty), mask)


def arguments_of(
    kernel: str, X: Tensor, acc: torch.dtype, segments: int
) -> tuple[tuple[int, int], dict]:
    """The grid of a kernel, and the arguments that all of them share."""
    tile = tile_for(kernel, acc, target_of(X))
    D = X.shape[1]
    grid = segments, blocks_of(D, tile.blocks["BD"])
    return grid, {"tile": tile, "D": D, "EVEN_D": D % 4 == 0, "ACC": TRITON[acc]}


def _lists(ptr: Tensor, index: Tensor | None, order: Tensor | None) -> dict:
    """The index lists; without one the rows stand in the order of their segments."""
    return {
        "ptr_ptr": ptr.contiguous(),
        "index_ptr": ptr if index is None else index.contiguous(),
        "order_ptr": ptr if order is None else order.contiguous(),
        "LISTED": order is not None,
    }


def _sum(
    ptr: Tensor,
    index: Tensor | None,
    order: Tensor | None,
    w: Tensor | None,
    X: Tensor,
    acc: torch.dtype,
    mean: bool = False,
) -> Tensor:
    X, w = ready(X), ready(w)
    N = ptr.numel() - 1
    Y = X.new_empty(N, X.shape[1])
    grid, common = arguments_of("segment_sum", X, acc, N)
    launch(
        segment_sum_kernel,
        grid,
        **_lists(ptr, index, order),
        w_ptr=X if w is None else w,
        X_ptr=X,
        Y_ptr=Y,
        HAS_W=w is not None,
        MEAN=mean,
        **common,
    )
    return Y


def _rows(grad: Tensor) -> Tensor:
    """The gradient as it is if its rows can be loaded four numbers at a time, else a copy:
    concatenated states have gradients that are columns of a wider matrix."""
    row = grad.stride(0)
    wide = row % 4 == 0 and row * grad.element_size() % 16 == 0 and grad.data_ptr() % 16 == 0
    return grad if wide and grad.stride(1) == 1 and row >= grad.shape[1] else ready(grad)


def weight_parts(grad: Tensor, blocks: int, E: int, acc: torch.dtype) -> Tensor:
    """Where each block of features puts its part of the gradient of the weights."""
    return grad.new_empty(blocks, E, dtype=acc) if blocks else grad.new_zeros(1, E, dtype=acc)


def sum_parts(parts: Tensor, w: Tensor) -> Tensor:
    """Add up what the blocks of features found."""
    return (parts[0] if len(parts) == 1 else parts.sum(0)).to(w.dtype)


def _spread(
    ptr: Tensor,
    index: Tensor | None,
    order: Tensor | None,
    w: Tensor | None,
    X: Tensor | None,
    grad: Tensor,
    E: int,
    acc: torch.dtype,
    needs: tuple[bool, bool],
    mean: bool = False,
) -> tuple[Tensor | None, Tensor | None]:
    X, w, grad = ready(X), ready(w), _rows(grad)
    grid, common = arguments_of("segment_spread", grad, acc, ptr.numel() - 1)
    dX = grad.new_empty(E, grad.shape[1]) if needs[0] else None
    parts = weight_parts(grad, grid[1], E, acc) if needs[1] else None
    launch(
        segment_spread_kernel,
        grid,
        **_lists(ptr, index, order),
        w_ptr=grad if w is None else w,
        X_ptr=grad if X is None else X,
        G_ptr=grad,
        dX_ptr=grad if dX is None else dX,
        dw_ptr=grad if parts is None else parts,
        E=E,
        G_row=grad.stride(0),
        HAS_W=w is not None,
        MEAN=mean,
        NEED_X=needs[0],
        NEED_W=needs[1],
        **common,
    )
    return dX, None if parts is None else sum_parts(parts, w)


def segments_fwd(
    rows: Tensor, w: Tensor | None, ptr: Tensor, order: Tensor | None, mean: bool
) -> Tensor:
    """Weighted sums of rows, or means (the formula: :func:`tritonpool.segments.group_sum`)."""
    return _sum(ptr, order, order, w, rows, accumulate_in(rows, w), mean)


def segments_bwd(
    grad: Tensor,
    rows: Tensor | None,
    w: Tensor | None,
    ptr: Tensor,
    order: Tensor | None,
    of: Tensor,
    mean: bool,
    needs: tuple[bool, bool],
) -> tuple[Tensor | None, Tensor | None]:
    """Gradients of :func:`segments_fwd` w.r.t. ``rows``, which only that of ``w`` asks for, and
    ``w``, where needed."""
    acc = accumulate_in(grad, w)
    return _spread(ptr, order, order, w, rows, grad, of.numel(), acc, needs, mean)


def neighbours_fwd(X: Tensor, w: Tensor, into: Sequence[Tensor]) -> Tensor:
    """Weighted sums over neighbours (the formula: :func:`tritonpool.segments.neighbour_sum`)."""
    return _sum(*into, w, X, accumulate_in(X, w))


def neighbours_bwd(
    grad: Tensor,
    X: Tensor,
    w: Tensor,
    into: Sequence[Tensor],
    out: Sequence[Tensor],
    needs: tuple[bool, bool],
) -> tuple[Tensor | None, Tensor | None]:
    """Gradients of :func:`neighbours_fwd` w.r.t. ``X`` and ``w``, where needed."""
    acc = accumulate_in(X, w)
    dX = _sum(*out, w, grad, acc) if needs[0] else None
    dw = _spread(*into, w, X, grad, w.numel(), acc, (False, True))[1] if needs[1] else None
    return dX, dw
