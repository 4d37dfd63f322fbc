"""Conjugated oligomers with computed gaps, drawn from the table of monomer units."""

from __future__ import annotations

import random
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from rdkit import Chem

from tritonpool.demo.huckel import hueckel_gap
from tritonpool.demo.sequences import DEFAULT_SIZES, SEQUENCES, SIZE_LIMITS, below, draw_units
from tritonpool.demo.units import BY_CODE, Unit

_MAX_TRIES = 500

Chain = tuple[tuple[Unit, bool], ...]
"""Units from left to right, each with whether it is flipped."""


@dataclass(frozen=True, slots=True)
class Oligomer:
    """One row of the demo data.

    Parameters
    ----------
    smiles
        SMILES with ``[*]`` at both ends.
    gap
        Hueckel HOMO-LUMO gap in eV.
    sequence
        One of `SEQUENCES`.
    chain
        Codes of the units from left to right, joined by ``-``; ``'`` marks a flipped unit.
    units
        Number of units.
    atoms
        Number of heavy atoms without the two ends.
    """

    smiles: str
    gap: float
    sequence: str
    chain: str
    units: int
    atoms: int


def chain_smiles(chain: Chain) -> str:
    """SMILES of a chain, with ``[*]`` at both ends."""
    return "[*]" + "".join(unit.text(flipped) for unit, flipped in chain) + "[*]"


def chain_text(chain: Chain) -> str:
    """The text of the ``chain`` column."""
    return "-".join(unit.code + "'" * flipped for unit, flipped in chain)


def parse_chain(text: str) -> Chain:
    """Read the text of the ``chain`` column back.

    Raises
    ------
    ValueError
        If a code is not in the table of units.
    """
    try:
        return tuple((BY_CODE[word.rstrip("'")], word.endswith("'")) for word in text.split("-"))
    except KeyError as error:
        raise ValueError(f"chain has the unknown unit {error}; known: {list(BY_CODE)}.") from None


def generate(
    number: int,
    seed: int = 0,
    min_atoms: int = DEFAULT_SIZES[0],
    max_atoms: int = DEFAULT_SIZES[1],
) -> Iterator[Oligomer]:
    """Draw distinct oligomers, with the four kinds of sequence in turn.

    The size of each is drawn uniformly between the two limits, and the chain is made as long as
    that size allows.

    Parameters
    ----------
    number
        How many oligomers.
    seed
        Non-negative seed; the same seed and sizes give the same oligomers.
    min_atoms, max_atoms
        Limits of the number of heavy atoms, without the two ends.

    Yields
    ------
    Oligomer
        The first of 4 is a homopolymer, then alternating, random and block.

    Raises
    ------
    ValueError
        If an argument is out of range, or if there are not enough distinct oligomers.
    """
    if number < 1:
        raise ValueError(f"number must be at least 1, got {number}.")
    if seed < 0:
        raise ValueError(f"seed must not be negative, got {seed}.")
    least, most = SIZE_LIMITS
    if not least <= min_atoms <= max_atoms <= most:
        raise ValueError(
            f"min_atoms and max_atoms must satisfy {least} <= min_atoms <= max_atoms <= "
            f"{most}, got {min_atoms} and {max_atoms}."
        )
    rng = random.Random(seed)
    seen: set[str] = set()
    for row in range(number):
        sequence = SEQUENCES[row % len(SEQUENCES)]
        chain = _draw_distinct(rng, sequence, min_atoms, max_atoms, seen)
        if chain is None:
            raise ValueError(
                f"number is {number}, but only {row} distinct oligomers of {min_atoms} to "
                f"{max_atoms} heavy atoms were found (no further {sequence}); ask for fewer or "
                "widen the range of sizes."
            )
        smiles = chain_smiles(chain)
        yield Oligomer(
            smiles=smiles,
            gap=hueckel_gap(Chem.MolFromSmiles(smiles)),
            sequence=sequence,
            chain=chain_text(chain),
            units=len(chain),
            atoms=sum(unit.atoms for unit, _ in chain),
        )


def _draw_distinct(
    rng: random.Random, sequence: str, min_atoms: int, max_atoms: int, seen: set[str]
) -> Chain | None:
    """Draw until a chain fits and is new; ``None`` after too many tries."""
    for _ in range(_MAX_TRIES):
        size = min_atoms + below(rng, max_atoms - min_atoms + 1)
        units = draw_units(rng, sequence, size)
        if sum(unit.atoms for unit in units) < min_atoms:
            continue
        chain = _orient(rng, units)
        text = chain_text(chain)
        if text not in seen:
            seen.add(text)
            return chain
    return None


def _orient(rng: random.Random, units: Sequence[Unit]) -> Chain:
    """Half of the chains are regular, head to tail; in the others each unit may be flipped."""
    regular = rng.random() < 0.5
    chain = tuple(
        (unit, not regular and unit.reverse is not None and rng.random() < 0.5) for unit in units
    )
    other_way = tuple(
        (unit, unit.reverse is not None and not flipped) for unit, flipped in reversed(chain)
    )
    # The same molecule can be read from both ends: keep one of the two texts.
    return min(chain, other_way, key=chain_text)
