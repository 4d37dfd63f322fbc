"""A batch of graphs with node and edge features."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

import numpy as np
import torch
from torch import Tensor

from tritonpool.plan import Plan
from tritonpool.planning import MIXED, make_plan

if TYPE_CHECKING:
    from chemprop.data import BatchMolGraph
    from torch_geometric.data import Data

    from tritonpool.top_k import TopK

__all__ = ["Graph", "check_graph"]


def _check(ok: bool, name: str, value: object, expected: str, size: object = None) -> None:
    """Raise unless ``ok``; the message is made only then, because text of a size that varies from
    batch to batch would be compiled anew for each."""
    if not ok:
        expected = expected.replace("{}", str(size))
        if isinstance(value, Tensor):
            value = f"of dtype {value.dtype} and shape {tuple(value.shape)}".replace("torch.", "")
        raise ValueError(f"{name} must be {expected}, but is {value}")


def _check_tensors(
    x: object,
    edge_index: object,
    edge_attr: object,
    edge_weight: object,
    batch: object,
    owner: str = "",
) -> None:
    """Raise unless these are the tensors of one graph, as :class:`Graph` describes them; ``owner``
    stands before their names."""
    needed = {"x": x, "edge_index": edge_index}
    others = {"edge_attr": edge_attr, "edge_weight": edge_weight, "batch": batch}
    for name, value in {**needed, **others}.items():
        ok = isinstance(value, Tensor) or (value is None and name in others)
        what = "a tensor" if name in needed else "a tensor or None"
        _check(ok, owner + name, type(value).__name__, what)
        dense = value is None or value.layout == torch.strided
        _check(dense, owner + name, value, "a dense tensor")
    ok = x.dim() == 2 and x.is_floating_point()
    _check(ok, owner + "x", x, "a floating-point V x D tensor")
    ok = edge_index.dim() == 2 and edge_index.shape[0] == 2 and edge_index.dtype == torch.int64
    _check(ok, owner + "edge_index", edge_index, "an int64 2 x E tensor")
    V, E = x.shape[0], edge_index.shape[1]
    if edge_attr is not None:
        ok = edge_attr.dim() == 2 and edge_attr.shape[0] == E and edge_attr.is_floating_point()
        expected = "a floating-point E x C tensor with E = {}"
        _check(ok, owner + "edge_attr", edge_attr, expected, E)
    if edge_weight is not None:
        ok = edge_weight.shape == (E,) and edge_weight.is_floating_point()
        expected = "a floating-point tensor of shape ({},)"
        _check(ok, owner + "edge_weight", edge_weight, expected, E)
    if batch is not None:
        ok = batch.shape == (V,) and batch.dtype == torch.int64
        _check(ok, owner + "batch", batch, "an int64 tensor of shape ({},)", V)
    for name, value in {"edge_index": edge_index, **others}.items():
        if value is not None and value.device != x.device:
            raise ValueError(f"{owner}{name} is on {value.device}, but {owner}x is on {x.device}")


def _counted(num_graphs: object) -> int:
    """The number of graphs, if it is one."""
    if isinstance(num_graphs, np.integer):
        num_graphs = int(num_graphs)
    _check(
        isinstance(num_graphs, int) and not isinstance(num_graphs, bool) and num_graphs >= 0,
        "num_graphs",
        num_graphs,
        "an int >= 0",
    )
    return num_graphs


class Graph:
    """A batch of ``G`` graphs with ``V`` nodes and ``E`` directed edges, one after the other.

    Parameters
    ----------
    x : Tensor
        a tensor of shape ``V x D`` with node features
    edge_index : Tensor
        an int64 tensor of shape ``2 x E`` with the source and target node of every edge; any
        order, parallel edges and self-loops allowed, but no edge between two graphs
    edge_attr : Tensor | None, default=None
        a tensor of shape ``E x C`` with edge features
    edge_weight : Tensor | None, default=None
        a tensor of shape ``E`` with edge weights of at least 0; ``None`` means 1 each
    batch : Tensor | None, default=None
        an int64 tensor of shape ``V`` with the graph of every node, never decreasing; ``None``
        means that all nodes belong to one graph
    num_graphs : int | None, default=None
        ``G``; needed to count empty graphs at the end of the batch, and, on a GPU, to save the
        copy to the host that reading it from ``batch`` costs

    Raises
    ------
    ValueError
        if a shape or dtype does not fit. Values are checked when the plan is made (edges out of
        range or across graphs, an unsorted ``batch``) and by :meth:`validate` (all the rest).
    """

    def __init__(
        self,
        x: Tensor,
        edge_index: Tensor,
        edge_attr: Tensor | None = None,
        edge_weight: Tensor | None = None,
        batch: Tensor | None = None,
        num_graphs: int | None = None,
    ):
        _check_tensors(x, edge_index, edge_attr, edge_weight, batch)
        V = x.shape[0]
        if num_graphs is None:
            num_graphs = 1 if batch is None else int(batch[-1]) + 1 if V else 0
        self.x = x
        self.edge_attr = edge_attr
        self.edge_weight = edge_weight
        self._edge_index = edge_index
        self._batch = batch
        self._num_graphs = _counted(num_graphs)
        self._forget()

    def _forget(self) -> None:
        """No plan is known, nor the one of compiled code, which is of use there only: it counts
        edges in an order of its own."""
        self._plan: Plan | None = None
        self._compiled_plan: Plan | None = None

    @property
    def edge_index(self) -> Tensor:
        """Source and target of every edge, ``2 x E``. What is put in its place, or in that of
        :attr:`batch` or :attr:`num_graphs`, gets a plan of its own; writing to the tensor itself
        does not change a plan that is made."""
        return self._edge_index

    @edge_index.setter
    def edge_index(self, value: Tensor) -> None:
        self._edge_index = value
        self._forget()

    @property
    def batch(self) -> Tensor | None:
        """The graph of every node, ``V``."""
        return self._batch

    @batch.setter
    def batch(self, value: Tensor | None) -> None:
        self._batch = value
        self._forget()

    @property
    def num_graphs(self) -> int:
        """``G``."""
        return self._num_graphs

    @num_graphs.setter
    def num_graphs(self, value: int) -> None:
        self._num_graphs = _counted(value)
        self._forget()

    @property
    def num_nodes(self) -> int:
        return self.x.shape[0]

    @property
    def num_edges(self) -> int:
        return self.edge_index.shape[1]

    @property
    def device(self) -> torch.device:
        return self.x.device

    @property
    def plan(self) -> Plan:
        """The integer plan of this batch, made at first use; on a GPU this takes one copy of the
        indices to the host and one back.

        Raises
        ------
        ValueError
            if an edge is out of range or joins two graphs, or if ``batch`` is not sorted
        """
        return self._known_plan(grouped=False)

    @property
    def grouped_plan(self) -> Plan:
        """:attr:`plan`, for those who need the edges graph by graph.

        Raises
        ------
        ValueError
            as for :attr:`plan`, and if the edges of different graphs are mixed
        """
        return self._known_plan(grouped=True)

    def _known_plan(self, grouped: bool) -> Plan:
        """The plan, made at first use."""
        asked = self.edge_index, self.batch, self.num_nodes, self.num_graphs, grouped
        if self._plan is None and torch.compiler.is_compiling():
            known = self._compiled_plan
            if known is None or (grouped and known.order is not None):
                self._compiled_plan = make_plan(*asked)
            return self._compiled_plan
        if self._plan is None:
            self._plan = make_plan(*asked)
        elif grouped and self._plan.order is not None:
            raise ValueError(MIXED)
        return self._plan

    def replace(self, **changes: object) -> Graph:
        """The same graphs with some tensors exchanged (``x``, ``edge_attr``, ``edge_weight``);
        the plan is shared.

        Raises
        ------
        ValueError
            if a name is not one of these three, or a shape does not fit
        """
        unknown = set(changes) - {"x", "edge_attr", "edge_weight"}
        if unknown:
            raise ValueError(f"replace takes x, edge_attr and edge_weight, not {sorted(unknown)}")
        now = {"x": self.x, "edge_attr": self.edge_attr, "edge_weight": self.edge_weight, **changes}
        x = now["x"]
        ok = isinstance(x, Tensor) and x.shape[:1] == (self.num_nodes,)
        _check(ok, "x", x, "a tensor of {} rows", self.num_nodes)
        graph = Graph(
            x,
            self.edge_index,
            now["edge_attr"],
            now["edge_weight"],
            self.batch,
            self.num_graphs,
        )
        graph._plan, graph._compiled_plan = self._plan, self._compiled_plan
        return graph

    def _map(self, move: Callable[[Tensor], Tensor], plan: Plan | None) -> Graph:
        tensors = (self.x, self.edge_index, self.edge_attr, self.edge_weight, self.batch)
        graph = Graph(*(None if t is None else move(t) for t in tensors), self.num_graphs)
        graph._plan = plan
        return graph

    def to(self, device: torch.device | str, non_blocking: bool = False) -> Graph:
        """A copy of this batch on ``device``, with its plan if it has one.

        Raises
        ------
        ValueError
            if it is a dtype, which indices cannot have
        """
        _check(not isinstance(device, torch.dtype), "device", device, "a device")
        plan = None if self._plan is None else self._plan.to(device)
        return self._map(lambda t: t.to(device, non_blocking=non_blocking), plan)

    def pin_memory(self) -> Graph:
        """A copy of this batch in page-locked memory, for fast copies to a GPU."""
        return self._map(lambda t: t.pin_memory(), self._plan)

    def validate(self, S: Tensor | TopK | None = None, clusters: object = None) -> Graph:
        """Check every value, also where that makes the host wait for the GPU.

        Parameters
        ----------
        S : Tensor | TopK | None, default=None
            an assignment of shape ``V x K`` to check against this batch
        clusters : Tensor | Sequence[int] | None, default=None
            how many columns of ``S`` each graph uses; ``None`` means all ``K``

        Returns
        -------
        Graph
            this batch

        Raises
        ------
        ValueError
            if a tensor was exchanged for one that does not fit the others, an index is out of range
            or joins two graphs, ``batch`` decreases, a weight is negative or not finite, or ``S``
            has a wrong shape, NaN, negative entries, nonzero entries beyond a graph's clusters, or
            a cluster out of range or twice for a node
        """
        from tritonpool.checks import check_assignment, check_clusters, check_weights
        from tritonpool.planning import coarse_plan
        from tritonpool.top_k import TopK, as_dense

        check_graph(self)
        plan = self.plan
        check_weights(self.edge_weight)
        if S is not None:
            if isinstance(S, TopK):
                S.check()
            S = as_dense(S)
            counts = check_clusters(self, S, clusters)
            check_assignment(S, plan, coarse_plan(plan, counts, True))
        return self

    def __repr__(self) -> str:
        C = None if self.edge_attr is None else self.edge_attr.shape[1]
        weighted = "" if self.edge_weight is None else ", weighted"
        return (
            f"Graph({self.num_graphs} graphs, {self.num_nodes} nodes x {self.x.shape[1]}, "
            f"{self.num_edges} edges{'' if C is None else f' x {C}'}{weighted}, {self.device})"
        )

    @classmethod
    def from_bmg(cls, bmg: BatchMolGraph) -> Graph:
        """The batch of molecules that chemprop collates; carries over its plan if it has one."""
        graph = cls(bmg.V, bmg.edge_index, bmg.E.to(bmg.V.dtype), None, bmg.batch, len(bmg))
        graph._plan = getattr(bmg, "plan", None)
        return graph

    @classmethod
    def from_pyg(cls, data: Data) -> Graph:
        """The batch held by a PyG ``Data`` or ``Batch`` object (see :mod:`tritonpool.pyg`)."""
        from tritonpool.pyg import graph_from_pyg

        return graph_from_pyg(data)

    def to_pyg(self) -> Data:
        """This batch as a PyG ``Batch`` (see :mod:`tritonpool.pyg`)."""
        from tritonpool.pyg import graph_to_pyg

        return graph_to_pyg(self)


def check_graph(graph: object) -> None:
    """Refuse other things than graphs, and graphs whose tensors were exchanged for some that do not
    fit the others: kernels do not look where a tensor ends."""
    if not isinstance(graph, Graph):
        raise ValueError(f"graph must be a tritonpool.Graph, but is {type(graph).__name__}")
    if torch.compiler.is_compiling():
        return
    x, batch = graph.x, graph.batch
    V = None
    if graph._plan is not None:
        V = graph._plan.num_nodes
    elif isinstance(batch, Tensor):
        V = batch.numel()
    fits = V is None or not isinstance(x, Tensor) or x.shape[:1] == (V,)
    _check(fits, "graph.x", x, "of {} rows", V)
    _check_tensors(x, graph.edge_index, graph.edge_attr, graph.edge_weight, batch, "graph.")
