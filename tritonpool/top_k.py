"""Assignments with a few shares for each node, and the coarse graphs that they leave sparse.

With a share in every cluster, all clusters of a graph are joined. With few, only those are that an
edge runs between, which depends on the shares: the coarse graph is planned when they are known. On
a GPU the host waits for that once, for as many numbers as there are clusters.
"""

from __future__ import annotations

from dataclasses import dataclass
from numbers import Integral

import torch
from torch import Tensor
from torch.library import get_ctx

from tritonpool.coarse_plan import CoarsePlan
from tritonpool.handles import find, host_op
from tritonpool.plan import Plan, offsets, outside_inference, slot_sizes
from tritonpool.planning import ALWAYS, copies, empty
from tritonpool.softmax import only_used

__all__ = ["TopK", "as_dense", "best_only", "joined_pairs"]


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
        if a shape, dtype or device does not fit, or, for tensors on the CPU and in code that is not
        compiled, if a cluster is out of range or named twice for a node (:meth:`Graph.validate`
        looks at those on a GPU, too)
    """

    values: Tensor
    index: Tensor
    num_clusters: int

    def __post_init__(self) -> None:
        values, index, K = self.values, self.index, self.num_clusters
        if isinstance(K, bool) or not isinstance(K, Integral) or K < 0:
            raise ValueError(f"num_clusters must be an int of at least 0, but is {K!r}")
        for name, value in (("values", values), ("index", index)):
            if not isinstance(value, Tensor) or value.layout != torch.strided:
                raise ValueError(f"{name} must be a dense tensor, but is {_kind(value)}")
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
        if index.device.type == "cpu" and not torch.compiler.is_compiling():
            self.check()

    def check(self) -> None:
        """Look at every cluster; on a GPU the host waits for the answer.

        Raises
        ------
        ValueError
            if one is out of range or named twice for a node
        """
        index, K = self.index, self.num_clusters
        if not index.numel():
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


def _kind(value: object) -> str:
    return str(value.layout) if isinstance(value, Tensor) else type(value).__name__


def as_dense(S: Tensor | TopK) -> Tensor:
    """The assignment as a tensor of shape ``V x K``."""
    return S.dense() if isinstance(S, TopK) else S


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
    best = only_used(scores.detach(), counts).topk(k, 1).indices
    rest = torch.ones_like(scores, dtype=torch.bool).scatter_(1, best, False)
    return scores.masked_fill(rest, -torch.inf)


def joined_pairs(coarse: CoarsePlan, W: Tensor) -> tuple[Tensor, Plan]:
    """The positions of the pairs whose weight is not 0, and the plan of a batch with only these.

    Parameters
    ----------
    coarse : CoarsePlan
        the plan of the complete coarse graphs
    W : Tensor
        the weight of every pair; one is kept if its own or that of its reverse is not 0
    """
    if not torch.compiler.is_compiling():
        return _join(coarse, W.detach())
    kept, *made = _joined_pairs(coarse.key, coarse.plan.batch, coarse.counts, W.detach())
    return kept, Plan(**dict(zip(ALWAYS, made, strict=True)))


@outside_inference
def _join(coarse: CoarsePlan, W: Tensor) -> tuple[Tensor, Plan]:
    every, joined = coarse.plan, W != 0
    joined = joined | joined.index_select(0, coarse.rev)
    before = torch.nn.functional.pad(joined.cumsum(0), (1, 0))  # pairs kept before each
    out_ptr = before.index_select(0, every.out_ptr)
    rows = out_ptr.cpu().numpy()  # what the host waits for
    number = torch.arange(int(rows[-1]), device=every.device)
    kept = torch.searchsorted(before[1:], number + 1)
    plan = Plan(
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
    return kept, plan


@host_op("tritonpool::joined_pairs")
def _joined_pairs(key: Tensor, batch: Tensor, counts: Tensor, W: Tensor) -> list[Tensor]:
    coarse = find(key)
    kept, plan = _join(coarse, W)
    return [kept, *copies(plan, ALWAYS)]


@_joined_pairs.register_fake
def _(key, batch, counts, W):
    pairs, P, G = get_ctx().new_dynamic_size(), batch.shape[0], counts.shape[0]
    return [batch.new_empty(pairs), *empty(ALWAYS, batch, V=P, E=pairs, G=G)]
