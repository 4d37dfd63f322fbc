"""Table of monomer units from which the demo oligomers are assembled.

A unit is written as SMILES text whose first atom takes the bond from the left neighbour and whose
last unbranched atom takes the bond to the right neighbour, so a chain is the plain concatenation
of its units.
"""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Unit:
    """One monomer unit with two attachment points.

    Parameters
    ----------
    code
        Short name used in the ``chain`` column.
    name
        Chemical name, with the positions of the two attachment points.
    smiles
        SMILES text read from the left attachment point to the right one.
    atoms
        Number of heavy atoms.
    reverse
        The same unit read from right to left, or ``None`` where both directions are the same.
    linker
        True for small groups that only sit between two other units, never at a chain end and
        never next to another linker.
    """

    code: str
    name: str
    smiles: str
    atoms: int
    reverse: str | None = None
    linker: bool = False

    def text(self, flipped: bool) -> str:
        """SMILES text of the unit, read from the right attachment point if ``flipped``."""
        return self.reverse if flipped and self.reverse is not None else self.smiles


UNITS: tuple[Unit, ...] = (
    # Five-membered rings
    Unit("T", "thiophene-2,5-diyl", "c1sc(cc1)", 5),
    Unit("F", "furan-2,5-diyl", "c1oc(cc1)", 5),
    Unit("N", "pyrrole-2,5-diyl", "c1[nH]c(cc1)", 5),
    Unit("Tz", "thiazole-2,5-diyl", "c1ncc(s1)", 5, reverse="c1cnc(s1)"),
    Unit("E", "3,4-ethylenedioxythiophene-2,5-diyl", "c1sc(c2OCCOc12)", 9),
    Unit("Tt", "thieno[3,2-b]thiophene-2,5-diyl", "c1cc2sc(cc2s1)", 8),
    # Six-membered rings
    Unit("P", "1,4-phenylene", "c1ccc(cc1)", 6),
    Unit("M", "1,3-phenylene", "c1cc(ccc1)", 6),
    Unit("Pf", "2-fluoro-1,4-phenylene", "c1c(F)cc(cc1)", 7, reverse="c1cc(F)c(cc1)"),
    Unit("Po", "2,5-dimethoxy-1,4-phenylene", "c1c(OC)cc(c(OC)c1)", 10),
    Unit("Py", "pyridine-2,5-diyl", "c1ncc(cc1)", 6, reverse="c1cnc(cc1)"),
    Unit("Pz", "pyrazine-2,5-diyl", "c1ncc(nc1)", 6),
    # Fused rings
    Unit("B", "2,1,3-benzothiadiazole-4,7-diyl", "c1ccc(c2nsnc12)", 9),
    Unit("Q", "quinoxaline-5,8-diyl", "c1ccc(c2nccnc12)", 10),
    Unit("Np", "naphthalene-2,6-diyl", "c1ccc2cc(ccc2c1)", 10),
    Unit("Fl", "9H-fluorene-2,7-diyl", "c1ccc-2c(c1)Cc3cc(ccc3-2)", 13),
    Unit("Cz", "9H-carbazole-2,7-diyl", "c1ccc2c(c1)[nH]c3cc(ccc23)", 13),
    # Open-chain conjugated units
    Unit("V", "vinylene", "C=C", 2),
    Unit("Vc", "cyanovinylene", "C=C(C#N)", 4, reverse="C(C#N)=C"),
    Unit("Y", "ethynylene", "C#C", 2),
    # Linkers
    Unit("Im", "azomethine", "C=N", 2, reverse="N=C", linker=True),
    Unit("Me", "methylene", "C", 1, linker=True),
    Unit("Ox", "ether oxygen", "O", 1, linker=True),
    Unit("Su", "sulfide sulfur", "S", 1, linker=True),
    Unit("Am", "secondary amine nitrogen", "N", 1, linker=True),
)

BY_CODE: dict[str, Unit] = {unit.code: unit for unit in UNITS}
CORES: tuple[Unit, ...] = tuple(unit for unit in UNITS if not unit.linker)
RINGS: tuple[Unit, ...] = tuple(unit for unit in CORES if unit.smiles.startswith("c"))
LINKERS: tuple[Unit, ...] = tuple(unit for unit in UNITS if unit.linker)
