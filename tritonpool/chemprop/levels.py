"""Pooling level by level: a pool makes the coarse graph, its encoder the states of the clusters."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import NamedTuple

import torch
from torch import Tensor, nn

from tritonpool.chemprop.coarse_inputs import coarse_inputs
from tritonpool.chemprop.ring_pool import RingPool
from tritonpool.diffpool import DiffPool
from tritonpool.dtypes import accumulate_in
from tritonpool.graph import Graph

__all__ = ["Level", "pool_levels"]


class Level(NamedTuple):
    """What a level makes of the graph below it, which has ``V`` nodes."""

    graph: Graph  # the coarse batch, with the states of its clusters after message passing
    S: Tensor  # V x max_clusters: shares of the nodes below
    losses: dict[str, Tensor]  # "link" and "entropy", or nothing


def pool_levels(
    graph: Graph,
    pools: Iterable[DiffPool],
    encoders: Iterable[nn.Module],
    *,
    normalize: str,
    cluster_features: bool,
    compute_losses: bool,
) -> Iterator[Level]:
    """Pool a batch again and again, by a pool and an encoder for each level."""
    for pool, encoder in zip(pools, encoders, strict=True):
        # fixed clusters have nothing to learn from losses
        wanted = compute_losses and not isinstance(pool, RingPool)
        mass = None
        if normalize != "both" and not cluster_features:
            coarse, S, losses = pool(graph, compute_losses=wanted)
        else:
            coarse, S, losses = pool(graph, _counted(graph), compute_losses=wanted)
            coarse, mass = coarse.replace(x=coarse.x[:, :-1]), coarse.x[:, -1:]
        seen = coarse_inputs(coarse, mass, normalize, cluster_features)
        H = encoder(seen, coarse.plan.in_edge)  # every pair has its reverse at this place
        graph = coarse.replace(x=H)
        yield Level(graph, S, losses)


def _counted(graph: Graph) -> Tensor:
    """The states and a one for each node, whose sum is the mass of a cluster; in float32 at least:
    shares that are added up or divided by may be too small for float16."""
    counted = torch.cat([graph.x, torch.ones_like(graph.x[:, :1])], 1)
    return counted.to(accumulate_in(graph.x))
