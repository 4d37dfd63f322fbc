"""The gradients of the squared link residual and of the entropy."""

from __future__ import annotations

import torch
import triton
import triton.language as tl
from torch import Tensor

from tritonpool.coarse_plan import CoarsePlan
from tritonpool.plan import Plan

from .launch import launch, ready, target_of
from .loads import load_tile
from .losses import (
    EXACT,
    UNALIGNED,
    add_adjacency,
    agreement,
    exact_inputs,
    loss_arguments,
    share_of,
)
from .precision import convert, dot
from .tiles import blocks_of, tile_for
from .work import edge_tiles, node_tiles, read_item

__all__ = ["losses_bwd"]


@triton.jit
def graph_slopes(dr2_ptr, dent_ptr, r2_ptr, g, n, G, MEANS: tl.constexpr, ACC: tl.constexpr):
    """The gradients w.r.t. a graph's squared residual and entropy: given, or from those of the
    means over the graphs. Through a residual of 0, and not one that is NaN, none flows."""
    if MEANS:
        share = share_of(n, G, ACC)
        r2 = convert(tl.load(r2_ptr + g), ACC)
        slope = tl.where(r2 == 0.0, 0.0, 0.5 / tl.sqrt(tl.where(r2 == 0.0, 1.0, r2)))
        dr2 = convert(tl.load(dr2_ptr), ACC) * share * slope
        dent = convert(tl.load(dent_ptr), ACC) * share
    else:
        dr2 = convert(tl.load(dr2_ptr + g), ACC)
        dent = convert(tl.load(dent_ptr + g), ACC)
    return dr2, dent


@triton.jit(do_not_specialize=("K", "G"), do_not_specialize_on_alignment=UNALIGNED)
def losses_bwd_kernel(
    items_ptr,  # [T, COLUMNS] with first node
    out_ptr,  # [V + 1] each node's part of out_edge
    out_edge_ptr,  # [E] edges by source
    in_ptr,  # [V + 1] each node's part of in_edge
    in_edge_ptr,  # [E] edges by target
    src_ptr,  # [E]
    dst_ptr,  # [E]
    w_ptr,  # [E]
    S_ptr,  # [V, K]
    dr2_ptr,  # [G], with MEANS []
    dent_ptr,  # [G], with MEANS []
    r2_ptr,  # [G]
    dS_ptr,  # [V, K]
    K,
    G,
    MEANS: tl.constexpr,
    HAS_W: tl.constexpr,
    EVEN_K: tl.constexpr,
    ACC: tl.constexpr,
    PRECISION: tl.constexpr,
    BV: tl.constexpr,
    BK: tl.constexpr,
    BE: tl.constexpr,
):
    """``dS = 2 dr2 (2 S S^T - A - A^T) S - dent (log S + 1)``, the last term 0 where ``S = 0``.

    A program owns BV nodes of one graph and BK clusters.
    """
    g, i0, _, first, n, _, _, _, c, _, _ = read_item(items_ptr)
    p = tl.program_id(1) * BK + tl.arange(0, BK)
    if EVEN_K:
        K = K // 16 * 16
    S_ptr += first * K
    i = i0 + tl.arange(0, BV)
    last = first + tl.minimum(i0 + BV, n)
    out_start, out_stop = tl.load(out_ptr + first + i0), tl.load(out_ptr + last)
    in_start, in_stop = tl.load(in_ptr + first + i0), tl.load(in_ptr + last)

    acc = tl.zeros((BV, BK), ACC)
    for j0 in tl.range(0, n, BV, num_stages=1):
        j = j0 + tl.arange(0, BV)
        residual = -2.0 * agreement(S_ptr, i, j, n, c, K, ACC, PRECISION, BV, BK)
        residual = add_adjacency(
            residual, out_edge_ptr, out_start, out_stop, src_ptr, dst_ptr, w_ptr, first + i0,
            first + j0, HAS_W, ACC, PRECISION, BV, BE,
        )  # fmt: skip
        residual = add_adjacency(
            residual, in_edge_ptr, in_start, in_stop, dst_ptr, src_ptr, w_ptr, first + i0,
            first + j0, HAS_W, ACC, PRECISION, BV, BE,
        )  # fmt: skip
        acc = dot(residual, convert(load_tile(S_ptr, j, n, p, K), ACC), acc, PRECISION)

    s = convert(load_tile(S_ptr, i, n, p, K), ACC)
    slope = tl.where(s == 0.0, 0.0, tl.log(tl.where(s == 0.0, 1.0, s)) + 1.0)
    dr2, dent = graph_slopes(dr2_ptr, dent_ptr, r2_ptr, g, n, G, MEANS, ACC)
    grad = -2.0 * dr2 * acc - dent * slope
    grad = tl.where((p < c)[None, :], grad, 0.0)
    ds_ptr = dS_ptr + first * K + i[:, None] * K + p[None, :]
    tl.store(ds_ptr, convert(grad, dS_ptr.dtype.element_ty), (i < n)[:, None] & (p < K)[None, :])


