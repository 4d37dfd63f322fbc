"""The gradient w.r.t. ``S``: node features times cluster features, plus what the edges add."""

from __future__ import annotations

import torch
import triton
import triton.language as tl
from torch import Tensor

from tritonpool.coarse_plan import CoarsePlan
from tritonpool.plan import Plan

from .launch import even_rows, launch, ready, target_of
from .precision import TRITON, convert, dot
from .tiles import tile_for
from .work import node_tiles

__all__ = ["node_grad"]

UNALIGNED = (
    "items_ptr", "node_ptr", "cluster_ptr", "edge_ptr", "out_ptr", "out_edge_ptr", "in_ptr",
    "in_edge_ptr",
)  # fmt: skip


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
    do_not_specialize_on_alignment=UNALIGNED,
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
    dS = torch.empty_like(S, memory_format=torch.contiguous_format)
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
        **even_rows(K, D),
    )
    return dS
