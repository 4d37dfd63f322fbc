"""The squared link residual and the entropy of every graph, and their means over the batch."""

from __future__ import annotations

import torch
import triton
import triton.language as tl
from torch import Tensor

from tritonpool.coarse_plan import CoarsePlan
from tritonpool.dtypes import accumulate_in, weight_dtype
from tritonpool.plan import Plan

from .launch import launch, ready, target_of
from .loads import load_tile
from .precision import TRITON, convert, dot
from .tiles import tile_for
from .work import check_sizes, node_tiles, read_item

__all__ = ["losses_fwd"]

# Near the optimum the entries of A - S S^T are small differences of numbers of size 1: float32
# would leave nothing of them.
EXACT = torch.float64

UNALIGNED = (
    "items_ptr", "node_ptr", "out_ptr", "out_edge_ptr", "in_ptr", "in_edge_ptr", "src_ptr",
    "dst_ptr", "w_ptr", "r2_ptr", "dr2_ptr", "dent_ptr",
)  # fmt: skip


@triton.jit
def share_of(n, G, ACC: tl.constexpr):
    """What one node of a graph of n nodes counts in a mean over G graphs of means over nodes."""
    nodes = tl.maximum(n.to(ACC), tl.full((), 1.0, ACC))
    return 1.0 / (nodes * G.to(ACC))


@triton.jit
def add_adjacency(
    acc, order_ptr, start, stop, row_ptr, column_ptr, w_ptr, i0, j0,
    HAS_W: tl.constexpr, ACC: tl.constexpr, PRECISION: tl.constexpr,
    BV: tl.constexpr, BE: tl.constexpr,
):  # fmt: skip
    """Add the weights of the edges ``order[start:stop]`` to a block of the adjacency whose first
    row is node i0 and whose first column is node j0; one-hot products add parallel edges up."""
    local = tl.arange(0, BV)
    for t0 in tl.range(0, (stop - start).to(tl.int32), BE, num_stages=1):
        t = start + t0 + tl.arange(0, BE)
        valid = t < stop
        e = tl.load(order_ptr + t, valid, 0)
        row = tl.load(row_ptr + e, valid, -1) - i0
        column = tl.load(column_ptr + e, valid, -1) - j0
        if HAS_W:
            w = convert(tl.load(w_ptr + e, valid, 0.0), ACC)
        else:
            w = valid.to(ACC)
        rows = tl.where(row[None, :] == local[:, None], w[None, :], 0.0)  # [BV, BE]
        columns = (column[:, None] == local[None, :]).to(ACC)  # [BE, BV]
        acc = dot(rows, columns, acc, PRECISION)
    return acc


@triton.jit
def agreement(
    S_ptr, v, u, n, c, K, ACC: tl.constexpr, PRECISION: tl.constexpr, BV: tl.constexpr,
    BK: tl.constexpr,
):  # fmt: skip
    """``S[v] S[u]^T`` for two blocks of nodes of one graph."""
    acc = tl.zeros((BV, BV), ACC)
    for k0 in tl.range(0, c, BK, num_stages=1):
        p = k0 + tl.arange(0, BK)
        left = convert(load_tile(S_ptr, v, n, p, K), ACC)
        right = convert(load_tile(S_ptr, u, n, p, K), ACC)
        acc = dot(left, tl.trans(right), acc, PRECISION)
    return acc


