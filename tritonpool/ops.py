"""The public op: coarsen a batch of graphs by a soft assignment, and lift features back."""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Tensor

from tritonpool import library
from tritonpool.autograd import Coarsen, Lift
from tritonpool.backend import choose_backend
from tritonpool.checks import (
    check_assignment_once,
    check_cluster_rows,
    check_clusters,
    check_weights,
)
from tritonpool.coarse_plan import CoarsePlan
from tritonpool.graph import Graph, check_graph
from tritonpool.plan import Plan
from tritonpool.planning import coarse_plan
from tritonpool.top_k import TopK, as_dense, joined_pairs

__all__ = [
    "coarse_graph",
    "coarsen",
    "coarsen_planned",
    "in_plan_order",
    "lift",
    "prepare",
]

LEAST_EPS = torch.finfo(torch.float32).tiny  # a smaller one is 0 in float32


def prepare(
    graph: Graph, S: Tensor, clusters: Tensor | Sequence[int] | None, drop_self_loops: bool = True
) -> CoarsePlan:
    """Check an assignment as far as no device has to be waited for, and plan its coarse graph."""
    check_graph(graph)
    counts = check_clusters(graph, S, clusters)
    plan = graph.plan
    coarse = coarse_plan(plan, counts, drop_self_loops)
    if S.device.type == "cpu" and not torch.compiler.is_compiling():
        check_assignment_once(S, plan, coarse)
        check_weights(graph.edge_weight)
    return coarse


def in_plan_order(values: Tensor | None, graph: Graph) -> Tensor | None:
    """Edge values sorted by graph, as the plan counts its edges."""
    order = graph.plan.order
    return values if values is None or order is None else values.index_select(0, order)


def coarsen_planned(
    graph: Graph,
    S: Tensor,
    coarse: CoarsePlan,
    eps: float = 1e-8,
    backend: str | None = None,
    only_joined: bool = False,
) -> Graph:
    """:func:`coarsen` with an assignment that is known to fit its plan; with ``only_joined``
    without the pairs of weight 0, which no edge joins."""
    F = in_plan_order(graph.edge_attr, graph)
    w = in_plan_order(graph.edge_weight, graph)
    tensors = S, graph.x, F, w
    if torch.compiler.is_compiling():
        Xc, W, Fc = library.coarsen(*tensors, graph.plan, coarse, eps, backend)
    else:
        name = choose_backend(graph.device, backend)
        Xc, W, Fc = Coarsen.apply(*tensors, graph.plan, coarse, eps, name)
    if not only_joined:
        return coarse_graph(Xc, W, Fc, coarse.plan)
    kept, plan = joined_pairs(coarse, W)
    Fc = None if Fc is None else Fc.index_select(0, kept)
    return coarse_graph(Xc, W.index_select(0, kept), Fc, plan)


def coarse_graph(Xc: Tensor, W: Tensor, Fc: Tensor | None, plan: Plan) -> Graph:
    """The pooled batch, which has its plan already."""
    edge_index, batch = plan.own_indices()
    pooled = Graph(Xc, edge_index, Fc, W, batch, plan.num_graphs)
    pooled._plan = plan
    return pooled


