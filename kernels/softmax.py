"""The shares of every node from its scores, and the gradient."""

from __future__ import annotations

import torch
import triton
import triton.language as tl
from torch import Tensor

from tritonpool.coarse_plan import CoarsePlan
from tritonpool.dtypes import accumulate_in
from tritonpool.plan import Plan

from .launch import launch, ready, target_of
from .loads import load_tile
from .precision import TRITON, convert
from .tiles import blocks_of, tile_for

__all__ = ["softmax_bwd", "softmax_fwd"]

UNALIGNED = ("batch_ptr", "counts_ptr")


@triton.jit
def load_scores(logits_ptr, v, p, c, K, ACC: tl.constexpr):
    """Scores of some nodes for some clusters, minus infinity beyond those of a node's graph."""
    at = logits_ptr + v.to(tl.int64)[:, None] * K + p[None, :]
    return convert(tl.load(at, p[None, :] < c[:, None], float("-inf")), ACC)


@triton.jit(do_not_specialize=("V", "K"), do_not_specialize_on_alignment=UNALIGNED)
def softmax_kernel(
    batch_ptr,  # [V] graph of each node
    counts_ptr,  # [G] clusters of each graph
    logits_ptr,  # [V, K]
    S_ptr,  # [V, K]
    V,
    K,
    ACC: tl.constexpr,
    BV: tl.constexpr,
    BK: tl.constexpr,
):
    """``S[v, p] = exp L[v, p] / sum_q exp L[v, q]`` over the clusters of the graph of ``v``, and 0
    beyond them; a program owns BV nodes."""
    v = tl.program_id(0) * BV + tl.arange(0, BV)
    graph = tl.load(batch_ptr + v, v < V, 0)
    c = tl.load(counts_ptr + graph, v < V, 0).to(tl.int32)
    most = tl.max(c, 0)

    top = tl.full((BV,), float("-inf"), ACC)
    for k0 in tl.range(0, most, BK, num_stages=1):
        x = load_scores(logits_ptr, v, k0 + tl.arange(0, BK), c, K, ACC)
        top = tl.maximum(top, tl.max(x, 1))
    top = tl.where(v < V, top, 0.0)
    total = tl.zeros((BV, BK), ACC)
    for k0 in tl.range(0, most, BK, num_stages=1):
        x = load_scores(logits_ptr, v, k0 + tl.arange(0, BK), c, K, ACC)
        total += tl.exp(x - top[:, None])
    whole = tl.sum(total, 1)
    whole = tl.where(v < V, whole, 1.0)
    for k0 in tl.range(0, K, BK, num_stages=1):
        p = k0 + tl.arange(0, BK)
        x = load_scores(logits_ptr, v, p, c, K, ACC)
        # minus infinity is 0 here, but not where a score is not a number
        s = tl.where(p[None, :] < c[:, None], tl.exp(x - top[:, None]) / whole[:, None], 0.0)
        at = S_ptr + v.to(tl.int64)[:, None] * K + p[None, :]
        tl.store(at, convert(s, S_ptr.dtype.element_ty), (v < V)[:, None] & (p < K)[None, :])


@triton.jit(do_not_specialize=("V", "K"))
def softmax_grad_kernel(
    S_ptr,  # [V, K]
    dS_ptr,  # [V, K]
    grad_ptr,  # [V, K] of the scores
    V,
    K,
    ACC: tl.constexpr,
    BV: tl.constexpr,
    BK: tl.constexpr,
):
    """``grad[v, p] = S[v, p] (dS[v, p] - sum_q S[v, q] dS[v, q])``; a program owns BV nodes."""
    first = tl.program_id(0) * BV
    rows = V - first
    v = tl.arange(0, BV)
    S_ptr += first.to(tl.int64) * K
    dS_ptr += first.to(tl.int64) * K
    grad_ptr += first.to(tl.int64) * K
    products = tl.zeros((BV, BK), ACC)
    for k0 in tl.range(0, K, BK, num_stages=1):
        p = k0 + tl.arange(0, BK)
        s = convert(load_tile(S_ptr, v, rows, p, K), ACC)
        products += s * convert(load_tile(dS_ptr, v, rows, p, K), ACC)
    common = tl.sum(products, 1)
    for k0 in tl.range(0, K, BK, num_stages=1):
        p = k0 + tl.arange(0, BK)
        s = convert(load_tile(S_ptr, v, rows, p, K), ACC)
        ds = convert(load_tile(dS_ptr, v, rows, p, K), ACC)
        grad = s * (ds - common[:, None])
        at = grad_ptr + v[:, None] * K + p[None, :]
        tl.store(
            at, convert(grad, grad_ptr.dtype.element_ty), (v < rows)[:, None] & (p < K)[None, :]
        )


def softmax_fwd(logits: Tensor, plan: Plan, coarse: CoarsePlan) -> Tensor:
    """The softmax of each node's scores over the clusters of its graph, 0 beyond them."""
    logits = ready(logits)
    S = torch.empty_like(logits)
    graphs = {"batch_ptr": plan.batch, "counts_ptr": coarse.counts}
    _launch(softmax_kernel, "softmax", S, logits_ptr=logits, **graphs)
    return S


def softmax_bwd(dS: Tensor, S: Tensor) -> Tensor:
    """The gradient of :func:`softmax_fwd` w.r.t. the scores."""
    dS, S = ready(dS), ready(S)
    grad = torch.empty_like(S)
    _launch(softmax_grad_kernel, "softmax_grad", S, dS_ptr=dS, grad_ptr=grad)
    return grad


def _launch(kernel: triton.JITFunction, name: str, S: Tensor, **pointers: Tensor) -> None:
    (V, K), acc = S.shape, accumulate_in(S)
    tile = tile_for(name, acc, target_of(S))
    grid = (blocks_of(V, tile.blocks["BV"]),)
    launch(kernel, grid, tile, S_ptr=S, V=V, K=K, ACC=TRITON[acc], **pointers)
