"""The op and the sums of message passing as ``torch.autograd.Function``: save, call the chosen
backend, return; nothing else."""

from __future__ import annotations

from functools import wraps

import torch
from torch import Tensor
from torch.autograd import Function

from tritonpool.backend import load_backend

__all__ = [
    "Coarsen",
    "EdgeMessages",
    "Lift",
    "Losses",
    "NeighbourSum",
    "SegmentSum",
    "Shares",
    "Softmax",
    "SourceRows",
    "first_order",
]


def _full_precision(function):
    """Keep autocast out of the backends, which choose their own precision."""

    @wraps(function)
    def run(ctx, *args):
        found = next((a for a in args if isinstance(a, Tensor)), None)
        # entering a context takes time, and a backward may be without any gradient
        if found is None or not torch.is_autocast_enabled(found.device.type):
            return function(ctx, *args)
        with torch.autocast(found.device.type, enabled=False):
            return function(ctx, *args)

    return run


class _Once(Function):
    """``(count, *tensors) -> tensors[:count]``, gradients that cannot be differentiated again."""

    @staticmethod
    def forward(ctx, count, *tensors):
        return tensors[:count]

    @staticmethod
    def backward(ctx, *grads):
        raise RuntimeError("tritonpool has first derivatives only: no double backward through it")


def first_order(backward):
    """Make a ``backward`` whose gradients raise an error where a second derivative needs them, of a
    function that is given the saved tensors too: checkpointing hands them out only once.

    PyTorch's ``once_differentiable`` looks at the incoming gradients only, and would leave out
    quietly what the gradients owe to the inputs.
    """

    @wraps(backward)
    def run(ctx, *grads):
        saved = ctx.saved_tensors
        with torch.no_grad():
            found = backward(ctx, saved, *grads)
        if not torch.is_grad_enabled():  # it is with create_graph=True
            return found
        return _Once.apply(len(found), *found, *grads, *saved)

    return run


class Coarsen(Function):
    """``(S, X, F, w) -> (X', W, F')``; ``F`` and ``w`` in the plan's order. Keeps inputs and
    outputs for backward and nothing else."""

    @staticmethod
    @_full_precision
    def forward(ctx, S, X, F, w, plan, coarse, eps, backend):
        Xc, W, Fc = load_backend(backend).coarsen_fwd(S, X, F, w, plan, coarse, eps)
        ctx.save_for_backward(S, X, F, w, W, Fc)
        ctx.set_materialize_grads(False)
        ctx.rest = plan, coarse, eps
        ctx.backend = backend
        return Xc, W, Fc

    @staticmethod
    @first_order
    @_full_precision
    def backward(ctx, saved, dXc, dW, dFc):
        needs = ctx.needs_input_grad[:4]
        if dXc is None and dW is None and dFc is None:
            return (None,) * 8
        grads = load_backend(ctx.backend).coarsen_bwd(dXc, dW, dFc, *saved, *ctx.rest, needs)
        return *grads, None, None, None, None


class Lift(Function):
    """``(S, X') -> S X'``, from clusters back to nodes."""

    @staticmethod
    @_full_precision
    def forward(ctx, S, Xc, plan, coarse, backend):
        ctx.save_for_backward(S, Xc)
        ctx.rest = plan, coarse
        ctx.backend = backend
        return load_backend(backend).lift_fwd(S, Xc, plan, coarse)

    @staticmethod
    @first_order
    @_full_precision
    def backward(ctx, saved, dY):
        needs = ctx.needs_input_grad[:2]
        grads = load_backend(ctx.backend).lift_bwd(dY.contiguous(), *saved, *ctx.rest, needs)
        return *grads, None, None, None


class Losses(Function):
    """``(S, w) -> (squared residual, entropy sum)``, each of shape ``G``; with ``means``, the link
    and the entropy loss, which are means over the graphs. What a backend returns beyond these two
    is kept for its backward."""

    @staticmethod
    @_full_precision
    def forward(ctx, S, w, plan, coarse, means, backend):
        found = load_backend(backend).losses_fwd(S, w, plan, coarse, means)
        ctx.save_for_backward(S, w, *found[2:])
        ctx.rest = plan, coarse
        ctx.backend = backend
        return found[:2]

    @staticmethod
    @first_order
    @_full_precision
    def backward(ctx, saved, *grads):
        needs = ctx.needs_input_grad[:2]
        S, w, *kept = saved
        given = [grad.contiguous() for grad in grads]
        found = load_backend(ctx.backend).losses_bwd(*given, S, w, *ctx.rest, needs, *kept)
        return *found, None, None, None, None