@triton.jit(do_not_specialize=("K",), do_not_specialize_on_alignment=UNALIGNED)
def losses_fwd_kernel(
    items_ptr,  # [T, COLUMNS] with first node
    out_ptr,  # [V + 1] each node's part of out_edge
    out_edge_ptr,  # [E] edges by source
    src_ptr,  # [E]
    dst_ptr,  # [E]
    w_ptr,  # [E]
    S_ptr,  # [V, K]
    square_ptr,  # [V]
    scale_ptr,  # [V]
    entropy_ptr,  # [V]
    done_ptr,  # [1]
    K,
    HAS_W: tl.constexpr,
    EVEN_K: tl.constexpr,
    ACC: tl.constexpr,
    PRECISION: tl.constexpr,
    BV: tl.constexpr,
    BK: tl.constexpr,
    BE: tl.constexpr,
):
    """``square[i] = sum_j (A[i, j] - <S[i], S[j]>)^2``,
    ``scale[i] = sum_j A[i, j]^2 + <S[i], S[j]>^2``, ``entropy[i] = -sum_p S[i, p] log S[i, p]``.

    A program owns BV nodes of one graph. It forms the residual block by block: expanding the
    square instead would cancel near the optimum. The first one sets ``done`` to 0 for the kernel
    that follows.
    """
    if tl.program_id(0) == 0:
        tl.store(done_ptr, 0)
    _, i0, _, first, n, _, _, _, c, _, _ = read_item(items_ptr)
    if EVEN_K:
        K = K // 16 * 16
    S_ptr += first * K
    i = i0 + tl.arange(0, BV)
    start = tl.load(out_ptr + first + i0)
    stop = tl.load(out_ptr + first + tl.minimum(i0 + BV, n))

    square = tl.zeros((BV, BV), ACC)
    scale = tl.zeros((BV, BV), ACC)
    for j0 in tl.range(0, n, BV, num_stages=1):
        j = j0 + tl.arange(0, BV)
        shared = agreement(S_ptr, i, j, n, c, K, ACC, PRECISION, BV, BK)
        residual = add_adjacency(
            -shared, out_edge_ptr, start, stop, src_ptr, dst_ptr, w_ptr, first + i0, first + j0,
            HAS_W, ACC, PRECISION, BV, BE,
        )  # fmt: skip
        square += residual * residual
        weight = residual + shared
        scale += weight * weight + shared * shared

    entropy = tl.zeros((BV, BK), ACC)
    for k0 in tl.range(0, c, BK, num_stages=1):
        s = convert(load_tile(S_ptr, i, n, k0 + tl.arange(0, BK), K), ACC)
        entropy -= s * tl.log(tl.where(s == 0.0, 1.0, s))
    tl.store(square_ptr + first + i, tl.sum(square, 1), i < n)
    tl.store(scale_ptr + first + i, tl.sum(scale, 1), i < n)
    tl.store(entropy_ptr + first + i, tl.sum(entropy, 1), i < n)


@triton.jit(do_not_specialize=("G",), do_not_specialize_on_alignment=UNALIGNED)
def losses_total_kernel(
    node_ptr,  # [G + 1] first node of each graph
    square_ptr,  # [V]
    scale_ptr,  # [V]
    entropy_ptr,  # [V]
    r2_ptr,  # [G]
    ent_ptr,  # [G]
    done_ptr,  # [1] programs that have finished; 0 at the start
    link_mean_ptr,  # []
    entropy_mean_ptr,  # []
    G,
    MEANS: tl.constexpr,
    ROUNDING: tl.constexpr,
    ACC: tl.constexpr,
    BV: tl.constexpr,
    BG: tl.constexpr,
):
    """Add up the nodes of each graph in a fixed order; a residual of the size of rounding becomes
    0, because its direction would be noise. A program owns one graph.

    With MEANS, the program that finishes last also writes
    ``link_mean = sum_g sqrt(r2[g]) / (n[g] G)`` and ``entropy_mean = sum_g ent[g] / (n[g] G)``.
    Which one that is does not matter: it reads what all have written, in the order of the graphs.
    """
    own = tl.program_id(0).to(tl.int64)
    first = tl.load(node_ptr + own)
    n = (tl.load(node_ptr + own + 1) - first).to(tl.int32)
    square = tl.zeros((BV,), ACC)
    scale = tl.zeros((BV,), ACC)
    entropy = tl.zeros((BV,), ACC)
    for v0 in tl.range(0, n, BV, num_stages=1):
        v = v0 + tl.arange(0, BV)
        square += tl.load(square_ptr + first + v, v < n, 0.0)
        scale += tl.load(scale_ptr + first + v, v < n, 0.0)
        entropy += tl.load(entropy_ptr + first + v, v < n, 0.0)
    r2 = tl.sum(square, 0)
    r2 = tl.where(r2 < ROUNDING * tl.sum(scale, 0), 0.0, r2)  # NaN and infinity stay
    tl.store(r2_ptr + own, r2)
    tl.store(ent_ptr + own, tl.sum(entropy, 0))

    if MEANS:
        tl.debug_barrier()  # all of this program's stores come before its addition
        if tl.atomic_add(done_ptr, 1, sem="acq_rel", scope="gpu") == G - 1:
            link = tl.zeros((BG,), ACC)
            total = tl.zeros((BG,), ACC)
            for g0 in tl.range(0, G, BG, num_stages=1):
                g = g0 + tl.arange(0, BG)
                nodes = tl.load(node_ptr + g + 1, g < G, 0) - tl.load(node_ptr + g, g < G, 0)
                share = share_of(nodes, G, ACC)
                # from where other multiprocessors wrote to, and not from this one's own cache
                residual = tl.load(r2_ptr + g, g < G, 0.0, cache_modifier=".cg")
                link += tl.sqrt(convert(residual, ACC)) * share
                own_entropy = tl.load(ent_ptr + g, g < G, 0.0, cache_modifier=".cg")
                total += convert(own_entropy, ACC) * share
            tl.store(link_mean_ptr, convert(tl.sum(link, 0), link_mean_ptr.dtype.element_ty))
            tl.store(entropy_mean_ptr, convert(tl.sum(total, 0), entropy_mean_ptr.dtype.element_ty))


