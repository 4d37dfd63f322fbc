"""The op with torch.sparse: the default on CPUs and on GPUs that Triton does not serve.

The batch's assignments form one block-diagonal CSR matrix ``S``, ``V x P`` for ``P`` clusters and
``V`` nodes, and its edges another one, ``M``, with a row for each node and feature and a column for
each node. With ``S'`` the assignments as a dense ``V x K`` tensor, pooling is two products,

    T = M S'             (V (C + 1)) x K: sum_e w_e [F_e, 1] S[v_e] over the edges out of a node
    [N, W] = S^T T,   X' = S^T X

about half the work of summing over edges and pairs at once. The backward is our own: torch's
backward of a CSR product builds a dense ``V x V`` matrix for the gradient of its values. Nothing
but inputs and outputs is kept for it; ``T`` is made again.
"""

from __future__ import annotations

from collections.abc import Iterator

import torch
from torch import Tensor

from tritonpool.csr import csr_matrix, gather_sum, segment_sum
from tritonpool.dtypes import accumulate_in, weight_dtype
from tritonpool.plan import CoarsePlan, Plan

__all__ = [
    "coarsen_bwd",
    "coarsen_fwd",
    "lift_bwd",
    "lift_fwd",
    "losses_bwd",
    "losses_fwd",
]

# The largest temporary, in elements (2 MB in float32: it stays in a CPU's cache). Wider bond
# features are pooled a few columns at a time.
CHUNK_ELEMENTS = 1 << 19


class _Assignment:
    """``S`` as block-diagonal CSR matrices, ``V x P`` and transposed."""

    def __init__(self, S: Tensor, plan: Plan, coarse: CoarsePlan, dtype: torch.dtype):
        self.full_shape = S.shape
        self.K = coarse.max_clusters
        self.dense = S[:, : self.K].to(dtype).contiguous()
        self.entries = coarse.entries(plan)
        self.num_nodes, self.num_clusters = plan.num_nodes, coarse.plan.num_nodes

    def matrix(self) -> Tensor:
        e = self.entries
        return csr_matrix(
            e.ptr, e.cluster, self.dense.view(-1).index_select(0, e.flat), self.num_clusters
        )

    def transposed(self) -> Tensor:
        e = self.entries
        return csr_matrix(
            e.t_ptr, e.t_node, self.dense.view(-1).index_select(0, e.t_flat), self.num_nodes
        )

    def products(self, rows: Tensor, columns: Tensor) -> Tensor:
        """``<rows[i], columns[p]>`` for every entry ``(i, p)``: ``V x D`` and ``P x D`` in."""
        e = self.entries
        pattern = csr_matrix(e.ptr, e.cluster, rows.new_zeros(e.flat.numel()), self.num_clusters)
        return torch.sparse.sampled_addmm(pattern, rows, columns.t(), beta=0.0).values()

    def gradient(self, values: Tensor | None, dense: Tensor | None, dtype: torch.dtype) -> Tensor:
        """``dS`` of the full width from values per entry and a ``V x K`` part."""
        out = dense if dense is not None else torch.zeros_like(self.dense)
        if values is not None:
            out.view(-1).index_add_(0, self.entries.flat, values)
        full = out.new_zeros(self.full_shape, dtype=dtype)
        full[:, : self.K] = out
        return full


def _edge_features(F: Tensor | None, E: int, acc: torch.dtype, device: torch.device) -> Tensor:
    """``[F, 1]``: the total weight is pooled as one more feature."""
    ones = torch.ones(E, 1, dtype=acc, device=device)
    return ones if F is None else torch.cat([F.to(acc), ones], 1)