class SegmentSum(Function):
    """``(rows, w) -> sums``, or means; row ``k`` belongs to segment ``of[k]`` and to no other."""

    @staticmethod
    @_full_precision
    def forward(ctx, rows, w, ptr, order, of, mean, backend):
        ctx.save_for_backward(rows if ctx.needs_input_grad[1] else None, w, ptr, order, of)
        ctx.mean, ctx.backend = mean, backend
        return load_backend(backend).segments_fwd(rows, w, ptr, order, mean)

    @staticmethod
    @first_order
    @_full_precision
    def backward(ctx, saved, grad):
        needs = ctx.needs_input_grad[:2]
        grads = load_backend(ctx.backend).segments_bwd(grad, *saved, ctx.mean, needs)
        return *grads, None, None, None, None, None


class NeighbourSum(Function):
    """``(X, w) -> sum_{u -> v} w_uv x_u`` for every node ``v``; ``into`` and ``out`` hold the edges
    by target and by source: where each node's start, their other ends, their positions."""

    @staticmethod
    @_full_precision
    def forward(ctx, X, w, into, out, backend):
        ctx.save_for_backward(X, w, *into, *out)
        ctx.backend = backend
        return load_backend(backend).neighbours_fwd(X, w, into)

    @staticmethod
    @first_order
    @_full_precision
    def backward(ctx, saved, grad):
        X, w, *edges = saved
        needs = ctx.needs_input_grad[:2]
        grads = load_backend(ctx.backend).neighbours_bwd(grad, X, w, edges[:3], edges[3:], needs)
        return *grads, None, None, None


class EdgeMessages(Function):
    """``(H, w) -> sum_{k -> u} w_ku h_ku - w_vu h_vu`` for every edge ``u -> v``."""

    @staticmethod
    @_full_precision
    def forward(ctx, H, w, rev, plan, backend):
        ctx.save_for_backward(H if ctx.needs_input_grad[1] else None, w, rev)
        ctx.plan, ctx.backend = plan, backend
        return load_backend(backend).messages_fwd(H, w, rev, plan)

    @staticmethod
    @first_order
    @_full_precision
    def backward(ctx, saved, grad):
        needs = ctx.needs_input_grad[:2]
        grads = load_backend(ctx.backend).messages_bwd(grad, *saved, ctx.plan, needs)
        return *grads, None, None, None


class Shares(Function):
    """``w -> w`` over the sum of each segment, or over ``least`` if that is more."""

    @staticmethod
    @_full_precision
    def forward(ctx, w, ptr, order, of, least, backend):
        ctx.save_for_backward(w, ptr, order, of)
        ctx.least, ctx.backend = least, backend
        return load_backend(backend).shares_fwd(w, ptr, order, of, least)

    @staticmethod
    @first_order
    @_full_precision
    def backward(ctx, saved, grad):
        dw = load_backend(ctx.backend).shares_bwd(grad, *saved, ctx.least)
        return dw, None, None, None, None, None


class SourceRows(Function):
    """``X -> X[of]``; the backward adds up in the order of ``order``, where autograd's own uses
    atomics on a GPU."""

    @staticmethod
    @_full_precision
    def forward(ctx, X, ptr, order, of, backend):
        ctx.save_for_backward(ptr, order)
        ctx.backend = backend
        return X.index_select(0, of)

    @staticmethod
    @first_order
    @_full_precision
    def backward(ctx, saved, grad):
        dX = load_backend(ctx.backend).segments_fwd(grad, None, *saved, False)
        return dX, None, None, None, None


class Softmax(Function):
    """``scores -> S``, the softmax of every row over the clusters of its graph."""

    @staticmethod
    @_full_precision
    def forward(ctx, logits, plan, coarse, backend):
        S = load_backend(backend).softmax_fwd(logits, plan, coarse)
        ctx.save_for_backward(S)
        ctx.backend = backend
        return S

    @staticmethod
    @first_order
    @_full_precision
    def backward(ctx, saved, dS):
        return load_backend(ctx.backend).softmax_bwd(dS, *saved), None, None, None
