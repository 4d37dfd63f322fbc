"""What the encoder of a coarse graph sees."""

from __future__ import annotations

import torch
from torch import Tensor

from tritonpool.graph import Graph
from tritonpool.segments import edge_shares, node_sum

__all__ = ["coarse_inputs"]

# Clusters with a smaller share of a node are treated as if they had this one: their means are not
# worth gradients that float16 cannot hold.
LEAST = 0.01


def coarse_inputs(
    coarse: Graph, mass: Tensor | None, normalize: str, cluster_features: bool
) -> Graph:
    r"""A coarse graph as its encoder sees it: the edge weights are one more edge feature, and, as
    options, sums become means and clusters tell what is inside them.

    Parameters
    ----------
    coarse : Graph
        the pooled graph with ``P`` clusters and ``E`` pairs: node states ``P x D``, edge features
        ``E x C``, edge weights ``E``; with ``cluster_features`` the pairs ``p = q`` are among them
    mass : Tensor | None
        :math:`m_p = \sum_i S_{ip}`, ``P x 1``, in float32 or float64 as the node states then are;
        needed by ``normalize="both"`` and by ``cluster_features``
    normalize : str
        ``"weights"``: divide :math:`W_{pq}` by :math:`\sum_p W_{pq}` over the pairs
        :math:`p \ne q`; ``"both"``: also :math:`X'_p` by :math:`m_p`; ``"none"``: neither.
        Divisors below 0.01 count as 0.01
    cluster_features : bool
        append :math:`\log m_p`, :math:`W_{pp}` and :math:`F'_{pp}` to the node states, and give the
        pairs ``p = q``, which are no neighbours, the weight 0

    Returns
    -------
    Graph
        node states ``P x D`` or ``P x (D + 2 + C)``, edge features ``E x (C + 1)``
    """
    X, W, F = coarse.x, coarse.edge_weight, coarse.edge_attr
    added = []
    if cluster_features:
        loops = coarse.edge_index[0] == coarse.edge_index[1]
        own = torch.cat([W.to(F.dtype)[:, None], F], 1)
        inside = node_sum(own, loops.to(W.dtype), coarse.plan)
        added = [mass.clamp(min=LEAST).log(), inside.to(mass.dtype)]
        W = W.masked_fill(loops, 0)
    if normalize == "both":
        X = X / mass.clamp(min=LEAST)
    if normalize != "none":
        W = edge_shares(W, coarse.plan, LEAST)
    attr = torch.cat([F, W.to(F.dtype)[:, None]], 1)
    X = torch.cat([X, *added], 1) if added else X
    X = X if mass is None else X.to(F.dtype)
    return coarse.replace(x=X, edge_attr=attr, edge_weight=W)
