"""The definition: what tritonpool computes, as plain loops over graphs, edges and clusters.

Slow on purpose. Every other backend is tested against these functions, whose gradients come from
automatic differentiation of the loops. All backends offer the same functions.
"""

from __future__ import annotations

from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor

import torch
from torch import Tensor

from tritonpool.coarse_plan import CoarsePlan
from tritonpool.dtypes import accumulate_in, weight_dtype
from tritonpool.plan import Plan

__all__ = [
    "coarsen_bwd",
    "coarsen_fwd",
    "lift_bwd",
    "lift_fwd",
    "losses_bwd",
    "losses_fwd",
    "messages_bwd",
    "messages_fwd",
    "neighbours_bwd",
    "neighbours_fwd",
    "segments_bwd",
    "segments_fwd",
    "shares_bwd",
    "shares_fwd",
]


def _ranges(ptr: Tensor) -> list[range]:
    """The rows of each graph, from its pointer of shape ``G + 1``."""
    bounds = ptr.tolist()
    return [range(a, b) for a, b in zip(bounds[:-1], bounds[1:], strict=True)]


def coarsen_fwd(
    S: Tensor,
    X: Tensor,
    F: Tensor | None,
    w: Tensor | None,
    plan: Plan,
    coarse: CoarsePlan,
    eps: float,
) -> tuple[Tensor, Tensor, Tensor | None]:
    """Pool nodes, edge weights and edge features (the formulas: :func:`tritonpool.coarsen`)."""
    acc = accumulate_in(S, X, F, w)
    s, x = S.to(acc), X.to(acc)
    f = None if F is None else F.to(acc)
    src, dst = plan.src.tolist(), plan.dst.tolist()
    nodes, edges = _ranges(plan.node_ptr), _ranges(plan.edge_ptr)
    clusters = coarse.clusters.tolist()

    Xc = [
        sum((s[i, p] * x[i] for i in nodes[g]), x.new_zeros(x.shape[1]))
        for g in range(plan.num_graphs)
        for p in range(clusters[g])
    ]
    W, Fc = [], []
    for g in range(plan.num_graphs):
        for p in range(clusters[g]):
            for q in range(clusters[g]):
                if p == q and coarse.drop_self_loops:
                    continue
                total = s.new_zeros(())
                N = None if f is None else f.new_zeros(f.shape[1])
                for e in edges[g]:
                    share = s[src[e], p] * s[dst[e], q]
                    if w is not None:
                        share = share * w[e].to(acc)
                    total = total + share
                    if f is not None:
                        N = N + share * f[e]
                W.append(total)
                if f is not None:
                    Fc.append(N / total if total > eps else (N / eps).detach())
    Xc = torch.stack(Xc) if Xc else x.new_zeros(0, x.shape[1])
    W = torch.stack(W) if W else s.new_zeros(0)
    if f is not None:
        Fc = torch.stack(Fc) if Fc else f.new_zeros(0, f.shape[1])
        Fc = Fc.to(F.dtype)
    return Xc.to(X.dtype), W.to(weight_dtype(S, w)), None if f is None else Fc


def lift_fwd(S: Tensor, Xc: Tensor, plan: Plan, coarse: CoarsePlan) -> Tensor:
    """Bring cluster features back to the nodes (the formula: :func:`tritonpool.lift`)."""
    acc = accumulate_in(S, Xc)
    s, xc = S.to(acc), Xc.to(acc)
    first = coarse.plan.node_ptr.tolist()
    clusters = coarse.clusters.tolist()
    rows = [
        sum((s[i, p] * xc[first[g] + p] for p in range(clusters[g])), xc.new_zeros(xc.shape[1]))
        for g, members in enumerate(_ranges(plan.node_ptr))
        for i in members
    ]
    return (torch.stack(rows) if rows else xc.new_zeros(0, xc.shape[1])).to(Xc.dtype)


def losses_fwd(
    S: Tensor, w: Tensor | None, plan: Plan, coarse: CoarsePlan
) -> tuple[Tensor, Tensor]:
    r"""Squared residual :math:`\|A_g - S_g S_g^\top\|_F^2` and entropy sum of every graph."""
    acc = accumulate_in(S, w)
    s = S.to(acc)
    src, dst = plan.src.tolist(), plan.dst.tolist()
    residual, entropy = [], []
    for members, own in zip(_ranges(plan.node_ptr), _ranges(plan.edge_ptr), strict=True):
        adjacency: dict[tuple[int, int], Tensor] = {}
        for e in own:
            one = s.new_ones(()) if w is None else w[e].to(acc)
            key = (src[e], dst[e])
            adjacency[key] = adjacency[key] + one if key in adjacency else one
        square = s.new_zeros(())
        for i in members:
            for j in members:
                shared = sum((a * b for a, b in zip(s[i], s[j], strict=True)), s.new_zeros(()))
                square = square + (adjacency.get((i, j), s.new_zeros(())) - shared) ** 2
        residual.append(square)
        total = s.new_zeros(())
        for i in members:
            for share in s[i]:
                if share > 0:
                    total = total - share * torch.log(share)
        entropy.append(total)
    empty = s.new_zeros(0)
    stack = lambda values: (torch.stack(values) if values else empty).to(weight_dtype(S, w))  # noqa: E731
    return stack(residual), stack(entropy)


