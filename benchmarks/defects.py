"""Chains that differ only in where their defects are: ``python -m benchmarks.defects -o X.csv``.

Every chain has the same units and, where runs are not very short, the same surroundings of atoms;
the gap is that of the longest conjugated run. Who counts atoms or small surroundings cannot predict
it, so a model that can knows places: what the other data sets do not ask for.
"""

from __future__ import annotations

import argparse
import random
from collections.abc import Iterator
from pathlib import Path

from rdkit import Chem

from tritonpool.demo.huckel import hueckel_gap
from tritonpool.demo.oligomers import Oligomer, chain_smiles, chain_text
from tritonpool.demo.sequences import below
from tritonpool.demo.table import write_csv
from tritonpool.demo.units import BY_CODE

__all__ = ["draw", "main"]

UNIT, DEFECT = BY_CODE["T"], BY_CODE["Me"]  # thiophene, and the methylene that ends a run


def draw(number: int, seed: int = 0, units: int = 24, defects: int = 4) -> Iterator[Oligomer]:
    """Draw distinct chains, of which none is another read backwards.

    Parameters
    ----------
    number
        How many chains.
    seed
        The same seed gives the same chains.
    units
        Conjugated units of each chain.
    defects
        Breaks of its conjugation, never at an end and never two in one place.

    Yields
    ------
    Oligomer
        Its ``sequence`` is the length of the longest run, in units.

    Raises
    ------
    ValueError
        If there are not enough such chains, or no place for so many defects.
    """
    if not 0 <= defects < units:
        raise ValueError(f"defects must be from 0 to {units - 1}, but is {defects}")
    rng = random.Random(seed)
    seen: set[tuple[int, ...]] = set()
    for row in range(number):
        for _ in range(10_000):
            gaps = list(range(1, units))
            cuts = sorted(gaps.pop(below(rng, len(gaps))) for _ in range(defects))
            runs = tuple(b - a for a, b in zip([0, *cuts], [*cuts, units], strict=True))
            if runs not in seen:
                break
        else:
            raise ValueError(f"only {row} different chains were found; ask for fewer than {number}")
        seen.update((runs, runs[::-1]))
        yield _chain(runs)


def _chain(runs: tuple[int, ...]) -> Oligomer:
    units = [UNIT] * runs[0]
    for run in runs[1:]:
        units += [DEFECT] + [UNIT] * run
    chain = tuple((unit, False) for unit in units)
    smiles = chain_smiles(chain)
    return Oligomer(
        smiles=smiles,
        gap=hueckel_gap(Chem.MolFromSmiles(smiles)),
        sequence=str(max(runs)),
        chain=chain_text(chain),
        units=len(chain),
        atoms=sum(unit.atoms for unit in units),
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("-n", "--number", type=int, default=1000)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--units", type=int, default=24)
    parser.add_argument("--defects", type=int, default=4)
    parser.add_argument("-o", "--output", type=Path, required=True)
    args = parser.parse_args()
    write_csv(draw(args.number, args.seed, args.units, args.defects), args.output)


if __name__ == "__main__":
    main()
