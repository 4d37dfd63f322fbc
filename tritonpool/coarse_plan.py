"""The integer structure of the coarse graphs: which clusters and pairs of clusters there are."""

from __future__ import annotations

from dataclasses import dataclass, field
from functools import cached_property

import numpy as np
import torch
from torch import Tensor

from tritonpool.handles import Keyed
from tritonpool.plan import Plan, move_together, offsets, slot_sizes

__all__ = ["CoarsePlan", "cluster_counts"]


def cluster_counts(nodes: Tensor, max_clusters: int, ratio: float) -> Tensor:
    r"""How many clusters each graph gets,
    :math:`c_g = \min(K, \max(1, \lceil r\, n_g - 10^{-9} \rceil))`, and 0 without nodes.

    Parameters
    ----------
    nodes : Tensor
        a CPU tensor of shape ``G`` with the number of nodes of each graph
    max_clusters : int
        the most clusters a graph can have, ``K``
    ratio : float
        clusters per node, ``r``

    Returns
    -------
    Tensor
        a CPU tensor of shape ``G``, int64; computed in float64, so the same on every machine
    """
    wanted = torch.ceil(nodes.double() * ratio - 1e-9).long().clamp_(1, max_clusters)
    return wanted.mul_(nodes > 0)


@dataclass(eq=False)
class CoarsePlan(Keyed):
    """The coarse graphs; those of :meth:`build` are complete: every ordered pair of clusters of one
    graph is an edge."""

    clusters: Tensor  # [G] clusters of each graph; always on the CPU
    drop_self_loops: bool
    counts: Tensor  # [G] the same as clusters, on the device
    rev: Tensor  # one for each pair: position of the edge (q, p) for the edge (p, q)
    plan: Plan  # of the coarse graph: its nodes are clusters, its edges the pairs
    key: Tensor | None = field(default=None, repr=False)  # stands for this plan in compiled graphs
    _items: dict = field(default_factory=dict, repr=False)  # what backends derive from it

    @cached_property
    def max_clusters(self) -> int:
        """The most clusters of any graph in this batch."""
        return int(self.clusters.numpy().max(initial=0))

    @classmethod
    def build(cls, clusters: Tensor, drop_self_loops: bool) -> CoarsePlan:
        """List the pairs in graph order, then row-major in ``(p, q)``."""
        counts = clusters.numpy()
        width = np.maximum(counts - 1, 0) if drop_self_loops else counts
        edges = counts * width
        node_ptr, edge_ptr = offsets(counts), offsets(edges)
        batch = np.repeat(np.arange(len(counts)), counts)
        degree, first = width[batch], node_ptr[batch]
        out_ptr = offsets(degree)
        number = np.arange(len(batch))
        src = np.repeat(number, degree)
        position = np.arange(len(src))
        q = position - out_ptr[src]
        back = number - first  # the column of p in the rows of other clusters
        if drop_self_loops:  # column q skips the diagonal
            p = back[src]
            q += q >= p
            back = p - (p > q)
        else:
            back = back[src]
        dst = first[src] + q
        rev = torch.from_numpy(out_ptr[dst] + back)
        out_ptr = torch.from_numpy(out_ptr)
        plan = Plan(
            nodes=clusters,
            edges=torch.from_numpy(edges),
            node_ptr=torch.from_numpy(node_ptr),
            edge_ptr=torch.from_numpy(edge_ptr),
            src=torch.from_numpy(src),
            dst=torch.from_numpy(dst),
            out_ptr=out_ptr,
            out_edge=torch.from_numpy(position),
            in_ptr=out_ptr,  # every pair has its reverse, so in-degrees equal out-degrees
            in_edge=rev,
            batch=torch.from_numpy(batch),
            slots=slot_sizes(degree),
            undirected=True,
        )
        return cls(clusters, drop_self_loops, clusters, rev, plan)

    def to(self, device: torch.device | str) -> CoarsePlan:
        """This plan on ``device``; what was derived from it is made again there."""
        device = torch.empty(0, device=device).device
        if self.rev.device == device:
            return self
        counts, rev = move_together([self.counts, self.rev], device)
        return CoarsePlan(self.clusters, self.drop_self_loops, counts, rev, self.plan.to(device))