def _stack(rows: list[Tensor], like: Tensor) -> Tensor:
    return (torch.stack(rows) if rows else like.new_zeros(0, like.shape[1])).to(like.dtype)


def segments_fwd(
    rows: Tensor, w: Tensor | None, ptr: Tensor, order: Tensor | None, mean: bool
) -> Tensor:
    """Weighted sums of rows, or means (the formula: :func:`tritonpool.segments.group_sum`)."""
    x = rows.to(accumulate_in(rows, w))
    order = range(len(rows)) if order is None else order.tolist()
    found = []
    for slots in _ranges(ptr):
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
        for slots in _ranges(ptr)
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
    total = [sum((own[order[k]] for k in slots), own.new_zeros(())) for slots in _ranges(ptr)]
    shares = [own[k] / total[i].clamp(min=least) for k, i in enumerate(of.tolist())]
    return (torch.stack(shares) if shares else own).to(w.dtype)


def _gradients(function, inputs, needs, given):
    """Differentiate ``function(*inputs)`` by running it again with autograd; in a thread of its
    own, because in that of a custom op (:mod:`tritonpool.library`) autograd records nothing."""
    with ThreadPoolExecutor(1) as thread:
        return thread.submit(_differentiate, function, inputs, needs, given).result()


def _differentiate(function, inputs, needs, given):
    with torch.enable_grad():
        leaves = [
            None if t is None else t.detach().requires_grad_(need)
            for t, need in zip(inputs, needs, strict=True)
        ]
        outputs = function(*leaves)
        outputs = outputs if isinstance(outputs, tuple) else (outputs,)
        pairs = [
            (out, grad)
            for out, grad in zip(outputs, given, strict=True)
            if out is not None and grad is not None and out.requires_grad
        ]
        wanted = [t for t in leaves if t is not None and t.requires_grad]
        if pairs:
            found = iter(
                torch.autograd.grad(
                    [out for out, _ in pairs],
                    wanted,
                    [grad for _, grad in pairs],
                    allow_unused=True,
                )
            )
        else:
            found = iter([None] * len(wanted))
    gradients = []
    for leaf in leaves:
        if leaf is None or not leaf.requires_grad:
            gradients.append(None)
        else:
            grad = next(found)
            gradients.append(torch.zeros_like(leaf) if grad is None else grad)
    return tuple(gradients)


def coarsen_bwd(dXc, dW, dFc, S, X, F, w, W, Fc, plan, coarse, eps, needs):
    """Gradients of :func:`coarsen_fwd` w.r.t. ``S``, ``X``, ``F`` and ``w``."""
    return _gradients(
        lambda *t: coarsen_fwd(*t, plan, coarse, eps), (S, X, F, w), needs, (dXc, dW, dFc)
    )


def lift_bwd(dY, S, Xc, plan, coarse, needs):
    """Gradients of :func:`lift_fwd` w.r.t. ``S`` and ``Xc``."""
    return _gradients(lambda *t: lift_fwd(*t, plan, coarse), (S, Xc), needs, (dY,))


def losses_bwd(dr2, dent, S, w, plan, coarse, needs):
    """Gradients of :func:`losses_fwd` w.r.t. ``S`` and ``w``."""
    return _gradients(lambda *t: losses_fwd(*t, plan, coarse), (S, w), needs, (dr2, dent))


def segments_bwd(grad, rows, w, ptr, order, of, mean, needs):
    """Gradients of :func:`segments_fwd` w.r.t. ``rows`` and ``w``."""
    rows = grad.new_zeros(len(of), grad.shape[1]) if rows is None else rows
    return _gradients(lambda *t: segments_fwd(*t, ptr, order, mean), (rows, w), needs, (grad,))


def neighbours_bwd(grad, X, w, into, out, needs):
    """Gradients of :func:`neighbours_fwd` w.r.t. ``X`` and ``w``."""
    return _gradients(lambda *t: neighbours_fwd(*t, into), (X, w), needs, (grad,))


def messages_bwd(grad, H, w, rev, plan, needs):
    """Gradients of :func:`messages_fwd` w.r.t. ``H`` and ``w``."""
    H = torch.zeros_like(grad) if H is None else H
    return _gradients(lambda *t: messages_fwd(*t, rev, plan), (H, w), needs, (grad,))


def shares_bwd(grad, w, ptr, order, of, least):
    """The gradient of :func:`shares_fwd` w.r.t. ``w``."""
    return _gradients(lambda t: shares_fwd(t, ptr, order, of, least), (w,), (True,), (grad,))[0]
