"""Which block of which graph each program owns: lists made on the host, once per batch."""

from __future__ import annotations

import torch
from torch import Tensor

from tritonpool.coarse_plan import CoarsePlan
from tritonpool.plan import Plan, move_together, once

__all__ = [
    "check_sizes",
    "cluster_tiles",
    "edge_pair_tiles",
    "edge_tiles",
    "node_tiles",
    "pair_tiles",
]


def _blocks(counts: Tensor, block: int) -> Tensor:
    return torch.div(counts + block - 1, block, rounding_mode="floor")


def _items(
    rows: Tensor, block_rows: int, columns: Tensor, block_columns: int, cost: Tensor
) -> Tensor:
    """``(graph, first row, first column)`` of every block of every graph, of shape ``T x 3``.

    Graphs with the longest programs come first, so that none of them starts last.
    """
    order = torch.argsort(cost, descending=True, stable=True)
    wide = _blocks(columns, block_columns)[order]
    count = _blocks(rows, block_rows)[order] * wide
    number = torch.repeat_interleave(torch.arange(order.numel()), count)
    local = torch.arange(number.numel()) - (count.cumsum(0) - count)[number]
    row = torch.div(local, wide[number], rounding_mode="floor")
    column = local - row * wide[number]
    return torch.stack([order[number], row * block_rows, column * block_columns], 1)


def _cached(coarse: CoarsePlan, key: tuple, *arguments) -> Tensor:
    def make() -> Tensor:
        return move_together([_items(*arguments)], coarse.counts.device)[0]

    return once(coarse._items, key, make)


def pair_tiles(plan: Plan, coarse: CoarsePlan, block_p: int, block_q: int) -> Tensor:
    """Blocks of cluster pairs; each program walks its graph's edges."""
    c = coarse.clusters
    return _cached(coarse, ("pairs", block_p, block_q), c, block_p, c, block_q, plan.edges)


def edge_pair_tiles(plan: Plan, coarse: CoarsePlan, block_e: int, block_q: int) -> Tensor:
    """Blocks of edges times blocks of clusters; each program walks its graph's clusters."""
    c = coarse.clusters
    return _cached(coarse, ("edge pairs", block_e, block_q), plan.edges, block_e, c, block_q, c)


def edge_tiles(plan: Plan, coarse: CoarsePlan, block: int) -> Tensor:
    """Blocks of edges; each program walks its graph's clusters."""
    one = torch.ones_like(plan.edges)
    return _cached(coarse, ("edges", block), plan.edges, block, one, 1, coarse.clusters)


def node_tiles(plan: Plan, coarse: CoarsePlan, block: int) -> Tensor:
    """Blocks of nodes."""
    one = torch.ones_like(plan.nodes)
    return _cached(coarse, ("nodes", block), plan.nodes, block, one, 1, plan.nodes)


def cluster_tiles(plan: Plan, coarse: CoarsePlan, block: int) -> Tensor:
    """Blocks of clusters; each program walks its graph's nodes."""
    one = torch.ones_like(coarse.clusters)
    return _cached(coarse, ("clusters", block), coarse.clusters, block, one, 1, plan.nodes)


def check_sizes(plan: Plan, coarse: CoarsePlan, node_width: int, edge_width: int) -> None:
    """Refuse graphs whose rows are further apart than the kernels' 32-bit offsets reach.

    Raises
    ------
    ValueError
        if a graph's nodes or clusters times ``node_width``, or its edges or pairs of clusters times
        ``edge_width``, reach 2^31
    """
    if "largest" not in coarse._items:
        sizes = plan.nodes, coarse.clusters, plan.edges, coarse.clusters**2
        coarse._items["largest"] = [int(t.max()) if t.numel() else 0 for t in sizes]
    whats = "nodes", "clusters", "edges", "pairs of clusters"
    widths = node_width, node_width, edge_width, edge_width
    for what, n, width in zip(whats, coarse._items["largest"], widths, strict=True):
        if n * width >= 2**31:
            raise ValueError(
                f"a graph has {n} {what} with {width} columns each, and the Triton backend reaches "
                f"fewer than 2^31 entries of one graph; use backend='sparse'"
            )
