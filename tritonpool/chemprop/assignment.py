"""The networks that score nodes for clusters.

Node states of an untrained D-MPNN are small (about 0.05). Scored by default-initialised layers they
give scores that differ by 0.01 between nodes: every node is shared out uniformly, all clusters are
alike, and the prediction does not depend on them. So states are normalised first, and the
initial scores have a variance of about 1.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from tritonpool.chemprop.segments import neighbour_sum
from tritonpool.diffpool import DiffPool
from tritonpool.graph import Graph
from tritonpool.ops import in_plan_order

__all__ = ["AssignmentPool", "NeighbourScores", "NodeScores"]


class _Linear(nn.Linear):
    """A linear layer whose output has ``gain`` times the mean square of its input at first."""

    gain = 1.0

    def reset_parameters(self) -> None:
        nn.init.normal_(self.weight, std=(self.gain / self.in_features) ** 0.5)
        nn.init.zeros_(self.bias)


class _BeforeReLU(_Linear):
    """The same, for a layer in front of a ReLU (He et al., arXiv:1502.01852)."""

    gain = 2.0


class NodeScores(nn.Module):
    """Score nodes by their own state.

    Parameters
    ----------
    d_v : int
        width of the node states
    clusters : int
        number of scores for each node
    """

    def __init__(self, d_v: int, clusters: int):
        super().__init__()
        self.norm = nn.LayerNorm(d_v, elementwise_affine=False)
        self.hidden = _BeforeReLU(d_v, d_v)
        self.scores = _Linear(d_v, clusters)

    def forward(self, graph: Graph) -> Tensor:
        """The scores, ``V x clusters``."""
        return self.scores(self.hidden(self.norm(graph.x)).relu())


class NeighbourScores(nn.Module):
    """Score nodes by their own state and the weighted mean of their neighbours', in two rounds, so
    that a score depends on where a node is and not only on what it is.

    Parameters
    ----------
    d_v : int
        width of the node states
    clusters : int
        number of scores for each node
    """

    def __init__(self, d_v: int, clusters: int):
        super().__init__()
        self.norm = nn.LayerNorm(d_v, elementwise_affine=False)
        self.hidden = _BeforeReLU(2 * d_v, d_v)
        self.scores = _Linear(2 * d_v, clusters)

    def forward(self, graph: Graph) -> Tensor:
        """The scores, ``V x clusters``."""
        plan = graph.plan
        w = in_plan_order(graph.edge_weight, graph)
        if w is None:
            w = graph.x.new_ones(graph.num_edges)
        total = neighbour_sum(torch.ones_like(graph.x[:, :1]), w, plan)
        scale = 1 / total.clamp(min=1e-6)
        X = self.norm(graph.x)
        H = self.hidden(torch.cat([X, neighbour_sum(X, w, plan) * scale], 1)).relu()
        return self.scores(torch.cat([H, neighbour_sum(H, w, plan) * scale], 1))


class AssignmentPool(DiffPool):
    """A :class:`~tritonpool.DiffPool` whose assignment network sees the whole graph."""

    def scores(self, graph: Graph) -> Tensor:
        return self.assignment(graph)
