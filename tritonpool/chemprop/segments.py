"""Sums over the edges of a node, as sparse products forward and gathers backward.

Both ways every sum runs over the rows of a matrix in the plan's order, without atomics, so that
repeated runs agree bitwise on a GPU too.
"""

from __future__ import annotations

import torch
from torch import Tensor
from torch.autograd import Function
from torch.autograd.function import once_differentiable

from tritonpool.dtypes import accumulate_in
from tritonpool.plan import Plan
from tritonpool.sums import gather_sum, sampled_products

__all__ = ["edge_messages", "graph_sum", "group_sum", "neighbour_sum", "node_sum"]


def _sum_into(ptr: Tensor, order: Tensor, weight: Tensor | None, rows: Tensor) -> Tensor:
    """``sum weight[k] rows[k]`` over ``k = order[ptr[i]], ..., order[ptr[i + 1] - 1]``."""
    weight = None if weight is None else weight.index_select(0, order)
    with torch.autocast(rows.device.type, enabled=False):
        return gather_sum(ptr, order, rows, weight)


class _SegmentSum(Function):
    """``(rows, weight) -> sums``; row ``k`` belongs to segment ``of[k]``."""

    @staticmethod
    def forward(ctx, rows, weight, ptr, order, of):
        acc = accumulate_in(rows, weight)
        ctx.save_for_backward(rows if ctx.needs_input_grad[1] else None, weight, of)
        ctx.dtype = rows.dtype
        weight = None if weight is None else weight.to(acc)
        return _sum_into(ptr, order, weight, rows.to(acc)).to(rows.dtype)

    @staticmethod
    @once_differentiable
    def backward(ctx, grad):
        rows, weight, of = ctx.saved_tensors
        gathered = grad.index_select(0, of)
        dweight = None
        if ctx.needs_input_grad[1]:
            dweight = (rows * gathered).sum(1, dtype=weight.dtype)
        if weight is not None:
            gathered = gathered * weight[:, None]
        return gathered.to(ctx.dtype), dweight, None, None, None


class _EdgeMessages(Function):
    """``(H, w) -> sum_{k -> u} w_ku h_ku - w_vu h_vu`` for every edge ``u -> v``. In a plan that
    is known to be undirected no reverse is missing, which spares the question."""

    @staticmethod
    def forward(ctx, H, w, rev, plan):
        acc = accumulate_in(H, w)
        ctx.save_for_backward(H if ctx.needs_input_grad[1] else None, w, rev)
        ctx.plan, ctx.dtype, ctx.acc = plan, H.dtype, acc
        rows, weight = H.to(acc), None if w is None else w.to(acc)
        M = _sum_into(plan.in_ptr, plan.in_edge, weight, rows).index_select(0, plan.src)
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

    @staticmethod
    @once_differentiable
    def backward(ctx, grad):
        H, w, rev = ctx.saved_tensors
        plan, acc = ctx.plan, ctx.acc
        grad = grad.to(acc)
        found = _sum_into(plan.out_ptr, plan.out_edge, None, grad).index_select(0, plan.dst)
        if plan.undirected:
            found.sub_(grad.index_select(0, rev))
        else:
            has_reverse = (rev >= 0).to(acc)[:, None]
            found.addcmul_(grad.index_select(0, rev.clamp(min=0)), has_reverse, value=-1)
        dw = (found * H).sum(1).to(w.dtype) if ctx.needs_input_grad[1] else None
        if w is not None:
            found.mul_(w.to(acc)[:, None])
        return found.to(ctx.dtype), dw, None, None


class _NeighbourSum(Function):
    """``(X, w) -> sum_{u -> v} w_uv x_u`` for every node ``v``; ``into`` and ``out`` hold the
    edges by target and by source: where each node's start, their other ends, their positions."""

    @staticmethod
    def forward(ctx, X, w, into, out):
        acc = accumulate_in(X, w)
        ctx.save_for_backward(X, w, *into, *out)
        ptr, source, order = into
        values = w.to(acc).index_select(0, order)
        with torch.autocast(X.device.type, enabled=False):
            return gather_sum(ptr, source, X.to(acc), values).to(X.dtype)

    @staticmethod
    @once_differentiable
    def backward(ctx, grad):
        X, w, in_ptr, source, in_order, out_ptr, target, out_order = ctx.saved_tensors
        acc = accumulate_in(X, w)
        grad = grad.to(acc)
        values = w.to(acc).index_select(0, out_order)
        with torch.autocast(X.device.type, enabled=False):
            dX = gather_sum(out_ptr, target, grad, values).to(X.dtype)
        dw = None
        if ctx.needs_input_grad[1]:
            found = sampled_products(in_ptr, source, grad, X.to(acc))
            dw = torch.empty_like(found).index_copy_(0, in_order, found).to(w.dtype)
        return dX, dw, None, None


def group_sum(
    rows: Tensor, weight: Tensor | None, ptr: Tensor, order: Tensor, of: Tensor
) -> Tensor:
    """Sum ``weight[k] rows[k]`` over ``k = order[ptr[i]], ..., order[ptr[i + 1] - 1]`` for every
    ``i``; row ``k`` belongs to the group ``of[k]`` and to no other."""
    return _SegmentSum.apply(rows, weight, ptr, order, of)


def node_sum(H: Tensor, w: Tensor | None, plan: Plan) -> Tensor:
    """Sum ``w_e H_e`` over the edges that end in each node: ``E x D`` and ``E`` to ``V x D``;
    without weights they are 1."""
    return group_sum(H, w, plan.in_ptr, plan.in_edge, plan.dst)


def graph_sum(X: Tensor, plan: Plan) -> Tensor:
    """Sum the rows of each graph's nodes: ``V x D`` to ``G x D``, 0 for a graph without nodes."""
    order = torch.arange(plan.num_nodes, device=X.device)
    return group_sum(X, None, plan.node_ptr, order, plan.batch)


def edge_messages(H: Tensor, w: Tensor | None, rev: Tensor, plan: Plan) -> Tensor:
    r"""The messages of a weighted D-MPNN,
    :math:`m_{uv} = \sum_{k \to u} w_{ku} h_{ku} - w_{vu} h_{vu}`.

    Parameters
    ----------
    H : Tensor
        the states of the edges, ``E x D``, in the plan's order
    w : Tensor | None
        the weights of the edges, ``E``; ``None`` means that they are 1
    rev : Tensor
        the position of each edge's reverse, or -1 if it has none, which may not be where the plan
        is undirected: an edge that is the reverse of another has that one as its reverse, and a
        self-loop is its own
    plan : Plan
        the plan of the batch

    Returns
    -------
    Tensor
        a tensor of shape ``E x D``
    """
    return _EdgeMessages.apply(H, w, rev, plan)


def neighbour_sum(X: Tensor, w: Tensor, plan: Plan) -> Tensor:
    """Sum ``w_uv X_u`` over the edges ``u -> v`` of each node: ``V x D`` to ``V x D``."""
    into = plan.in_ptr, plan.in_src, plan.in_edge
    return _NeighbourSum.apply(X, w, into, (plan.out_ptr, plan.out_dst, plan.out_edge))
