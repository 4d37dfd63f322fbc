"""DiffPool's shape with nothing to learn: ring systems as clusters."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from tritonpool.chemprop.partition import Partition, coarsen_partition, ring_partition
from tritonpool.chemprop.rings import ring_counts
from tritonpool.diffpool import DiffPool
from tritonpool.graph import Graph

__all__ = ["RingPool"]


class RingPool(DiffPool):
    """A :class:`~tritonpool.DiffPool` with nothing to learn: every ring system is a cluster, and
    every piece between ring systems. If a graph has more of these than ``max_clusters``, successive
    ones share a cluster. Clusters that no edge joins are not joined in the coarse graph, either.

    Parameters
    ----------
    in_channels, max_clusters, drop_self_loops
        those of :class:`~tritonpool.DiffPool`
    """

    def __init__(self, in_channels: int, max_clusters: int, *, drop_self_loops: bool = True):
        super().__init__(
            in_channels,
            max_clusters,
            assignment=nn.Identity(),
            drop_self_loops=drop_self_loops,
        )

    def counts(self, graph: Graph) -> Tensor:
        return ring_counts(graph.plan, self.max_clusters)

    def plan_coarse(self, graph: Graph) -> Partition:
        return ring_partition(graph.plan, self.max_clusters, self.drop_self_loops)

    def assign(self, graph: Graph, coarse: Partition) -> Tensor:
        first = coarse.plan.node_ptr.index_select(0, graph.plan.batch)
        own = (coarse.cluster - first)[:, None]
        S = graph.x.new_zeros(graph.num_nodes, self.max_clusters)
        return S.scatter(1, own, torch.ones_like(own, dtype=S.dtype))

    def coarsen(self, graph: Graph, S: Tensor, coarse: Partition) -> Graph:
        return coarsen_partition(graph, coarse)

    def extra_repr(self) -> str:
        return f"in_channels={self.in_channels}, max_clusters={self.max_clusters}"
