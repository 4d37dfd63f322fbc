"""Sums over the edges of a node, over the nodes of a graph, and the messages of a D-MPNN.

Each is one call of a backend, forward and backward, and none uses atomics, so that repeated runs
agree bitwise on a GPU too.
"""

from __future__ import annotations

import torch
from torch import Tensor

from tritonpool.autograd import EdgeMessages, NeighbourSum, SegmentSum, Shares, SourceRows
from tritonpool.backend import choose_backend
from tritonpool.plan import Plan

__all__ = [
    "edge_messages",
    "edge_shares",
    "graph_sum",
    "group_sum",
    "neighbour_sum",
    "node_sum",
    "source_rows",
]


def _backend(tensor: Tensor) -> str:
    """The backend that was chosen; in compiled code torch's own operations, which the compiler
    fuses with others."""
    if torch.compiler.is_compiling():
        return "sparse"
    return choose_backend(tensor.device)


def _check(
    name: str, tensor: Tensor | None, dim: int, number: int, of: str, floating: bool = True
) -> None:
    """Kernels would read and write beyond the end of a tensor with too few rows, and take one of
    other dimensions for what it is not; sums are made in floating point."""
    if tensor is None or torch.compiler.is_compiling():
        return
    right = tensor.shape[:1] == (number,) and tensor.dim() == dim
    if not right or (floating and not tensor.is_floating_point()):
        kind = "floating-point" if floating else "integer"
        what = "matrix with a row" if dim == 2 else "vector with an entry"
        dtype = str(tensor.dtype).removeprefix("torch.")
        raise ValueError(
            f"{name} must be a {kind} {what} for each of the {number} {of}, but is of dtype "
            f"{dtype} and shape {tuple(tensor.shape)}"
        )


def group_sum(
    rows: Tensor,
    weight: Tensor | None,
    ptr: Tensor,
    order: Tensor | None,
    of: Tensor,
    *,
    mean: bool = False,
) -> Tensor:
    r"""Sum weighted rows group by group, :math:`\sum_k w_{o_k} x_{o_k}` for :math:`k` from
    ``ptr[i]`` to ``ptr[i + 1] - 1``, or take the means of unweighted ones.

    Parameters
    ----------
    rows : Tensor
        a tensor of shape ``N x D``
    weight : Tensor | None
        the weights of the rows, ``N``; ``None`` means that they are 1
    ptr : Tensor
        where each group starts in ``order``, and its end; one more than there are groups
    order : Tensor | None
        the rows, group by group, each once; ``None`` means that they stand in this order
    of : Tensor
        the group of each row, ``N``
    mean : bool, default=False
        divide by the number of rows; for unweighted ones

    Returns
    -------
    Tensor
        a row for each group, 0 for an empty one

    Raises
    ------
    ValueError
        if rows are no floating-point matrix, weights no floating-point vector, or weights, order
        or groups not as many as rows
    """
    N = rows.shape[0]
    _check("rows", rows, 2, N, "rows")
    _check("weight", weight, 1, N, "rows")
    _check("order", order, 1, N, "rows", floating=False)
    _check("of", of, 1, N, "rows", floating=False)
    return SegmentSum.apply(rows, weight, ptr, order, of, mean, _backend(rows))


def node_sum(H: Tensor, w: Tensor | None, plan: Plan) -> Tensor:
    """Sum ``w_e H_e`` over the edges that end in each node: ``E x D`` and ``E`` to ``V x D``;
    without weights they are 1."""
    _check("H", H, 2, plan.num_edges, "edges")
    return group_sum(H, w, plan.in_ptr, plan.in_edge, plan.dst)


def graph_sum(X: Tensor, plan: Plan, *, mean: bool = False) -> Tensor:
    """Sum the rows of each graph's nodes, or take their mean: ``V x D`` to ``G x D``, 0 for a graph
    without nodes."""
    _check("X", X, 2, plan.num_nodes, "nodes")
    return group_sum(X, None, plan.node_ptr, None, plan.batch, mean=mean)


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

    Raises
    ------
    ValueError
        if states are no floating-point matrix, weights no floating-point vector, or states,
        weights or reverses not as many as edges
    """
    _check("H", H, 2, plan.num_edges, "edges")
    _check("w", w, 1, plan.num_edges, "edges")
    _check("rev", rev, 1, plan.num_edges, "edges", floating=False)
    return EdgeMessages.apply(H, w, rev, plan, _backend(H))


def neighbour_sum(X: Tensor, w: Tensor, plan: Plan) -> Tensor:
    """Sum ``w_uv X_u`` over the edges ``u -> v`` of each node: ``V x D`` to ``V x D``."""
    _check("X", X, 2, plan.num_nodes, "nodes")
    _check("w", w, 1, plan.num_edges, "edges")
    sources, targets = _ends(plan)
    into = plan.in_ptr, sources, plan.in_edge
    out = plan.out_ptr, targets, plan.out_edge
    return NeighbourSum.apply(X, w, into, out, _backend(X))


def _ends(plan: Plan) -> tuple[Tensor, Tensor]:
    """The other ends of each node's incoming and outgoing edges; compiled code makes them, because
    it is compiled again where it finds that a plan keeps more than before."""
    if torch.compiler.is_compiling():
        return plan.src.index_select(0, plan.in_edge), plan.dst.index_select(0, plan.out_edge)
    return plan.in_src, plan.out_dst


def edge_shares(w: Tensor, plan: Plan, least: float) -> Tensor:
    r"""Divide edge weights by the sum of those that reach the same node,
    :math:`w_{uv} / \max(\sum_k w_{kv}, \text{least})`: ``E`` to ``E``."""
    _check("w", w, 1, plan.num_edges, "edges")
    return Shares.apply(w, plan.in_ptr, plan.in_edge, plan.dst, least, _backend(w))


def source_rows(X: Tensor, plan: Plan) -> Tensor:
    """The row of each edge's source: ``V x D`` to ``E x D``."""
    _check("X", X, 2, plan.num_nodes, "nodes")
    return SourceRows.apply(X, plan.out_ptr, plan.out_edge, plan.src, _backend(X))
