"""What the bonds alone say about the atoms of a molecule: their places, and their rings.

Both are properties of a batch's integers, so they are kept with its plan: made once, in the
loader's workers if the loader knows that they are wanted, and moved to the device along with it.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import lru_cache

import numpy as np
import torch
from scipy.sparse import csr_array, diags_array, eye_array
from scipy.sparse.csgraph import connected_components, dijkstra
from scipy.sparse.linalg import eigsh
from torch import Tensor

from tritonpool.handles import find, host_op
from tritonpool.plan import Plan, once, send

__all__ = [
    "positions",
    "ring_clusters",
    "ring_counts",
    "ring_counts_now",
    "ring_fragments",
    "ring_fragments_now",
]

# Larger molecules have their lowest eigenvectors searched for instead of all computed: with 1,000
# atoms that takes 8 ms instead of 125.
MOST_ATOMS = 300

# How many molecules' encodings are remembered, and the most bytes of one with its bonds: together
# 200 MB.
MOLECULES, BYTES = 1 << 14, 12 << 10


def positions(plan: Plan, count: int) -> Tensor:
    r"""Laplacian positional encodings (Dwivedi et al., arXiv:2003.00982): for each molecule the
    eigenvectors of :math:`I - D^{-1/2} A D^{-1/2}` with the lowest eigenvalues, without the first.

    Parameters
    ----------
    plan : Plan
        the plan of a batch of molecules with ``V`` atoms
    count : int
        how many eigenvectors

    Returns
    -------
    Tensor
        ``V x count`` numbers with a mean square of 1 within a molecule, 0 beyond its last
        eigenvector. The sign makes the entry of largest magnitude positive; between equal
        eigenvalues and equal magnitudes the order of the atoms decides
    """
    if torch.compiler.is_compiling():
        return _positions(plan.key, plan.batch, count)
    return _kept(plan, ("positions", count), _eigenvectors, count)


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
    return _kept(plan, "rings", _fragments)


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


def _kept(plan: Plan, name: object, make: Callable, *args: object) -> Tensor:
    """What ``make`` says about the plan, kept with it on its device."""
    return once(plan.extras, name, lambda: send(make(plan, *args), plan.device))


def _eigenvectors(plan: Plan, count: int) -> Tensor:
    ends = torch.stack([plan.src, plan.dst]).cpu().numpy().astype(np.int32)
    found = np.zeros((plan.num_nodes, count), dtype=np.float32)
    node = edge = 0
    for n, m in zip(plan.nodes.tolist(), plan.edges.tolist(), strict=True):
        bonds = (ends[:, edge : edge + m] - node).tobytes()
        fits = found.itemsize * n * count + len(bonds) <= BYTES
        vectors = (_remembered if fits else _molecule_eigenvectors)(n, bonds, count)
        found[node : node + n, : vectors.shape[1]] = vectors
        node, edge = node + n, edge + m
    return torch.from_numpy(found)


def _molecule_eigenvectors(atoms: int, ends: bytes, count: int) -> np.ndarray:
    """The encodings of one molecule, from the two ends of all its bonds as bytes."""
    src, dst = np.frombuffer(ends, dtype=np.int32).reshape(2, -1)
    if atoms <= max(MOST_ATOMS, 4 * count):
        vectors = _all_eigenvectors(src, dst, atoms)
    else:
        vectors = _lowest_eigenvectors(src, dst, atoms, count + 1)
    vectors = vectors[:, 1 : count + 1] * np.sqrt(atoms)
    largest = np.abs(vectors).round(6).argmax(0) if vectors.size else []
    signs = np.where(vectors[largest, range(vectors.shape[1])] < 0, -1, 1)
    return (vectors * signs).astype(np.float32)


def _all_eigenvectors(src: np.ndarray, dst: np.ndarray, atoms: int) -> np.ndarray:
    A = np.zeros((atoms, atoms))
    A[src, dst] = 1
    np.fill_diagonal(A, 0)
    A = np.maximum(A, A.T)
    root = np.sqrt(A.sum(1).clip(1))
    return np.linalg.eigh(np.eye(atoms) - A / np.outer(root, root))[1]


def _lowest_eigenvectors(src: np.ndarray, dst: np.ndarray, atoms: int, count: int) -> np.ndarray:
    src, dst = src[src != dst], dst[src != dst]
    A = _matrix(np.append(src, dst), np.append(dst, src), atoms).astype(float)
    A.data[:] = 1  # however often a bond is given
    scale = diags_array(1 / np.sqrt(A.sum(1).clip(1)))
    laplacian = (eye_array(atoms) - scale @ A @ scale).tocsc()
    # a start as symmetric as the molecule could miss what a symmetry changes the sign of
    start = np.random.default_rng(0).standard_normal(atoms)
    values, vectors = eigsh(laplacian, count, sigma=-1e-3, v0=start)
    return vectors[:, values.argsort()]


# They are the same in each epoch, and for 16 chains of 120 atoms take 22 ms, a sixth of a step.
_remembered = lru_cache(MOLECULES)(_molecule_eigenvectors)


def _fragments(plan: Plan) -> Tensor:
    V, batch = plan.num_nodes, np.repeat(np.arange(plan.num_graphs), plan.nodes.numpy())
    src, dst = torch.stack([plan.src, plan.dst]).cpu().numpy()
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


@host_op("tritonpool::positions")
def _positions(key: Tensor, batch: Tensor, count: int) -> Tensor:
    return _kept(find(key), ("positions", count), _eigenvectors, count).clone()


@_positions.register_fake
def _(key, batch, count):
    return batch.new_empty(batch.shape[0], count, dtype=torch.float32)


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
