"""Pooling by clusters that are known beforehand: plain sums over their nodes and edges.

A hard assignment that follows from the bonds needs no shares and no complete coarse graph: every
node belongs to one cluster, every edge to one pair of clusters. Pairs that no edge joins are left
out, which changes no result, because their weight is 0.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor
from torch.library import get_ctx

from tritonpool.chemprop.rings import (
    ring_clusters,
    ring_counts,
    ring_counts_now,
    ring_fragments_now,
)
from tritonpool.coarse_plan import CoarsePlan
from tritonpool.dtypes import accumulate_in
from tritonpool.graph import Graph
from tritonpool.handles import find, host_op, ticket
from tritonpool.ops import coarse_graph, in_plan_order
from tritonpool.plan import Plan, move_together, offsets
from tritonpool.planning import ALWAYS, copies, empty, kept_coarse
from tritonpool.segments import group_sum

__all__ = ["Partition", "coarsen_partition", "ring_partition"]

# on the device of the plan; besides these a partition has what a coarse plan has
TENSORS = ("cluster", "node_ptr", "node_order", "pair", "edge_ptr", "edge_order")


@dataclass(eq=False, kw_only=True)
class Partition(CoarsePlan):
    """The coarse graphs of a partition: two clusters that an edge joins are joined both ways."""

    cluster: Tensor  # [V] cluster of each node
    node_ptr: Tensor  # [P + 1] where each cluster's nodes start in node_order
    node_order: Tensor  # [V] nodes sorted by cluster
    pair: Tensor  # [E] pair of each edge; the number of pairs for an edge inside, if left out
    edge_ptr: Tensor  # [pairs + 2] where each pair's edges, then those left out start in edge_order
    edge_order: Tensor  # [E] edges sorted by pair

    @classmethod
    def build(cls, plan: Plan, own: Tensor, clusters: Tensor, drop_self_loops: bool) -> Partition:
        """The partition of a plan on the CPU.

        Parameters
        ----------
        plan : Plan
            of ``G`` graphs with ``V`` nodes
        own : Tensor
            the cluster of each node, counted in its graph, ``V``
        clusters : Tensor
            how many there are in each graph, ``G``
        drop_self_loops : bool
            leave out the pairs ``p = q``
        """
        counts, batch = clusters.numpy(), plan.batch.numpy()
        first = offsets(counts)
        P = max(1, first[-1])
        cluster = own.numpy() + first[batch]
        p, q = cluster[plan.src.numpy()], cluster[plan.dst.numpy()]
        kept = p != q if drop_self_loops else np.ones(len(p), dtype=bool)
        found = np.unique(np.concatenate([(p * P + q)[kept], (q * P + p)[kept]]))
        pair = np.where(kept, np.searchsorted(found, p * P + q), len(found))
        made = {
            "cluster": cluster,
            "node_ptr": offsets(np.bincount(cluster, minlength=first[-1])),
            "node_order": cluster.argsort(kind="stable"),
            "pair": pair,
            "edge_ptr": offsets(np.bincount(pair, minlength=len(found) + 1)),
            "edge_order": pair.argsort(kind="stable"),
        }
        made = {name: torch.from_numpy(array) for name, array in made.items()}
        of_cluster = torch.from_numpy(np.repeat(np.arange(len(counts)), counts))
        ends = torch.from_numpy(np.stack(np.divmod(found, P)))
        coarse = Plan.build(of_cluster, ends, int(first[-1]), len(counts))
        return cls(clusters, drop_self_loops, clusters, coarse.in_edge, coarse, **made)

    def to(self, device: torch.device | str) -> Partition:
        """This partition on ``device``."""
        device = torch.empty(0, device=device).device
        if self.rev.device == device:
            return self
        own = [self.counts, *(getattr(self, name) for name in TENSORS)]
        counts, *moved = move_together(own, device)
        plan, moved = self.plan.to(device), dict(zip(TENSORS, moved, strict=True))
        return Partition(self.clusters, self.drop_self_loops, counts, plan.in_edge, plan, **moved)


def coarsen_partition(graph: Graph, at: Partition, eps: float = 1e-8) -> Graph:
    """What :func:`tritonpool.coarsen` computes for a hard assignment, without the pairs that no
    edge joins.

    Parameters
    ----------
    graph : Graph
        the batch, with ``V`` nodes and ``E`` edges
    at : Partition
        its clusters
    eps : float, default=1e-8
        the smallest total weight to divide by
    """
    X, F, w = graph.x, graph.edge_attr, in_plan_order(graph.edge_weight, graph)
    by_pair = at.edge_ptr, at.edge_order, at.pair
    acc = accumulate_in(X, F, w)
    if w is None:
        W = at.edge_ptr.diff()[:-1].to(accumulate_in(X))
    else:
        W = group_sum(w.to(accumulate_in(X, w))[:, None], None, *by_pair)[:-1, 0]
    if F is not None:
        N = group_sum(in_plan_order(F, graph).to(acc), w, *by_pair)[:-1]
        total = W.to(acc)[:, None]
        N = N if w is None else torch.where(total > eps, N, N.detach())
        F = (N / torch.where(total > eps, total, eps)).to(F.dtype)
    Xc = group_sum(X, None, at.node_ptr, at.node_order, at.cluster)
    return coarse_graph(Xc, W, F, at.plan)


def ring_partition(plan: Plan, most: int, drop_self_loops: bool) -> Partition:
    """Every ring system is a cluster, and every piece between ring systems
    (:func:`~tritonpool.chemprop.rings.ring_fragments`); if a molecule has more than ``most``,
    successive ones share a cluster. Cached with the plan."""
    if torch.compiler.is_compiling():
        made = _ring_partition(plan.key, plan.src, plan.batch, plan.nodes, most, drop_self_loops)
        counts, key, *made = made
        own = dict(zip(TENSORS, made, strict=False))
        coarse = Plan(**dict(zip(ALWAYS, made[len(TENSORS) :], strict=True)))
        clusters = ring_counts(plan, most)
        return Partition(clusters, drop_self_loops, counts, coarse.in_edge, coarse, key, **own)
    return _cached(plan, most, drop_self_loops)


def _cached(plan: Plan, most: int, drop_self_loops: bool) -> Partition:
    def make() -> Partition:
        host = plan.to("cpu")
        own = ring_clusters(ring_fragments_now(host), most)
        clusters = ring_counts_now(host, most)
        return Partition.build(host, own, clusters, drop_self_loops).to(plan.device)

    return kept_coarse(plan, ("rings", most, drop_self_loops), make)


@host_op("tritonpool::ring_partition")
def _ring_partition(
    key: Tensor, src: Tensor, batch: Tensor, nodes: Tensor, most: int, drop_self_loops: bool
) -> list[Tensor]:
    plan = find(key)
    at = _cached(plan, most, drop_self_loops)
    own = [getattr(at, name).clone() for name in TENSORS]
    return [at.counts.clone(), ticket(at.key, plan, at), *own, *copies(at.plan, ALWAYS, plan)]


@_ring_partition.register_fake
def _(key, src, batch, nodes, most, drop_self_loops):
    P, pairs = get_ctx().new_dynamic_size(), get_ctx().new_dynamic_size()
    V, E, G = batch.shape[0], src.shape[0], nodes.shape[0]
    own = [src.new_empty(n) for n in (V, P + 1, V, E, pairs + 2, E)]
    return [src.new_empty(G), key.new_empty(1), *own, *empty(ALWAYS, src, V=P, E=pairs, G=G)]