def exact_inputs(S: Tensor, w: Tensor | None) -> tuple[Tensor, Tensor | None]:
    """The inputs in float32 or float64: products in float64 cannot be fed from half precision."""
    S, w = (None if t is None else t.to(accumulate_in(t)) for t in (S, w))
    return ready(S), ready(w)


def loss_arguments(S: Tensor, w: Tensor | None, plan: Plan, coarse: CoarsePlan) -> dict:
    """The arguments that the kernels of the losses share."""
    return {
        "out_ptr": plan.out_ptr,
        "out_edge_ptr": plan.out_edge,
        "src_ptr": plan.src,
        "dst_ptr": plan.dst,
        "w_ptr": S if w is None else w,
        "S_ptr": S,
        "K": S.shape[1],
        "EVEN_K": S.shape[1] % 16 == 0,
        "ACC": TRITON[EXACT],
    }


def losses_fwd(
    S: Tensor, w: Tensor | None, plan: Plan, coarse: CoarsePlan, means: bool = False
) -> tuple[Tensor, ...]:
    r"""Squared residual :math:`\|A_g - S_g S_g^\top\|_F^2` and entropy sum of every graph; or the
    means over the graphs of the norm of the residual and of the entropy for each node, and the
    squared residuals, which the backward needs."""
    S, w = exact_inputs(S, w)
    check_sizes(plan, coarse, S.shape[1], 0)
    tile = tile_for("losses_fwd", EXACT, target_of(S))
    items = node_tiles(plan, coarse, tile.blocks["BV"])
    # each by itself: a row of one tensor need not start at a multiple of 16 bytes
    square, scale, entropy = (S.new_empty(plan.num_nodes, dtype=EXACT) for _ in range(3))
    done = torch.empty(1, dtype=torch.int32, device=S.device)
    if not len(items):  # nobody sets it to 0
        done.zero_()
    launch(
        losses_fwd_kernel,
        (items.shape[0],),
        tile,
        items_ptr=items,
        square_ptr=square,
        scale_ptr=scale,
        entropy_ptr=entropy,
        done_ptr=done,
        HAS_W=w is not None,
        **loss_arguments(S, w, plan, coarse),
    )
    r2, ent = (S.new_empty(plan.num_graphs, dtype=weight_dtype(S, w)) for _ in range(2))
    mean = (r2.new_empty(()), r2.new_empty(())) if means else (r2, ent)
    launch(
        losses_total_kernel,
        (plan.num_graphs,),
        tile_for("losses_total", EXACT, target_of(S)),
        node_ptr=plan.node_ptr,
        square_ptr=square,
        scale_ptr=scale,
        entropy_ptr=entropy,
        r2_ptr=r2,
        ent_ptr=ent,
        done_ptr=done,
        link_mean_ptr=mean[0],
        entropy_mean_ptr=mean[1],
        G=plan.num_graphs,
        MEANS=means,
        ACC=TRITON[EXACT],
        ROUNDING=16 * torch.finfo(EXACT).eps,
    )
    return (*mean, r2) if means else (r2, ent)
