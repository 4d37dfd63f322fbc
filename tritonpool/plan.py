"""The integer structure of a batch of graphs, computed once on the host and reused everywhere.

Offsets, sort orders and the list of coarse edges depend on integers alone (which node belongs to
which graph, which edges join them, how many clusters a graph has). They are made here, on the
CPU, moved to the device in one copy, and cached on the :class:`~tritonpool.Graph`.
"""

from __future__ import annotations

from dataclasses import dataclass, field, fields
from functools import cached_property
from typing import NamedTuple

import torch
from torch import Tensor

__all__ = ["CoarsePlan", "Plan", "cluster_counts", "move_together"]


def _offsets(counts: Tensor) -> Tensor:
    """``[0, c_0, c_0 + c_1, ...]`` for counts of shape ``G``."""
    return torch.nn.functional.pad(counts.cumsum(0), (1, 0))


def cluster_counts(nodes: Tensor, max_clusters: int, ratio: float) -> Tensor:
    r"""How many clusters each graph gets,
    :math:`c_g = \min(K, \max(1, \lceil r\, n_g - 10^{-9} \rceil))`, and 0 without nodes.

    Parameters
    ----------
    nodes : Tensor
        a CPU tensor of shape ``G`` with the number of nodes of each graph
    max_clusters : int
        the most clusters a graph can have, ``K``
    ratio : float
        clusters per node, ``r``

    Returns
    -------
    Tensor
        a CPU tensor of shape ``G``, int64; computed in float64, so the same on every machine
    """
    wanted = torch.ceil(nodes.double() * ratio - 1e-9).long().clamp(1, max_clusters)
    return torch.where(nodes > 0, wanted, 0)


# A plan made during validation may be used in training later, where inference tensors are refused.
_outside_inference = torch.inference_mode(False)


def move_together(tensors: list[Tensor | None], device: torch.device) -> list[Tensor | None]:
    """Copy int64 tensors to ``device`` as one packed buffer: one transfer instead of ten."""
    present = [t for t in tensors if t is not None]
    packed = torch.cat([t.reshape(-1) for t in present])
    if device.type == "cuda" and not packed.is_cuda:
        packed = packed.pin_memory()
    packed = packed.to(device, non_blocking=True)
    views = iter(packed.split([t.numel() for t in present]))
    return [None if t is None else next(views).view(t.shape) for t in tensors]


# kept on the host or made again, when a plan is moved to a device
HOST = ("nodes", "edges", "_coarse", "_edge_entries")


