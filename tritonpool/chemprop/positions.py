"""Where in its molecule an atom is, from the bonds alone: Laplacian positional encodings.

They are a property of a batch's integers, so they are kept with its plan: made once, in the
loader's workers if the loader knows that they are wanted, and moved to the device along with it.
"""

from __future__ import annotations

from functools import lru_cache
from itertools import pairwise

import numpy as np
import torch
from scipy.sparse import csc_array, diags_array, eye_array
from scipy.sparse.linalg import eigsh
from torch import Tensor

from tritonpool.handles import find, host_op
from tritonpool.plan import Plan

__all__ = ["positions"]

# Larger molecules have their lowest eigenvectors searched for instead of all computed: with 1,000
# atoms that takes 8 ms instead of 125.
MOST_ATOMS = 300

# How many molecules' encodings are remembered, and the most bytes of one with its bonds: together
# 200 MB.
MOLECULES, BYTES = 1 << 14, 12 << 10

# How long heat has spread, in steps of a random walk. Of the first two eigenvectors 0.9 and 0.8 are
# left in a chain of 120 atoms, but 0.1 and nothing in a molecule of 20: only in long molecules do
# places tell what the atom itself does not.
TIME = 100.0
NOTHING = 1e-20  # is left; still less would only be slow to compute with

# What counts as equal: eigenvalues, with a smaller part for those near 0, which are close together
# in a long chain; and the magnitudes of two entries, as a part of the largest.
EQUAL_VALUES, EQUAL_NEAR_ZERO, EQUAL_ENTRIES = 1e-6, 1e-9, 1e-5


def positions(plan: Plan, count: int) -> Tensor:
    r"""Laplacian positional encodings (Dwivedi et al., arXiv:2003.00982): for each molecule the
    eigenvectors of :math:`L = I - D^{-1/2} A D^{-1/2}` with the lowest eigenvalues
    :math:`\lambda`, without the first, each multiplied by :math:`e^{-100 \lambda}`: that much of it
    is left of heat that has spread for 100 steps of a random walk (Coifman and Lafon,
    doi:10.1016/j.acha.2006.04.006). So the ends of a long chain are far apart, and the atoms of a
    small molecule close together.

    They do not depend on the order of the atoms. The sign of the first is that which makes the
    entry of largest magnitude positive; if there is one of either sign, those that come next
    decide. At this atom, one end of a chain, the others are positive, too, so that along a chain
    they are like cosines that all start there; those that are 0 there have their sign as the first
    has. If the negative has the same entries, as where a symmetry of the bonds exchanges two atoms,
    magnitudes are given instead. Eigenvectors with equal eigenvalues could be rotated in their
    space, so what no rotation changes is given: the first column has for each atom the length of
    its projection on this space, the others have 0.

    Parameters
    ----------
    plan : Plan
        the plan of a batch of molecules with ``V`` atoms
    count : int
        how many eigenvectors

    Returns
    -------
    Tensor
        ``V x count`` numbers, 0 beyond a molecule's last eigenvector; the mean square of a column
        within a molecule is :math:`e^{-200 \lambda}`
    """
    if torch.compiler.is_compiling():
        return _positions(plan.key, plan.batch, count)
    return _positions_now(plan, count)


def _positions_now(plan: Plan, count: int) -> Tensor:
    return plan.extra(("positions", count), _encodings, count)


def _encodings(plan: Plan, count: int) -> Tensor:
    ends = np.stack([end.numpy() for end in plan.ends_on_host()]).astype(np.int32)
    found = np.zeros((plan.num_nodes, count), dtype=np.float32)
    node = edge = 0
    for n, m in zip(plan.nodes.tolist(), plan.edges.tolist(), strict=True):
        bonds = (ends[:, edge : edge + m] - node).tobytes()
        fits = found.itemsize * n * count + len(bonds) <= BYTES
        found[node : node + n] = (_remembered if fits else _of_molecule)(n, bonds, count)
        node, edge = node + n, edge + m
    return torch.from_numpy(found)


