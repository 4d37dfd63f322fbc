"""Which block of which graph each program owns: lists made on the host, once per batch."""

from __future__ import annotations

from threading import Lock

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
    "row_width",
    "scratch_size",
]

# graph, first row, first column; first node, nodes; first edge, edges; first cluster, clusters;
# first pair; first place in scratch memory: all that a program has to know before its first load
# of data
COLUMNS = tl.constexpr(11)
# Scratch memory: what an edge adds to the rows of S at its ends, in rows that start at whole
# multiples of so many numbers; and the fewest clusters that a program of the edge backward owns.
ROW = tl.constexpr(16)
LEAST_SLICE = 8


@triton.jit
def read_item(items_ptr):
    """This program's row of a list of work items: graph, row, column, first node and nodes, first
    edge and edges, first cluster and clusters, first pair, first place in scratch memory. Sizes
    within a graph are 32-bit."""
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
        tl.multiple_of(tl.load(item + 10), ROW),
    )


@triton.jit
def row_width(c):
    """How long the rows in scratch memory are for a graph with ``c`` clusters."""
    return (c + ROW - 1) // ROW * ROW


# For each kind of list what its rows and columns divide, and how long its programs take.
KINDS = {
    "pairs": ("clusters", "clusters", "edges"),
    "edge pairs": ("edges", "clusters", "clusters"),
    "edges": ("edges", None, "clusters"),
    "nodes": ("nodes", None, "nodes"),
    "clusters": ("clusters", None, "nodes"),
}
MOST_ASKED = 16
# The lists that batches lacked last: the next batch will need the same ones.
_asked: dict[tuple[str, int, int], None] = {}
_lock = Lock()  # each card has a thread of its own


def _counts(plan: Plan, coarse: CoarsePlan) -> dict[str, np.ndarray]:
    counts = {"nodes": plan.nodes, "edges": plan.edges, "clusters": coarse.clusters}
    return {name: values.numpy() for name, values in counts.items()}


def _scratch(plan: Plan, coarse: CoarsePlan) -> np.ndarray:
    """Where each graph's part of the scratch memory starts, and the end of all: rows as long as its
    clusters, one of each edge for its target and one for its source from each block of clusters."""
    edges, clusters, row = plan.edges.numpy(), coarse.clusters.numpy(), ROW.value
    slices = 1 + -(-clusters // LEAST_SLICE)
    return offsets(edges * slices * (-(-clusters // row) * row))


def scratch_size(plan: Plan, coarse: CoarsePlan) -> int:
    """How many numbers the scratch memory of a batch holds."""
    return int(once(coarse._items, "scratch", _scratch, plan, coarse)[-1])


def _items(
    kind: str,
    block_rows: int,
    block_columns: int,
    counts: dict[str, np.ndarray],
    table: np.ndarray,
    orders: dict[str, np.ndarray],
) -> np.ndarray:
    """Every block of every graph, of shape ``T x COLUMNS``.

    Graphs with the longest programs come first, so that none of them starts last.
    """
    rows, columns, cost = KINDS[kind]
    order = orders[cost]
    count = -(-counts[rows][order] // block_rows)
    if columns is not None:
        wide = -(-counts[columns][order] // block_columns)
        count *= wide
    graph = order.repeat(count)
    local = np.arange(len(graph)) - (count.cumsum() - count).repeat(count)
    items = table[graph]
    if columns is not None:
        wide = wide.repeat(count)
        local, column = local // wide, local % wide
        np.multiply(column, block_columns, out=items[:, 2])
    np.multiply(local, block_rows, out=items[:, 1])
    return items


def _make_lists(plan: Plan, coarse: CoarsePlan, wanted: list[tuple[str, int, int]]) -> list[Tensor]:
    """Lists of work items on the device, in one copy."""
    counts = _counts(plan, coarse)
    table = np.zeros((plan.num_graphs, COLUMNS.value), dtype=np.int64)
    table[:, 0] = np.arange(plan.num_graphs)
    for column, name in ((3, "nodes"), (5, "edges"), (7, "clusters")):
        table[:, column] = offsets(counts[name])[:-1]
        table[:, column + 1] = counts[name]
    table[:, 9] = offsets(coarse.plan.edges.numpy())[:-1]
    table[:, 10] = once(coarse._items, "scratch", _scratch, plan, coarse)[:-1]
    orders = {name: np.argsort(-values, kind="stable") for name, values in counts.items()}
    lists = [_items(*key, counts, table, orders) for key in wanted]
    together = torch.from_numpy(np.concatenate(lists))
    moved = move_together([together], coarse.counts.device)[0]
    return list(moved.split([len(items) for items in lists]))


def _list(plan: Plan, coarse: CoarsePlan, *key: str | int) -> Tensor:
    """A list of work items; the first one that a batch asks for is made with all others that
    batches before it have asked for."""
    made = once(coarse._items, "work", dict)
    if key not in made:
        with _lock:
            _asked[key] = _asked.pop(key, None)  # the last one now
            while len(_asked) > MOST_ASKED:
                del _asked[next(iter(_asked))]
            wanted = [k for k in _asked if k not in made]
        with torch.inference_mode(False):
            made.update(zip(wanted, _make_lists(plan, coarse, wanted), strict=True))
    return made[key]


def pair_tiles(plan: Plan, coarse: CoarsePlan, block_p: int, block_q: int) -> Tensor:
    """Blocks of cluster pairs; each program walks its graph's edges."""
    return _list(plan, coarse, "pairs", block_p, block_q)


def edge_pair_tiles(plan: Plan, coarse: CoarsePlan, block_e: int, block_q: int) -> Tensor:
    """Blocks of edges times blocks of clusters; each program walks its graph's clusters."""
    return _list(plan, coarse, "edge pairs", block_e, block_q)


def edge_tiles(plan: Plan, coarse: CoarsePlan, block: int) -> Tensor:
    """Blocks of edges; each program walks its graph's clusters."""
    return _list(plan, coarse, "edges", block, 1)


def node_tiles(plan: Plan, coarse: CoarsePlan, block: int) -> Tensor:
    """Blocks of nodes."""
    return _list(plan, coarse, "nodes", block, 1)


def cluster_tiles(plan: Plan, coarse: CoarsePlan, block: int) -> Tensor:
    """Blocks of clusters; each program walks its graph's nodes."""
    return _list(plan, coarse, "clusters", block, 1)


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
                f"a graph has {n} {what} with rows of {width} numbers, and the Triton backend "
                f"reaches fewer than 2^31 numbers of one graph; use backend='sparse'"
            )
