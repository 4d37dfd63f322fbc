"""The integer structure of a batch of graphs, computed once on the host and reused everywhere.

Offsets and sort orders depend on integers alone: which node belongs to which graph, and which edges
join them. They are made here, on the CPU, moved to the device in one copy, and cached on the
:class:`~tritonpool.Graph`.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field, fields

import numpy as np
import torch
from torch import Tensor

from tritonpool.handles import Keyed

__all__ = [
    "Plan",
    "move_together",
    "offsets",
    "once",
    "outside_inference",
    "send",
    "slot_sizes",
]


def offsets(counts: np.ndarray) -> np.ndarray:
    """``[0, c_0, c_0 + c_1, ...]`` for counts of shape ``G``."""
    ptr = np.zeros(len(counts) + 1, dtype=np.int64)
    np.cumsum(counts, out=ptr[1:])
    return ptr


MOST_SLOTS = 8  # edges of a node that are treated alike; atoms have fewer neighbours


def slot_sizes(degree: np.ndarray) -> tuple[int, int]:
    """How many slots for edges a group has, and how many groups the nodes of these degrees need:
    one each, and more for a node with more than :data:`MOST_SLOTS` edges."""
    most = max(1, int(degree.max(initial=0)))
    if most <= MOST_SLOTS:
        return most, len(degree)
    return MOST_SLOTS, int(np.maximum(-(-degree // MOST_SLOTS), 1).sum())


# A plan made during validation may be used in training later, where inference tensors are refused.
outside_inference = torch.inference_mode(False)


def once(items: dict, key: object, make: Callable, *args: object):
    """``items[key]``, which ``make(*args)`` makes at first use; never ``None``."""
    found = items.get(key)  # asked once, because another thread may remove it
    if found is None:
        with torch.inference_mode(False):
            found = items[key] = make(*args)
    return found


def send(tensor: Tensor, device: torch.device | str) -> Tensor:
    """A copy on ``device`` that the host does not wait for, unless it is to the host, which would
    read memory that the GPU has not filled yet."""
    return tensor.to(device, non_blocking=torch.device(device).type != "cpu")


def move_together(tensors: list[Tensor | None], device: torch.device) -> list[Tensor | None]:
    """Copy int64 tensors to ``device`` as one packed buffer: one transfer instead of ten.

    Raises
    ------
    RuntimeError
        while a CUDA graph is captured, which would copy the same memory again when it is replayed
    """
    if all(t is None or t.device == device for t in tensors):
        return tensors
    if device.type == "cuda" and torch.cuda.is_current_stream_capturing():
        raise RuntimeError(
            "a CUDA graph is captured, but what depends on this batch's integers is not on the GPU "
            "yet: run the same forward and backward once before capturing"
        )
    present = [t for t in tensors if t is not None]
    packed = torch.cat([t.reshape(-1) for t in present])
    if device.type == "cuda" and not packed.is_cuda:
        packed = packed.pin_memory()
    packed = send(packed, device)
    views = iter(packed.split([t.numel() for t in present]))
    return [None if t is None else next(views).view(t.shape) for t in tensors]


# kept on the host or made again, when a plan is moved to a device
NOT_MOVED = (
    "nodes",
    "edges",
    "counts",
    "slots",
    "undirected",
    "key",
    "host_ends",
    "extras",
    "_coarse",
    "_items",
)


@dataclass(eq=False)
class Plan(Keyed):
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
    slots: tuple[int, int] | None = None  # sizes of the groups of outgoing edges (slot_sizes)
    undirected: bool = False  # every edge is known to have its reverse
    host_ends: tuple[Tensor, Tensor] | None = None  # src and dst on the host, if not there itself
    key: Tensor | None = field(default=None, repr=False)  # stands for this plan in compiled graphs
    counts: dict = field(default_factory=dict, repr=False)  # more numbers for each graph, as nodes
    extras: dict = field(default_factory=dict, repr=False)  # what a layer wants to know besides
    _coarse: dict = field(default_factory=dict, repr=False)  # the coarse plans made so far
    _items: dict = field(default_factory=dict, repr=False)  # what backends derive from it

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

    def ends_on_host(self) -> tuple[Tensor, Tensor]:
        """``src`` and ``dst`` on the CPU; without a copy, if the plan was made there."""
        if self.device.type == "cpu":
            return self.src, self.dst
        return self.host_ends or (self.src.cpu(), self.dst.cpu())

    def own_indices(self) -> tuple[Tensor, Tensor]:
        """``edge_index`` and ``batch`` in memory of their own, for users who may write to them."""
        with torch.inference_mode(False):
            return torch.stack([self.src, self.dst]), self.batch.clone()

    @property
    def out_dst(self) -> Tensor:
        """The target of each edge in ``out_edge``."""
        return once(self._items, "out_dst", self.dst.index_select, 0, self.out_edge)

    @property
    def in_src(self) -> Tensor:
        """The source of each edge in ``in_edge``."""
        return once(self._items, "in_src", self.src.index_select, 0, self.in_edge)

    def node_shares(self, dtype: torch.dtype) -> Tensor:
        """What one node of each graph counts in a mean over the graphs of means over their nodes:
        ``G`` numbers."""
        return once(self._items, ("node shares", dtype), self.make_node_shares, dtype)

    def make_node_shares(self, dtype: torch.dtype) -> Tensor:
        """:meth:`node_shares` for compiled code, which is compiled again where it finds that a plan
        keeps more than before."""
        nodes = self.node_ptr.diff().clamp(min=1)
        return (nodes * len(nodes)).to(dtype).reciprocal()

    @classmethod
    @outside_inference
    def build(cls, batch: Tensor | None, edge_index: Tensor, num_nodes: int, num_graphs: int):
        """Make the plan from CPU tensors (``V`` and ``2 x E``), checking every value on the way.

        Raises
        ------
        ValueError
            if ``batch`` decreases or names a graph outside ``num_graphs``, or if an edge leaves
            the range of nodes or joins two graphs
        """
        # NumPy: its calls cost a third of torch's on arrays this small
        # A copy: the caller may write to these tensors or, in a loader's worker, give their memory
        # back. Kernels read each row as it lies.
        ends = np.array(edge_index.numpy(), order="C")
        src, dst = ends
        if src.size:
            low, high = ends.min(), ends.max()
            if low < 0 or high >= num_nodes:
                bad = low if low < 0 else high
                raise ValueError(
                    f"edge_index holds node {bad}, but the batch has nodes 0 to {num_nodes - 1}"
                    if num_nodes
                    else f"edge_index holds node {bad}, but the batch has no nodes"
                )
        if batch is None:
            batch = torch.zeros(num_nodes, dtype=torch.int64, device="cpu")
        batch = batch.clone(memory_format=torch.contiguous_format)
        of_node = batch.numpy()
        if of_node.size:
            falls = of_node[1:] < of_node[:-1]
            if falls.any():
                where = int(falls.argmax()) + 1
                raise ValueError(
                    f"batch must not decrease, but batch[{where}] is {of_node[where]} after "
                    f"{of_node[where - 1]}; sort the nodes by graph first"
                )
            low, high = of_node[0], of_node[-1]
            if low < 0 or high >= num_graphs:
                raise ValueError(
                    f"batch names graph {low if low < 0 else high}, but num_graphs is {num_graphs}"
                )
        graph = of_node[src]
        apart = graph != of_node[dst]
        if apart.any():
            e = int(apart.argmax())
            raise ValueError(
                f"edge {e} joins node {src[e]} of graph {graph[e]} to node {dst[e]} of graph "
                f"{of_node[dst[e]]}; an edge must stay in one graph"
            )
        order = None
        if (graph[1:] < graph[:-1]).any():
            order = graph.argsort(kind="stable")
            src, dst = src[order], dst[order]
        nodes = np.bincount(of_node, minlength=num_graphs)
        edges = np.bincount(graph, minlength=num_graphs)
        pair = src * num_nodes + dst
        out_edge = pair.argsort(kind="stable")
        parallel = parallel_ptr = None
        pair = pair[out_edge]
        first = np.ones(len(pair), dtype=bool)
        np.not_equal(pair[1:], pair[:-1], out=first[1:])
        if not first.all():
            number = first.cumsum() - 1
            parallel = np.empty_like(out_edge)
            parallel[out_edge] = number
            parallel_ptr = offsets(np.bincount(number))
        out_degree = np.bincount(src, minlength=num_nodes)
        in_degree = np.bincount(dst, minlength=num_nodes)
        reverse = dst * num_nodes + src
        in_edge = reverse.argsort(kind="stable")
        made = {
            "nodes": nodes,
            "edges": edges,
            "node_ptr": offsets(nodes),
            "edge_ptr": offsets(edges),
            "src": src,
            "dst": dst,
            "out_ptr": offsets(out_degree),
            "out_edge": out_edge,
            "in_ptr": offsets(in_degree),
            "in_edge": in_edge,
            "order": order,
            "parallel": parallel,
            "parallel_ptr": parallel_ptr,
        }
        made = {k: None if a is None else torch.from_numpy(a) for k, a in made.items()}
        undirected = np.array_equal(pair, reverse[in_edge])
        return cls(batch=batch, **made, slots=slot_sizes(out_degree), undirected=undirected)

    def extra(self, name: object, make: Callable[..., Tensor], *args: object) -> Tensor:
        """What ``make(plan, *args)`` says about this plan, kept with it on its device."""
        return once(self.extras, name, lambda: send(make(self, *args), self.device))

    @outside_inference
    def to(self, device: torch.device | str) -> Plan:
        """This plan on ``device``, coarse plans made so far included; counts stay on the host."""
        device = torch.empty(0, device=device).device  # "cuda" with its index
        if self.device == device:
            return self
        names = [f.name for f in fields(self) if f.name not in NOT_MOVED]
        moved = dict(
            zip(names, move_together([getattr(self, n) for n in names], device), strict=True)
        )
        known = {"slots": self.slots, "undirected": self.undirected, "counts": self.counts}
        plan = Plan(nodes=self.nodes, edges=self.edges, **known, **moved)
        if device.type != "cpu":
            plan.host_ends = self.ends_on_host()
        for name, values in self.extras.items():
            plan.extras[name] = send(values, device)
        for key, coarse in self._coarse.items():
            plan._coarse[key] = coarse.to(device)
        return plan
