"""The op with sparse products: the default on CPUs and on GPUs that Triton does not serve.

With the bond features and the total weight as ``Z = w [F, 1]``, pooling is

    T[i] = sum over the edges i -> v of S_v (x) Z_e         V x K x (C + 1)
    [N, W] = S^T T,   X' = S^T X

with ``S`` as the block-diagonal sparse matrix it is: about half the work of summing over edges and
pairs at once, and nothing of a size ``V x V`` or ``E x K x C``. ``T`` is a product of two small
matrices for each node, the shares of its neighbours and the features of its edges. The backward is
our own: torch's backward of a sparse product builds a dense ``V x V`` matrix for the gradient of
its values. It makes ``T`` again instead of keeping it, where it needs it.
"""

from __future__ import annotations

from collections.abc import Iterator
from functools import cached_property

import torch
from torch import Tensor

from tritonpool.coarse_plan import CoarsePlan
from tritonpool.dtypes import accumulate_in, weight_dtype
from tritonpool.patterns import SlotPattern, assignment_pattern, pair_pattern, slot_pattern
from tritonpool.plan import Plan
from tritonpool.softmax import masked_softmax
from tritonpool.sparse_segments import (
    messages_bwd,
    messages_fwd,
    neighbours_bwd,
    neighbours_fwd,
    segments_bwd,
    segments_fwd,
    shares_bwd,
    shares_fwd,
)
from tritonpool.sums import gather_sum, sampled_products, segment_sum

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

# T is made a few columns of the bond features at a time: as many as give it 2 MB in float32, which
# stays in a CPU's cache, but no fewer than eight, because each pass costs a dozen calls. Products
# of many small matrices are up to three times as fast if their rows hold a multiple of eight.
CHUNK_ELEMENTS = 1 << 19
CHUNK_COLUMNS = 8


class _Assignment:
    """``S`` as a block-diagonal ``V x P`` matrix, of which only the blocks are stored."""

    def __init__(self, S: Tensor, plan: Plan, coarse: CoarsePlan, dtype: torch.dtype):
        self.columns = S.shape[1]
        self.K = coarse.max_clusters
        self.dense = S[:, : self.K].to(dtype).contiguous()
        self.pattern = assignment_pattern(plan, coarse)

    @cached_property
    def by_node(self) -> Tensor:
        return self.dense.view(-1).index_select(0, self.pattern.flat)

    @cached_property
    def by_cluster(self) -> Tensor:
        return self.dense.view(-1).index_select(0, self.pattern.t_flat)

    def pool(self, rows: Tensor) -> Tensor:
        """``S^T rows``: ``V x D`` to ``P x D``."""
        return gather_sum(self.pattern.t_ptr, self.pattern.t_node, rows, self.by_cluster)

    def lift(self, rows: Tensor) -> Tensor:
        """``S rows``: ``P x D`` to ``V x D``."""
        return gather_sum(self.pattern.ptr, self.pattern.cluster, rows, self.by_node)

    def products(self, rows: Tensor, columns: Tensor, plus: Tensor | None = None) -> Tensor:
        """``<rows[i], columns[p]>`` for every stored entry ``(i, p)``: from ``V x D`` and
        ``P x D``; added to ``plus``."""
        return sampled_products(self.pattern.ptr, self.pattern.cluster, rows, columns, plus)

    def gradient(self, entries: Tensor | None, dense: Tensor | None) -> Tensor:
        """``dS`` of the full width, from a value for each entry and a ``V x K`` part."""
        dense = torch.zeros_like(self.dense) if dense is None else dense
        if entries is not None:
            dense.view(-1).index_add_(0, self.pattern.flat, entries)
        return torch.nn.functional.pad(dense, (0, self.columns - self.K))


def _edge_features(F: Tensor | None, w: Tensor | None, plan: Plan, acc: torch.dtype) -> Tensor:
    """``Z = w [F, 1]``, because the total weight is pooled as one more feature, and a row of zeros
    for slots without an edge; columns of zeros fill up a multiple of eight."""
    F = torch.empty(plan.num_edges, 0, device=plan.device) if F is None else F
    C = F.shape[1]
    Z = torch.nn.functional.pad(F.to(acc), (0, _padded(C + 1) - C, 0, 1))
    Z[:-1, C] = 1
    if w is not None:
        Z[:-1] *= w.to(acc)[:, None]
    return Z


