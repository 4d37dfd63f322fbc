"""The definition of the sums of message passing, part of :mod:`tritonpool.reference`."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from tritonpool.dtypes import accumulate_in
from tritonpool.loops import gradients, ranges
from tritonpool.plan import Plan

__all__ = [
    "messages_bwd",
    "messages_fwd",
    "neighbours_bwd",
    "neighbours_fwd",
    "segments_bwd",
    "segments_fwd",
    "shares_bwd",
    "shares_fwd",
]


def _stack(rows: list[Tensor], like: Tensor) -> Tensor:
    return (torch.stack(rows) if rows else like.new_zeros(0, like.shape[1])).to(like.dtype)


def segments_fwd(
    rows: Tensor, w: Tensor | None, ptr: Tensor, order: Tensor | None, mean: bool
) -> Tensor:
    """Weighted sums of rows, or means (the formula: :func:`tritonpool.segments.group_sum`)."""
    x = rows.to(accumulate_in(rows, w))
    order = range(len(rows)) if order is None else order.tolist()
    found = []
    for slots in ranges(ptr):
        total = x.new_zeros(x.shape[1])
        for k in slots:
            total = total + (x[order[k]] if w is None else w[order[k]].to(x.dtype) * x[order[k]])
        found.append(total / max(len(slots), 1) if mean else total)
    return _stack(found, rows)


def neighbours_fwd(X: Tensor, w: Tensor, into: Sequence[Tensor]) -> Tensor:
    """Weighted sums over neighbours (the formula: :func:`tritonpool.segments.neighbour_sum`)."""
    ptr, source, order = into
    x = X.to(accumulate_in(X, w))
    source, order = source.tolist(), order.tolist()
    found = [
        sum((w[order[k]].to(x.dtype) * x[source[k]] for k in slots), x.new_zeros(x.shape[1]))
        for slots in ranges(ptr)
    ]
    return _stack(found, X)


def messages_fwd(H: Tensor, w: Tensor | None, rev: Tensor, plan: Plan) -> Tensor:
    """The messages of a D-MPNN (the formula: :func:`tritonpool.segments.edge_messages`)."""
    h = H.to(accumulate_in(H, w))
    one = h.new_ones(len(h)) if w is None else w.to(h.dtype)
    src, dst, back = plan.src.tolist(), plan.dst.tolist(), rev.tolist()
    into: dict[int, list[int]] = {}
    for k, v in enumerate(dst):
        into.setdefault(v, []).append(k)
    found = []
    for e, u in enumerate(src):
        message = sum((one[k] * h[k] for k in into.get(u, [])), h.new_zeros(h.shape[1]))
        found.append(message if back[e] < 0 else message - one[back[e]] * h[back[e]])
    return _stack(found, H)


def shares_fwd(w: Tensor, ptr: Tensor, order: Tensor, of: Tensor, least: float) -> Tensor:
    """Weights over sums of weights (the formula: :func:`tritonpool.segments.edge_shares`)."""
    own = w.to(accumulate_in(w))
    order = order.tolist()
    total = [sum((own[order[k]] for k in slots), own.new_zeros(())) for slots in ranges(ptr)]
    # no clamp, whose gradient where both are equal depends on the version of torch
    divisor = [least if one < least else one for one in total]
    shares = [own[k] / divisor[i] for k, i in enumerate(of.tolist())]
    return (torch.stack(shares) if shares else own).to(w.dtype)


def segments_bwd(grad, rows, w, ptr, order, of, mean, needs):
    """Gradients of :func:`segments_fwd` w.r.t. ``rows`` and ``w``."""
    rows = grad.new_zeros(len(of), grad.shape[1]) if rows is None else rows
    return gradients(lambda *t: segments_fwd(*t, ptr, order, mean), (rows, w), needs, (grad,))


def neighbours_bwd(grad, X, w, into, out, needs):
    """Gradients of :func:`neighbours_fwd` w.r.t. ``X`` and ``w``."""
    return gradients(lambda *t: neighbours_fwd(*t, into), (X, w), needs, (grad,))


def messages_bwd(grad, H, w, rev, plan, needs):
    """Gradients of :func:`messages_fwd` w.r.t. ``H`` and ``w``."""
    H = torch.zeros_like(grad) if H is None else H
    return gradients(lambda *t: messages_fwd(*t, rev, plan), (H, w), needs, (grad,))


def shares_bwd(grad, w, ptr, order, of, least):
    """The gradient of :func:`shares_fwd` w.r.t. ``w``."""
    return gradients(lambda t: shares_fwd(t, ptr, order, of, least), (w,), (True,), (grad,))[0]
