"""The definition: what tritonpool computes, as plain loops over graphs, edges and clusters.

Slow on purpose. Every other backend is tested against these functions, whose gradients come from
automatic differentiation of the loops. All backends offer the same functions.
"""

from __future__ import annotations

import torch
from torch import Tensor

from tritonpool.coarse_plan import CoarsePlan
from tritonpool.dtypes import accumulate_in, weight_dtype
from tritonpool.loops import gradients, ranges
from tritonpool.plan import Plan
from tritonpool.reference_segments import (
    messages_bwd,
    messages_fwd,
    neighbours_bwd,
    neighbours_fwd,
    segments_bwd,
    segments_fwd,
    shares_bwd,
    shares_fwd,
)

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
    "softmax_bwd",
    "softmax_fwd",
]


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
    nodes, edges = ranges(plan.node_ptr), ranges(plan.edge_ptr)
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
        for g, members in enumerate(ranges(plan.node_ptr))
        for i in members
    ]
    return (torch.stack(rows) if rows else xc.new_zeros(0, xc.shape[1])).to(Xc.dtype)


def losses_fwd(
    S: Tensor, w: Tensor | None, plan: Plan, coarse: CoarsePlan, means: bool = False
) -> tuple[Tensor, ...]:
    r"""Squared residual :math:`\|A_g - S_g S_g^\top\|_F^2` and entropy sum of every graph; or the
    means over the graphs of the norm of the residual and of the entropy for each node, and the
    squared residuals."""
    acc = accumulate_in(S, w)
    s = S.to(acc)
    src, dst = plan.src.tolist(), plan.dst.tolist()
    residual, entropy = [], []
    for members, own in zip(ranges(plan.node_ptr), ranges(plan.edge_ptr), strict=True):
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

    def stack(values: list[Tensor]) -> Tensor:
        return (torch.stack(values) if values else s.new_zeros(0)).to(weight_dtype(S, w))

    r2, entropy = stack(residual), stack(entropy)
    return (*_means(r2, entropy, plan), r2) if means else (r2, entropy)


def _means(r2: Tensor, entropy: Tensor, plan: Plan) -> tuple[Tensor, Tensor]:
    link, total, G = r2.new_zeros(()), r2.new_zeros(()), plan.num_graphs
    for g, members in enumerate(ranges(plan.node_ptr)):
        n = max(1, len(members))
        if r2[g] != 0:  # where the root has no gradient
            link = link + r2[g].sqrt() / (n * G)
        total = total + entropy[g] / (n * G)
    return link, total


def coarsen_bwd(dXc, dW, dFc, S, X, F, w, W, Fc, plan, coarse, eps, needs):
    """Gradients of :func:`coarsen_fwd` w.r.t. ``S``, ``X``, ``F`` and ``w``."""
    return gradients(
        lambda *t: coarsen_fwd(*t, plan, coarse, eps), (S, X, F, w), needs, (dXc, dW, dFc)
    )


def lift_bwd(dY, S, Xc, plan, coarse, needs):
    """Gradients of :func:`lift_fwd` w.r.t. ``S`` and ``Xc``."""
    return gradients(lambda *t: lift_fwd(*t, plan, coarse), (S, Xc), needs, (dY,))


def losses_bwd(dr2, dent, S, w, plan, coarse, needs, r2=None):
    """Gradients of :func:`losses_fwd` w.r.t. ``S`` and ``w``; with the squared residuals ``r2`` the
    given gradients are those of the means."""
    means = r2 is not None
    return gradients(lambda *t: losses_fwd(*t, plan, coarse, means)[:2], (S, w), needs, (dr2, dent))


def softmax_fwd(logits: Tensor, plan: Plan, coarse: CoarsePlan) -> Tensor:
    """The softmax of each node's scores over the clusters of its graph, 0 beyond them."""
    S = torch.zeros_like(logits)
    for members, c in zip(ranges(plan.node_ptr), coarse.clusters.tolist(), strict=True):
        for i in members:
            S[i, :c] = logits[i, :c].softmax(0)
    return S


def softmax_bwd(dS: Tensor, S: Tensor) -> Tensor:
    """The gradient of :func:`softmax_fwd` w.r.t. the scores."""
    rows = [s * (ds - torch.dot(s, ds)) for s, ds in zip(S, dS, strict=True)]
    return torch.stack(rows) if rows else torch.zeros_like(S)
