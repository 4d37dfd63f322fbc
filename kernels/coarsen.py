"""Edges of a graph to edges between its clusters: ``W`` and ``F'``; backward: coarsen_grad.py."""

from __future__ import annotations

import math

import torch
import triton
import triton.language as tl
from torch import Tensor

from tritonpool.coarse_plan import CoarsePlan
from tritonpool.dtypes import accumulate_in, weight_dtype
from tritonpool.plan import Plan

from .launch import forked, launch, ready, target_of
from .loads import load_ends, load_rows, load_weights
from .pool import pool
from .precision import TRITON, convert, dot, widen
from .tiles import Tile, blocks_of, tile_for
from .work import ROW, check_sizes, pair_tiles, read_item

__all__ = ["coarsen_fwd"]

UNALIGNED = "items_ptr", "src_ptr", "dst_ptr", "w_ptr"


@triton.jit
def pair_rows(p0, q0, c, drop, BP: tl.constexpr, BQ: tl.constexpr):
    """Where the pairs of a block stand among the coarse edges, counted from row ``p0``, and which
    of them exist."""
    i = tl.arange(0, BP * BQ)
    p, q = p0 + i // BQ, q0 + i % BQ
    exists = (p < c) & (q < c) & ((p != q) | (drop == 0))
    skipped = tl.where(q > p, drop, 0)
    return (i // BQ) * (c - drop) + q - skipped, exists


@triton.jit(do_not_specialize=("K", "C", "drop"), do_not_specialize_on_alignment=UNALIGNED)
def coarsen_fwd_kernel(
    items_ptr,  # [T, COLUMNS] with first p and first q
    src_ptr,  # [E]
    dst_ptr,  # [E]
    S_ptr,  # [V, K]
    F_ptr,  # [E, C]
    w_ptr,  # [E]
    W_ptr,  # [pairs]
    Fc_ptr,  # [pairs, C]
    K,
    C,
    drop,  # 1: no pairs p = q
    EPS: tl.constexpr,
    HAS_F: tl.constexpr,
    HAS_W: tl.constexpr,
    WIDE: tl.constexpr,
    EVEN_K: tl.constexpr,
    UNIT: tl.constexpr,
    ACC: tl.constexpr,
    PRECISION: tl.constexpr,
    BP: tl.constexpr,
    BQ: tl.constexpr,
    BC: tl.constexpr,
    BE: tl.constexpr,
):
    """``W[p, q] = sum_e w S[u, p] S[v, q]`` and ``Fc = (sum_e w S[u, p] S[v, q] F) / max(W, eps)``.

    A program owns BP x BQ pairs of one graph and BC features. The weight products are the left
    operand of the product with F, whose free column C (not WIDE) holds ones and so gives W; without
    a free column W is a product of its own.
    """
    _, p0, q0, first, _, first_edge, m, _, c, first_pair, _ = read_item(items_ptr)
    p0, q0 = tl.multiple_of(p0, BP), tl.multiple_of(q0, BQ)
    p = p0 + tl.arange(0, BP)
    q = q0 + tl.arange(0, BQ)
    f = tl.program_id(1) * BC + tl.arange(0, BC)
    if EVEN_K:
        K = K // 16 * 16
    C = C // UNIT * UNIT
    S_ptr += first * K
    F_ptr += first_edge * C
    src_ptr += first_edge
    dst_ptr += first_edge
    w_ptr += first_edge

    acc = tl.zeros((BP * BQ, BC), ACC)
    totals = tl.zeros((BP * BQ, 16), ACC)
    ones = tl.full((BE, 16), 1.0, ACC)
    e = tl.minimum(tl.arange(0, BE), m - 1)  # padding repeats the last edge with weight 0
    u, v = load_ends(src_ptr, dst_ptr, e, first)
    for e0 in tl.range(0, m, BE, num_stages=1):
        # Loads are issued in this order, and the rows of S wait for u and v: first what waits for
        # nothing, and the ends of the next edges.
        valid = e0 + tl.arange(0, BE) < m
        w = load_weights(w_ptr, e, valid, HAS_W, ACC)
        if HAS_F:
            feature = tl.load(F_ptr + e[:, None] * C + f[None, :], (f < C)[None, :], 0.0)
        e = tl.minimum(e0 + BE + tl.arange(0, BE), m - 1)
        next_u, next_v = load_ends(src_ptr, dst_ptr, e, first)
        su = load_rows(S_ptr, u[None, :], p[:, None], K, EVEN_K, ACC) * w[None, :]  # [BP, BE]
        sv = load_rows(S_ptr, v[None, :], q[:, None], K, EVEN_K, ACC)  # [BQ, BE]
        x = tl.reshape(su[:, None, :] * sv[None, :, :], (BP * BQ, BE))
        if HAS_F:
            feature = convert(feature, ACC)
            if not WIDE:
                feature = tl.where((f == C)[None, :], 1.0, feature)  # [BE, BC]
            acc = dot(x, feature, acc, PRECISION)
        if WIDE or not HAS_F:
            totals = dot(x, ones, totals, PRECISION)
        u, v = next_u, next_v
    if HAS_F and not WIDE:
        total = tl.sum(tl.where((f == C)[None, :], acc, 0.0), 1)
    else:
        total = tl.sum(tl.where((tl.arange(0, 16) == 0)[None, :], totals, 0.0), 1)

    row, exists = pair_rows(p0, q0, c, drop, BP, BQ)
    base = first_pair + p0 * (c - drop)
    if tl.program_id(1) == 0:
        tl.store(W_ptr + base + row, convert(total, W_ptr.dtype.element_ty), exists)
    if HAS_F:
        mean = acc / tl.maximum(total, tl.full((1,), EPS, ACC))[:, None]
        fc_ptr = Fc_ptr + base * C + row[:, None] * C + f[None, :]
        tl.store(fc_ptr, convert(mean, Fc_ptr.dtype.element_ty), exists[:, None] & (f < C)[None, :])


def is_wide(C: int, tile: Tile) -> bool:
    """Whether the features need every column of a block; if not, a free one takes the weight."""
    return tile.blocks["BC"] <= C


def unit(C: int) -> int:
    """How many features of a row can be loaded at once."""
    return math.gcd(C, 4) if C else 1


def edge_arguments(
    S: Tensor, C: int, w: Tensor | None, plan: Plan, coarse: CoarsePlan, acc: torch.dtype
) -> dict:
    """The arguments that the three edge kernels share."""
    K = S.shape[1]
    return {
        "src_ptr": plan.src,
        "dst_ptr": plan.dst,
        "S_ptr": S,
        "w_ptr": S if w is None else w,
        "K": K,
        "C": C,
        "drop": int(coarse.drop_self_loops),
        "HAS_W": w is not None,
        "EVEN_K": K % 16 == 0,
        "ACC": TRITON[acc],
    }


def coarsen_fwd(
    S: Tensor,
    X: Tensor,
    F: Tensor | None,
    w: Tensor | None,
    plan: Plan,
    coarse: CoarsePlan,
    eps: float,
) -> tuple[Tensor, Tensor, Tensor | None]:
    """Pool nodes, edge weights and edge features (the formulas: :func:`tritonpool.coarsen`)."""
    acc = accumulate_in(S, X, F, w)
    dtypes = X.dtype, None if F is None else F.dtype
    S, X, F, w = map(ready, widen(acc, S, X, F, w))
    C = 0 if F is None else F.shape[1]
    row = S.shape[1] + ROW.value - 1  # the longest in scratch memory
    check_sizes(plan, coarse, max(S.shape[1], X.shape[1]), max(row, C))
    with forked(S) as beside:
        with beside():
            Xc = pool(S, X, plan, coarse, acc)
        pairs = coarse.plan.num_edges
        W = S.new_empty(pairs, dtype=weight_dtype(S, w))
        Fc = None if F is None else F.new_empty(pairs, C)
        tile = tile_for("coarsen_fwd", acc, target_of(S), C)
        items = pair_tiles(plan, coarse, tile.blocks["BP"], tile.blocks["BQ"])
        launch(
            coarsen_fwd_kernel,
            (items.shape[0], blocks_of(max(C, 1), tile.blocks["BC"])),
            tile,
            items_ptr=items,
            F_ptr=F if C else S,
            W_ptr=W,
            Fc_ptr=Fc if C else W,
            EPS=eps,
            HAS_F=C > 0,
            WIDE=is_wide(C, tile),
            # wide loads of large blocks go through shared memory, which takes longer than they save
            UNIT=unit(C) if C < 16 else 1,
            **edge_arguments(S, C, w, plan, coarse, acc),
        )
    return Xc.to(dtypes[0]), W, None if F is None else Fc.to(dtypes[1])
