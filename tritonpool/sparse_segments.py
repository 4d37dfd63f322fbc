"""Sums over the edges of a node with sparse products, part of :mod:`tritonpool.sparse`.

Forward and backward every sum runs over the rows of a matrix in the plan's order, without atomics,
so that repeated runs agree bitwise on a GPU too.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from tritonpool.dtypes import accumulate_in
from tritonpool.plan import Plan
from tritonpool.sums import gather_sum, sampled_products

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


def _sum(ptr: Tensor, order: Tensor, w: Tensor | None, rows: Tensor) -> Tensor:
    """``sum w[k] rows[k]`` over ``k = order[ptr[i]], ..., order[ptr[i + 1] - 1]``."""
    return gather_sum(ptr, order, rows, None if w is None else w.index_select(0, order))


def _sizes(ptr: Tensor, dtype: torch.dtype) -> Tensor:
    """How many rows each segment has, in the precision of the sums; 1 for an empty one."""
    return ptr.diff().clamp_(min=1).to(dtype)[:, None]


def segments_fwd(
    rows: Tensor, w: Tensor | None, ptr: Tensor, order: Tensor | None, mean: bool
) -> Tensor:
    """Weighted sums of rows, or means (the formula: :func:`tritonpool.segments.group_sum`)."""
    acc = accumulate_in(rows, w)
    order = torch.arange(rows.shape[0], device=rows.device) if order is None else order
    total = _sum(ptr, order, None if w is None else w.to(acc), rows.to(acc))
    return (total.div_(_sizes(ptr, acc)) if mean else total).to(rows.dtype)


def segments_bwd(
    grad: Tensor,
    rows: Tensor | None,
    w: Tensor | None,
    ptr: Tensor,
    order: Tensor | None,
    of: Tensor,
    mean: bool,
    needs: tuple[bool, bool],
) -> tuple[Tensor | None, Tensor | None]:
    """Gradients of :func:`segments_fwd` w.r.t. ``rows``, which only that of ``w`` asks for, and
    ``w``, where needed."""
    acc = accumulate_in(grad, w)
    own = (grad.to(acc) / _sizes(ptr, acc) if mean else grad).index_select(0, of)
    dw = (rows.to(acc) * own).sum(1).to(w.dtype) if needs[1] else None
    if not needs[0]:
        return None, dw
    return (own if w is None else own * w.to(acc)[:, None]).to(grad.dtype), dw


def neighbours_fwd(X: Tensor, w: Tensor, into: Sequence[Tensor]) -> Tensor:
    """Weighted sums over neighbours (the formula: :func:`tritonpool.segments.neighbour_sum`)."""
    acc = accumulate_in(X, w)
    ptr, source, order = into
    values = w.to(acc).index_select(0, order)
    return gather_sum(ptr, source, X.to(acc), values).to(X.dtype)


def neighbours_bwd(
    grad: Tensor,
    X: Tensor,
    w: Tensor,
    into: Sequence[Tensor],
    out: Sequence[Tensor],
    needs: tuple[bool, bool],
) -> tuple[Tensor | None, Tensor | None]:
    """Gradients of :func:`neighbours_fwd` w.r.t. ``X`` and ``w``, where needed."""
    acc = accumulate_in(X, w)
    grad = grad.to(acc)
    dX = dw = None
    if needs[0]:
        ptr, target, order = out
        dX = gather_sum(ptr, target, grad, w.to(acc).index_select(0, order)).to(X.dtype)
    if needs[1]:
        ptr, source, order = into
        found = sampled_products(ptr, source, grad, X.to(acc))
        dw = torch.empty_like(found).index_copy_(0, order, found).to(w.dtype)
    return dX, dw


def messages_fwd(H: Tensor, w: Tensor | None, rev: Tensor, plan: Plan) -> Tensor:
    """The messages of a D-MPNN (the formula: :func:`tritonpool.segments.edge_messages`)."""
    acc = accumulate_in(H, w)
    rows, weight = H.to(acc), None if w is None else w.to(acc)
    M = _sum(plan.in_ptr, plan.in_edge, weight, rows).index_select(0, plan.src)
    if plan.undirected and weight is None:
        return M.sub_(rows.index_select(0, rev)).to(H.dtype)
    if plan.undirected:
        back, back_weight = rev, weight.index_select(0, rev)
    else:
        back = rev.clamp(min=0)
        back_weight = 1.0 if weight is None else weight.index_select(0, back)
        back_weight = torch.where(rev >= 0, back_weight, 0.0)
    M.addcmul_(rows.index_select(0, back), back_weight.to(acc)[:, None], value=-1)
    return M.to(H.dtype)


def messages_bwd(
    grad: Tensor,
    H: Tensor | None,
    w: Tensor | None,
    rev: Tensor,
    plan: Plan,
    needs: tuple[bool, bool],
) -> tuple[Tensor | None, Tensor | None]:
    """Gradients of :func:`messages_fwd` w.r.t. ``H``, which only that of ``w`` asks for, and
    ``w``, where needed."""
    acc, dtype = accumulate_in(grad, w), grad.dtype
    grad = grad.to(acc)
    found = _sum(plan.out_ptr, plan.out_edge, None, grad).index_select(0, plan.dst)
    if plan.undirected:
        found.sub_(grad.index_select(0, rev))
    else:
        has_reverse = (rev >= 0).to(acc)[:, None]
        found.addcmul_(grad.index_select(0, rev.clamp(min=0)), has_reverse, value=-1)
    dw = (found * H).sum(1).to(w.dtype) if needs[1] else None
    if not needs[0]:
        return None, dw
    return (found if w is None else found.mul_(w.to(acc)[:, None])).to(dtype), dw


def shares_fwd(w: Tensor, ptr: Tensor, order: Tensor, of: Tensor, least: float) -> Tensor:
    """Weights over sums of weights (the formula: :func:`tritonpool.segments.edge_shares`)."""
    own = w.to(accumulate_in(w))
    total = gather_sum(ptr, order, own[:, None])[:, 0]
    return (own / total.clamp_(min=least).index_select(0, of)).to(w.dtype)


def shares_bwd(
    grad: Tensor, w: Tensor, ptr: Tensor, order: Tensor, of: Tensor, least: float
) -> Tensor:
    """The gradient of :func:`shares_fwd` w.r.t. ``w``."""
    own, grad = w.to(accumulate_in(w)), grad.to(accumulate_in(w))
    total, product = gather_sum(ptr, order, torch.stack([own, grad * own], 1)).unbind(1)
    divisor = total.clamp(min=least)
    common = (product / divisor).masked_fill_(total < least, 0)
    found = (grad - common.index_select(0, of)).div_(divisor.index_select(0, of))
    return found.to(w.dtype)
