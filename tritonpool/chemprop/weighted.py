"""The encoders of coarse graphs: message passing on weighted edges, between bonds or atoms."""

from __future__ import annotations

import copy

import torch
from chemprop.nn.utils import get_activation_function
from torch import Tensor, nn
from torch.nn import functional as F

from tritonpool.graph import Graph
from tritonpool.segments import edge_messages, neighbour_sum, node_sum, source_rows

__all__ = ["WeightedAtomMessagePassing", "WeightedBondMessagePassing"]


PARAMETERS = """
    Parameters
    ----------
    d_v : int
        width of the node features
    d_e : int
        width of the edge features
    d_h : int
        hidden width, also that of the result
    bias : bool, default=False
        whether ``W_i`` and ``W_h`` have a bias
    depth : int, default=3
        message-passing steps; with 1 there is no ``W_h``
    dropout : float, default=0.0
        dropout probability
    activation : str | nn.Module, default="relu"
        the nonlinearity; a module is copied, because it may hold weights
    undirected : bool, default=False
        average the states of both directions of an edge before each step
    """


class _Weighted(nn.Module):
    """What both encoders share: their layers, and what they ask of a graph."""

    def __init__(
        self,
        d_v: int,
        d_e: int,
        d_h: int,
        bias: bool = False,
        depth: int = 3,
        dropout: float = 0.0,
        activation: str | nn.Module = "relu",
        undirected: bool = False,
    ):
        super().__init__()
        self.d_v = d_v
        self.depth = depth
        self.undirected = undirected
        d_first, d_step = self.widths(d_v, d_e, d_h)
        self.W_i = nn.Linear(d_first, d_h, bias)
        self.W_h = nn.Linear(d_step, d_h, bias) if depth > 1 else None
        self.W_o = nn.Linear(d_v + d_h, d_h)
        self.dropout = nn.Dropout(dropout)
        self.tau = get_activation_function(copy.deepcopy(activation))

    @staticmethod
    def widths(d_v: int, d_e: int, d_h: int) -> tuple[int, int]:
        """How many columns ``W_i`` and ``W_h`` take."""
        raise NotImplementedError

    def sums(self, graph: Graph, rev: Tensor) -> Tensor:
        """The last sum of the weighted messages into each node, ``V x d_h``."""
        raise NotImplementedError

    def forward(self, graph: Graph, rev: Tensor) -> Tensor:
        """Encode a batch of graphs.

        Parameters
        ----------
        graph : Graph
            the batch, with edges in graph order, edge features ``E x d_e`` and weights ``E``
        rev : Tensor
            the position of each edge's reverse, or -1 where the graph lacks it

        Returns
        -------
        Tensor
            the states of the nodes, ``V x d_h``

        Raises
        ------
        ValueError
            if the edges of one graph do not follow those of the graph before it
        """
        M = self.sums(graph, rev)
        return self.dropout(self.tau(self.W_o(torch.cat([graph.x, M], 1))))


class WeightedBondMessagePassing(_Weighted):
    __doc__ = (
        r"""A D-MPNN whose messages are scaled by edge weights.

    .. math::
        h_{uv}^{(0)} &= \tau(W_i [x_u, f_{uv}]) \\
        m_{uv} &= \sum_{k \to u} w_{ku} h_{ku} - w_{vu} h_{vu} \\
        h_{uv} &= \tau(W_i [x_u, f_{uv}] + W_h m_{uv}) \\
        h_v &= \tau\Bigl(W_o \bigl[x_v, \sum_{u \to v} w_{uv} h_{uv}\bigr]\Bigr)

    A missing reverse edge contributes 0, and a self-loop is its own reverse. An edge of weight 0
    contributes nothing. With all weights 1 this is chemprop's ``BondMessagePassing`` (Yang et al.,
    J. Chem. Inf. Model. 2019, 59, 3370), whose weights can be loaded.
    """
        + PARAMETERS
    )

    @staticmethod
    def widths(d_v: int, d_e: int, d_h: int) -> tuple[int, int]:
        return d_v + d_e, d_h

    def sums(self, graph: Graph, rev: Tensor) -> Tensor:
        plan, w = graph.grouped_plan, graph.edge_weight
        # Two products are cheaper than one over [x_u, f_uv]: the first needs a row per node only.
        of_node, of_edge = self.W_i.weight.split([self.d_v, self.W_i.in_features - self.d_v], dim=1)
        H_0 = source_rows(F.linear(graph.x, of_node, self.W_i.bias), plan)
        H_0 = H_0 + F.linear(graph.edge_attr, of_edge)
        H = self.tau(H_0)
        for _ in range(1, self.depth):
            if self.undirected:
                own = torch.arange(len(rev), device=rev.device)
                H = (H + H.index_select(0, torch.where(rev < 0, own, rev))) / 2
            H = self.dropout(self.tau(H_0 + self.W_h(edge_messages(H, w, rev, plan))))
        return node_sum(H, w, plan)


class WeightedAtomMessagePassing(_Weighted):
    __doc__ = (
        r"""Message passing between nodes, scaled by edge weights.

    .. math::
        h_v^{(0)} &= \tau(W_i x_v) \\
        m_v &= \sum_{u \to v} w_{uv} [h_u, f_{uv}] \\
        h_v &= \tau(W_i x_v + W_h m_v) \\
        h_v &= \tau\Bigl(W_o \bigl[x_v, \sum_{u \to v} w_{uv} h_u\bigr]\Bigr)

    The matrix products have a row for each node instead of each edge: on a complete
    coarse graph a fraction of the work. With all weights 1 this is chemprop's
    ``AtomMessagePassing``, whose weights can be loaded.
    """
        + PARAMETERS
    )

    @staticmethod
    def widths(d_v: int, d_e: int, d_h: int) -> tuple[int, int]:
        return d_v, d_e + d_h

    def sums(self, graph: Graph, rev: Tensor) -> Tensor:
        plan, w = graph.grouped_plan, graph.edge_weight
        H_0 = self.W_i(graph.x)
        H = self.tau(H_0)
        if self.depth > 1:
            attr = node_sum(graph.edge_attr, w, plan)
            if self.undirected:
                # half of each message comes from the other end, where there is a reverse
                half = w * (rev >= 0) / 2
                own = node_sum(half[:, None], torch.ones_like(w), plan).to(H.dtype)
        for _ in range(1, self.depth):
            if self.undirected:
                M = neighbour_sum(H, w - half, plan) + own * H
            else:
                M = neighbour_sum(H, w, plan)
            H = self.dropout(self.tau(H_0 + self.W_h(torch.cat([M, attr], 1))))
        return neighbour_sum(H, w, plan)
