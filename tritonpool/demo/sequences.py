"""The four kinds of sequence: which units follow each other in a chain.

All choices come from ``random.Random.random``, the one method whose numbers Python promises to
keep for a seed, so that a seed gives the same chains everywhere.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Iterable, Sequence
from typing import TypeVar

from tritonpool.demo.units import CORES, LINKERS, RINGS, Unit

_T = TypeVar("_T")

SIZE_LIMITS = (10, 5000)
"""Fewest and most heavy atoms that may be asked for."""

DEFAULT_SIZES = (10, 80)
"""Fewest and most heavy atoms of an oligomer unless asked otherwise."""

# Share of the chains with a linker. Linkers narrow or cut the conjugation, so where they sit
# matters more than how many there are.
_LINKER_SHARE = {"alternating": 0.1, "random": 0.8, "block": 0.5}


def draw_units(rng: random.Random, sequence: str, size: int) -> list[Unit]:
    """Draw the units of one chain.

    Parameters
    ----------
    rng
        Source of random numbers.
    sequence
        One of `SEQUENCES`.
    size
        Largest number of heavy atoms.

    Returns
    -------
    list of Unit
        Units from left to right; empty if the drawn units do not make such a chain within
        ``size``.
    """
    return _DRAW[sequence](rng, size)


def below(rng: random.Random, limit: int) -> int:
    """A whole number from 0 to ``limit - 1``."""
    return int(rng.random() * limit)


def _pick(rng: random.Random, items: Sequence[_T], count: int) -> list[_T]:
    """``count`` different items, in random order."""
    left = list(items)
    return [left.pop(below(rng, len(left))) for _ in range(count)]


def _fill(units: Iterable[Unit], size: int) -> list[Unit]:
    """As many units as fit; a linker at the end is dropped."""
    chain: list[Unit] = []
    atoms = 0
    for unit in units:
        atoms += unit.atoms
        if atoms > size:
            break
        chain.append(unit)
    while chain and chain[-1].linker:
        chain.pop()
    return chain


def _homopolymer(rng: random.Random, size: int) -> list[Unit]:
    (unit,) = _pick(rng, CORES, 1)
    count = size // unit.atoms
    return [unit] * count if count >= 2 else []


def _alternating(rng: random.Random, size: int) -> list[Unit]:
    if rng.random() < _LINKER_SHARE["alternating"]:
        (first,), (second,) = _pick(rng, RINGS, 1), _pick(rng, LINKERS, 1)
    else:
        first, second = _pick(rng, CORES, 2)
    chain = _fill((unit for _ in range(size) for unit in (first, second)), size)
    return chain if len(chain) >= 3 else []


def _random(rng: random.Random, size: int) -> list[Unit]:
    cores = _pick(rng, CORES, 2 + below(rng, 3))
    linkers = _pick(rng, LINKERS, 1) if rng.random() < _LINKER_SHARE["random"] else []

    def steps() -> Iterable[Unit]:
        previous_linker = True
        while True:
            choices = cores if previous_linker else cores + linkers
            unit = choices[below(rng, len(choices))]
            previous_linker = unit.linker
            yield unit

    chain = _fill(steps(), size)
    return chain if len({unit.code for unit in chain if not unit.linker}) >= 2 else []


def _block(rng: random.Random, size: int) -> list[Unit]:
    cores = _pick(rng, CORES, 2 + below(rng, 2))
    linkers = _pick(rng, LINKERS, 1) if rng.random() < _LINKER_SHARE["block"] else []
    ends = sorted(below(rng, size) for _ in cores[1:]) + [size]
    chain: list[Unit] = []
    atoms = 0
    for core, end in zip(cores, ends, strict=True):
        joint = linkers if chain else []
        joint_atoms = sum(unit.atoms for unit in joint)
        count = (end - atoms - joint_atoms) // core.atoms
        if count < 2:
            return []
        chain += joint + [core] * count
        atoms += joint_atoms + core.atoms * count
    return chain


_DRAW: dict[str, Callable[[random.Random, int], list[Unit]]] = {
    "homopolymer": _homopolymer,
    "alternating": _alternating,
    "random": _random,
    "block": _block,
}

SEQUENCES: tuple[str, ...] = tuple(_DRAW)
