"""The op as ``torch.library`` custom ops, for ``torch.compile``.

A compiled graph holds each of them as one node, so that it need not break around them. Outside of
compiled code :mod:`tritonpool.autograd` calls the backends directly, which spares the dispatcher.
Plans are passed by their keys (:mod:`tritonpool.handles`). The backend is chosen when the op runs,
not when it is compiled, and its number is handed to the backward.
"""

from __future__ import annotations

import torch
from torch import Tensor

from tritonpool.backend import BACKENDS, choose_backend, load_backend
from tritonpool.checks import (
    check_assignment_once,
    check_cluster_rows,
    check_counts,
    check_sizes,
    check_weights,
)
from tritonpool.coarse_plan import CoarsePlan
from tritonpool.dtypes import weight_dtype
from tritonpool.handles import find, host_op, ticket
from tritonpool.plan import Plan

__all__ = ["coarsen", "lift", "losses"]


def coarsen(
    S: Tensor,
    X: Tensor,
    F: Tensor | None,
    w: Tensor | None,
    plan: Plan,
    coarse: CoarsePlan,
    eps: float,
    backend: str | None,
) -> tuple[Tensor, Tensor, Tensor | None]:
    """What :class:`tritonpool.autograd.Coarsen` computes."""
    P, pairs = coarse.plan.num_nodes, coarse.plan.num_edges
    Xc, W, *rest, _ = _coarsen(S, X, F, w, plan.key, coarse.key, P, pairs, eps, backend)
    return Xc, W, rest[0] if rest else None


def lift(S: Tensor, Xc: Tensor, plan: Plan, coarse: CoarsePlan, backend: str | None) -> Tensor:
    """What :class:`tritonpool.autograd.Lift` computes."""
    return _lift(S, Xc, plan.key, coarse.key, backend)[0]


def losses(
    S: Tensor, w: Tensor | None, plan: Plan, coarse: CoarsePlan, backend: str | None
) -> tuple[Tensor, Tensor]:
    """What :class:`tritonpool.autograd.Losses` computes."""
    r2, entropy, _ = _losses(S, w, plan.key, coarse.key, plan.num_graphs, backend)
    return r2, entropy


def _begin(
    S: Tensor,
    w: Tensor | None,
    plan: Tensor,
    coarse: Tensor,
    backend: str | None,
    X: Tensor | None = None,
    F: Tensor | None = None,
) -> tuple[Plan, CoarsePlan, str, Tensor]:
    """Find the plans, check sizes and values, choose the backend; and the call's ticket for
    backward."""
    plans = find(plan), find(coarse)
    check_sizes(plans[0], S, X, F, w)
    check_counts(plans[1].clusters, S.shape[1])
    if S.device.type == "cpu":
        check_assignment_once(S, *plans)
        check_weights(w)
    name = choose_backend(S.device, backend)
    number = torch.tensor([BACKENDS.index(name)], device="cpu")
    return *plans, name, ticket(torch.cat([plan, coarse, number]), *plans)


def _again(call: Tensor) -> tuple[Plan, CoarsePlan, str]:
    """The plans and the backend of a forward call."""
    plan, coarse, number = call.split(1)
    return find(plan), find(coarse), BACKENDS[int(number)]


def _given(*tensors: Tensor | None) -> list[Tensor]:
    """Those that there are, laid out as the fake results say."""
    return [t.contiguous() for t in tensors if t is not None]


def _like(needs: list[bool], *inputs: Tensor | None) -> list[Tensor]:
    """Fake gradients."""
    return [t.new_empty(t.shape) for t, need in zip(inputs, needs, strict=True) if need]


@host_op("tritonpool::coarsen")
def _coarsen(
    S: Tensor,
    X: Tensor,
    F: Tensor | None,
    w: Tensor | None,
    plan: Tensor,
    coarse: Tensor,
    num_clusters: int,
    num_pairs: int,
    eps: float,
    backend: str | None,
) -> list[Tensor]:
    *plans, name, call = _begin(S, w, plan, coarse, backend, X, F)
    with torch.autocast(S.device.type, enabled=False):
        return [*_given(*load_backend(name).coarsen_fwd(S, X, F, w, *plans, eps)), call]


@_coarsen.register_fake
def _(S, X, F, w, plan, coarse, num_clusters, num_pairs, eps, backend):
    Xc = X.new_empty(num_clusters, X.shape[1])
    W = S.new_empty(num_pairs, dtype=weight_dtype(S, w))
    Fc = [] if F is None else [F.new_empty(num_pairs, F.shape[1])]
    return [Xc, W, *Fc, plan.new_empty(3)]


@host_op("tritonpool::coarsen_backward")
def _coarsen_backward(
    dXc: Tensor,
    dW: Tensor,
    dFc: Tensor | None,
    S: Tensor,
    X: Tensor,
    F: Tensor | None,
    w: Tensor | None,
    W: Tensor,
    Fc: Tensor | None,
    call: Tensor,
    eps: float,
    needs: list[bool],
) -> list[Tensor]:
    *plans, name = _again(call)
    with torch.autocast(S.device.type, enabled=False):
        grads = load_backend(name).coarsen_bwd(
            dXc, dW, dFc, S, X, F, w, W, Fc, *plans, eps, tuple(needs)
        )
    return _given(*grads)


