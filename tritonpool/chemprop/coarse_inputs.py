"""What the encoder of a coarse graph sees."""

from __future__ import annotations

import torch
from torch import Tensor

from tritonpool.chemprop.segments import node_sum
from tritonpool.graph import Graph

__all__ = ["coarse_inputs"]

EPS = 1e-8


def coarse_inputs(
    coarse: Graph, mass: Tensor | None, normalize: bool, cluster_features: bool
) -> Graph:
    r"""A coarse graph as its encoder sees it: the edge weights are one more edge feature, and, as
    options, sums become means and clusters tell what is inside them.

    Parameters
    ----------
    coarse : Graph
        the pooled graph with ``P`` clusters and ``E`` pairs: node states ``P x D``, edge features
        ``E x C``, edge weights ``E``; with ``cluster_features`` the pairs ``p = q`` are among them
    mass : Tensor | None
        :math:`m_p = \sum_i S_{ip}`, ``P x 1``; needed by both options
    normalize : bool
        divide :math:`X'_p` by :math:`m_p`, and :math:`W_{pq}` by :math:`\sum_p W_{pq}` over the
        pairs :math:`p \ne q`
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
        added = [mass.clamp(min=EPS).log().to(X.dtype), inside.to(X.dtype)]
        W = W.masked_fill(loops, 0)
    if normalize:
        X = X / mass.clamp(min=EPS)
        total = node_sum(W[:, None], torch.ones_like(W), coarse.plan)
        W = W / total.clamp(min=EPS)[:, 0].index_select(0, coarse.plan.dst)
    attr = torch.cat([F, W.to(F.dtype)[:, None]], 1)
    return coarse.replace(
        x=torch.cat([X, *added], 1) if added else X, edge_attr=attr, edge_weight=W
    )
