"""Node features to clusters and back: ``S^T X``, ``S X'`` and the gradient of both w.r.t. ``S``."""

from __future__ import annotations

import torch
import triton
import triton.language as tl
from torch import Tensor

from tritonpool.dtypes import accumulate_in
from tritonpool.plan import CoarsePlan, Plan

from .launch import launch, ready, target_of
from .precision import TRITON, convert, dot
from .tiles import tile_for
from .work import cluster_tiles, node_tiles

__all__ = ["lift", "lift_bwd", "lift_fwd", "node_grad", "pool"]

_PLAN = ("items_ptr", "node_ptr", "cluster_ptr")


@triton.jit(do_not_specialize=("K", "D"), do_not_specialize_on_alignment=_PLAN)
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


@triton.jit(do_not_specialize=("K", "D"), do_not_specialize_on_alignment=_PLAN)
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


@triton.jit
def gather_rows(
    order_ptr, start, stop, T_ptr, first_edge, E, slices, K, p, p_mask, ACC: tl.constexpr,
    BV: tl.constexpr, BK: tl.constexpr,
):  # fmt: skip
    """Sum the rows ``T[:, order[start:stop]]`` of each node, slice by slice in a fixed order."""
    acc = tl.zeros((BV, BK), ACC)
    degree = (stop - start).to(tl.int32)
    for slot in tl.range(0, tl.max(degree, 0), num_stages=1):
        has = slot < degree
        e = (tl.load(order_ptr + start + slot, has, first_edge) - first_edge).to(tl.int32)
        mask = has[:, None] & p_mask[None, :]
        base = T_ptr + first_edge * K
        for _ in tl.range(0, slices, num_stages=1):
            acc += tl.load(base + e[:, None] * K + p[None, :], mask, 0.0)
            base += tl.cast(E, tl.int64) * K
    return acc


@triton.jit(
    do_not_specialize=("E", "K", "D"),
    do_not_specialize_on_alignment=(
        *_PLAN, "edge_ptr", "out_ptr", "out_edge_ptr", "in_ptr", "in_edge_ptr"
    ),
)  # fmt: skip
def node_grad_kernel(
    items_ptr,  # [T, 3] graph, first node, 0
    node_ptr,  # [G + 1] first node of each graph
    cluster_ptr,  # [G + 1] first cluster of each graph
    edge_ptr,  # [G + 1] first edge of each graph
    out_ptr,  # [V + 1] each node's part of out_edge
    out_edge_ptr,  # [E] edges by source
    in_ptr,  # [V + 1] each node's part of in_edge
    in_edge_ptr,  # [E] edges by target
    X_ptr,  # [V, D]
    Y_ptr,  # [P, D]
    T_ptr,  # [slices, E, K] gradient w.r.t. the row of the source, a slice per block of q
    U_ptr,  # [E, K] gradient w.r.t. the row of the target
    dS_ptr,  # [V, K]
    E,
    K,
    D,
    HAS_X: tl.constexpr,
    HAS_EDGES: tl.constexpr,
    EVEN_K: tl.constexpr,
    EVEN_D: tl.constexpr,
    SLICE: tl.constexpr,
    ACC: tl.constexpr,
    PRECISION: tl.constexpr,
    BV: tl.constexpr,
    BK: tl.constexpr,
    BD: tl.constexpr,
):
    """``dS[i, p] = <X[i], Y[p]> + sum of T over edges out of i + sum of U over edges into i``.

    A program owns BV nodes and BK clusters of one graph; columns beyond its clusters become 0.
    """
    item = items_ptr + tl.program_id(0).to(tl.int64) * 3
    g = tl.load(item)
    v = tl.load(item + 1).to(tl.int32) + tl.arange(0, BV)
    p = tl.program_id(1) * BK + tl.arange(0, BK)
    if EVEN_K:
        K = tl.multiple_of(K, 16)
    if EVEN_D:
        D = tl.multiple_of(D, 4)
    first = tl.load(node_ptr + g)
    n = (tl.load(node_ptr + g + 1) - first).to(tl.int32)
    row = tl.load(cluster_ptr + g)
    c = (tl.load(cluster_ptr + g + 1) - row).to(tl.int32)

    acc = tl.zeros((BV, BK), ACC)
    if HAS_X:
        X_ptr += first * D
        Y_ptr += row * D
        for d0 in tl.range(0, D, BD, num_stages=1):
            d = d0 + tl.arange(0, BD)
            x_mask = (v < n)[:, None] & (d < D)[None, :]
            x = convert(tl.load(X_ptr + v[:, None] * D + d[None, :], x_mask, 0.0), ACC)  # [BV, BD]
            y_mask = (p < c)[:, None] & (d < D)[None, :]
            y = convert(tl.load(Y_ptr + p[:, None] * D + d[None, :], y_mask, 0.0), ACC)  # [BK, BD]
            acc = dot(x, tl.trans(y), acc, PRECISION)
    if HAS_EDGES:
        first_edge = tl.load(edge_ptr + g)
        slices = (c + SLICE - 1) // SLICE
        start = tl.load(out_ptr + first + v, v < n, 0)
        stop = tl.load(out_ptr + first + v + 1, v < n, 0)
        acc += gather_rows(out_edge_ptr, start, stop, T_ptr, first_edge, E, slices, K, p, p < c,
                           ACC=ACC, BV=BV, BK=BK)  # fmt: skip
        start = tl.load(in_ptr + first + v, v < n, 0)
        stop = tl.load(in_ptr + first + v + 1, v < n, 0)
        acc += gather_rows(in_edge_ptr, start, stop, U_ptr, first_edge, E, 1, K, p, p < c,
                           ACC=ACC, BV=BV, BK=BK)  # fmt: skip

    acc = tl.where((p < c)[None, :], acc, 0.0)
    ds_ptr = dS_ptr + first * K + v[:, None] * K + p[None, :]
    tl.store(ds_ptr, convert(acc, dS_ptr.dtype.element_ty), (v < n)[:, None] & (p < K)[None, :])


