"""The DiffPool layer: learn clusters, pool the graph by them."""

from __future__ import annotations

import inspect
from numbers import Integral, Real
from typing import NamedTuple

import torch
from torch import Tensor, nn

from tritonpool.autograd import Softmax
from tritonpool.backend import choose_backend
from tritonpool.checks import check_node_rows, check_scores, check_weights
from tritonpool.coarse_plan import CoarsePlan, cluster_counts
from tritonpool.dtypes import accumulate_in
from tritonpool.graph import Graph, check_graph
from tritonpool.losses import planned_losses
from tritonpool.ops import coarsen_planned
from tritonpool.planning import coarse_plan
from tritonpool.softmax import masked_softmax
from tritonpool.top_k import best_only

__all__ = ["DiffPool"]

NAMED = ("edge_weight", "edge_attr", "batch")  # what an assignment network may have by name


def _weights_up_to_one(graph: Graph) -> Graph:
    """The graph with edge weights divided by the largest of their own graph."""
    if graph.edge_weight is None:
        return graph
    w = graph.edge_weight.to(accumulate_in(graph.edge_weight))
    of = graph.plan.batch.index_select(0, graph.edge_index[0])
    largest = w.new_zeros(graph.num_graphs).scatter_reduce(0, of, w, "amax")
    # a graph whose weights are all nearly 0 keeps them, with a gradient of ordinary size
    least = torch.finfo(w.dtype).tiny ** 0.5
    return graph.replace(edge_weight=w / torch.where(largest > least, largest, 1)[of])


def _parameters(network: nn.Module) -> list[inspect.Parameter]:
    """Those of a network's ``forward``, or of the network in it that takes whatever it is given
    (``torch.compile``, ``DataParallel``, averaged models)."""
    try:
        found = list(inspect.signature(network.forward).parameters.values())
    except ValueError:  # a traced network has none that Python knows
        return []
    if any(p.kind is p.VAR_POSITIONAL for p in found):
        for name in ("_orig_mod", "module", "_checkpoint_wrapped_module"):
            if isinstance(inner := getattr(network, name, None), nn.Module):
                return _parameters(inner)
    return found


class _Asked(NamedTuple):
    """What the ``forward`` of an assignment network asks for beside the node features."""

    edges: bool  # edge_index, by its place
    named: tuple[str, ...]  # some of NAMED


def _asked_by(network: nn.Module) -> _Asked:
    """What a network is to be given.

    Raises
    ------
    ValueError
        if it requires something else
    """
    wanted = _parameters(network)
    others = [p for p in wanted if p.name not in NAMED]
    by_place = [
        p
        for p in others
        if p.kind in (p.POSITIONAL_ONLY, p.POSITIONAL_OR_KEYWORD) and p.default is p.empty
    ]
    by_name = [p for p in others if p.kind is p.KEYWORD_ONLY and p.default is p.empty]
    if unknown := by_place[2:] + by_name:
        raise ValueError(
            f"the forward of assignment may require node features, edge_index, "
            f"{', '.join(NAMED[:-1])} and {NAMED[-1]}, but {type(network).__name__} requires "
            f"{unknown[0].name!r} too"
        )
    edges = len(by_place) > 1
    names = {p.name for p in wanted} & set(NAMED if edges else ("batch",))
    optional = {p.name for p in wanted if p.default is not p.empty}
    if "edge_attr" in optional and any(map(_without_edge_features, network.modules())):
        names.discard("edge_attr")
    return _Asked(edges, tuple(name for name in NAMED if name in names))


def _without_edge_features(module: nn.Module) -> bool:
    """Is this a layer of PyG that was made for none, and fails if it is given some?"""
    widths = [getattr(module, name, 0) for name in ("edge_dim", "in_edge_channels")]
    kind = type(module).__name__
    return (
        None in widths
        or (kind == "CGConv" and module.dim == 0)
        or (kind == "GENConv" and not hasattr(module, "lin_edge"))
    )


