"""The networks that score nodes for clusters.

Node states of an untrained D-MPNN are small (about 0.05). Scored by default-initialised layers they
give scores that differ by 0.01 between nodes: every node is shared out uniformly, all clusters are
alike, and the prediction does not depend on them. So states are normalised first, and the
initial scores have a variance of about 1.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn.functional import linear

from tritonpool.chemprop.positions import positions
from tritonpool.chemprop.rings import ring_clusters, ring_fragments
from tritonpool.diffpool import DiffPool
from tritonpool.dtypes import accumulate_in
from tritonpool.graph import Graph
from tritonpool.ops import in_plan_order
from tritonpool.planning import coarse_plan
from tritonpool.segments import edge_shares, neighbour_sum

__all__ = ["AssignmentPool", "NeighbourScores", "NodeScores"]

LEAST = 1e-6  # what the sum of the weights that reach a node is taken for at least
PREFERENCE = 4.0  # added to a score: at first 9 shares in 10 against five other clusters


class _Linear(nn.Linear):
    """A linear layer whose output has the mean square of its input at first."""

    def reset_parameters(self) -> None:
        nn.init.normal_(self.weight, std=(1 / self.in_features) ** 0.5)
        nn.init.zeros_(self.bias)


class _FirstLayer(nn.Linear):
    """The layer in front of a ReLU (He et al., arXiv:1502.01852) that sees states and, if asked to,
    encodings beside them: of a node, and perhaps of its neighbours beside those.

    Weights for encodings are drawn aside, so that all others of the model start as they would
    without: two models of one seed then differ by what places change.
    """

    def __init__(self, d_v: int, encodings: int, sources: int):
        self.sources = sources
        super().__init__(sources * (d_v + encodings), d_v)

    def reset_parameters(self) -> None:
        d_v = self.out_features
        std = (2 / (self.sources * d_v)) ** 0.5
        with torch.no_grad():
            each = self.weight.view(d_v, self.sources, -1)
            with torch.random.fork_rng(devices=()):
                each[..., d_v:].normal_(std=std)
            # in memory of its own, as a view would be filled with other numbers
            each[..., :d_v] = each.new_empty(d_v, self.sources, d_v).normal_(std=std)
        nn.init.zeros_(self.bias)


PARAMETERS = """

    Parameters
    ----------
    d_v : int
        width of the node states
    clusters : int
        number of scores for each node
    encodings : int, default=0
        number of positional encodings that are seen beside the states
    """


class _Scores(nn.Module):
    """What both networks share: what they see."""

    _version = 3  # of its state; encodings were others before

    def __init__(self, d_v: int, encodings: int):
        super().__init__()
        self.norm = nn.LayerNorm(d_v, elementwise_affine=False)
        self.encodings = encodings

    def seen(self, graph: Graph) -> Tensor:
        """The normalised states and the encodings, ``V x (d_v + encodings)``; in a long molecule
        the few columns of the encodings weigh nearly as much as all of the state."""
        X = self.norm(graph.x)
        if not self.encodings:
            return X
        P = positions(graph.plan, self.encodings).to(X.dtype)
        return torch.cat([X, P * (X.shape[1] / self.encodings) ** 0.5], 1)

    def _load_from_state_dict(
        self,
        state: dict,
        prefix: str,
        metadata: dict,
        strict: bool,
        missing: list[str],
        unexpected: list[str],
        errors: list[str],
    ) -> None:
        if self.encodings and metadata.get("version", self._version) < self._version:
            errors.append(
                "the model was trained with positional encodings of an earlier version of "
                "tritonpool and would see others now: train it again"
            )
        super()._load_from_state_dict(state, prefix, metadata, strict, missing, unexpected, errors)


class NodeScores(_Scores):
    __doc__ = """Score nodes by their own state.""" + PARAMETERS

    def __init__(self, d_v: int, clusters: int, encodings: int = 0):
        super().__init__(d_v, encodings)
        self.hidden = _FirstLayer(d_v, encodings, 1)
        self.scores = _Linear(d_v, clusters)

    def forward(self, graph: Graph) -> Tensor:
        """The scores, ``V x clusters``."""
        return self.scores(self.hidden(self.seen(graph)).relu())


class NeighbourScores(_Scores):
    __doc__ = (
        """Score nodes by their own state and the weighted mean of their neighbours', in two
    rounds, so that a score depends on where a node is and not only on what it is."""
        + PARAMETERS
    )

    def __init__(self, d_v: int, clusters: int, encodings: int = 0):
        super().__init__(d_v, encodings)
        self.hidden = _FirstLayer(d_v, encodings, 2)
        self.scores = _Linear(2 * d_v, clusters)

    def forward(self, graph: Graph) -> Tensor:
        """The scores, ``V x clusters``."""
        w = in_plan_order(graph.edge_weight, graph)
        if w is None:
            w = graph.x.new_ones(graph.num_edges, dtype=accumulate_in(graph.x))
        shares = edge_shares(w, graph.plan, LEAST)

        def of_both(layer: nn.Linear, rows: Tensor) -> Tensor:
            """The layer on rows beside the means of their neighbours', but means are taken of what
            it makes of these, which is the same and has 8 columns instead of 300 for scores."""
            own, others = layer.weight.chunk(2, 1)
            means = neighbour_sum(linear(rows, others), shares, graph.plan)
            return linear(rows, own, layer.bias) + means

        return of_both(self.scores, of_both(self.hidden, self.seen(graph)).relu())


class AssignmentPool(DiffPool):
    """A :class:`~tritonpool.DiffPool` whose assignment network sees the whole graph.

    Parameters
    ----------
    *args, **kwargs
        those of :class:`~tritonpool.DiffPool`
    prior : str, default="none"
        ``"rings"``: nodes prefer the cluster of their ring system or of their piece between ring
        systems. If a graph has more of these than clusters, successive ones share a cluster
    """

    def __init__(self, *args: object, prior: str = "none", **kwargs: object):
        super().__init__(*args, **kwargs)
        self.prior = prior

    def scores(self, graph: Graph) -> Tensor:
        scores = self.assignment(graph)
        if self.prior == "none":
            return scores
        plan = graph.plan
        clusters = coarse_plan(plan, self.counts(graph), self.drop_self_loops).counts
        own = ring_clusters(ring_fragments(plan), clusters.index_select(0, plan.batch))[:, None]
        return scores.scatter_add(1, own, scores.new_full(own.shape, PREFERENCE))
