"""The kernels behind the gradients of :func:`coarsen_fwd`; backward.py launches them."""

from __future__ import annotations

import triton
import triton.language as tl

from .coarsen import UNALIGNED, pair_rows
from .loads import columns_written, load_ends, load_rows, load_weights
from .precision import convert, dot
from .work import ROW, read_item, row_width

__all__ = [
    "coarsen_bwd_assignment_kernel",
    "coarsen_bwd_features_kernel",
    "weight_grad_kernel",
]


@triton.jit
def load_pairs(ptr, base, row, exists, f, C):
    """Rows of coarse edges, zero where there is none."""
    mask = exists[:, None] & (f < C)[None, :]
    return tl.load(ptr + base * C + (row[:, None] * C + f[None, :]), mask, 0.0)


@triton.jit
def inverse(weight, EPS: tl.constexpr, ACC: tl.constexpr):
    """``1 / W``, and 0 where ``W <= eps``: through those means no gradient flows."""
    weight = convert(weight, ACC)
    counts = weight > tl.full((1,), EPS, ACC)
    return tl.where(counts, 1.0 / tl.where(counts, weight, 1.0), 0.0)


@triton.jit(do_not_specialize=("K", "C", "drop"), do_not_specialize_on_alignment=UNALIGNED)
def coarsen_bwd_features_kernel(
    items_ptr,  # [T, COLUMNS] with first edge
    src_ptr,  # [E]
    dst_ptr,  # [E]
    S_ptr,  # [V, K]
    w_ptr,  # [E]
    W_ptr,  # [pairs]
    dFc_ptr,  # [pairs, C]
    dF_ptr,  # [E, C]
    K,
    C,
    drop,
    EPS: tl.constexpr,
    HAS_W: tl.constexpr,
    EVEN_K: tl.constexpr,
    UNIT: tl.constexpr,
    ACC: tl.constexpr,
    PRECISION: tl.constexpr,
    BP: tl.constexpr,
    BQ: tl.constexpr,
    BC: tl.constexpr,
    BE: tl.constexpr,
):
    """``dF[e] = w sum_pq S[u, p] S[v, q] dFc[p, q] / W[p, q]``.

    A program owns BE edges of one graph and BC features.
    """
    _, e0, _, first, _, first_edge, m, _, c, first_pair, _ = read_item(items_ptr)
    f = tl.program_id(1) * BC + tl.arange(0, BC)
    if EVEN_K:
        K = K // 16 * 16
    C = C // UNIT * UNIT
    S_ptr += first * K
    valid = e0 + tl.arange(0, BE) < m
    e = tl.minimum(e0 + tl.arange(0, BE), m - 1)
    u, v = load_ends(src_ptr + first_edge, dst_ptr + first_edge, e, first)
    w = load_weights(w_ptr + first_edge, e, valid, HAS_W, ACC)

    wide = (c + BQ - 1) // BQ
    steps = wide * ((c + BP - 1) // BP)
    row, exists = pair_rows(0, 0, c, drop, BP, BQ)
    weight = tl.load(W_ptr + first_pair + row, exists, 0.0)
    grad = load_pairs(dFc_ptr, first_pair, row, exists, f, C)  # [pairs, BC]
    acc = tl.zeros((BE, BC), ACC)
    for step in tl.range(0, steps, num_stages=1):
        p0, q0 = (step // wide) * BP, (step % wide) * BQ
        # Loads are issued in this order: those of the next block before this one is computed.
        next_p, next_q = ((step + 1) // wide) * BP, ((step + 1) % wide) * BQ
        row, exists = pair_rows(next_p, next_q, c, drop, BP, BQ)
        base = first_pair + next_p * (c - drop)
        next_weight = tl.load(W_ptr + base + row, exists, 0.0)
        next_grad = load_pairs(dFc_ptr, base, row, exists, f, C)
        p, q = p0 + tl.arange(0, BP), q0 + tl.arange(0, BQ)
        su = load_rows(S_ptr, u[:, None], p[None, :], K, EVEN_K, ACC)  # [BE, BP]
        sv = load_rows(S_ptr, v[:, None], q[None, :], K, EVEN_K, ACC)  # [BE, BQ]
        grad = convert(grad, ACC) * inverse(weight, EPS, ACC)[:, None]
        x = tl.reshape(su[:, :, None] * sv[:, None, :], (BE, BP * BQ))
        acc = dot(x, grad, acc, PRECISION)
        weight, grad = next_weight, next_grad

    df_ptr = dF_ptr + first_edge * C + e[:, None] * C + f[None, :]
    mask = valid[:, None] & (f < C)[None, :]
    tl.store(df_ptr, (acc * w[:, None]).to(dF_ptr.dtype.element_ty), mask)


@triton.jit(do_not_specialize=("K", "C", "drop"), do_not_specialize_on_alignment=UNALIGNED)
def coarsen_bwd_assignment_kernel(
    items_ptr,  # [T, COLUMNS] with first edge and first q
    src_ptr,  # [E]
    dst_ptr,  # [E]
    S_ptr,  # [V, K]
    F_ptr,  # [E, C]
    w_ptr,  # [E]
    W_ptr,  # [pairs]
    Fc_ptr,  # [pairs, C]
    dW_ptr,  # [pairs]
    dFc_ptr,  # [pairs, C]
    T_ptr,  # for each graph [1 + slices, edges, row] gradients w.r.t. the row of the target, and of
    # the source from each block of q
    R_ptr,  # for each graph [slices, edges] gradient w.r.t. the weight
    K,
    C,
    drop,
    EPS: tl.constexpr,
    HAS_F: tl.constexpr,
    HAS_W: tl.constexpr,
    NEED_W: tl.constexpr,
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
    """With ``y[e, p, q] = dW[p, q] + <F[e] - Fc[p, q], dFc[p, q]> / W[p, q]``:
    ``T[0, e, q] = w sum_p y S[u, p]``, ``T[1 + b, e, p] = w sum_q y S[v, q]``,
    ``R[b, e] = sum_pq y S[u, p] S[v, q]``, the sums over q within this program's block b.

    A program owns BE edges and BQ clusters of one graph.
    """
    _, e0, q0, first, _, first_edge, m, _, c, first_pair, part = read_item(items_ptr)
    q0 = tl.multiple_of(q0, BQ)
    q = q0 + tl.arange(0, BQ)
    f = tl.arange(0, BC)
    if EVEN_K:
        K = K // 16 * 16
    C = C // UNIT * UNIT
    S_ptr += first * K
    F_ptr += first_edge * C
    valid = e0 + tl.arange(0, BE) < m
    e = tl.minimum(e0 + tl.arange(0, BE), m - 1)
    u, v = load_ends(src_ptr + first_edge, dst_ptr + first_edge, e, first)
    w = load_weights(w_ptr + first_edge, e, valid, HAS_W, ACC)
    row_of = e[:, None] * row_width(c)
    U_ptr = T_ptr + part
    before = (q0 // BQ).to(tl.int64) * m
    T_ptr = U_ptr + (before + m) * row_width(c)

    # Loads are issued in the order they stand in, and the rows of S wait for u and v.
    NARROW: tl.constexpr = HAS_F and not WIDE
    row, exists = pair_rows(0, q0, c, drop, BP, BQ)
    dw = tl.load(dW_ptr + first_pair + row, exists, 0.0)
    if HAS_F:
        weight = tl.load(W_ptr + first_pair + row, exists, 0.0)
    if NARROW:
        feature = tl.load(F_ptr + (e[:, None] * C + f[None, :]), (f < C)[None, :], 0.0)
        grad = load_pairs(dFc_ptr, first_pair, row, exists, f, C)  # [pairs, BC]
        fc = load_pairs(Fc_ptr, first_pair, row, exists, f, C)
        feature = tl.where((f == C)[None, :], 1.0, convert(feature, ACC))  # [BE, BC]
    sv = load_rows(S_ptr, v[:, None], q[None, :], K, EVEN_K, ACC)  # [BE, BQ]
    written = columns_written(c)
    into = tl.zeros((BE, BQ), ACC)
    weight_grad = tl.zeros((BE,), ACC)
    for p0 in tl.range(0, c, BP, num_stages=1):
        p = p0 + tl.arange(0, BP)
        base = first_pair + p0 * (c - drop)
        next_row, next_exists = pair_rows(p0 + BP, q0, c, drop, BP, BQ)
        next_base = base + BP * (c - drop)
        next_dw = tl.load(dW_ptr + next_base + next_row, next_exists, 0.0)
        if HAS_F:
            next_weight = tl.load(W_ptr + next_base + next_row, next_exists, 0.0)
        if NARROW:
            next_grad = load_pairs(dFc_ptr, next_base, next_row, next_exists, f, C)
            next_fc = load_pairs(Fc_ptr, next_base, next_row, next_exists, f, C)
        su = load_rows(S_ptr, u[:, None], p[None, :], K, EVEN_K, ACC)  # [BE, BP]
        slope = convert(dw, ACC)
        y = tl.zeros((BE, BP * BQ), ACC)
        if HAS_F:
            over = inverse(weight, EPS, ACC)
        if NARROW:
            grad = convert(grad, ACC) * over[:, None]
            slope -= tl.sum(grad * convert(fc, ACC), 1)
            grad = tl.where((f == C)[None, :], slope[:, None], grad)
            y = dot(feature, tl.trans(grad), y, PRECISION)
            grad, fc = next_grad, next_fc
        else:
            if HAS_F:
                for f0 in tl.range(0, C, BC, num_stages=1):
                    fs = f0 + f
                    wide = load_pairs(dFc_ptr, base, row, exists, fs, C)
                    mean = load_pairs(Fc_ptr, base, row, exists, fs, C)
                    part_of = tl.load(
                        F_ptr + (e[:, None] * C + fs[None, :]), (fs < C)[None, :], 0.0
                    )
                    wide = convert(wide, ACC) * over[:, None]
                    slope -= tl.sum(wide * convert(mean, ACC), 1)
                    y = dot(convert(part_of, ACC), tl.trans(wide), y, PRECISION)
            y += slope[None, :]
        dw, row, exists = next_dw, next_row, next_exists
        if HAS_F:
            weight = next_weight
        y = tl.reshape(y, (BE, BP, BQ))
        out = tl.sum(y * sv[:, None, :], 2)  # [BE, BP]
        into += tl.sum(y * su[:, :, None], 1)
        t_ptr = T_ptr + (row_of + p[None, :])
        tl.store(t_ptr, out * w[:, None], valid[:, None] & (p < written)[None, :])
        if NEED_W:
            weight_grad += tl.sum(out * su, 1)

    u_ptr = U_ptr + (row_of + q[None, :])
    tl.store(u_ptr, into * w[:, None], valid[:, None] & (q < written)[None, :])
    if NEED_W:
        tl.store(R_ptr + part // ROW + before + e, weight_grad, valid)


@triton.jit(do_not_specialize_on_alignment=UNALIGNED)
def weight_grad_kernel(
    items_ptr,  # [T, COLUMNS] with first edge
    R_ptr,  # for each graph [slices, edges]
    dw_ptr,  # [E]
    SLICE: tl.constexpr,
    ACC: tl.constexpr,
    BE: tl.constexpr,
):
    """``dw[e] = sum of R[:, e]`` over the slices of the edge's graph."""
    _, e0, _, _, _, first_edge, m, _, c, _, part = read_item(items_ptr)
    e = e0 + tl.arange(0, BE)
    valid = e < m
    acc = tl.zeros((BE,), ACC)
    r_ptr = R_ptr + part // ROW
    for _ in tl.range(0, (c + SLICE - 1) // SLICE, num_stages=1):
        acc += tl.load(r_ptr + e, valid, 0.0)
        r_ptr += m
    tl.store(dw_ptr + first_edge + e, convert(acc, dw_ptr.dtype.element_ty), valid)