@_coarsen_backward.register_fake
def _(dXc, dW, dFc, S, X, F, w, W, Fc, call, eps, needs):
    return _like(needs, S, X, F, w)


def _spread(found: list[Tensor], needs: list[bool]) -> list[Tensor | None]:
    """The gradients that were asked for, at their places."""
    rest = iter(found)
    return [next(rest) if need else None for need in needs]


def _keep_coarsen(ctx, inputs, output):
    S, X, F, w, *_, eps, _ = inputs
    _, W, *rest, call = output
    ctx.save_for_backward(S, X, F, w, W, rest[0] if rest else None, call)
    ctx.eps = eps


def _back_coarsen(ctx, grads):
    S, X, F, w, W, Fc, call = ctx.saved_tensors
    needs = list(ctx.needs_input_grad[:4])
    dXc, dW, *rest, _ = grads
    dFc = rest[0] if rest else None
    found = _coarsen_backward(dXc, dW, dFc, S, X, F, w, W, Fc, call, ctx.eps, needs)
    return *_spread(found, needs), *[None] * 6


_coarsen.register_autograd(_back_coarsen, setup_context=_keep_coarsen)


@host_op("tritonpool::lift")
def _lift(S: Tensor, Xc: Tensor, plan: Tensor, coarse: Tensor, backend: str | None) -> list[Tensor]:
    *plans, name, call = _begin(S, None, plan, coarse, backend)
    check_cluster_rows(Xc, plans[1].plan.num_nodes, S.device)
    with torch.autocast(S.device.type, enabled=False):
        return [*_given(load_backend(name).lift_fwd(S, Xc, *plans)), call]


@_lift.register_fake
def _(S, Xc, plan, coarse, backend):
    return [Xc.new_empty(S.shape[0], Xc.shape[1]), plan.new_empty(3)]


@host_op("tritonpool::lift_backward")
def _lift_backward(
    dY: Tensor, S: Tensor, Xc: Tensor, call: Tensor, needs: list[bool]
) -> list[Tensor]:
    *plans, name = _again(call)
    with torch.autocast(S.device.type, enabled=False):
        return _given(*load_backend(name).lift_bwd(dY.contiguous(), S, Xc, *plans, tuple(needs)))


@_lift_backward.register_fake
def _(dY, S, Xc, call, needs):
    return _like(needs, S, Xc)


def _keep_lift(ctx, inputs, output):
    ctx.save_for_backward(*inputs[:2], output[-1])


def _back_lift(ctx, grads):
    needs = list(ctx.needs_input_grad[:2])
    return *_spread(_lift_backward(grads[0], *ctx.saved_tensors, needs), needs), None, None, None


_lift.register_autograd(_back_lift, setup_context=_keep_lift)


@host_op("tritonpool::losses")
def _losses(
    S: Tensor,
    w: Tensor | None,
    plan: Tensor,
    coarse: Tensor,
    num_graphs: int,
    backend: str | None,
) -> list[Tensor]:
    *plans, name, call = _begin(S, w, plan, coarse, backend)
    with torch.autocast(S.device.type, enabled=False):
        return [*_given(*load_backend(name).losses_fwd(S, w, *plans)[:2]), call]


@_losses.register_fake
def _(S, w, plan, coarse, num_graphs, backend):
    of_graph = S.new_empty(num_graphs, dtype=weight_dtype(S, w))
    return [of_graph, torch.empty_like(of_graph), plan.new_empty(3)]


@host_op("tritonpool::losses_backward")
def _losses_backward(
    dr2: Tensor, dent: Tensor, S: Tensor, w: Tensor | None, call: Tensor, needs: list[bool]
) -> list[Tensor]:
    *plans, name = _again(call)
    implementation = load_backend(name)
    with torch.autocast(S.device.type, enabled=False):
        # what a backend keeps for its backward differs in number and shape: made again here
        kept = implementation.losses_fwd(S, w, *plans)[2:]
        grads = implementation.losses_bwd(
            dr2.contiguous(), dent.contiguous(), S, w, *plans, tuple(needs), *kept
        )
    return _given(*grads)


@_losses_backward.register_fake
def _(dr2, dent, S, w, call, needs):
    return _like(needs, S, w)


def _keep_losses(ctx, inputs, output):
    ctx.save_for_backward(*inputs[:2], output[-1])


def _back_losses(ctx, grads):
    needs = list(ctx.needs_input_grad[:2])
    found = _losses_backward(*grads[:2], *ctx.saved_tensors, needs)
    return *_spread(found, needs), *[None] * 4


_losses.register_autograd(_back_losses, setup_context=_keep_losses)