def _padded(columns: int) -> int:
    return -(-columns // CHUNK_COLUMNS) * CHUNK_COLUMNS


def _in_slots(rows: Tensor, index: Tensor) -> Tensor:
    """``rows[index]``: a matrix of ``D`` rows for each group of slots."""
    return rows.index_select(0, index.view(-1)).view(*index.shape, rows.shape[1])


def _neighbourhoods(ends: Tensor, edges: Tensor, at: SlotPattern) -> Tensor:
    """``T`` as ``V x (K C)``, from the shares of the targets and the features in all slots."""
    T = torch.bmm(ends.mT, edges).view(len(ends), ends.shape[2] * edges.shape[2])
    return T if at.group_ptr is None else segment_sum(at.group_ptr, T)


def _per_group(rows: Tensor, at: SlotPattern) -> Tensor:
    """A row for each group, from a row for each node."""
    return rows if at.node is None else rows.index_select(0, at.node)


def _mirrored(Z: Tensor, plan: Plan) -> bool:
    """Whether every edge is known to have the features and the weight of its reverse.

    Then ``N`` is symmetric, and what an edge tells its source of the gradient is what its reverse
    tells its target: ``T`` is not needed. A GPU is not asked, which would make the host wait.
    """
    if not plan.undirected or Z.device.type != "cpu":
        return False
    return torch.equal(Z.index_select(0, plan.out_edge), Z.index_select(0, plan.in_edge))


def _chunks(columns: int, elements: int) -> Iterator[slice]:
    fits = CHUNK_ELEMENTS // max(1, elements)
    step = max(CHUNK_COLUMNS, fits - fits % CHUNK_COLUMNS)
    for start in range(0, columns, step):
        yield slice(start, min(start + step, columns))


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
    A = _Assignment(S, plan, coarse, acc)
    Xc = A.pool(X.to(acc)).to(X.dtype)

    Z = _edge_features(F, w, plan, acc)
    at, cell, parts = slot_pattern(plan), pair_pattern(coarse).cell, []
    ends, edges = _in_slots(A.dense, at.end), _in_slots(Z, at.edge)
    for part in _chunks(Z.shape[1], A.dense.numel()):
        C = part.stop - part.start
        pooled = A.pool(_neighbourhoods(ends, edges[:, :, part], at))
        parts.append(pooled.view(len(pooled) * A.K, C).index_select(0, cell))
    N = parts[0] if len(parts) == 1 else torch.cat(parts, 1)
    C = 0 if F is None else F.shape[1]
    W = N[:, C]
    Fc = None if F is None else (N[:, :C] / W.clamp(min=eps)[:, None]).to(F.dtype)
    return Xc, W.to(weight_dtype(S, w), copy=True), Fc


def _pair_gradient(
    dW: Tensor | None, dFc: Tensor | None, W: Tensor, Fc: Tensor | None, eps: float, acc
) -> Tensor:
    """The gradient w.r.t. ``[N, W]`` of every pair, and a row of zeros; columns as in
    :func:`_edge_features`. None flows through ``W <= eps``."""
    C = 0 if Fc is None else Fc.shape[1]
    padded = torch.zeros(W.numel() + 1, _padded(C + 1), dtype=acc, device=W.device)
    D = padded[:-1]
    if dFc is not None and C:
        dFc, inverse = dFc.to(acc), W.to(acc).reciprocal().masked_fill_(W <= eps, 0)
        torch.mul(dFc, inverse[:, None], out=D[:, :C])
        torch.mul((dFc * Fc.to(acc)).sum(1), -inverse, out=D[:, C])
    if dW is not None:
        D[:, C] += dW.to(acc)
    return padded


def coarsen_bwd(dXc, dW, dFc, S, X, F, w, W, Fc, plan, coarse, eps, needs):
    """Gradients of :func:`coarsen_fwd` w.r.t. ``S``, ``X``, ``F`` and ``w``, where needed."""
    need_S, need_X, need_F, need_w = needs
    acc = accumulate_in(S, X, F, w)
    A = _Assignment(S, plan, coarse, acc)
    entries = dX = dS = dF = dw = None
    if dXc is None:
        dX = torch.zeros_like(X) if need_X else None
    else:
        dXc = dXc.to(acc).contiguous()
        if need_X:
            dX = A.lift(dXc).to(X.dtype)
        if need_S:
            entries = A.products(X.to(acc), dXc)

    if dW is None and dFc is None:
        dF = torch.zeros_like(F) if need_F else None
        dw = torch.zeros_like(w) if need_w else None
    elif need_S or need_F or need_w:
        need_Z = need_F or need_w
        grad, pair = _pair_gradient(dW, dFc, W, Fc, eps, acc), pair_pattern(coarse).pair
        at, parts, found, need_T = slot_pattern(plan), [], None, need_S
        if need_S:
            Z = _edge_features(F, w, plan, acc)
            edges = _in_slots(Z, at.edge)
            if not need_Z and _mirrored(Z, plan):
                grad[:-1] += grad.index_select(0, coarse.rev)
                need_T = False
        ends = _in_slots(A.dense, at.end) if need_T or need_Z else None
        for part in _chunks(grad.shape[1], A.dense.numel()):
            # the gradient of N, and through that product the gradients of its factors S and T
            C = part.stop - part.start
            dN = grad[:, part].index_select(0, pair).view(coarse.plan.num_nodes, A.K * C)
            if need_T:
                T = _neighbourhoods(ends, edges[:, :, part], at)
                entries = A.products(T, dN, entries)
                del T  # its memory serves again
            dT = _per_group(A.lift(dN).view(plan.num_nodes, A.K, C), at)
            if need_S:
                product = torch.bmm(edges[:, :, part], dT.mT)
                found = product if found is None else found.add_(product)
            if need_Z:
                parts.append(torch.bmm(ends, dT).flatten(0, 1).index_select(0, at.slot))
        if need_S:
            slot = at.slot.index_select(0, plan.in_edge)
            dS = gather_sum(plan.in_ptr, slot, found.flatten(0, 1))
        if need_Z:
            dZ = parts[0] if len(parts) == 1 else torch.cat(parts, 1)
        if need_w:
            dw = (dZ * _edge_features(F, None, plan, acc)[:-1]).sum(1).to(w.dtype)
        if need_F:
            dF = dZ[:, : F.shape[1]]
            dF = (dF if w is None else dF * w.to(acc)[:, None]).to(F.dtype)
    return A.gradient(entries, dS).to(S.dtype) if need_S else None, dX, dF, dw


def lift_fwd(S: Tensor, Xc: Tensor, plan: Plan, coarse: CoarsePlan) -> Tensor:
    """Bring cluster features back to the nodes (the formula: :func:`tritonpool.lift`)."""
    acc = accumulate_in(S, Xc)
    return _Assignment(S, plan, coarse, acc).lift(Xc.to(acc)).to(Xc.dtype)


def lift_bwd(dY, S, Xc, plan, coarse, needs):
    """Gradients of :func:`lift_fwd` w.r.t. ``S`` and ``Xc``, where needed."""
    need_S, need_X = needs
    acc = accumulate_in(S, Xc)
    A = _Assignment(S, plan, coarse, acc)
    dY = dY.to(acc)
    dS = A.gradient(A.products(dY, Xc.to(acc)), None).to(S.dtype) if need_S else None
    dX = A.pool(dY).to(Xc.dtype) if need_X else None
    return dS, dX


def _squared_weights(w: Tensor | None, plan: Plan) -> tuple[Tensor | None, Tensor]:
    """Of every edge the weight of its node pair, parallel edges added up (``None``: all are 1), and
    of every graph the sum of its squared node pairs."""
    if plan.parallel is None:
        if w is None:
            return None, plan.edge_ptr.diff().double()
        pair = w.double()
        return pair, segment_sum(plan.edge_ptr, pair.square()[:, None])[:, 0]
    a = torch.ones_like(plan.src, dtype=torch.float64) if w is None else w.double()
    pair = gather_sum(plan.parallel_ptr, plan.out_edge, a[:, None])[:, 0]
    pair = pair.index_select(0, plan.parallel)
    return pair, segment_sum(plan.edge_ptr, (a * pair)[:, None])[:, 0]


def _neighbours(rows: Tensor, w: Tensor | None, plan: Plan) -> Tensor:
    """``(A + A^T) rows``: ``V x K`` to ``V x K``."""
    if w is None and plan.undirected:
        return gather_sum(plan.out_ptr, plan.out_dst, rows).mul_(2)
    total = None
    for ptr, order, ends in (
        (plan.out_ptr, plan.out_edge, plan.out_dst),
        (plan.in_ptr, plan.in_edge, plan.in_src),
    ):
        a = None if w is None else w.to(rows.dtype).index_select(0, order)
        found = gather_sum(ptr, ends, rows, a)
        total = found if total is None else total.add_(found)
    return total


def losses_fwd(
    S: Tensor, w: Tensor | None, plan: Plan, coarse: CoarsePlan, means: bool = False
) -> tuple[Tensor, ...]:
    r"""Squared residual :math:`\|A_g - S_g S_g^\top\|_F^2` and entropy sum of every graph, and the
    gradients of both w.r.t. ``S``, ``V x K``, which are nearly free here; or, instead of the first
    two, the means over the graphs of the norm of the residual and of the entropy for each node, and
    at the end the squared residuals.

    The residual is expanded, which never builds a ``V x V`` matrix, and computed in float64,
    because the terms cancel near the optimum; what is left of rounding there is set to 0.
    """
    A = _Assignment(S, plan, coarse, torch.float64)
    dtype = weight_dtype(S, w)
    _, square = _squared_weights(w, plan)
    gram = A.lift(A.pool(A.dense))
    near = _neighbours(A.dense, w, plan)
    shares = A.dense.to(dtype)
    # the logarithm of 0 takes a CPU ten times as long as any other
    surprise = shares.clamp(min=torch.finfo(dtype).tiny).log_().neg_()
    entropy = (shares * surprise).sum(1, dtype=torch.float64)
    sums = torch.stack([((gram - near) * A.dense).sum(1), entropy], 1)
    rest, entropy = segment_sum(plan.node_ptr, sums).unbind(1)
    r2 = square + rest
    # where terms cancel, A and S S^T have nearly equal norms, so twice the former's square will do
    rounding = 16 * torch.finfo(torch.float64).eps
    r2 = torch.where(r2 < rounding * (2 * square), 0, r2)  # NaN and infinity stay
    r2_slope = gram.mul_(4).sub_(near, alpha=2).to(dtype)
    r2, entropy = r2.to(dtype), entropy.to(dtype)
    slopes = r2_slope, surprise.sub_(1).mul_(shares > 0)
    if not means:
        return r2, entropy, *slopes
    share = plan.node_shares(dtype)
    return torch.dot(r2.sqrt(), share), torch.dot(entropy, share), *slopes, r2


def losses_bwd(dr2, dent, S, w, plan, coarse, needs, r2_slope, entropy_slope, r2=None):
    """Gradients of :func:`losses_fwd` w.r.t. ``S`` and ``w``, where needed; with the squared
    residuals ``r2`` the given gradients are those of the means."""
    need_S, need_w = needs
    dS = dw = None
    if r2 is not None:
        share = plan.node_shares(r2.dtype)
        slope = (share / (2 * r2.sqrt())).masked_fill_(r2 == 0, 0)  # none flows through a 0
        dr2, dent = slope.mul_(dr2), share * dent
    if need_S:
        per_node = torch.stack([dr2, dent], 1).index_select(0, plan.batch)
        grad = r2_slope * per_node[:, :1]
        grad.addcmul_(entropy_slope, per_node[:, 1:])
        dS = torch.nn.functional.pad(grad.to(S.dtype), (0, S.shape[1] - grad.shape[1]))
    if need_w:
        rows, (pair, _) = S.double(), _squared_weights(w, plan)
        ends = rows.index_select(0, plan.src) * rows.index_select(0, plan.dst)
        dw = (2 * (pair - ends.sum(1)) * dr2.double()[plan.batch[plan.src]]).to(w.dtype)
    return dS, dw


def softmax_fwd(logits: Tensor, plan: Plan, coarse: CoarsePlan) -> Tensor:
    """The softmax of each node's scores over the clusters of its graph, 0 beyond them."""
    return masked_softmax(logits, coarse.counts.index_select(0, plan.batch))


def softmax_bwd(dS: Tensor, S: Tensor) -> Tensor:
    """The gradient of :func:`softmax_fwd` w.r.t. the scores."""
    s = S.to(accumulate_in(S))
    own = s * dS.to(s.dtype)
    return own.addcmul_(s, own.sum(1, keepdim=True), value=-1).to(S.dtype)
