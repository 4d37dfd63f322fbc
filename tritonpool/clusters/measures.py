"""Numbers that say what clusters follow: the place of an atom, or its kind."""

from __future__ import annotations

from collections.abc import Hashable, Sequence
from dataclasses import dataclass

import numpy as np
from torch import Tensor

__all__ = ["Measures", "as_array", "atom_kinds", "mean_measures", "measure"]


@dataclass(frozen=True)
class Measures:
    """The clusters of one molecule, or their means over molecules.

    An atom's cluster is the one that has its largest share. NaN stands where there is nothing to
    count: no bonds, no two atoms, no two atoms of one kind.

    Attributes
    ----------
    atoms, clusters : float
        how many there are
    used : float
        clusters that an atom has its largest share in
    effective : float
        :math:`\\exp(-\\sum_p m_p \\ln m_p)` with :math:`m_p` the mean share of cluster :math:`p`:
        as many clusters of equal size are as uneven
    largest_share : float
        mean over atoms
    bonds : float
        share of the bonds whose ends are in one cluster
    same_kind : float
        share of the pairs of atoms of one kind that are in one cluster
    chance : float
        share of all pairs of atoms that are in one cluster: what both would be if the atoms were
        dealt out at random to clusters of these sizes
    """

    atoms: float
    clusters: float
    used: float
    effective: float
    largest_share: float
    bonds: float
    same_kind: float
    chance: float


def as_array(shares: np.ndarray | Tensor) -> np.ndarray:
    """Shares as they are counted and drawn, wherever they are."""
    # NumPy has no bfloat16
    return shares.detach().float().cpu().numpy() if isinstance(shares, Tensor) else shares


def measure(
    shares: np.ndarray | Tensor, bonds: Sequence[tuple[int, int]], kinds: Sequence[Hashable]
) -> Measures:
    """Measure the clusters of a molecule.

    Parameters
    ----------
    shares : numpy.ndarray | torch.Tensor
        of each atom in each cluster, ``n x c``
    bonds : Sequence[tuple[int, int]]
        the two atoms of each bond
    kinds : Sequence[Hashable]
        what each atom is; equal for atoms of one kind
    """
    shares = as_array(shares)
    n, c = shares.shape
    if n == 0:
        return Measures(0, c, 0, 0, *[np.nan] * 4)
    main = shares.argmax(1)
    mass = shares.mean(0)
    mass = mass[mass > 0]
    number = {kind: i for i, kind in enumerate(dict.fromkeys(kinds))}
    kind = np.array([number[k] for k in kinds])
    a, b = np.triu_indices(n, 1)
    together, alike = main[a] == main[b], kind[a] == kind[b]
    return Measures(
        atoms=n,
        clusters=c,
        used=len(np.unique(main)),
        effective=float(np.exp(-(mass * np.log(mass)).sum())),
        largest_share=float(shares.max(1).mean()),
        bonds=_mean(np.array([main[i] == main[j] for i, j in bonds])),
        same_kind=_mean(together[alike]),
        chance=_mean(together),
    )


def mean_measures(found: Sequence[Measures]) -> Measures:
    """The mean of each number over the molecules that have it."""
    columns = np.array([list(vars(m).values()) for m in found], dtype=float)
    return Measures(*(_mean(column[~np.isnan(column)]) for column in columns.T))


def _mean(values: np.ndarray) -> float:
    return float(values.mean()) if values.size else float("nan")


def atom_kinds(mol: object) -> list[tuple]:
    """Element, charge, neighbours, hydrogens and aromaticity of each atom of an RDKit molecule."""
    return [
        (
            atom.GetAtomicNum(),
            atom.GetFormalCharge(),
            atom.GetDegree(),
            atom.GetTotalNumHs(),
            atom.GetIsAromatic(),
        )
        for atom in mol.GetAtoms()
    ]
