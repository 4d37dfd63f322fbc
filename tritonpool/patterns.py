"""Where the sparse matrices of a batch have their entries; made once per batch and cached.

Rows and columns of each pattern are listed as :func:`tritonpool.sums.gather_sum` wants them: a
pointer to each row's first entry, and the column of every entry.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from tritonpool.coarse_plan import CoarsePlan
from tritonpool.plan import Plan, move_together, offsets, once

__all__ = [
    "AssignmentPattern",
    "EdgePattern",
    "EndPattern",
    "PairPattern",
    "assignment_pattern",
    "edge_pattern",
    "end_pattern",
    "pair_pattern",
    "used_entries",
]


class AssignmentPattern(NamedTuple):
    """A block-diagonal ``V x P`` assignment, by nodes and by clusters."""

    ptr: Tensor  # [V + 1] each node's first entry
    cluster: Tensor  # cluster of the entry
    flat: Tensor  # where the entry stands in a V x max_clusters tensor
    t_ptr: Tensor  # [P + 1] each cluster's first entry
    t_node: Tensor  # node of the entry
    t_flat: Tensor  # as flat, in the order of t_node


def assignment_pattern(plan: Plan, coarse: CoarsePlan) -> AssignmentPattern:
    """The pattern of ``S``, made on the host."""
    return once(coarse._items, "assignment", _assignment, plan, coarse)


def _assignment(plan: Plan, coarse: CoarsePlan) -> AssignmentPattern:
    K, nodes, clusters = coarse.max_clusters, plan.nodes.numpy(), coarse.clusters.numpy()
    graph = np.arange(len(nodes))
    of_node, of_cluster = np.repeat(graph, nodes), np.repeat(graph, clusters)
    first_node, first_cluster = offsets(nodes), offsets(clusters)

    width = clusters[of_node]
    ptr = offsets(width)
    count = np.arange(ptr[-1])
    cluster = np.repeat(first_cluster[of_node] - ptr[:-1], width) + count
    flat = np.repeat(np.arange(len(of_node)) * K - ptr[:-1], width) + count

    height = nodes[of_cluster]
    t_ptr = offsets(height)
    t_node = np.repeat(first_node[of_cluster] - t_ptr[:-1], height) + count
    column = np.arange(len(of_cluster)) - first_cluster[of_cluster]
    t_flat = np.repeat(column, height) + t_node * K
    made = [torch.from_numpy(a) for a in (ptr, cluster, flat, t_ptr, t_node, t_flat)]
    return AssignmentPattern(*move_together(made, plan.device))


def used_entries(plan: Plan, coarse: CoarsePlan, columns: int) -> Tensor:
    """Which entries of a ``V x columns`` assignment belong to a cluster of the node's graph."""
    return once(coarse._items, ("used", columns), _used, plan, coarse, columns)


def _used(plan: Plan, coarse: CoarsePlan, columns: int) -> Tensor:
    width = coarse.counts.index_select(0, plan.batch)[:, None]
    return torch.arange(columns, device=plan.device) < width


class EdgePattern(NamedTuple):
    """A matrix with a row for each edge feature and node, which holds that feature of the edges
    out of the node, in the columns of their targets."""

    ptr: Tensor  # [width V + 1] each row's first entry: all nodes for the first feature, and so on
    target: Tensor  # column of the entry: out_edge's targets for each feature


def edge_pattern(plan: Plan, width: int) -> EdgePattern:
    """The pattern for ``width`` edge features."""
    return once(plan._items, ("edges", width), _edges, plan, width)


def _edges(plan: Plan, width: int) -> EdgePattern:
    E = plan.num_edges
    feature = torch.arange(width, device=plan.device)
    ptr = (plan.out_ptr[:-1] + E * feature[:, None]).view(-1)
    return EdgePattern(
        torch.nn.functional.pad(ptr, (0, 1), value=E * width),
        plan.out_dst.repeat(width),
    )


class EndPattern(NamedTuple):
    """Sums over a node's edges of what stands at the other end: ``V x 2 x width`` rows, of which
    incoming edges take the first half of their source's and outgoing edges the second half of
    their target's."""

    in_ptr: Tensor  # [V + 1] each node's first entry
    in_row: Tensor  # row of the entry: in_edge, all features of each
    out_ptr: Tensor
    out_row: Tensor  # the same for out_edge


def end_pattern(plan: Plan, width: int) -> EndPattern:
    """The pattern for ``width`` edge features."""
    return once(plan._items, ("ends", width), _ends, plan, width)


def _ends(plan: Plan, width: int) -> EndPattern:
    feature = torch.arange(2 * width, device=plan.device).view(2, width)
    source = plan.in_src[:, None] * (2 * width)
    target = plan.out_dst[:, None] * (2 * width)
    return EndPattern(
        plan.in_ptr * width,
        (source + feature[0]).view(-1),
        plan.out_ptr * width,
        (target + feature[1]).view(-1),
    )


class PairPattern(NamedTuple):
    """The pairs of clusters as cells of a ``P x max_clusters`` tensor."""

    cell: Tensor  # [pairs] cell of each pair
    pair: Tensor  # [P 2 max_clusters] pair of each cell, and of its mirror image; else their number


def pair_pattern(coarse: CoarsePlan) -> PairPattern:
    """The pattern of the pairs of ``coarse``."""
    return once(coarse._items, "pairs", _pairs, coarse)


def _pairs(coarse: CoarsePlan) -> PairPattern:
    K, plan = coarse.max_clusters, coarse.plan
    row = torch.arange(plan.num_nodes, device=plan.device) * K
    row -= plan.node_ptr.index_select(0, plan.batch)
    cell = row.index_select(0, plan.src) + plan.dst
    pair = torch.full((2, plan.num_nodes * K), plan.num_edges, device=plan.device)
    pair[0].index_copy_(0, cell, torch.arange(plan.num_edges, device=plan.device))
    pair[1].index_copy_(0, cell, coarse.rev)
    pair = pair.view(2, plan.num_nodes, K).transpose(0, 1).reshape(-1)
    return PairPattern(cell, pair)
