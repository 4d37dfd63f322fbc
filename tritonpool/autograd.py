"""The op as ``torch.autograd.Function``: save, call the chosen backend, return; nothing else."""

from __future__ import annotations

from functools import wraps

import torch
from torch import Tensor
from torch.autograd import Function
from torch.autograd.function import once_differentiable

from tritonpool.backend import load_backend

__all__ = ["Coarsen", "Lift", "Losses"]


def _full_precision(function):
    """Keep autocast out of the backends, which choose their own precision."""

    @wraps(function)
    def run(ctx, *args):
        found = next((a for a in args if isinstance(a, Tensor)), None)
        if found is None:  # backward without any gradient
            return function(ctx, *args)
        with torch.autocast(found.device.type, enabled=False):
            return function(ctx, *args)

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
    @once_differentiable
    @_full_precision
    def backward(ctx, dXc, dW, dFc):
        needs = ctx.needs_input_grad[:4]
        if dXc is None and dW is None and dFc is None:
            return (None,) * 8
        grads = load_backend(ctx.backend).coarsen_bwd(
            dXc, dW, dFc, *ctx.saved_tensors, *ctx.rest, needs
        )
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
    @once_differentiable
    @_full_precision
    def backward(ctx, dY):
        needs = ctx.needs_input_grad[:2]
        grads = load_backend(ctx.backend).lift_bwd(
            dY.contiguous(), *ctx.saved_tensors, *ctx.rest, needs
        )
        return *grads, None, None, None


class Losses(Function):
    """``(S, w) -> (squared residual, entropy sum)``, each of shape ``G``. What a backend returns
    beyond these two is kept for its backward."""

    @staticmethod
    @_full_precision
    def forward(ctx, S, w, plan, coarse, backend):
        r2, entropy, *kept = load_backend(backend).losses_fwd(S, w, plan, coarse)
        ctx.save_for_backward(S, w, *kept)
        ctx.rest = plan, coarse
        ctx.backend = backend
        return r2, entropy

    @staticmethod
    @once_differentiable
    @_full_precision
    def backward(ctx, dr2, dent):
        needs = ctx.needs_input_grad[:2]
        S, w, *kept = ctx.saved_tensors
        grads = load_backend(ctx.backend).losses_bwd(
            dr2.contiguous(), dent.contiguous(), S, w, *ctx.rest, needs, *kept
        )
        return *grads, None, None, None