@dataclass(eq=False)
class Plan:
    """Pointers and sort orders of a batch of ``G`` graphs with ``V`` nodes and ``E`` edges.

    Edges are addressed by their *position* in graph order: all edges of graph 0, then graph 1.
    """

    nodes: Tensor  # [G] nodes of each graph; always on the CPU
    edges: Tensor  # [G] edges of each graph; always on the CPU
    node_ptr: Tensor  # [G + 1] first node of each graph
    edge_ptr: Tensor  # [G + 1] position of each graph's first edge
    src: Tensor  # [E] source node by position
    dst: Tensor  # [E] target node by position
    out_ptr: Tensor  # [V + 1] where each node's outgoing edges start in out_edge
    out_edge: Tensor  # [E] positions sorted by source node, then target
    in_ptr: Tensor  # [V + 1] where each node's incoming edges start in in_edge
    in_edge: Tensor  # [E] positions sorted by target node
    batch: Tensor  # [V] graph of each node
    order: Tensor | None = None  # [E] position -> the caller's edge; None: already in graph order
    parallel: Tensor | None = None  # [E] number of the edge's (src, dst) pair; None: all distinct
    parallel_ptr: Tensor | None = None  # where each pair's edges start in out_edge
    _coarse: dict = field(default_factory=dict, repr=False)
    _edge_entries: dict = field(default_factory=dict, repr=False)

    @property
    def num_graphs(self) -> int:
        return self.nodes.numel()

    @property
    def num_nodes(self) -> int:
        return self.batch.numel()

    @property
    def num_edges(self) -> int:
        return self.src.numel()

    @property
    def device(self) -> torch.device:
        return self.src.device

    @classmethod
    @_outside_inference
    def build(cls, batch: Tensor | None, edge_index: Tensor, num_nodes: int, num_graphs: int):
        """Make the plan from CPU tensors (``V`` and ``2 x E``), checking every value on the way.

        Raises
        ------
        ValueError
            if ``batch`` decreases or names a graph outside ``num_graphs``, or if an edge leaves
            the range of nodes or joins two graphs
        """
        src, dst = edge_index[0], edge_index[1]
        if src.numel():
            low, high = (int(v) for v in torch.aminmax(edge_index))
            if low < 0 or high >= num_nodes:
                bad = low if low < 0 else high
                raise ValueError(
                    f"edge_index holds node {bad}, but the batch has nodes 0 to {num_nodes - 1}"
                    if num_nodes
                    else f"edge_index holds node {bad}, but the batch has no nodes"
                )
        if batch is None:
            batch = torch.zeros(num_nodes, dtype=torch.int64)
        elif batch.numel():
            if bool((batch[1:] < batch[:-1]).any()):
                where = int((batch[1:] < batch[:-1]).nonzero()[0]) + 1
                raise ValueError(
                    f"batch must not decrease, but batch[{where}] is {int(batch[where])} after "
                    f"{int(batch[where - 1])}; sort the nodes by graph first"
                )
            low, high = int(batch[0]), int(batch[-1])
            if low < 0 or high >= num_graphs:
                raise ValueError(
                    f"batch names graph {low if low < 0 else high}, but num_graphs is {num_graphs}"
                )
        nodes = torch.bincount(batch, minlength=num_graphs)
        graph = batch[src]
        if src.numel() and not torch.equal(graph, batch[dst]):
            e = int((graph != batch[dst]).nonzero()[0])
            raise ValueError(
                f"edge {e} joins node {int(src[e])} of graph {int(graph[e])} to node "
                f"{int(dst[e])} of graph {int(batch[dst[e]])}; an edge must stay in one graph"
            )
        order = None
        if bool((graph[1:] < graph[:-1]).any()):
            order = torch.argsort(graph, stable=True)
            src, dst = src[order], dst[order]
        edges = torch.bincount(graph, minlength=num_graphs)
        pair = src * num_nodes + dst
        out_edge = torch.argsort(pair, stable=True)
        parallel = parallel_ptr = None
        first = torch.ones(src.numel(), dtype=torch.bool)
        first[1:] = pair[out_edge].diff() != 0
        if not bool(first.all()):
            number = first.cumsum(0) - 1
            parallel = torch.empty_like(out_edge)
            parallel[out_edge] = number
            parallel_ptr = _offsets(torch.bincount(number))
        return cls(
            nodes=nodes,
            edges=edges,
            node_ptr=_offsets(nodes),
            edge_ptr=_offsets(edges),
            src=src,
            dst=dst,
            out_ptr=_offsets(torch.bincount(src, minlength=num_nodes)),
            out_edge=out_edge,
            in_ptr=_offsets(torch.bincount(dst, minlength=num_nodes)),
            in_edge=torch.argsort(dst, stable=True),
            batch=batch,
            order=order,
            parallel=parallel,
            parallel_ptr=parallel_ptr,
        )

    @_outside_inference
    def to(self, device: torch.device | str) -> Plan:
        """This plan on ``device``, coarse plans made so far included; counts stay on the host."""
        device = torch.empty(0, device=device).device  # "cuda" with its index
        if self.device == device:
            return self
        names = [f.name for f in fields(self) if f.name not in HOST]
        moved = dict(
            zip(names, move_together([getattr(self, n) for n in names], device), strict=True)
        )
        plan = Plan(nodes=self.nodes, edges=self.edges, **moved)
        for key, coarse in self._coarse.items():
            plan._coarse[key] = coarse.to(device)
        return plan

    @_outside_inference
    def edge_entries(self, width: int) -> EdgeEntries:
        """Where a ``(V width) x V`` matrix with ``width`` rows for each node and an entry for each
        feature of each edge has its entries; cached."""
        if width not in self._edge_entries:
            column = torch.arange(width, device=self.device)
            degree, order = self.out_ptr.diff(), self.out_edge
            u = self.src.index_select(0, order)
            first = self.out_ptr[:-1] * width
            slot = torch.arange(self.num_edges, device=self.device)
            slot = slot - self.out_ptr.index_select(0, u)
            place = first.index_select(0, u) + slot
            place = place[:, None] + degree.index_select(0, u)[:, None] * column
            place = place.view(-1)
            source, node = torch.empty_like(place), torch.empty_like(place)
            source[place] = (order[:, None] * width + column).view(-1)
            node[place] = self.dst.index_select(0, order).repeat_interleave(width)
            ptr = (first[:, None] + degree[:, None] * column).view(-1)
            t_column = self.src.index_select(0, self.in_edge)[:, None] * width + column
            self._edge_entries[width] = EdgeEntries(
                torch.nn.functional.pad(ptr, (0, 1), value=self.num_edges * width),
                node,
                source,
                self.in_ptr * width,
                t_column.view(-1),
            )
        return self._edge_entries[width]

    @_outside_inference
    def coarse(self, clusters: Tensor, drop_self_loops: bool) -> CoarsePlan:
        """The plan of the coarse graph, for ``clusters`` (a CPU tensor of shape ``G``); cached."""
        key = (tuple(clusters.tolist()), drop_self_loops)
        if key not in self._coarse:
            self._coarse[key] = CoarsePlan.build(clusters, drop_self_loops).to(self.device)
        return self._coarse[key]


class EdgeEntries(NamedTuple):
    """The nonzero pattern of a matrix that sums edge features times target nodes: row ``(i, f)``
    holds feature ``f`` of every edge out of node ``i``, in the column of the edge's target."""

    ptr: Tensor  # [V width + 1] each row's first entry
    node: Tensor  # target node of the entry
    source: Tensor  # where the entry stands in an E x width tensor
    t_ptr: Tensor  # [V + 1] each column's first entry, in the order of in_edge, then features
    t_row: Tensor  # row of the entry


