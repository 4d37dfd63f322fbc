"""Ring systems and the pieces between them, from the bonds alone.

They are a property of a batch's integers, so they are kept with its plan: made once, in the
loader's workers if the loader knows that they are wanted, and moved to the device along with it.
"""

from __future__ import annotations

import numpy as np
import torch
from scipy.sparse import csr_array
from scipy.sparse.csgraph import connected_components, dijkstra
from torch import Tensor

from tritonpool.handles import find, host_op
from tritonpool.plan import Plan, once

__all__ = [
    "ring_clusters",
    "ring_counts",
    "ring_counts_now",
    "ring_fragments",
    "ring_fragments_now",
]


def ring_fragments(plan: Plan) -> Tensor:
    """The fragment of each atom and the number of fragments of its molecule: ``V x 2`` integers.

    Each ring system is a fragment, and each connected piece between ring systems. A bond belongs to
    a ring if the molecule stays connected without it. Fragments are numbered by their first atom,
    so the numbers depend on the order of the atoms.
    """
    if torch.compiler.is_compiling():
        return _ring_fragments(plan.key, plan.batch)
    return ring_fragments_now(plan)


def ring_fragments_now(plan: Plan) -> Tensor:
    """:func:`ring_fragments` for ops, which never ask whether code is being compiled."""
    return plan.extra("rings", _fragments)


def ring_counts(plan: Plan, most: int) -> Tensor:
    """The number of fragments of each molecule (:func:`ring_fragments`), at most ``most``: ``G``
    integers, always on the CPU."""
    if torch.compiler.is_compiling():
        return _ring_counts(plan.key, plan.nodes, most)
    return ring_counts_now(plan, most)


def ring_counts_now(plan: Plan, most: int) -> Tensor:
    """:func:`ring_counts` for ops, which never ask whether code is being compiled."""
    return once(plan.counts, "rings", _counts, plan).clamp(max=most)


def ring_clusters(fragments: Tensor, clusters: Tensor | int) -> Tensor:
    """The cluster of each atom, ``V``, by its fragment (:func:`ring_fragments`): its number, or, if
    its molecule has more fragments than ``clusters`` (of all, or of each atom's), one that
    successive ones share."""
    fragment, total = fragments.unbind(1)
    return torch.where(total > clusters, fragment * clusters // total, fragment)


def _counts(plan: Plan) -> Tensor:
    found = ring_fragments_now(plan)[:, 1].cpu()
    first = plan.nodes.cumsum(0) - plan.nodes
    total = torch.nn.functional.pad(found, (0, 1))[first]  # behind the last atom: no molecule
    return torch.where(plan.nodes > 0, total, 0)


def _fragments(plan: Plan) -> Tensor:
    V, batch = plan.num_nodes, np.repeat(np.arange(plan.num_graphs), plan.nodes.numpy())
    src, dst = (end.numpy() for end in plan.ends_on_host())
    depth, parent = _forest(src, dst, V)
    up, down = parent[src] == dst, parent[dst] == src
    # An edge that is not in the forest closes a ring with the ways to where both ends meet.
    closing = ~(up | down) & (src != dst)
    a, b = src[closing], dst[closing]
    in_ring = np.zeros(V, dtype=bool)
    to_parent = np.zeros(V, dtype=bool)  # whether the bond to the parent belongs to a ring
    in_ring[a] = True
    while True:
        apart = a != b
        a, b = a[apart], b[apart]
        if not a.size:
            break
        deep = depth[a] - depth[b]
        for end, moves in ((a, deep >= 0), (b, deep <= 0)):
            child = end[moves]
            to_parent[child] = True
            end[moves] = parent[child]
            in_ring[child] = in_ring[end[moves]] = True
    cut = (up & ~to_parent[src]) | (down & ~to_parent[dst])
    cut &= in_ring[src] | in_ring[dst]
    _, label = connected_components(_matrix(src[~cut], dst[~cut], V), directed=False)
    _, first, label = np.unique(label, return_index=True, return_inverse=True)
    number = np.empty_like(first)
    number[first.argsort()] = np.arange(len(first))
    total = np.bincount(batch[first], minlength=plan.num_graphs)
    found = np.stack([number[label] - (total.cumsum() - total)[batch], total[batch]], 1)
    return torch.from_numpy(found)


def _matrix(src: np.ndarray, dst: np.ndarray, nodes: int) -> csr_array:
    return csr_array((np.ones(len(src), dtype=np.int8), (src, dst)), shape=(nodes, nodes))


def _forest(src: np.ndarray, dst: np.ndarray, nodes: int) -> tuple[np.ndarray, np.ndarray]:
    """The depth and the parent of every node in a forest of shortest paths; parents of roots
    are no nodes."""
    _, label = connected_components(_matrix(src, dst, nodes), directed=False)
    _, roots = np.unique(label, return_index=True)
    above = np.full_like(roots, nodes)  # one more node, which all roots hang on
    joined = _matrix(np.append(src, roots), np.append(dst, above), nodes + 1)
    depth, parent = dijkstra(
        joined, directed=False, indices=nodes, unweighted=True, return_predecessors=True
    )
    return depth[:-1], parent[:-1]


@host_op("tritonpool::ring_fragments")
def _ring_fragments(key: Tensor, batch: Tensor) -> Tensor:
    return ring_fragments_now(find(key)).clone()


@_ring_fragments.register_fake
def _(key, batch):
    return batch.new_empty(batch.shape[0], 2)


@host_op("tritonpool::ring_counts")
def _ring_counts(key: Tensor, nodes: Tensor, most: int) -> Tensor:
    return ring_counts_now(find(key), most)


@_ring_counts.register_fake
def _(key, nodes, most):
    return torch.empty_like(nodes)
