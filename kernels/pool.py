"""Node features to clusters and back: ``S^T X`` and ``S X'``, each the gradient of the other."""

from __future__ import annotations

import torch
import triton
import triton.language as tl
from torch import Tensor

from tritonpool.coarse_plan import CoarsePlan
from tritonpool.dtypes import accumulate_in
from tritonpool.plan import Plan

from .launch import even_rows, launch, ready, target_of
from .loads import load_tile
from .precision import TRITON, convert, dot, widen
from .tiles import blocks_of, tile_for
from .work import check_sizes, cluster_tiles, node_tiles, read_item

__all__ = ["lift", "lift_fwd", "pool"]

UNALIGNED = ("items_ptr",)


@triton.jit(do_not_specialize=("K", "D"), do_not_specialize_on_alignment=UNALIGNED)
def pool_kernel(
    items_ptr,  # [T, COLUMNS] with first cluster
    S_ptr,  # [V, K]
    X_ptr,  # [V, D]
    Y_ptr,  # [P, D]
    K,
    D,
    EVEN_K: tl.constexpr,
    EVEN_D: tl.constexpr,
    ACC: tl.constexpr,
    PRECISION: tl.constexpr,
    BV: tl.constexpr,
    BK: tl.constexpr,
    BD: tl.constexpr,
    PART: tl.constexpr,
):
    """``Y[p] = sum_i S[i, p] X[i]``; a program owns BK clusters of one graph and PART features."""
    _, p0, _, first, n, _, _, row, c, _, _ = read_item(items_ptr)
    p0 = tl.multiple_of(p0, BK)
    p = p0 + tl.arange(0, BK)
    if EVEN_K:
        K = K // 16 * 16
    if EVEN_D:
        D = D // 4 * 4
    S_ptr += first * K
    X_ptr += first * D
    Y_ptr += row * D

    v = tl.arange(0, BV)
    s = tl.trans(convert(load_tile(S_ptr, v, n, p, K), ACC))  # [BK, BV]; most graphs need no more
    start = tl.program_id(1) * PART
    x = load_tile(X_ptr, v, n, start + tl.arange(0, BD), D)  # [BV, BD]
    for d0 in tl.range(start, tl.minimum(start + PART, D), BD, num_stages=1):
        d = d0 + tl.arange(0, BD)
        next_x = load_tile(X_ptr, v, n, d + BD, D)  # under way while the block is computed
        acc = dot(s, convert(x, ACC), tl.zeros((BK, BD), ACC), PRECISION)
        for v0 in tl.range(BV, n, BV, num_stages=1):
            more = convert(load_tile(S_ptr, v0 + v, n, p, K), ACC)
            rows = convert(load_tile(X_ptr, v0 + v, n, d, D), ACC)
            acc = dot(tl.trans(more), rows, acc, PRECISION)
        x = next_x
        y_ptr = Y_ptr + p[:, None] * D + d[None, :]
        mask = (p < c)[:, None] & (d < D)[None, :]
        tl.store(y_ptr, convert(acc, Y_ptr.dtype.element_ty), mask)


@triton.jit(do_not_specialize=("K", "D"), do_not_specialize_on_alignment=UNALIGNED)
def lift_kernel(
    items_ptr,  # [T, COLUMNS] with first node
    S_ptr,  # [V, K]
    X_ptr,  # [P, D]
    Y_ptr,  # [V, D]
    K,
    D,
    EVEN_K: tl.constexpr,
    EVEN_D: tl.constexpr,
    ACC: tl.constexpr,
    PRECISION: tl.constexpr,
    BV: tl.constexpr,
    BK: tl.constexpr,
    BD: tl.constexpr,
    PART: tl.constexpr,
):
    """``Y[i] = sum_p S[i, p] X[p]``; a program owns BV nodes of one graph and PART features."""
    _, v0, _, first, n, _, _, row, c, _, _ = read_item(items_ptr)
    v = v0 + tl.arange(0, BV)
    if EVEN_K:
        K = K // 16 * 16
    if EVEN_D:
        D = D // 4 * 4
    S_ptr += first * K
    X_ptr += row * D
    Y_ptr += first * D

    p = tl.arange(0, BK)
    s = convert(load_tile(S_ptr, v, n, p, K), ACC)  # [BV, BK]; most graphs need no more
    start = tl.program_id(1) * PART
    x = load_tile(X_ptr, p, c, start + tl.arange(0, BD), D)  # [BK, BD]
    for d0 in tl.range(start, tl.minimum(start + PART, D), BD, num_stages=1):
        d = d0 + tl.arange(0, BD)
        next_x = load_tile(X_ptr, p, c, d + BD, D)
        acc = dot(s, convert(x, ACC), tl.zeros((BV, BD), ACC), PRECISION)
        for p0 in tl.range(BK, c, BK, num_stages=1):
            more = convert(load_tile(S_ptr, v, n, p0 + p, K), ACC)
            rows = convert(load_tile(X_ptr, p0 + p, c, d, D), ACC)
            acc = dot(more, rows, acc, PRECISION)
        x = next_x
        y_ptr = Y_ptr + v[:, None] * D + d[None, :]
        mask = (v < n)[:, None] & (d < D)[None, :]
        tl.store(y_ptr, convert(acc, Y_ptr.dtype.element_ty), mask)


def pool(S: Tensor, X: Tensor, plan: Plan, coarse: CoarsePlan, acc: torch.dtype) -> Tensor:
    """``S^T X``: a tensor of shape ``P x D`` from ``V x K`` and ``V x D``, of X's dtype."""
    S, X = ready(S), ready(X)
    K, D = S.shape[1], X.shape[1]
    tile = tile_for("pool", acc, target_of(S))
    items = cluster_tiles(plan, coarse, tile.blocks["BK"])
    Y = X.new_empty(coarse.plan.num_nodes, D)
    launch(
        pool_kernel,
        (items.shape[0], blocks_of(D, tile.blocks["PART"])),
        tile,
        items_ptr=items,
        S_ptr=S,
        X_ptr=X,
        Y_ptr=Y,
        K=K,
        D=D,
        ACC=TRITON[acc],
        **even_rows(K, D),
    )
    return Y


def lift(
    S: Tensor, Xc: Tensor, plan: Plan, coarse: CoarsePlan, acc: torch.dtype, dtype: torch.dtype
) -> Tensor:
    """``S X'``: a tensor of shape ``V x D`` and of ``dtype`` from ``V x K`` and ``P x D``."""
    S, Xc = ready(S), ready(Xc)
    K, D = S.shape[1], Xc.shape[1]
    tile = tile_for("lift", acc, target_of(S))
    items = node_tiles(plan, coarse, tile.blocks["BV"])
    Y = Xc.new_empty(plan.num_nodes, D, dtype=dtype)
    launch(
        lift_kernel,
        (items.shape[0], blocks_of(D, tile.blocks["PART"])),
        tile,
        items_ptr=items,
        S_ptr=S,
        X_ptr=Xc,
        Y_ptr=Y,
        K=K,
        D=D,
        ACC=TRITON[acc],
        **even_rows(K, D),
    )
    return Y


def lift_fwd(S: Tensor, Xc: Tensor, plan: Plan, coarse: CoarsePlan) -> Tensor:
    """Bring cluster features back to the nodes (the formula: :func:`tritonpool.lift`)."""
    check_sizes(plan, coarse, max(S.shape[1], Xc.shape[1]), 0)
    acc, dtype = accumulate_in(S, Xc), Xc.dtype
    S, Xc = widen(acc, S, Xc)
    return lift(S, Xc, plan, coarse, acc, Xc.dtype).to(dtype)
