"""Edge weights over the sum of those that reach the same node, and the gradient."""

from __future__ import annotations

import torch
import triton
import triton.language as tl
from torch import Tensor

from tritonpool.dtypes import accumulate_in

from .launch import launch, ready, target_of
from .loads import load_segment, load_slots, load_weights
from .precision import TRITON, convert
from .segments import UNALIGNED
from .tiles import tile_for

__all__ = ["shares_bwd", "shares_fwd"]


@triton.jit
def at_least(total, LEAST: tl.constexpr, ACC: tl.constexpr):
    """``max(LEAST, total)``, and NaN where that is NaN; ``tl.maximum`` would give ``LEAST``."""
    least = tl.full((), LEAST, ACC)
    return tl.where(total < least, least, total)


@triton.jit(do_not_specialize_on_alignment=UNALIGNED)
def shares_kernel(
    ptr_ptr,  # [N + 1] where each segment starts
    order_ptr,  # places in w, segment by segment
    w_ptr,
    Y_ptr,
    LEAST: tl.constexpr,
    ACC: tl.constexpr,
    BS: tl.constexpr,
):
    """``Y[e] = w[e] / max(LEAST, sum_k w[k])`` over the segment of ``e``; a program owns one."""
    start, n = load_segment(ptr_ptr, tl.program_id(0).to(tl.int64))
    total = tl.zeros((BS,), ACC)
    for s0 in tl.range(0, n, BS, num_stages=1):
        s = s0 + tl.arange(0, BS)
        e = load_slots(order_ptr, start, s, s < n, True)
        total += load_weights(w_ptr, e, s < n, True, ACC)
    divisor = at_least(tl.sum(total, 0), LEAST, ACC)
    for s0 in tl.range(0, n, BS, num_stages=1):
        s = s0 + tl.arange(0, BS)
        e = load_slots(order_ptr, start, s, s < n, True)
        w = load_weights(w_ptr, e, s < n, True, ACC)
        tl.store(Y_ptr + e, convert(w / divisor, Y_ptr.dtype.element_ty), s < n)


@triton.jit(do_not_specialize_on_alignment=UNALIGNED)
def shares_grad_kernel(
    ptr_ptr,  # [N + 1] where each segment starts
    order_ptr,  # places in w, segment by segment
    w_ptr,
    G_ptr,  # gradient of the shares
    dw_ptr,
    LEAST: tl.constexpr,
    ACC: tl.constexpr,
    BS: tl.constexpr,
):
    """``dw[e] = (G[e] - sum_k G[k] Y[k]) / max(LEAST, sum_k w[k])``, without the sum in the
    numerator where the divisor is ``LEAST``; a program owns one segment."""
    start, n = load_segment(ptr_ptr, tl.program_id(0).to(tl.int64))
    total = tl.zeros((BS,), ACC)
    product = tl.zeros((BS,), ACC)
    for s0 in tl.range(0, n, BS, num_stages=1):
        s = s0 + tl.arange(0, BS)
        e = load_slots(order_ptr, start, s, s < n, True)
        w = load_weights(w_ptr, e, s < n, True, ACC)
        total += w
        product += w * convert(tl.load(G_ptr + e, s < n, 0.0), ACC)
    found = tl.sum(total, 0)
    divisor = at_least(found, LEAST, ACC)
    common = tl.where(found < divisor, 0.0, tl.sum(product, 0) / divisor)
    for s0 in tl.range(0, n, BS, num_stages=1):
        s = s0 + tl.arange(0, BS)
        e = load_slots(order_ptr, start, s, s < n, True)
        grad = convert(tl.load(G_ptr + e, s < n, 0.0), ACC)
        dw = (grad - common) / divisor
        tl.store(dw_ptr + e, convert(dw, dw_ptr.dtype.element_ty), s < n)


def shares_fwd(w: Tensor, ptr: Tensor, order: Tensor, of: Tensor, least: float) -> Tensor:
    """Weights over sums of weights (the formula: :func:`tritonpool.segments.edge_shares`)."""
    w = ready(w)
    acc = accumulate_in(w)
    Y = torch.empty_like(w)
    tile = tile_for("shares", acc, target_of(w))
    launch(
        shares_kernel,
        (ptr.numel() - 1,),
        tile,
        ptr_ptr=ptr,
        order_ptr=order,
        w_ptr=w,
        Y_ptr=Y,
        LEAST=least,
        ACC=TRITON[acc],
    )
    return Y


def shares_bwd(
    grad: Tensor, w: Tensor, ptr: Tensor, order: Tensor, of: Tensor, least: float
) -> Tensor:
    """The gradient of :func:`shares_fwd` w.r.t. ``w``."""
    grad, w = ready(grad), ready(w)
    acc = accumulate_in(w)
    dw = torch.empty_like(w)
    tile = tile_for("shares_grad", acc, target_of(w))
    launch(
        shares_grad_kernel,
        (ptr.numel() - 1,),
        tile,
        ptr_ptr=ptr,
        order_ptr=order,
        w_ptr=w,
        G_ptr=grad,
        dw_ptr=dw,
        LEAST=least,
        ACC=TRITON[acc],
    )
    return dw
