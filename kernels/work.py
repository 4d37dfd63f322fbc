"""Which block of which graph each program owns: lists made on the host, once per batch."""

from __future__ import annotations

import numpy as np
import torch
import triton
import triton.language as tl
from torch import Tensor

from tritonpool.coarse_plan import CoarsePlan
from tritonpool.plan import Plan, move_together, offsets, once

__all__ = [
    "check_sizes",
    "cluster_tiles",
    "edge_pair_tiles",
    "edge_tiles",
    "node_tiles",
    "pair_tiles",
    "read_item",
]

# graph, first row, first column; first node, nodes; first edge, edges; first cluster, clusters;
# first pair: all that a program has to know before its first load of data
COLUMNS = tl.constexpr(10)


@triton.jit
def read_item(items_ptr):
    """This program's row of a list of work items: graph, row, column, first node and nodes, first
    edge and edges, first cluster and clusters, first pair. Sizes within a graph are 32-bit."""
    item = items_ptr + tl.program_id(0).to(tl.int64) * COLUMNS
    return (
        tl.load(item),
        tl.load(item + 1).to(tl.int32),
        tl.load(item + 2).to(tl.int32),
        tl.load(item + 3),
        tl.load(item + 4).to(tl.int32),
        tl.load(item + 5),
        tl.load(item + 6).to(tl.int32),
        tl.load(item + 7),
        tl.load(item + 8).to(tl.int32),
        tl.load(item + 9),
    )


def _graphs(plan: Plan, coarse: CoarsePlan) -> np.ndarray:
    """The columns that all items of a graph share, ``G x 7``."""
    n, m, c, pairs = (
        t.numpy() for t in (plan.nodes, plan.edges, coarse.clusters, coarse.plan.edges)
    )
    firsts = [offsets(counts)[:-1] for counts in (n, m, c, pairs)]
    return np.stack([firsts[0], n, firsts[1], m, firsts[2], c, firsts[3]], 1)


def _items(
    plan: Plan,
    coarse: CoarsePlan,
    rows: Tensor,
    block_rows: int,
    columns: Tensor | None,
    block_columns: int,
    cost: Tensor,
) -> Tensor:
    """Every block of every graph, of shape ``T x COLUMNS``, on the device.

    Graphs with the longest programs come first, so that none of them starts last.
    """
    graphs = once(coarse._items, "graphs", _graphs, plan, coarse)
    order = np.argsort(-cost.numpy(), kind="stable")
    wide = 1 if columns is None else -(-columns.numpy()[order] // block_columns)
    count = -(-rows.numpy()[order] // block_rows) * wide
    graph = np.repeat(order, count)
    local = np.arange(len(graph)) - np.repeat(offsets(count)[:-1], count)
    wide = np.broadcast_to(wide, order.shape).repeat(count)
    row, column = local // wide, local % wide
    items = np.empty((len(graph), COLUMNS.value), dtype=np.int64)
    items[:, 0], items[:, 1], items[:, 2] = graph, row * block_rows, column * block_columns
    items[:, 3:] = graphs[graph]
    return move_together([torch.from_numpy(items)], coarse.counts.device)[0]


def _cached(plan: Plan, coarse: CoarsePlan, kind: str, *arguments) -> Tensor:
    blocks = tuple(a for a in arguments if isinstance(a, int))
    return once(coarse._items, (kind, *blocks), _items, plan, coarse, *arguments)


def pair_tiles(plan: Plan, coarse: CoarsePlan, block_p: int, block_q: int) -> Tensor:
    """Blocks of cluster pairs; each program walks its graph's edges."""
    c = coarse.clusters
    return _cached(plan, coarse, "pairs", c, block_p, c, block_q, plan.edges)


def edge_pair_tiles(plan: Plan, coarse: CoarsePlan, block_e: int, block_q: int) -> Tensor:
    """Blocks of edges times blocks of clusters; each program walks its graph's clusters."""
    c = coarse.clusters
    return _cached(plan, coarse, "edge pairs", plan.edges, block_e, c, block_q, c)


def edge_tiles(plan: Plan, coarse: CoarsePlan, block: int) -> Tensor:
    """Blocks of edges; each program walks its graph's clusters."""
    return _cached(plan, coarse, "edges", plan.edges, block, None, 1, coarse.clusters)


def node_tiles(plan: Plan, coarse: CoarsePlan, block: int) -> Tensor:
    """Blocks of nodes."""
    return _cached(plan, coarse, "nodes", plan.nodes, block, None, 1, plan.nodes)


def cluster_tiles(plan: Plan, coarse: CoarsePlan, block: int) -> Tensor:
    """Blocks of clusters; each program walks its graph's nodes."""
    return _cached(plan, coarse, "clusters", coarse.clusters, block, None, 1, plan.nodes)


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
        coarse._items["largest"] = [int(t.numpy().max(initial=0)) for t in sizes]
    whats = "nodes", "clusters", "edges", "pairs of clusters"
    widths = node_width, node_width, edge_width, edge_width
    for what, n, width in zip(whats, coarse._items["largest"], widths, strict=True):
        if n * width >= 2**31:
            raise ValueError(
                f"a graph has {n} {what} with {width} columns each, and the Triton backend reaches "
                f"fewer than 2^31 entries of one graph; use backend='sparse'"
            )
