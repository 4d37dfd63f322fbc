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
from tritonpool.plan import Plan, move_together, offsets, once, slot_sizes
from tritonpool.softmax import used_columns

__all__ = [
    "AssignmentPattern",
    "PairPattern",
    "SlotPattern",
    "assignment_pattern",
    "pair_pattern",
    "slot_pattern",
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
    return used_columns(coarse.counts.index_select(0, plan.batch), columns)


class SlotPattern(NamedTuple):
    """The edges out of each node as the rows of small matrices: groups of ``D`` slots, one group
    for each node, more for a node with more than ``D`` edges. A node's last slots may be empty."""

    edge: Tensor  # [groups, D] edge in the slot, or E
    end: Tensor  # [groups, D] the edge's target, or 0
    slot: Tensor  # [E] the slot of each edge
    group_ptr: Tensor | None  # [V + 1] each node's first group; None: one for each node
    node: Tensor | None  # [groups] node of the group; None: one for each node


def slot_pattern(plan: Plan) -> SlotPattern:
    """The pattern of the edges out of each node."""
    return once(plan._items, "slots", _slots, plan)


def _slots(plan: Plan) -> SlotPattern:
    V, E, device = plan.num_nodes, plan.num_edges, plan.device
    sizes = plan.slots
    if sizes is None:  # the plan comes out of a compiled graph
        sizes = slot_sizes(plan.out_ptr.diff().cpu().numpy())
    D, groups = sizes
    first, group_ptr, node = torch.arange(V, device=device), None, None
    if groups > V:
        each = ((plan.out_ptr.diff() + D - 1) // D).clamp(min=1)
        group_ptr = torch.nn.functional.pad(each.cumsum(0), (1, 0))
        node = first.repeat_interleave(each, output_size=groups)
        first = group_ptr[:-1]
    # the edges by source are the slots without the empty ones, so a node's edges move together
    by_source, moved = plan.out_edge, first * D - plan.out_ptr[:-1]
    place = moved.index_select(0, plan.src.index_select(0, by_source))
    place += torch.arange(E, device=device)
    edge = torch.full((groups * D,), E, device=device).index_copy_(0, place, by_source)
    end = torch.zeros_like(edge).index_copy_(0, place, plan.out_dst)
    slot = torch.empty_like(place).index_copy_(0, by_source, place)
    return SlotPattern(edge.view(groups, D), end.view(groups, D), slot, group_ptr, node)


class PairPattern(NamedTuple):
    """The pairs of clusters as cells of a ``P x max_clusters`` tensor."""

    cell: Tensor  # [pairs] cell of each pair
    pair: Tensor  # [P max_clusters] pair of each cell, or their number


def pair_pattern(coarse: CoarsePlan) -> PairPattern:
    """The pattern of the pairs of ``coarse``."""
    return once(coarse._items, "pairs", _pairs, coarse)


def _pairs(coarse: CoarsePlan) -> PairPattern:
    K, plan = coarse.max_clusters, coarse.plan
    row = torch.arange(plan.num_nodes, device=plan.device) * K
    row -= plan.node_ptr.index_select(0, plan.batch)
    cell = row.index_select(0, plan.src) + plan.dst
    pair = torch.full((plan.num_nodes * K,), plan.num_edges, device=plan.device)
    pair.index_copy_(0, cell, torch.arange(plan.num_edges, device=plan.device))
    return PairPattern(cell, pair)
