"""Assignments with a few shares for each node, and the coarse graphs that they leave sparse.

With a share in every cluster, all clusters of a graph are joined. With few, only those are that an
edge runs between, which depends on the shares: the coarse graph is planned when they are known. On
a GPU the host waits for that once, for as many numbers as there are clusters.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor
from torch.library import custom_op, get_ctx

from tritonpool.coarse_plan import CoarsePlan
from tritonpool.handles import find, ticket
from tritonpool.plan import Plan, offsets, outside_inference, slot_sizes
from tritonpool.planning import ALWAYS, copies, empty

__all__ = ["JoinedPairs", "TopK", "best_only", "joined_pairs", "largest_shares"]


@dataclass(frozen=True, eq=False)
class TopK:
    """An assignment that gives every node shares in a few clusters of its graph.

    Parameters
    ----------
    values : Tensor
        a floating-point tensor of shape ``V x k`` with the shares, at least 0
    index : Tensor
        an int64 tensor of shape ``V x k`` with their clusters, each at most once for a node
    num_clusters : int
        how many clusters a graph can have, ``K``

    Raises
    ------
    ValueError
        if a shape, dtype or device does not fit, or, for tensors on the CPU, if a cluster is out of
        range or named twice for a node
    """

    values: Tensor
    index: Tensor
    num_clusters: int

    def __post_init__(self) -> None:
        values, index, K = self.values, self.index, self.num_clusters
        for name, value in (("values", values), ("index", index)):
            if not isinstance(value, Tensor):
                raise ValueError(f"{name} must be a tensor, but is {type(value).__name__}")
        if values.dim() != 2 or not values.is_floating_point():
            raise ValueError(
                f"values must be a floating-point V x k tensor, but is {values.dtype} of shape "
                f"{tuple(values.shape)}"
            )
        if index.shape != values.shape or index.dtype != torch.int64:
            raise ValueError(
                f"index must be an int64 tensor of shape {tuple(values.shape)}, but is "
                f"{index.dtype} of shape {tuple(index.shape)}"
            )
        if index.device != values.device:
            raise ValueError(f"index is on {index.device}, but values are on {values.device}")
        if torch.compiler.is_compiling() or index.device.type != "cpu" or not index.numel():
            return
        low, high = (int(end) for end in index.aminmax())
        if low < 0 or high >= K:
            raise ValueError(
                f"index holds cluster {low if low < 0 else high}, but there are clusters 0 to "
                f"{K - 1}"
            )
        twice = (index.sort(1).values.diff() == 0).any(1)
        if bool(twice.any()):
            raise ValueError(f"index names a cluster twice for node {int(twice.nonzero()[0])}")

    def dense(self) -> Tensor:
        """The assignment as a tensor of shape ``V x K``."""
        zeros = self.values.new_zeros(len(self.values), self.num_clusters)
        return zeros.scatter(1, self.index, self.values)


@dataclass(eq=False, kw_only=True)
class JoinedPairs(CoarsePlan):
    """The coarse graphs with those pairs only that an edge joins, in one direction or the other."""

    kept: Tensor  # position of each pair among all


def best_only(scores: Tensor, counts: Tensor, k: int) -> Tensor:
    """The ``k`` best scores of each node among its graph's clusters; the others are minus infinity.

    Parameters
    ----------
    scores : Tensor
        a tensor of shape ``V x K``
    counts : Tensor
        how many clusters the graph of each node has, ``V``
    k : int
        how many scores stay
    """
    if k >= scores.shape[1]:
        return scores
    beyond = torch.arange(scores.shape[1], device=scores.device) >= counts[:, None]
    best = scores.detach().masked_fill(beyond, -torch.inf).topk(k, 1).indices
    rest = torch.ones_like(scores, dtype=torch.bool).scatter_(1, best, False)
    return scores.masked_fill(rest, -torch.inf)


def largest_shares(S: Tensor, k: int) -> TopK:
    """An assignment of at most ``k`` nonzero shares for each node, ``V x K``, without the rest."""
    values, index = S.topk(min(k, S.shape[1]), 1, sorted=False)
    return TopK(values, index, S.shape[1])


def joined_pairs(plan: Plan, coarse: CoarsePlan, S: TopK) -> JoinedPairs:
    """The coarse graphs without the pairs that no edge joins.

    A pair ``(p, q)`` is kept if an edge runs from a node with a share above 0 in one of the two
    to a node with a share above 0 in the other, whatever its weight.

    Parameters
    ----------
    plan : Plan
        the plan of the batch
    coarse : CoarsePlan
        that of its complete coarse graphs
    S : TopK
        the assignment
    """
    if torch.compiler.is_compiling():
        known = plan.key, coarse.key, coarse.plan.batch, coarse.counts
        kept, key, *made = _joined_pairs(*known, S.values.detach(), S.index)
        pairs = Plan(**dict(zip(ALWAYS, made, strict=True)))
        return _as_coarse(coarse, kept, pairs, key)
    return _join(plan, coarse, S.values.detach(), S.index)


def _as_coarse(coarse: CoarsePlan, kept: Tensor, plan: Plan, key: Tensor | None) -> JoinedPairs:
    known = coarse.clusters, coarse.drop_self_loops, coarse.counts
    return JoinedPairs(*known, plan.in_edge, plan, key, kept=kept)


@outside_inference
def _join(plan: Plan, coarse: CoarsePlan, values: Tensor, index: Tensor) -> JoinedPairs:
    every = coarse.plan
    joined = _are_joined(plan, coarse, values > 0, index)
    joined |= joined.index_select(0, coarse.rev)
    before = torch.nn.functional.pad(joined.cumsum(0), (1, 0))  # pairs kept before each
    out_ptr = before.index_select(0, every.out_ptr)
    rows = out_ptr.cpu().numpy()  # what the host waits for
    number = torch.arange(int(rows[-1]), device=plan.device)
    kept = torch.searchsorted(before[1:], number + 1)
    pairs = Plan(
        nodes=coarse.clusters,
        edges=torch.from_numpy(rows[offsets(coarse.clusters.numpy())]).diff(),
        node_ptr=every.node_ptr,
        edge_ptr=before.index_select(0, every.edge_ptr),
        src=every.src.index_select(0, kept),
        dst=every.dst.index_select(0, kept),
        out_ptr=out_ptr,
        out_edge=number,
        in_ptr=out_ptr,  # every pair has its reverse, so in-degrees equal out-degrees
        in_edge=before.index_select(0, coarse.rev.index_select(0, kept)),
        batch=every.batch,
        slots=slot_sizes(rows[1:] - rows[:-1]),
        undirected=True,
    )
    return _as_coarse(coarse, kept, pairs, None)


def _are_joined(plan: Plan, coarse: CoarsePlan, used: Tensor, index: Tensor) -> Tensor:
    """Which pairs an edge joins in their own direction, a truth value for each."""
    of_edge = plan.batch.index_select(0, plan.src)
    first = coarse.plan.edge_ptr.index_select(0, of_edge)[:, None, None]
    width = coarse.counts.index_select(0, of_edge)[:, None, None]
    p, q = index.index_select(0, plan.src)[:, :, None], index.index_select(0, plan.dst)[:, None]
    there = used.index_select(0, plan.src)[:, :, None] & used.index_select(0, plan.dst)[:, None]
    if coarse.drop_self_loops:  # a row lacks the pair (p, p)
        there &= p != q
        place = first + p * (width - 1) + q - (q > p).long()
    else:
        place = first + p * width + q
    pairs = coarse.plan.num_edges
    joined = torch.zeros(pairs + 1, dtype=torch.bool, device=plan.device)
    joined.index_fill_(0, torch.where(there, place, pairs).view(-1), True)
    return joined[:-1]


@custom_op("tritonpool::joined_pairs", mutates_args=())
def _joined_pairs(
    key: Tensor, coarse_key: Tensor, batch: Tensor, counts: Tensor, values: Tensor, index: Tensor
) -> list[Tensor]:
    plan, coarse = find(key), find(coarse_key)
    at = _join(plan, coarse, values, index)
    return [at.kept.clone(), ticket(at.key, plan, at), *copies(at.plan, ALWAYS, plan)]


@_joined_pairs.register_fake
def _(key, coarse_key, batch, counts, values, index):
    pairs, P, G = get_ctx().new_dynamic_size(), batch.shape[0], counts.shape[0]
    made = empty(ALWAYS, batch, V=P, E=pairs, G=G)
    return [batch.new_empty(pairs), key.new_empty(1), *made]
