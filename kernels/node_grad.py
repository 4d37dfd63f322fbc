"""The gradient w.r.t. ``S``: node features times cluster features, plus what the edges add."""

from __future__ import annotations

import torch
import triton
import triton.language as tl
from torch import Tensor

from tritonpool.coarse_plan import CoarsePlan
from tritonpool.plan import Plan

from .launch import even_rows, launch, ready, target_of
from .loads import columns_written, load_bounds, load_tile
from .precision import TRITON, convert, dot
from .tiles import blocks_of, tile_for
from .work import node_tiles, read_item, row_width

__all__ = ["node_grad"]

UNALIGNED = "items_ptr", "out_ptr", "out_edge_ptr", "in_ptr", "in_edge_ptr"


@triton.jit
def edge_at(order_ptr, start, degree, slot, first_edge):
    """The edge at ``slot`` of each node's edges, counted within its graph; -1 if it has none."""
    return (tl.load(order_ptr + start + slot, slot < degree, first_edge - 1) - first_edge).to(
        tl.int32
    )


@triton.jit
def edge_rows(ptr, e, row, p, p_mask):
    """A row for each node's edge, zero where there is none."""
    return tl.load(ptr + e[:, None] * row + p[None, :], (e >= 0)[:, None] & p_mask[None, :], 0.0)


@triton.jit
def gather_rows(
    order_ptr, start, stop, T_ptr, first_edge, m, slices, row, p, p_mask, ACC: tl.constexpr,
    BV: tl.constexpr, BK: tl.constexpr,
):  # fmt: skip
    """Sum the rows ``T[:, order[start:stop]]`` of each node, four at a time and slice by slice: a
    fixed order."""
    acc = tl.zeros((BV, BK), ACC)
    degree = (stop - start).to(tl.int32)
    for slot in tl.range(0, tl.max(degree, 0), 4, num_stages=1):
        e0 = edge_at(order_ptr, start, degree, slot, first_edge)
        e1 = edge_at(order_ptr, start, degree, slot + 1, first_edge)
        e2 = edge_at(order_ptr, start, degree, slot + 2, first_edge)
        e3 = edge_at(order_ptr, start, degree, slot + 3, first_edge)
        t_ptr = T_ptr
        for _ in tl.range(0, slices, num_stages=1):
            t0 = edge_rows(t_ptr, e0, row, p, p_mask)
            t1 = edge_rows(t_ptr, e1, row, p, p_mask)
            t2 = edge_rows(t_ptr, e2, row, p, p_mask)
            t3 = edge_rows(t_ptr, e3, row, p, p_mask)
            acc += (t0 + t1) + (t2 + t3)
            t_ptr += m.to(tl.int64) * row
    return acc


@triton.jit(
    do_not_specialize=("K", "D"),
    do_not_specialize_on_alignment=UNALIGNED,
)  # fmt: skip
def node_grad_kernel(
    items_ptr,  # [T, COLUMNS] with first node
    out_ptr,  # [V + 1] each node's part of out_edge
    out_edge_ptr,  # [E] edges by source
    in_ptr,  # [V + 1] each node's part of in_edge
    in_edge_ptr,  # [E] edges by target
    X_ptr,  # [V, D]
    Y_ptr,  # [P, D]
    T_ptr,  # for each graph [1 + slices, edges, row]: see coarsen_bwd_assignment_kernel
    dS_ptr,  # [V, K]
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
    """``dS[i, p] = <X[i], Y[p]>`` and the sums of ``T[1:]`` over edges out of i and of ``T[0]``
    over edges into i.

    A program owns BV nodes and BK clusters of one graph; columns beyond its clusters become 0.
    """
    _, v0, _, first, n, first_edge, m, cluster, c, _, part = read_item(items_ptr)
    v = v0 + tl.arange(0, BV)
    p = tl.program_id(1) * BK + tl.arange(0, BK)
    if EVEN_K:
        K = K // 16 * 16
    if EVEN_D:
        D = D // 4 * 4

    acc = tl.zeros((BV, BK), ACC)
    # a block beyond the graph's clusters is zero; loads are issued in the order they stand in
    width = tl.where(tl.program_id(1) * BK < c, D, 0)
    there = (v < n) & (tl.program_id(1) * BK < c)
    if HAS_EDGES:
        out_start, out_stop = load_bounds(out_ptr + first, v, there)
        in_start, in_stop = load_bounds(in_ptr + first, v, there)
    if HAS_X:
        X_ptr += first * D
        Y_ptr += cluster * D
        x = load_tile(X_ptr, v, n, tl.arange(0, BD), D)  # [BV, BD]
        y = load_tile(Y_ptr, p, c, tl.arange(0, BD), D)  # [BK, BD]
    if HAS_EDGES:
        written = p < columns_written(c)
        row = row_width(c)
        slices = (c + SLICE - 1) // SLICE
        T_ptr += part
        sources_ptr = T_ptr + m.to(tl.int64) * row
        acc += gather_rows(out_edge_ptr, out_start, out_stop, sources_ptr, first_edge, m, slices,
                           row, p, written, ACC=ACC, BV=BV, BK=BK)  # fmt: skip
        acc += gather_rows(in_edge_ptr, in_start, in_stop, T_ptr, first_edge, m, 1,
                           row, p, written, ACC=ACC, BV=BV, BK=BK)  # fmt: skip
    if HAS_X:
        for d0 in tl.range(0, width, BD, num_stages=1):
            d = d0 + BD + tl.arange(0, BD)
            next_x = load_tile(X_ptr, v, n, d, D)
            next_y = load_tile(Y_ptr, p, c, d, D)
            acc = dot(convert(x, ACC), tl.trans(convert(y, ACC)), acc, PRECISION)
            x, y = next_x, next_y

    acc = tl.where((p < c)[None, :], acc, 0.0)
    ds_ptr = dS_ptr + first * K + v[:, None] * K + p[None, :]
    tl.store(ds_ptr, convert(acc, dS_ptr.dtype.element_ty), (v < n)[:, None] & (p < K)[None, :])


def node_grad(
    S: Tensor,
    nodes: tuple[Tensor, Tensor] | None,
    edges: Tensor | None,
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
    edges : Tensor | None
        what every edge adds to the rows of its target and its source, of dtype ``acc``
        (:func:`scratch_size` numbers); columns beyond those that are written count nothing
    slice_width : int
        clusters behind each slice; a graph fills the slices that its clusters need
    plan, coarse
        the integers of the batch
    acc : torch.dtype
        what to sum in
    """
    K = S.shape[1]
    X, Y = (S, S) if nodes is None else (ready(nodes[0]), ready(nodes[1]))
    D = X.shape[1]
    tile = tile_for("node_grad", acc, target_of(S))
    items = node_tiles(plan, coarse, tile.blocks["BV"])
    dS = torch.empty_like(S, memory_format=torch.contiguous_format)
    launch(
        node_grad_kernel,
        (items.shape[0], blocks_of(K, tile.blocks["BK"])),
        tile,
        items_ptr=items,
        out_ptr=plan.out_ptr,
        out_edge_ptr=plan.out_edge,
        in_ptr=plan.in_ptr,
        in_edge_ptr=plan.in_edge,
        X_ptr=X,
        Y_ptr=Y,
        T_ptr=S if edges is None else edges,
        dS_ptr=dS,
        K=K,
        D=D,
        HAS_X=nodes is not None,
        HAS_EDGES=edges is not None,
        SLICE=slice_width,
        ACC=TRITON[acc],
        **even_rows(K, D),
    )
    return dS
