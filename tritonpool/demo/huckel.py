"""HOMO-LUMO gap of a molecule's pi electrons by the Hueckel method.

The Hueckel matrix has ``alpha + h_X beta`` on its diagonal and ``k_XY beta`` for every bond
between two atoms with a pi orbital. Sources:

* h_X and k_XY of heteroatoms: F. A. Van-Catledge, J. Org. Chem. 1980, 45, 4801-4802.
* beta and the alternation of single and double bonds: W. P. Su, J. R. Schrieffer, A. J. Heeger,
  Phys. Rev. B 1980, 22, 2099 (hopping integral 2.5 eV, gap of polyacetylene 1.4 eV).
* the triple bond: ratio of the overlaps of two carbon 2p-pi Slater orbitals at 1.20 and 1.40
  Angstrom, R. S. Mulliken, C. A. Rieke, D. Orloff, H. Orloff, J. Chem. Phys. 1949, 17, 1248.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
from rdkit import Chem

if TYPE_CHECKING:
    from numpy.typing import NDArray

BETA_EV = -2.5
"""Resonance integral of an aromatic carbon-carbon bond, in eV."""

POLYENE_GAP_EV = 1.4
"""Gap of an infinite chain of alternating single and double bonds, in eV."""

# An infinite polyene has the gap 2 |beta| (k_double - k_single); the mean of both k is 1.
_ALTERNATION = POLYENE_GAP_EV / (4 * abs(BETA_EV))

CARBON_K: dict[Chem.BondType, float] = {
    Chem.BondType.AROMATIC: 1.0,
    Chem.BondType.SINGLE: 1.0 - _ALTERNATION,
    Chem.BondType.DOUBLE: 1.0 + _ALTERNATION,
    Chem.BondType.TRIPLE: 1.38,
}
"""k of a carbon-carbon bond by its formal order."""

H: dict[tuple[str, int], float] = {
    ("C", 1): 0.00,
    ("N", 1): 0.51,
    ("N", 2): 1.37,
    ("O", 1): 0.97,
    ("O", 2): 2.09,
    ("F", 2): 2.71,
    ("S", 1): 0.46,
    ("S", 2): 1.11,
}
"""h_X by element and number of pi electrons the atom gives."""

_K_TABLE = """
C1 N1 1.02  C1 N2 0.89  C1 O1 1.06  C1 O2 0.66  C1 F2 0.52  C1 S1 0.81  C1 S2 0.69
N1 N1 1.09  N1 N2 0.99  N1 O1 1.14  N1 O2 0.80  N1 F2 0.65  N1 S1 0.83  N1 S2 0.78
N2 N2 0.98  N2 O1 1.13  N2 O2 0.89  N2 F2 0.77  N2 S1 0.68  N2 S2 0.73
O1 O1 1.26  O1 O2 1.02  O1 F2 0.92  O1 S1 0.84  O1 S2 0.85
O2 O2 0.95  O2 F2 0.94  O2 S1 0.43  O2 S2 0.54
S1 S1 0.68  S1 S2 0.58  S1 F2 0.28  S2 S2 0.63  S2 F2 0.32  F2 F2 1.04
"""


def _read_k_table(text: str) -> dict[frozenset[tuple[str, int]], float]:
    words = text.split()
    return {
        frozenset(((a[0], int(a[1])), (b[0], int(b[1])))): float(k)
        for a, b, k in zip(words[::3], words[1::3], words[2::3], strict=True)
    }


K: dict[frozenset[tuple[str, int]], float] = _read_k_table(_K_TABLE)
"""k_XY by the two kinds of atom, for every bond except carbon-carbon."""


def frontier(matrix: NDArray[np.float64], electrons: int) -> tuple[float, float]:
    """HOMO and LUMO energies of one Hueckel matrix.

    Parameters
    ----------
    matrix
        Symmetric Hueckel matrix ``n x n`` in units of beta, with alpha as zero: h_X on the
        diagonal, k_XY off it.
    electrons
        Number of pi electrons; even, and at least one orbital must stay empty.

    Returns
    -------
    tuple of float
        HOMO and LUMO energy relative to alpha, in units of ``|beta|``.

    Raises
    ------
    ValueError
        If ``electrons`` is odd, less than 2, or leaves no orbital empty.
    """
    orbitals = len(matrix)
    if electrons % 2 or not 2 <= electrons < 2 * orbitals:
        raise ValueError(
            f"electrons must be even, at least 2 and less than {2 * orbitals} for {orbitals} "
            f"orbitals, got {electrons}."
        )
    # beta is negative: the orbital with the largest eigenvalue is the lowest in energy.
    energies = -np.linalg.eigvalsh(matrix)[::-1]
    return float(energies[electrons // 2 - 1]), float(energies[electrons // 2])


def pi_electrons(mol: Chem.Mol) -> dict[int, int]:
    """Atoms with a pi orbital, and how many electrons each gives.

    In the pi system are aromatic atoms, atoms with a double or triple bond, and N, O, S or F with
    a lone pair next to one of those. Of a triple bond, one of its two pi planes is counted.
    Attachment points (``*``) have no orbital.

    Parameters
    ----------
    mol
        Sanitised RDKit molecule.

    Returns
    -------
    dict of int to int
        Atom index to number of pi electrons, in index order.

    Raises
    ------
    ValueError
        For a charged atom or a radical, and for an atom of the pi system that is hypervalent, has
        two multiple bonds, or is of an element without parameters.
    """
    unsaturated = {a.GetIdx() for a in mol.GetAtoms() if a.GetIsAromatic() or _multiple_bonds(a)}
    electrons: dict[int, int] = {}
    for atom in mol.GetAtoms():
        index, symbol = atom.GetIdx(), atom.GetSymbol()
        if atom.GetFormalCharge() or atom.GetNumRadicalElectrons():
            raise ValueError(
                f"atom {index} ({symbol}) is charged or a radical, which is not modelled."
            )
        if index in unsaturated:
            electrons[index] = _electrons_of_unsaturated(atom)
        elif symbol in ("N", "O", "S", "F") and any(
            neighbour.GetIdx() in unsaturated for neighbour in atom.GetNeighbors()
        ):
            electrons[index] = 2
        else:
            continue
        hypervalent = symbol == "S" and atom.GetTotalValence() > 2
        if hypervalent or (symbol, electrons[index]) not in H:
            raise ValueError(f"no Hueckel parameters for atom {index} ({symbol}) of this molecule.")
    return electrons


def _multiple_bonds(atom: Chem.Atom) -> int:
    orders = (Chem.BondType.DOUBLE, Chem.BondType.TRIPLE)
    return sum(bond.GetBondType() in orders for bond in atom.GetBonds())


def _electrons_of_unsaturated(atom: Chem.Atom) -> int:
    if _multiple_bonds(atom) > 1:
        raise ValueError(f"atom {atom.GetIdx()} has two double bonds, which is not modelled.")
    if not atom.GetIsAromatic() or atom.GetSymbol() == "C":
        return 1
    # An aromatic N with three neighbours (or N-H), O and S give their lone pair.
    return 1 if atom.GetSymbol() == "N" and atom.GetTotalDegree() == 2 else 2


def hueckel_gap(mol: Chem.Mol) -> float:
    """HOMO-LUMO gap of a molecule's pi electrons.

    Each connected pi system is filled on its own; the gap of the whole is its lowest LUMO minus
    its highest HOMO.

    Parameters
    ----------
    mol
        Sanitised RDKit molecule.

    Returns
    -------
    float
        Gap in eV.

    Raises
    ------
    ValueError
        If the molecule has no pi electrons, has an odd number of them in one pi system, or has an
        atom without parameters.
    """
    electrons = pi_electrons(mol)
    if not electrons:
        raise ValueError("mol has no pi electrons, so it has no pi gap.")
    bonds: dict[int, list[tuple[int, float]]] = {atom: [] for atom in electrons}
    for bond in mol.GetBonds():
        a, b = bond.GetBeginAtomIdx(), bond.GetEndAtomIdx()
        if a in electrons and b in electrons:
            k = _bond_k(bond, electrons)
            bonds[a].append((b, k))
            bonds[b].append((a, k))
    homo, lumo = -np.inf, np.inf
    for system in _connected(bonds):
        place = {atom: row for row, atom in enumerate(system)}
        matrix = np.zeros((len(system), len(system)))
        for atom, row in place.items():
            matrix[row, row] = H[mol.GetAtomWithIdx(atom).GetSymbol(), electrons[atom]]
            for other, k in bonds[atom]:
                matrix[row, place[other]] = k
        system_homo, system_lumo = frontier(matrix, sum(electrons[atom] for atom in system))
        homo, lumo = max(homo, system_homo), min(lumo, system_lumo)
    return abs(BETA_EV) * (lumo - homo)


def _bond_k(bond: Chem.Bond, electrons: dict[int, int]) -> float:
    ends = (bond.GetBeginAtom(), bond.GetEndAtom())
    kinds = [(atom.GetSymbol(), electrons[atom.GetIdx()]) for atom in ends]
    if kinds[0][0] == kinds[1][0] == "C":
        return CARBON_K[bond.GetBondType()]
    return K[frozenset(kinds)]


def _connected(bonds: dict[int, list[tuple[int, float]]]) -> list[list[int]]:
    """Connected groups of atoms, each in index order."""
    groups: list[list[int]] = []
    seen: set[int] = set()
    for start in bonds:
        if start in seen:
            continue
        seen.add(start)
        group = [start]
        for atom in group:
            fresh = [other for other, _ in bonds[atom] if other not in seen]
            seen.update(fresh)
            group.extend(fresh)
        groups.append(sorted(group))
    return groups
