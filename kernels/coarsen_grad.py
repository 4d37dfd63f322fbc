"""The kernels behind the gradients of :func:`coarsen_fwd`; backward.py launches them."""

from __future__ import annotations

import triton
import triton.language as tl

from .coarsen import UNALIGNED, load_rows, load_weights, pair_rows
from .precision import convert, dot

__all__ = [
    "coarsen_bwd_assignment_kernel",
    "coarsen_bwd_features_kernel",
    "weight_grad_kernel",
]


@triton.jit
def mean_grad(
    W_ptr, dFc_ptr, base, row, exists, f, C, EPS: tl.constexpr, ACC: tl.constexpr
):  # fmt: skip
    """The gradient w.r.t. the sum behind each mean: ``dFc / W``, and 0 where ``W <= eps``."""
    weight = convert(tl.load(W_ptr + base + row, exists, 0.0), ACC)
    counts = weight > tl.full((1,), EPS, ACC)
    inverse = tl.where(counts, 1.0 / tl.where(counts, weight, 1.0), 0.0)
    mask = exists[:, None] & (f < C)[None, :]
    dfc = convert(tl.load(dFc_ptr + base * C + row[:, None] * C + f[None, :], mask, 0.0), ACC)
    return dfc * inverse[:, None]


@triton.jit(do_not_specialize=("K", "C", "drop"), do_not_specialize_on_alignment=UNALIGNED)
def coarsen_bwd_features_kernel(
    items_ptr,  # [T, 3] graph, first edge, 0
    node_ptr,  # [G + 1] first node of each graph
    edge_ptr,  # [G + 1] first edge of each graph
    cluster_ptr,  # [G + 1] first cluster of each graph
    pair_ptr,  # [G + 1] first coarse edge of each graph
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
    EVEN_C: tl.constexpr,
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
    item = items_ptr + tl.program_id(0).to(tl.int64) * 3
    g = tl.load(item)
    f = tl.program_id(1) * BC + tl.arange(0, BC)
    if EVEN_K:
        K = tl.multiple_of(K, 16)
    if EVEN_C:
        C = tl.multiple_of(C, 4)
    first = tl.load(node_ptr + g)
    first_edge = tl.load(edge_ptr + g)
    m = (tl.load(edge_ptr + g + 1) - first_edge).to(tl.int32)
    c = (tl.load(cluster_ptr + g + 1) - tl.load(cluster_ptr + g)).to(tl.int32)
    first_pair = tl.load(pair_ptr + g)
    S_ptr += first * K
    e = tl.load(item + 1).to(tl.int32) + tl.arange(0, BE)
    valid = e < m
    e = tl.minimum(e, m - 1)
    u = (tl.load(src_ptr + first_edge + e) - first).to(tl.int32)
    v = (tl.load(dst_ptr + first_edge + e) - first).to(tl.int32)
    w = load_weights(w_ptr + first_edge, e, valid, HAS_W, ACC)

    acc = tl.zeros((BE, BC), ACC)
    for p0 in tl.range(0, c, BP, num_stages=1):
        p = p0 + tl.arange(0, BP)
        su = load_rows(S_ptr, u[:, None], p[None, :], K, EVEN_K, ACC)  # [BE, BP]
        base = first_pair + p0 * (c - drop)
        for q0 in tl.range(0, c, BQ, num_stages=1):
            q = q0 + tl.arange(0, BQ)
            sv = load_rows(S_ptr, v[:, None], q[None, :], K, EVEN_K, ACC)  # [BE, BQ]
            row, exists = pair_rows(p0, q0, c, drop, BP, BQ)
            grad = mean_grad(W_ptr, dFc_ptr, base, row, exists, f, C, EPS, ACC)  # [pairs, BC]
            x = tl.reshape(su[:, :, None] * sv[:, None, :], (BE, BP * BQ))
            acc = dot(x, grad, acc, PRECISION)

    df_ptr = dF_ptr + first_edge * C + e[:, None] * C + f[None, :]
    mask = valid[:, None] & (f < C)[None, :]
    tl.store(df_ptr, (acc * w[:, None]).to(dF_ptr.dtype.element_ty), mask)


@triton.jit(do_not_specialize=("E", "K", "C", "drop"), do_not_specialize_on_alignment=UNALIGNED)
def coarsen_bwd_assignment_kernel(
    items_ptr,  # [T, 3] graph, first edge, first q
    node_ptr,  # [G + 1] first node of each graph
    edge_ptr,  # [G + 1] first edge of each graph
    cluster_ptr,  # [G + 1] first cluster of each graph
    pair_ptr,  # [G + 1] first coarse edge of each graph
    src_ptr,  # [E]
    dst_ptr,  # [E]
    S_ptr,  # [V, K]
    F_ptr,  # [E, C]
    w_ptr,  # [E]
    W_ptr,  # [pairs]
    Fc_ptr,  # [pairs, C]
    dW_ptr,  # [pairs]
    dFc_ptr,  # [pairs, C]
    T_ptr,  # [slices, E, K] gradient w.r.t. the row of the source, a slice per block of q
    U_ptr,  # [E, K] gradient w.r.t. the row of the target
    R_ptr,  # [slices, E] gradient w.r.t. the weight
    E,
    K,
    C,
    drop,
    EPS: tl.constexpr,
    HAS_F: tl.constexpr,
    HAS_W: tl.constexpr,
    NEED_W: tl.constexpr,
    WIDE: tl.constexpr,
    EVEN_K: tl.constexpr,
    EVEN_C: tl.constexpr,
    ACC: tl.constexpr,
    PRECISION: tl.constexpr,
    BP: tl.constexpr,
    BQ: tl.constexpr,
    BC: tl.constexpr,
    BE: tl.constexpr,
):
    """With ``y[e, p, q] = dW[p, q] + <F[e] - Fc[p, q], dFc[p, q]> / W[p, q]``:
    ``T[e, p] = w sum_q y S[v, q]``, ``U[e, q] = w sum_p y S[u, p]``,
    ``R[e] = sum_pq y S[u, p] S[v, q]``, the sums over q within this program's block.

    A program owns BE edges and BQ clusters of one graph.
    """
    item = items_ptr + tl.program_id(0).to(tl.int64) * 3
    g = tl.load(item)
    q0 = tl.load(item + 2).to(tl.int32)
    q = q0 + tl.arange(0, BQ)
    f = tl.arange(0, BC)
    if EVEN_K:
        K = tl.multiple_of(K, 16)
    if EVEN_C:
        C = tl.multiple_of(C, 4)
    first = tl.load(node_ptr + g)
    first_edge = tl.load(edge_ptr + g)
    m = (tl.load(edge_ptr + g + 1) - first_edge).to(tl.int32)
    c = (tl.load(cluster_ptr + g + 1) - tl.load(cluster_ptr + g)).to(tl.int32)
    first_pair = tl.load(pair_ptr + g)
    S_ptr += first * K
    F_ptr += first_edge * C
    e = tl.load(item + 1).to(tl.int32) + tl.arange(0, BE)
    valid = e < m
    e = tl.minimum(e, m - 1)
    u = (tl.load(src_ptr + first_edge + e) - first).to(tl.int32)
    v = (tl.load(dst_ptr + first_edge + e) - first).to(tl.int32)
    w = load_weights(w_ptr + first_edge, e, valid, HAS_W, ACC)
    sv = load_rows(S_ptr, v[:, None], q[None, :], K, EVEN_K, ACC)  # [BE, BQ]
    part = (q0 // BQ).to(tl.int64) * E + first_edge
    T_ptr += part * K
    U_ptr += first_edge * K

    if HAS_F and not WIDE:
        feature = convert(tl.load(F_ptr + e[:, None] * C + f[None, :], (f < C)[None, :], 0.0), ACC)
        feature = tl.where((f == C)[None, :], 1.0, feature)  # [BE, BC]
    into = tl.zeros((BE, BQ), ACC)
    weight_grad = tl.zeros((BE,), ACC)
    for p0 in tl.range(0, c, BP, num_stages=1):
        p = p0 + tl.arange(0, BP)
        su = load_rows(S_ptr, u[:, None], p[None, :], K, EVEN_K, ACC)  # [BE, BP]
        base = first_pair + p0 * (c - drop)
        row, exists = pair_rows(p0, q0, c, drop, BP, BQ)
        dw = convert(tl.load(dW_ptr + base + row, exists, 0.0), ACC)
        y = tl.zeros((BE, BP * BQ), ACC)
        if HAS_F:
            if WIDE:
                for f0 in tl.range(0, C, BC, num_stages=1):
                    fs = f0 + f
                    f_mask = (fs < C)[None, :]
                    grad = mean_grad(W_ptr, dFc_ptr, base, row, exists, fs, C, EPS, ACC)
                    fc_ptr = Fc_ptr + base * C + row[:, None] * C + fs[None, :]
                    fc = convert(tl.load(fc_ptr, exists[:, None] & f_mask, 0.0), ACC)
                    dw -= tl.sum(grad * fc, 1)
                    feature = convert(
                        tl.load(F_ptr + e[:, None] * C + fs[None, :], f_mask, 0.0), ACC
                    )
                    y = dot(feature, tl.trans(grad), y, PRECISION)
                y += dw[None, :]
            else:
                grad = mean_grad(W_ptr, dFc_ptr, base, row, exists, f, C, EPS, ACC)
                fc_ptr = Fc_ptr + base * C + row[:, None] * C + f[None, :]
                fc = convert(tl.load(fc_ptr, exists[:, None] & (f < C)[None, :], 0.0), ACC)
                dw -= tl.sum(grad * fc, 1)
                grad = tl.where((f == C)[None, :], dw[:, None], grad)  # [pairs, BC]
                y = dot(feature, tl.trans(grad), y, PRECISION)
        else:
            y += dw[None, :]
        y = tl.reshape(y, (BE, BP, BQ))
        out = tl.sum(y * sv[:, None, :], 2)  # [BE, BP]
        into += tl.sum(y * su[:, :, None], 1)
        t_ptr = T_ptr + e[:, None] * K + p[None, :]
        tl.store(t_ptr, out * w[:, None], valid[:, None] & (p < c)[None, :])
        if NEED_W:
            weight_grad += tl.sum(out * su, 1)

    u_ptr = U_ptr + e[:, None] * K + q[None, :]
    tl.store(u_ptr, into * w[:, None], valid[:, None] & (q < c)[None, :])
    if NEED_W:
        tl.store(R_ptr + part + e, weight_grad, valid)


@triton.jit(do_not_specialize=("E",), do_not_specialize_on_alignment=UNALIGNED)
def weight_grad_kernel(
    items_ptr,  # [T, 3] graph, first edge, 0
    edge_ptr,  # [G + 1] first edge of each graph
    cluster_ptr,  # [G + 1] first cluster of each graph
    R_ptr,  # [slices, E]
    dw_ptr,  # [E]
    E,
    SLICE: tl.constexpr,
    ACC: tl.constexpr,
    BE: tl.constexpr,
):
    """``dw[e] = sum of R[:, e]`` over the slices that the edge's graph has filled."""
    item = items_ptr + tl.program_id(0).to(tl.int64) * 3
    g = tl.load(item)
    first_edge = tl.load(edge_ptr + g)
    e = (tl.load(item + 1) + tl.arange(0, BE)).to(tl.int64)
    valid = e < tl.load(edge_ptr + g + 1) - first_edge
    c = (tl.load(cluster_ptr + g + 1) - tl.load(cluster_ptr + g)).to(tl.int32)
    acc = tl.zeros((BE,), ACC)
    r_ptr = R_ptr + first_edge
    for _ in tl.range(0, (c + SLICE - 1) // SLICE, num_stages=1):
        acc += tl.load(r_ptr + e, valid, 0.0)
        r_ptr += E
    tl.store(dw_ptr + first_edge + e, convert(acc, dw_ptr.dtype.element_ty), valid)