class Entries(NamedTuple):
    """The nonzero pattern of a block-diagonal ``V x P`` assignment, by rows and by columns."""

    ptr: Tensor  # [V + 1] each node's first entry
    cluster: Tensor  # cluster of the entry
    flat: Tensor  # where the entry stands in a V x max_clusters tensor
    t_ptr: Tensor  # [P + 1] each cluster's first entry
    t_node: Tensor  # node of the entry
    t_flat: Tensor  # as flat, in the order of t_node


@dataclass(eq=False)
class CoarsePlan:
    """The complete coarse graphs: every ordered pair of clusters of one graph is an edge."""

    clusters: Tensor  # [G] clusters of each graph; always on the CPU
    drop_self_loops: bool
    counts: Tensor  # [G] the same as clusters, on the device
    rev: Tensor  # one for each pair: position of the edge (q, p) for the edge (p, q)
    plan: Plan  # of the coarse graph: its nodes are clusters, its edges the pairs
    _items: dict = field(default_factory=dict, repr=False)

    @property
    def max_clusters(self) -> int:
        """The most clusters of any graph in this batch."""
        return int(self.clusters.max()) if self.clusters.numel() else 0

    @classmethod
    def build(cls, clusters: Tensor, drop_self_loops: bool) -> CoarsePlan:
        """List the pairs in graph order, then row-major in ``(p, q)``."""
        width = (clusters - 1).clamp(min=0) if drop_self_loops else clusters
        edges = clusters * width
        node_ptr, edge_ptr = _offsets(clusters), _offsets(edges)
        batch = torch.repeat_interleave(torch.arange(clusters.numel()), clusters)
        P, pairs = batch.numel(), int(edge_ptr[-1])
        degree, first = width[batch], node_ptr[batch]
        out_ptr = _offsets(degree)
        src = torch.repeat_interleave(torch.arange(P), degree, output_size=pairs)
        position = torch.arange(pairs)
        q = position - out_ptr[:-1].index_select(0, src)
        back = torch.arange(P) - first  # the column of p in the rows of other clusters
        if drop_self_loops:  # column q skips the diagonal
            p = back.index_select(0, src)
            q += q >= p
            back = p - (p > q).long()
        else:
            back = back.index_select(0, src)
        dst = first.index_select(0, src) + q
        rev = out_ptr[:-1].index_select(0, dst) + back
        plan = Plan(
            nodes=clusters,
            edges=edges,
            node_ptr=node_ptr,
            edge_ptr=edge_ptr,
            src=src,
            dst=dst,
            out_ptr=out_ptr,
            out_edge=position,
            in_ptr=out_ptr,  # every pair has its reverse, so in-degrees equal out-degrees
            in_edge=rev,
            batch=batch,
        )
        return cls(clusters, drop_self_loops, clusters, rev, plan)

    def to(self, device: torch.device | str) -> CoarsePlan:
        """This plan on ``device``; what was derived from it is made again there."""
        device = torch.empty(0, device=device).device
        if self.rev.device == device:
            return self
        counts, rev = move_together([self.counts, self.rev], device)
        return CoarsePlan(self.clusters, self.drop_self_loops, counts, rev, self.plan.to(device))

    @cached_property
    @_outside_inference
    def edge_index(self) -> Tensor:
        """The pairs as a tensor of shape ``2 x pairs``."""
        return torch.stack([self.plan.src, self.plan.dst])

    @cached_property
    @_outside_inference
    def column(self) -> Tensor:
        """The number of each pair's target cluster within its graph."""
        first = self.plan.node_ptr.index_select(0, self.plan.batch)
        return self.plan.dst - first.index_select(0, self.plan.src)

    @_outside_inference
    def entries(self, fine: Plan) -> Entries:
        """Where a block-diagonal assignment of ``fine``'s nodes has its entries; cached."""
        if "entries" not in self._items:
            K, cluster_ptr = self.max_clusters, _offsets(self.clusters)
            node_ptr = _offsets(fine.nodes)
            graphs = torch.arange(self.clusters.numel())
            of_node = torch.repeat_interleave(graphs, fine.nodes)
            of_cluster = torch.repeat_interleave(graphs, self.clusters)
            ptr = _offsets(self.clusters[of_node])
            t_ptr = _offsets(fine.nodes[of_cluster])
            count = torch.arange(int(ptr[-1]))
            node = torch.repeat_interleave(ptr.diff(), output_size=count.numel())
            row = torch.repeat_interleave(t_ptr.diff(), output_size=count.numel())
            V, P = torch.arange(of_node.numel()), torch.arange(of_cluster.numel())
            t_node = count + (node_ptr[of_cluster] - t_ptr[:-1]).index_select(0, row)
            made = [
                ptr,
                count + (cluster_ptr[of_node] - ptr[:-1]).index_select(0, node),
                count + (V * K - ptr[:-1]).index_select(0, node),
                t_ptr,
                t_node,
                t_node * K + (P - cluster_ptr[of_cluster]).index_select(0, row),
            ]
            self._items["entries"] = Entries(*move_together(made, self.rev.device))
        return self._items["entries"]
