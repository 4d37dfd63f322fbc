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
from .precision import TRITON, convert, dot, widen
from .tiles import tile_for
from .work import check_sizes, cluster_tiles, node_tiles

__all__ = ["lift", "lift_fwd", "pool"]

UNALIGNED = ("items_ptr", "node_ptr", "cluster_ptr")


@triton.jit(do_not_specialize=("K", "D"), do_not_specialize_on_alignment=UNALIGNED)
def pool_kernel(
    items_ptr,  # [T, 3] graph, first cluster, 0
    node_ptr,  # [G + 1] first node of each graph
    cluster_ptr,  # [G + 1] first cluster of each graph
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
):
    """``Y[p] = sum_i S[i, p] X[i]``; a program owns BK clusters of one graph and BD features."""
    item = items_ptr + tl.program_id(0).to(tl.int64) * 3
    g = tl.load(item)
    p = tl.load(item + 1).to(tl.int32) + tl.arange(0, BK)
    d = tl.program_id(1) * BD + tl.arange(0, BD)
    if EVEN_K:
        K = tl.multiple_of(K, 16)
    if EVEN_D:
        D = tl.multiple_of(D, 4)
    first = tl.load(node_ptr + g)
    n = (tl.load(node_ptr + g + 1) - first).to(tl.int32)
    row = tl.load(cluster_ptr + g)
    c = (tl.load(cluster_ptr + g + 1) - row).to(tl.int32)
    S_ptr += first * K
    X_ptr += first * D

    acc = tl.zeros((BK, BD), ACC)
    for v0 in tl.range(0, n, BV, num_stages=1):
        v = v0 + tl.arange(0, BV)
        s_mask = (v < n)[:, None] & (p < K)[None, :]
        s = convert(tl.load(S_ptr + v[:, None] * K + p[None, :], s_mask, 0.0), ACC)  # [BV, BK]
        x_mask = (v < n)[:, None] & (d < D)[None, :]
        x = convert(tl.load(X_ptr + v[:, None] * D + d[None, :], x_mask, 0.0), ACC)  # [BV, BD]
        acc = dot(tl.trans(s), x, acc, PRECISION)

    y_ptr = Y_ptr + row * D + p[:, None] * D + d[None, :]
    tl.store(y_ptr, convert(acc, Y_ptr.dtype.element_ty), (p < c)[:, None] & (d < D)[None, :])


@triton.jit(do_not_specialize=("K", "D"), do_not_specialize_on_alignment=UNALIGNED)
def lift_kernel(
    items_ptr,  # [T, 3] graph, first node, 0
    node_ptr,  # [G + 1] first node of each graph
    cluster_ptr,  # [G + 1] first cluster of each graph
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
):
    """``Y[i] = sum_p S[i, p] X[p]``; a program owns BV nodes of one graph and BD features."""
    item = items_ptr + tl.program_id(0).to(tl.int64) * 3
    g = tl.load(item)
    v = tl.load(item + 1).to(tl.int32) + tl.arange(0, BV)
    d = tl.program_id(1) * BD + tl.arange(0, BD)
    if EVEN_K:
        K = tl.multiple_of(K, 16)
    if EVEN_D:
        D = tl.multiple_of(D, 4)
    first = tl.load(node_ptr + g)
    n = (tl.load(node_ptr + g + 1) - first).to(tl.int32)
    row = tl.load(cluster_ptr + g)
    c = (tl.load(cluster_ptr + g + 1) - row).to(tl.int32)
    S_ptr += first * K
    X_ptr += row * D

    acc = tl.zeros((BV, BD), ACC)
    for p0 in tl.range(0, c, BK, num_stages=1):
        p = p0 + tl.arange(0, BK)
        s_mask = (v < n)[:, None] & (p < K)[None, :]
        s = convert(tl.load(S_ptr + v[:, None] * K + p[None, :], s_mask, 0.0), ACC)  # [BV, BK]
        x_mask = (p < c)[:, None] & (d < D)[None, :]
        x = convert(tl.load(X_ptr + p[:, None] * D + d[None, :], x_mask, 0.0), ACC)  # [BK, BD]
        acc = dot(s, x, acc, PRECISION)

    y_ptr = Y_ptr + first * D + v[:, None] * D + d[None, :]
    tl.store(y_ptr, convert(acc, Y_ptr.dtype.element_ty), (v < n)[:, None] & (d < D)[None, :])


def pool(S: Tensor, X: Tensor, plan: Plan, coarse: CoarsePlan, acc: torch.dtype) -> Tensor:
    """``S^T X``: a tensor of shape ``P x D`` from ``V x K`` and ``V x D``, of X's dtype."""
    S, X = ready(S), ready(X)
    K, D = S.shape[1], X.shape[1]
    tile = tile_for("pool", acc, target_of(S))
    items = cluster_tiles(plan, coarse, tile.blocks["BK"])
    Y = X.new_empty(coarse.plan.num_nodes, D)
    launch(
        pool_kernel,
        (items.shape[0], triton.cdiv(D, tile.blocks["BD"])),
        tile,
        items_ptr=items,
        node_ptr=plan.node_ptr,
        cluster_ptr=coarse.plan.node_ptr,
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
        (items.shape[0], triton.cdiv(D, tile.blocks["BD"])),
        tile,
        items_ptr=items,
        node_ptr=plan.node_ptr,
        cluster_ptr=coarse.plan.node_ptr,
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