def _chunks(columns: int, elements: int) -> Iterator[slice]:
    step = max(1, min(columns, CHUNK_ELEMENTS // max(1, elements)))
    for start in range(0, columns, step):
        yield slice(start, min(start + step, columns))


class _Edges:
    """The features of the edges, ``E x width``, as a sparse matrix ``(V width) x V``."""

    def __init__(self, z: Tensor, plan: Plan):
        self.z, self.width, self.plan = z, z.shape[1], plan
        self.entries = plan.edge_entries(self.width)

    def gather(self, rows: Tensor) -> Tensor:
        """``T[i, f] = sum z[e, f] rows[v]`` over the edges ``i -> v``: ``V x (width K)``."""
        e = self.entries
        values = self.z.reshape(-1).index_select(0, e.source)
        T = csr_matrix(e.ptr, e.node, values, self.plan.num_nodes) @ rows
        return T.view(self.plan.num_nodes, self.width * rows.shape[1])

    def rows_gradient(self, dT: Tensor) -> Tensor:
        """The gradient of :meth:`gather` w.r.t. ``rows``, from that of ``T``, ``(V width) x K``."""
        e = self.entries
        values = self.z.index_select(0, self.plan.in_edge).view(-1)
        return csr_matrix(e.t_ptr, e.t_row, values, len(dT)) @ dT

    def z_gradient(self, dT: Tensor, rows: Tensor) -> Tensor:
        """The gradient of :meth:`gather` w.r.t. ``z``."""
        column = torch.arange(self.width, device=dT.device)
        column = (self.plan.src[:, None] * self.width + column).view(-1)
        ptr = torch.arange(len(self.z) + 1, device=dT.device) * self.width
        pattern = csr_matrix(ptr, column, torch.zeros_like(self.z).view(-1), len(dT))
        ends = rows.index_select(0, self.plan.dst)
        found = torch.sparse.sampled_addmm(pattern, ends, dT.t(), beta=0.0)
        return found.values().view(self.z.shape)


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
    St = A.transposed()
    Xc = (St @ X.to(acc)).to(X.dtype)

    Z = _edge_features(F, plan.num_edges, acc, S.device)
    if w is not None:
        Z = Z * w.to(acc)[:, None]
    src, column = coarse.plan.src, coarse.column
    N = Z.new_empty(src.numel(), Z.shape[1])
    for part in _chunks(Z.shape[1], plan.num_nodes * A.K):
        T = _Edges(Z[:, part].contiguous(), plan).gather(A.dense)
        rows = (St @ T).view(A.num_clusters, part.stop - part.start, A.K)
        N[:, part] = rows[src, :, column]
    W = N[:, -1]
    Fc = None if F is None else (N[:, :-1] / W.clamp(min=eps)[:, None]).to(F.dtype)
    return Xc, W.to(weight_dtype(S, w), copy=True), Fc


def _pair_gradient(
    dW: Tensor | None, dFc: Tensor | None, W: Tensor, Fc: Tensor | None, eps: float, acc
) -> Tensor:
    """The gradient w.r.t. ``[N, W]`` of every pair, ``P x (C + 1)``; none through ``W <= eps``."""
    C = 0 if Fc is None else Fc.shape[1]
    D = torch.zeros(W.numel(), C + 1, dtype=acc, device=W.device)
    if dFc is not None and C:
        w = W.to(acc)
        scaled = dFc.to(acc) * torch.where(w > eps, 1 / w, 0)[:, None]
        D[:, :C] = scaled
        D[:, C] = -(scaled * Fc.to(acc)).sum(1)
    if dW is not None:
        D[:, C] += dW.to(acc)
    return D


def coarsen_bwd(dXc, dW, dFc, S, X, F, w, W, Fc, plan, coarse, eps, needs):
    """Gradients of :func:`coarsen_fwd` w.r.t. ``S``, ``X``, ``F`` and ``w``, where needed."""
    need_S, need_X, need_F, need_w = needs
    acc = accumulate_in(S, X, F, w)
    A = _Assignment(S, plan, coarse, acc)
    Sm = A.matrix()
    dX = dS_entries = dS = dF = dw = None
    if dXc is not None:
        dXc = dXc.to(acc).contiguous()
        if need_X:
            dX = (Sm @ dXc).to(X.dtype)
        if need_S:
            dS_entries = A.products(X.to(acc), dXc)
    elif need_X:
        dX = torch.zeros_like(X)

    if (dW is not None or dFc is not None) and (need_S or need_F or need_w):
        Z1 = _edge_features(F, plan.num_edges, acc, S.device)
        Z = Z1 if w is None else Z1 * w.to(acc)[:, None]
        grad = _pair_gradient(dW, dFc, W, Fc, eps, acc)
        dZ = torch.empty_like(Z)
        dS = torch.zeros_like(A.dense)
        for part in _chunks(Z.shape[1], plan.num_nodes * A.K):
            edges = _Edges(Z[:, part].contiguous(), plan)
            D = Z.new_zeros(A.num_clusters, edges.width, A.K)
            D[coarse.plan.src, :, coarse.column] = grad[:, part]
            D = D.view(A.num_clusters, edges.width * A.K)
            dT = (Sm @ D).view(plan.num_nodes * edges.width, A.K)
            if need_S:
                found = A.products(edges.gather(A.dense), D)
                dS_entries = found if dS_entries is None else dS_entries + found
                dS += edges.rows_gradient(dT)
            if need_F or need_w:
                dZ[:, part] = edges.z_gradient(dT, A.dense)
        if need_w:
            dw = (dZ * Z1).sum(1).to(w.dtype)
        if need_F:
            dF = dZ[:, :-1]
            dF = (dF if w is None else dF * w.to(acc)[:, None]).to(F.dtype)
    else:
        dF = torch.zeros_like(F) if need_F else None
        dw = torch.zeros_like(w) if need_w else None
    if need_S:
        dS = A.gradient(dS_entries, dS, S.dtype)
    return dS, dX, dF, dw


def lift_fwd(S: Tensor, Xc: Tensor, plan: Plan, coarse: CoarsePlan) -> Tensor:
    """Bring cluster features back to the nodes (the formula: :func:`tritonpool.lift`)."""
    acc = accumulate_in(S, Xc)
    return (_Assignment(S, plan, coarse, acc).matrix() @ Xc.to(acc)).to(Xc.dtype)


def lift_bwd(dY, S, Xc, plan, coarse, needs):
    """Gradients of :func:`lift_fwd` w.r.t. ``S`` and ``Xc``, where needed."""
    need_S, need_X = needs
    acc = accumulate_in(S, Xc)
    A = _Assignment(S, plan, coarse, acc)
    dY = dY.to(acc)
    dS = A.gradient(A.products(dY, Xc.to(acc)), None, S.dtype) if need_S else None
    dX = (A.transposed() @ dY).to(Xc.dtype) if need_X else None
    return dS, dX


def _adjacency(w: Tensor | None, plan: Plan) -> tuple[Tensor, Tensor]:
    """The weight of every edge, and of its node pair once parallel edges are added up."""
    a = torch.ones_like(plan.src, dtype=torch.float64) if w is None else w.double()
    if plan.parallel is None:
        return a, a
    ptr, order = plan.parallel_ptr, plan.out_edge
    return a, gather_sum(ptr, order, a[:, None])[plan.parallel, 0]


def _neighbours(ptr: Tensor, order: Tensor, end: Tensor, a: Tensor, rows: Tensor) -> Tensor:
    """Sum ``a[e] rows[end[e]]`` over the edges ``e`` of every node, as ``ptr`` and ``order`` list
    them."""
    column, values = end.index_select(0, order), a.index_select(0, order)
    return csr_matrix(ptr, column, values, len(rows)) @ rows


def losses_fwd(
    S: Tensor, w: Tensor | None, plan: Plan, coarse: CoarsePlan
) -> tuple[Tensor, Tensor]:
    r"""Squared residual :math:`\|A_g - S_g S_g^\top\|_F^2` and entropy sum of every graph.

    The residual is expanded, which never builds a ``V x V`` matrix, and computed in float64,
    because the terms cancel near the optimum; what is left of rounding there is set to 0.
    """
    A = _Assignment(S, plan, coarse, torch.float64)
    a, pair = _adjacency(w, plan)
    gram = (A.transposed() @ A.dense).square().sum(1)
    gram = segment_sum(coarse.plan.node_ptr, gram)
    square = segment_sum(plan.edge_ptr, a * pair)
    agreement = (A.dense * _neighbours(plan.out_ptr, plan.out_edge, plan.dst, a, A.dense)).sum(1)
    r2 = square - 2 * segment_sum(plan.node_ptr, agreement) + gram
    rounding = 16 * torch.finfo(torch.float64).eps
    r2 = torch.where(r2 > rounding * (square + gram), r2, 0)
    shares = A.dense.to(weight_dtype(S, w))
    entropy = segment_sum(plan.node_ptr, torch.special.entr(shares).sum(1))
    dtype = weight_dtype(S, w)
    return r2.to(dtype), entropy.to(dtype)


def losses_bwd(dr2, dent, S, w, plan, coarse, needs):
    """Gradients of :func:`losses_fwd` w.r.t. ``S`` and ``w``, where needed."""
    need_S, need_w = needs
    A = _Assignment(S, plan, coarse, torch.float64)
    a, pair = _adjacency(w, plan)
    dS = dw = None
    if need_S:
        gram = A.transposed() @ A.dense
        grad = 4 * (A.matrix() @ gram)
        grad -= 2 * _neighbours(plan.out_ptr, plan.out_edge, plan.dst, a, A.dense)
        grad -= 2 * _neighbours(plan.in_ptr, plan.in_edge, plan.src, a, A.dense)
        grad *= dr2.double().index_select(0, plan.batch)[:, None]
        shares = A.dense.to(weight_dtype(S, w))
        slope = torch.where(shares > 0, -1 - shares.log(), 0)
        grad += slope * dent.index_select(0, plan.batch)[:, None]
        dS = A.gradient(None, grad, S.dtype)
    if need_w:
        ends = A.dense.index_select(0, plan.src) * A.dense.index_select(0, plan.dst)
        agreement = ends.sum(1)
        dw = (2 * (pair - agreement) * dr2.double()[plan.batch[plan.src]]).to(w.dtype)
    return dS, dw