def coarsen(
    graph: Graph,
    S: Tensor | TopK,
    clusters: Tensor | Sequence[int] | None = None,
    *,
    drop_self_loops: bool = True,
    eps: float = 1e-8,
    backend: str | None = None,
) -> Graph:
    r"""Pool nodes, edges and edge features of every graph into its clusters:

    .. math::
        X'_p &= \sum_i S_{ip} X_i \\
        W_{pq} &= \sum_{e = (u \to v)} w_e S_{up} S_{vq} \\
        F'_{pq} &= \frac{1}{\max(W_{pq}, \varepsilon)}
                   \sum_{e = (u \to v)} w_e S_{up} S_{vq} F_e

    Every ordered pair of clusters of one graph becomes an edge with weight :math:`W_{pq}` and, as
    features, the weighted mean of the bond features between the two clusters. A pair that no edge
    supports has weight 0 and features 0; with a :class:`TopK` pairs of weight 0 are left out,
    unless the same two clusters are joined in the other direction. Where
    :math:`W_{pq} \le \varepsilon` no gradient flows through :math:`F'_{pq}`.

    Parameters
    ----------
    graph : Graph
        the batch, with ``V`` nodes, ``E`` edges, node features ``V x D``, optionally edge
        features ``E x C`` and edge weights ``E``
    S : Tensor | TopK
        a tensor of shape ``V x K`` with the share of each node in each cluster of its own graph,
        at least 0; or those of a few clusters for each node. With these the coarse graph depends
        on ``S``, for which a GPU makes the host wait once
    clusters : Tensor | Sequence[int] | None, default=None
        how many of the ``K`` columns each graph uses, ``G`` integers; the others must be 0.
        ``None`` means all. Best on the CPU: counts on a GPU cost a copy to the host
    drop_self_loops : bool, default=True
        leave out the pairs ``p = q``, which hold the bonds inside a cluster
    eps : float, default=1e-8
        the smallest total weight to divide by
    backend : str | None, default=None
        ``"auto"``, ``"triton"``, ``"sparse"`` or ``"reference"``; see :func:`use_backend`

    Returns
    -------
    Graph
        the coarse batch: clusters in graph order, edges in graph order and then row-major in
        ``(p, q)``; ``x`` of the dtype of ``graph.x``, ``edge_attr`` of that of
        ``graph.edge_attr``, ``edge_weight`` float32 (float64 if ``S`` or the weights are)

    Raises
    ------
    ValueError
        if a shape, dtype, device or count does not fit, or, for tensors on the CPU, if ``S``
        holds NaN, a negative entry or a nonzero entry beyond its graph's clusters, or a weight
        is negative (on a GPU looking at values would make the host wait:
        :meth:`Graph.validate` does)
    RuntimeError
        if an explicitly requested backend cannot run

    Notes
    -----
    Results and sums are accumulated in float32 (float64 if any input is float64). Gradients flow
    to ``S``, ``graph.x``, ``graph.edge_attr`` and ``graph.edge_weight``, once (no double backward).
    The pooling of nodes and adjacency is that of Ying et al., NeurIPS 2018, arXiv:1806.08804.
    """
    if not LEAST_EPS <= eps < math.inf:
        raise ValueError(f"eps must be finite and at least {LEAST_EPS:.2g}, but is {eps}")
    dense = as_dense(S)
    coarse = prepare(graph, dense, clusters, drop_self_loops)
    return coarsen_planned(graph, dense, coarse, eps, backend, isinstance(S, TopK))


def lift(
    coarse_x: Tensor,
    graph: Graph,
    S: Tensor | TopK,
    clusters: Tensor | Sequence[int] | None = None,
    *,
    backend: str | None = None,
) -> Tensor:
    r"""Bring cluster features back to the nodes, :math:`Y_i = \sum_p S_{ip} X'_p`.

    Parameters
    ----------
    coarse_x : Tensor
        a tensor of shape ``P x D`` with a row for each of the batch's ``P`` clusters, as in
        ``coarsen(...).x``
    graph : Graph
        the batch that was coarsened, with ``V`` nodes
    S : Tensor | TopK
        the assignment, of shape ``V x K``
    clusters : Tensor | Sequence[int] | None, default=None
        how many of the ``K`` columns each graph uses; ``None`` means all
    backend : str | None, default=None
        as for :func:`coarsen`

    Returns
    -------
    Tensor
        a tensor of shape ``V x D``

    Raises
    ------
    ValueError
        as for :func:`coarsen`, and if ``coarse_x`` has not one row for each cluster
    """
    S = as_dense(S)
    coarse = prepare(graph, S, clusters)
    if not isinstance(coarse_x, Tensor):
        raise ValueError(f"coarse_x must be a tensor, but is {type(coarse_x).__name__}")
    if torch.compiler.is_compiling():
        return library.lift(S, coarse_x, graph.plan, coarse, backend)
    check_cluster_rows(coarse_x, coarse.plan.num_nodes, graph.device)
    return Lift.apply(S, coarse_x, graph.plan, coarse, choose_backend(graph.device, backend))