@triton.jit(do_not_specialize=("K", "G"), do_not_specialize_on_alignment=UNALIGNED)
def losses_weight_grad_kernel(
    items_ptr,  # [T, COLUMNS] with first edge
    out_ptr,  # [V + 1] each node's part of out_edge
    out_edge_ptr,  # [E] edges by source
    src_ptr,  # [E]
    dst_ptr,  # [E]
    w_ptr,  # [E]
    S_ptr,  # [V, K]
    dr2_ptr,  # [G], with MEANS []
    dent_ptr,  # [G], with MEANS []
    r2_ptr,  # [G]
    dw_ptr,  # [E]
    K,
    G,
    MEANS: tl.constexpr,
    EVEN_K: tl.constexpr,
    ACC: tl.constexpr,
    BE: tl.constexpr,
    BK: tl.constexpr,
):
    """``dw[e] = 2 dr2 (A[u, v] - <S[u], S[v]>)``; a program owns BE edges of one graph."""
    g, e0, _, first, n, first_edge, m, _, c, _, _ = read_item(items_ptr)
    if EVEN_K:
        K = K // 16 * 16
    e = e0 + tl.arange(0, BE)
    valid = e < m
    u = tl.load(src_ptr + first_edge + e, valid, first)
    v = tl.load(dst_ptr + first_edge + e, valid, first)

    pair = tl.zeros((BE,), ACC)
    start, stop = tl.load(out_ptr + u), tl.load(out_ptr + u + 1)
    for slot in tl.range(0, tl.max((stop - start).to(tl.int32), 0), num_stages=1):
        has = start + slot < stop
        other = tl.load(out_edge_ptr + start + slot, has, 0)
        same = has & (tl.load(dst_ptr + other, has, -1) == v)
        pair += convert(tl.load(w_ptr + other, same, 0.0), ACC)
    shared = tl.zeros((BE,), ACC)
    for k0 in tl.range(0, c, BK, num_stages=1):
        p = k0 + tl.arange(0, BK)
        mask = valid[:, None] & (p < K)[None, :]
        su = convert(tl.load(S_ptr + u[:, None] * K + p[None, :], mask, 0.0), ACC)
        sv = convert(tl.load(S_ptr + v[:, None] * K + p[None, :], mask, 0.0), ACC)
        shared += tl.sum(su * sv, 1)
    dr2, _ = graph_slopes(dr2_ptr, dent_ptr, r2_ptr, g, n, G, MEANS, ACC)
    dw = 2.0 * dr2 * (pair - shared)
    tl.store(dw_ptr + first_edge + e, convert(dw, dw_ptr.dtype.element_ty), valid)


def losses_bwd(
    dr2: Tensor,
    dent: Tensor,
    S: Tensor,
    w: Tensor | None,
    plan: Plan,
    coarse: CoarsePlan,
    needs: tuple[bool, bool],
    r2: Tensor | None = None,
) -> tuple[Tensor | None, Tensor | None]:
    """Gradients of :func:`losses_fwd` w.r.t. ``S`` and ``w``, where needed; with the squared
    residuals ``r2`` the given gradients are those of the means."""
    own = S, w
    S, w = exact_inputs(S, w)
    dr2, dent = ready(dr2), ready(dent)
    common = loss_arguments(S, w, plan, coarse)
    common |= {
        "dr2_ptr": dr2,
        "dent_ptr": dent,
        "r2_ptr": dr2 if r2 is None else ready(r2),
        "G": plan.num_graphs,
        "MEANS": r2 is not None,
    }
    dS = dw = None
    if needs[0]:
        dS = torch.empty_like(own[0], memory_format=torch.contiguous_format)
        tile = tile_for("losses_bwd", EXACT, target_of(S))
        items = node_tiles(plan, coarse, tile.blocks["BV"])
        launch(
            losses_bwd_kernel,
            (items.shape[0], blocks_of(S.shape[1], tile.blocks["BK"])),
            tile,
            items_ptr=items,
            in_ptr=plan.in_ptr,
            in_edge_ptr=plan.in_edge,
            dS_ptr=dS,
            HAS_W=w is not None,
            **common,
        )
    if needs[1]:
        dw = torch.empty_like(own[1], memory_format=torch.contiguous_format)
        tile = tile_for("losses_weight_grad", EXACT, target_of(S))
        items = edge_tiles(plan, coarse, tile.blocks["BE"])
        launch(
            losses_weight_grad_kernel,
            (items.shape[0],),
            tile,
            items_ptr=items,
            dw_ptr=dw,
            **common,
        )
    return dS, dw