def _even(K: int, D: int) -> dict[str, bool]:
    """Which row lengths allow loads of several numbers at once."""
    return {"EVEN_K": K % 16 == 0, "EVEN_D": D % 4 == 0}


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
        **_even(K, D),
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
        **_even(K, D),
    )
    return Y


def node_grad(
    S: Tensor,
    nodes: tuple[Tensor, Tensor] | None,
    edges: tuple[Tensor, Tensor] | None,
    slice_width: int,
    plan: Plan,
    coarse: CoarsePlan,
    acc: torch.dtype,
) -> Tensor:
    """The gradient w.r.t. ``S`` (only its shape and dtype are used), ``V x K``.

    Parameters
    ----------
    S : Tensor
        the assignment, of shape ``V x K``
    nodes : tuple[Tensor, Tensor] | None
        node features ``V x D`` and cluster features ``P x D`` whose products are the gradient
    edges : tuple[Tensor, Tensor] | None
        what every edge adds to the row of its source, ``slices x E x K``, and to that of its
        target, ``E x K``, both of dtype ``acc``; columns beyond a graph's clusters are not read
    slice_width : int
        clusters behind each slice; a graph fills the slices that its clusters need
    plan, coarse
        the integers of the batch
    acc : torch.dtype
        what to sum in
    """
    K = S.shape[1]
    X, Y = (S, S) if nodes is None else (ready(nodes[0]), ready(nodes[1]))
    T, U = (S, S) if edges is None else edges
    D = X.shape[1]
    tile = tile_for("node_grad", acc, target_of(S))
    items = node_tiles(plan, coarse, tile.blocks["BV"])
    dS = torch.empty_like(S)
    launch(
        node_grad_kernel,
        (items.shape[0], triton.cdiv(K, tile.blocks["BK"])),
        tile,
        items_ptr=items,
        node_ptr=plan.node_ptr,
        cluster_ptr=coarse.plan.node_ptr,
        edge_ptr=plan.edge_ptr,
        out_ptr=plan.out_ptr,
        out_edge_ptr=plan.out_edge,
        in_ptr=plan.in_ptr,
        in_edge_ptr=plan.in_edge,
        X_ptr=X,
        Y_ptr=Y,
        T_ptr=T,
        U_ptr=U,
        dS_ptr=dS,
        E=plan.num_edges,
        K=K,
        D=D,
        HAS_X=nodes is not None,
        HAS_EDGES=edges is not None,
        SLICE=slice_width,
        ACC=TRITON[acc],
        **_even(K, D),
    )
    return dS


def lift_fwd(S: Tensor, Xc: Tensor, plan: Plan, coarse: CoarsePlan) -> Tensor:
    """Bring cluster features back to the nodes (the formula: :func:`tritonpool.lift`)."""
    return lift(S, Xc, plan, coarse, accumulate_in(S, Xc), Xc.dtype)


def lift_bwd(
    dY: Tensor, S: Tensor, Xc: Tensor, plan: Plan, coarse: CoarsePlan, needs: tuple[bool, bool]
) -> tuple[Tensor | None, Tensor | None]:
    """Gradients of :func:`lift_fwd` w.r.t. ``S`` and ``Xc``, where needed."""
    acc = accumulate_in(S, Xc)
    dS = node_grad(S, (dY, Xc), None, 1, plan, coarse, acc) if needs[0] else None
    dXc = pool(S, dY, plan, coarse, acc) if needs[1] else None
    return dS, dXc