class DiffPool(nn.Module):
    r"""Differentiable pooling (Ying et al., NeurIPS 2018, arXiv:1806.08804) with bond features.

    A network scores every node for each of :math:`K` clusters; the scores, masked to the
    :math:`c_g` clusters of the node's graph, become shares by a softmax, and the graph is
    coarsened by them (:func:`tritonpool.coarsen`). A graph of :math:`n_g` nodes gets

    .. math::
        c_g = \min(K, \max(1, \lceil r\, n_g - 10^{-9} \rceil))

    clusters, and none if it has no nodes. The scores' width is fixed, so that the layer can be
    trained, saved and loaded whatever the batch holds.

    Parameters
    ----------
    in_channels : int
        width of the node features that the assignment network sees
    max_clusters : int
        the most clusters a graph can have, ``K``
    ratio : float, default=0.25
        clusters per node, ``r``; above 0, at most 1
    assignment : nn.Module | None, default=None
        the network that scores nodes, ``V x in_channels`` to ``V x K``. Called with the node
        features, or, if its ``forward`` requires two arguments, with node features and
        ``edge_index`` as PyG's convolutions are. Of ``edge_weight``, ``edge_attr`` and ``batch`` it
        is given those that its ``forward`` has arguments for, by these names; the first two with
        ``edge_index`` only, and no ``edge_attr`` if it need not be given and a layer of PyG in it
        was made for none. ``None`` means an MLP with one hidden layer
    drop_self_loops : bool, default=True
        leave out the coarse edges from a cluster to itself
    temperature : float, default=1.0
        what the scores are divided by before the softmax; below 1 the shares are sharper
    top_k : int | None, default=None
        share every node among its best ``top_k`` clusters only, at least 2, and leave out the
        coarse edges of weight 0; ``None``: among all, and all clusters are joined. On a GPU the
        host waits once for the coarse graph, which then depends on the shares

    Raises
    ------
    ValueError
        if ``in_channels`` or ``max_clusters`` is below 1, ``top_k`` below 2, ``ratio`` outside
        (0, 1] or ``temperature`` not above 0, or if ``assignment`` requires other arguments
    """

    assignment: nn.Module

    def __init__(
        self,
        in_channels: int,
        max_clusters: int,
        ratio: float = 0.25,
        *,
        assignment: nn.Module | None = None,
        drop_self_loops: bool = True,
        temperature: float = 1.0,
        top_k: int | None = None,
    ):
        super().__init__()
        whole = [("in_channels", in_channels, 1), ("max_clusters", max_clusters, 1)]
        # the only share of a node is 1, whatever its score
        whole += [] if top_k is None else [("top_k", top_k, 2)]
        for name, value, least in whole:
            if isinstance(value, bool) or not isinstance(value, Integral) or value < least:
                raise ValueError(f"{name} must be an int of at least {least}, but is {value!r}")
        number = isinstance(ratio, Real) and not isinstance(ratio, bool)
        if not (number and 0 < ratio <= 1):
            raise ValueError(f"ratio must be a number above 0 and at most 1, but is {ratio!r}")
        number = isinstance(temperature, Real) and not isinstance(temperature, bool)
        if not (number and 0 < temperature < float("inf")):
            raise ValueError(f"temperature must be a number above 0, but is {temperature!r}")
        if not (assignment is None or isinstance(assignment, nn.Module)):
            raise ValueError(
                f"assignment must be a module or None, but is {type(assignment).__name__}"
            )
        self.in_channels = int(in_channels)
        self.max_clusters = int(max_clusters)
        self.ratio = float(ratio)
        self.drop_self_loops = drop_self_loops
        self.temperature = float(temperature)
        self.top_k = None if top_k is None else int(top_k)
        if assignment is None:
            assignment = nn.Sequential(
                nn.Linear(in_channels, in_channels), nn.ReLU(), nn.Linear(in_channels, max_clusters)
            )
        self.assignment = assignment

    def __setattr__(self, name: str, value: object) -> None:
        if name == "assignment":  # another one may ask for other things
            self._asked = _asked_by(value)
        super().__setattr__(name, value)

    def reset_parameters(self) -> None:
        """Draw all weights anew."""
        own = hasattr(self.assignment, "reset_parameters")
        for module in [self.assignment] if own else self.assignment.modules():
            if hasattr(module, "reset_parameters"):
                module.reset_parameters()

    def counts(self, graph: Graph) -> Tensor:
        """How many clusters each graph gets: ``G`` integers on the CPU."""
        return cluster_counts(graph.plan.nodes, self.max_clusters, self.ratio)

    def scores(self, graph: Graph) -> Tensor:
        """The unmasked scores, ``V x K``."""
        args = (graph.x, graph.edge_index) if self._asked.edges else (graph.x,)
        logits = self.assignment(
            *args, **{name: getattr(graph, name) for name in self._asked.named}
        )
        if not isinstance(logits, Tensor) or not logits.is_floating_point():
            what = logits.dtype if isinstance(logits, Tensor) else type(logits).__name__
            raise ValueError(
                f"the assignment network must return a floating-point tensor, but returned {what}"
            )
        if logits.shape != (graph.num_nodes, self.max_clusters):
            raise ValueError(
                f"the assignment network must return {graph.num_nodes} x {self.max_clusters} "
                f"scores, but returned {tuple(logits.shape)}"
            )
        return logits

    def forward(
        self,
        graph: Graph,
        z: Tensor | None = None,
        *,
        hard: bool = False,
        compute_losses: bool = True,
    ) -> tuple[Graph, Tensor, dict[str, Tensor]]:
        """Pool a batch of graphs.

        Parameters
        ----------
        graph : Graph
            the batch; its ``x``, ``V x in_channels``, decides about the clusters
        z : Tensor | None, default=None
            the node features to pool, ``V x D``; ``None`` means ``graph.x``
        hard : bool, default=False
            put every node wholly into its best cluster; for inference, as this has no gradient
        compute_losses : bool, default=True
            also compute the auxiliary losses; else the dictionary is empty

        Returns
        -------
        tuple[Graph, Tensor, dict[str, Tensor]]
            the coarse batch; the assignment, ``V x K``; and the losses ``"link"``
            (:func:`tritonpool.link_loss`; edge weights are first divided by the largest of their
            graph) and ``"entropy"`` (:func:`tritonpool.entropy_loss`)

        Raises
        ------
        ValueError
            if ``hard`` is used in training mode, if a shape does not fit, or, for tensors on the
            CPU, if a score is not finite or an edge weight negative or not finite
        """
        if hard and self.training:
            raise ValueError("hard=True has no gradient and is for inference: call eval() first")
        check_graph(graph)
        if graph.x.shape[1] != self.in_channels:
            raise ValueError(
                f"graph.x must have in_channels = {self.in_channels} columns, but has "
                f"{graph.x.shape[1]}"
            )
        if z is not None:
            check_node_rows(z, graph)
        coarse = self.plan_coarse(graph)
        if graph.device.type == "cpu" and not torch.compiler.is_compiling():
            check_weights(graph.edge_weight)
        S = self.assign(graph, coarse)
        if hard:
            S = torch.zeros_like(S).scatter_(1, S.argmax(1, keepdim=True), 1)
        pooled = graph if z is None else graph.replace(x=z)
        losses = {}
        if compute_losses:
            link, entropy = planned_losses(_weights_up_to_one(graph), S, coarse)
            losses = {"link": link, "entropy": entropy}
        return self.coarsen(pooled, S, coarse), S, losses

    def plan_coarse(self, graph: Graph) -> CoarsePlan:
        """The integer structure of the coarse batch."""
        return coarse_plan(graph.plan, self.counts(graph), self.drop_self_loops)

    def assign(self, graph: Graph, coarse: CoarsePlan) -> Tensor:
        """The shares of every node, ``V x K``."""
        logits = self.scores(graph)
        if self.temperature != 1:
            logits = logits / self.temperature
        compiling = torch.compiler.is_compiling()
        if logits.device.type == "cpu" and not compiling:
            check_scores(logits, graph.x)
        if self.top_k is not None or compiling:
            counts = coarse.counts.index_select(0, graph.plan.batch)
        if self.top_k is not None:
            logits = best_only(logits, counts, self.top_k)
        if compiling:
            return masked_softmax(logits, counts)
        if logits.is_cuda and torch.is_autocast_enabled("cuda"):
            logits = logits.to(accumulate_in(logits))  # as autocast does with torch's softmax
        return Softmax.apply(logits, graph.plan, coarse, choose_backend(graph.device))

    def coarsen(self, graph: Graph, S: Tensor, coarse: CoarsePlan) -> Graph:
        """The coarse batch."""
        return coarsen_planned(graph, S, coarse, only_joined=self.top_k is not None)

    def extra_repr(self) -> str:
        shown = ["in_channels", "max_clusters", "ratio"]
        shown += ["temperature"] if self.temperature != 1 else []
        shown += [] if self.top_k is None else ["top_k"]
        return ", ".join(f"{name}={getattr(self, name)}" for name in shown)