def _of_molecule(atoms: int, ends: bytes, count: int) -> np.ndarray:
    """The encodings of one molecule, from the two ends of all its bonds as bytes."""
    src, dst = np.frombuffer(ends, dtype=np.int32).reshape(2, -1)
    values, vectors = _lowest(src, dst, atoms, count)
    parts = np.exp(-TIME * values)
    left = vectors * np.where(parts < NOTHING, 0, parts)
    found = np.zeros((atoms, count))
    single = left[:, 1 : count + 1]  # the first vector is left out
    found[:, : single.shape[1]] = _signed(single)
    starts = np.flatnonzero(~_equal(values[:-1], values[1:])) + 1
    for start, end in pairwise([0, *starts, len(values)]):
        if start <= count and end - start > 1:
            column = max(start - 1, 0)
            found[:, column : end - 1] = 0
            found[:, column] = np.sqrt((left[:, start:end] ** 2).mean(1))
    return (_from_one_end(found) * np.sqrt(atoms)).astype(np.float32)


# They are the same in each epoch, and for 16 chains of 120 atoms take 25 ms, a sixth of a step.
_remembered = lru_cache(MOLECULES)(_of_molecule)


def _signed(vectors: np.ndarray) -> np.ndarray:
    """Each of the vectors, ``V x d``, or its negative, whatever was given; the magnitudes of one
    that has the same entries as its negative."""
    if not vectors.size:
        return vectors
    entries = np.sort(vectors, 0)
    difference = entries + entries[::-1]  # from the smallest and largest to those between
    difference[np.abs(difference) <= EQUAL_ENTRIES * np.abs(entries).max(0)] = 0
    sign = np.sign(np.take_along_axis(difference, (difference != 0).argmax(0)[None], 0))
    return np.where(sign == 0, np.abs(vectors), sign * vectors)


def _from_one_end(columns: np.ndarray) -> np.ndarray:
    """The columns, ``V x d``, or their negatives, so that none is negative where the first is
    largest. Each with a sign of its own they would tell a place along a chain only up to the
    direction that each is read in."""
    if not columns.size:
        return columns
    first = columns[:, 0]
    there = columns[first >= (1 - EQUAL_ENTRIES) * first.max()].mean(0)
    return np.where(there < -EQUAL_ENTRIES * np.abs(columns).max(0), -columns, columns)


def _equal(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    return b - a <= EQUAL_NEAR_ZERO + EQUAL_VALUES * b


def _lowest(
    src: np.ndarray, dst: np.ndarray, atoms: int, count: int
) -> tuple[np.ndarray, np.ndarray]:
    """The lowest eigenvalues in order, at least ``count + 1`` if there are as many, and their
    vectors; with the last one come all that are equal to it."""
    wanted = count + 2  # one more shows whether the last is the first of several
    if atoms > max(MOST_ATOMS, 4 * wanted):
        # a start as symmetric as the molecule could miss what a symmetry changes the sign of
        start = np.random.default_rng(0).standard_normal(atoms)
        values, vectors = eigsh(_sparse_laplacian(src, dst, atoms), wanted, sigma=-1e-3, v0=start)
        order = values.argsort()
        values, vectors = values[order], vectors[:, order]
        if not _equal(values[:-1], values[1:]).any():  # else there may be more than it has found
            return values[:-1], vectors[:, :-1]
    return np.linalg.eigh(_laplacian(src, dst, atoms))


def _laplacian(src: np.ndarray, dst: np.ndarray, atoms: int) -> np.ndarray:
    A = np.zeros((atoms, atoms))
    A[src, dst] = 1
    np.fill_diagonal(A, 0)
    A = np.maximum(A, A.T)
    root = np.sqrt(A.sum(1).clip(1))
    return np.eye(atoms) - A / np.outer(root, root)


def _sparse_laplacian(src: np.ndarray, dst: np.ndarray, atoms: int) -> csc_array:
    src, dst = src[src != dst], dst[src != dst]
    both = np.append(src, dst), np.append(dst, src)
    A = csc_array((np.ones(2 * len(src)), both), shape=(atoms, atoms))
    A.data[:] = 1  # however often a bond is given
    scale = diags_array(1 / np.sqrt(A.sum(1).clip(1)))
    return (eye_array(atoms) - scale @ A @ scale).tocsc()


@host_op("tritonpool::positions")
def _positions(key: Tensor, batch: Tensor, count: int) -> Tensor:
    return _positions_now(find(key), count).clone()


@_positions.register_fake
def _(key, batch, count):
    return batch.new_empty(batch.shape[0], count, dtype=torch.float32)
