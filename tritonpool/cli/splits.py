"""Checks of a file with splits, which chemprop reads as it comes."""

from __future__ import annotations

import json
import logging
from itertools import combinations
from pathlib import Path

from chemprop.cli.utils import parse_indices

from tritonpool.cli.errors import InputError

__all__ = ["PARTS", "check_splits"]

PARTS = ("train", "val", "test")

logger = logging.getLogger(__name__)


def check_splits(path: Path, rows: int) -> None:
    """Check that a file lists splits of ``rows`` rows, as chemprop's splits.json does; a warning
    tells of rows that are in two parts.

    Parameters
    ----------
    path
        A JSON file: a list with an object for each split, which gives the numbers of the rows of
        ``train`` and perhaps ``val`` and ``test``, as a list or as text such as ``"0-7,9"``.
    rows
        Number of rows under the header of the data.

    Raises
    ------
    InputError
        If it is not such a file, or a row is not there.
    """
    name = f"the splits in {str(path)!r}"
    try:
        splits = json.loads(path.read_text())
    except ValueError as error:  # of JSON and of its encoding
        raise InputError(f"{name} cannot be read as JSON: {error}") from None
    if not (isinstance(splits, list) and splits and all(isinstance(s, dict) for s in splits)):
        raise InputError(f"{name} must be a list of objects with {', '.join(PARTS)}")
    for i, split in enumerate(splits):
        if "train" not in split:
            raise InputError(f"{name} have no 'train' in split {i}")
        if unknown := [part for part in split if part not in PARTS]:
            raise InputError(
                f"{name} have {unknown[0]!r} in split {i}, but the parts are {', '.join(PARTS)}"
            )
        found = {}
        for part in PARTS:
            try:
                numbers = parse_indices(split.get(part, []))
                wrong = [n for n in numbers if type(n) is not int or not 0 <= n < rows]
            except (TypeError, ValueError):
                wrong = [split[part]]
            if wrong:
                raise InputError(
                    f"{name} name row {wrong[0]!r} in {part!r} of split {i}, but the data has rows "
                    f"0 to {rows - 1}"
                )
            found[part] = set(numbers)
        for one, other in combinations(PARTS, 2):
            if both := found[one] & found[other]:
                logger.warning(
                    "%s have %d rows in both %r and %r of split %d, the first is %d",
                    *(name, len(both), one, other, i, min(both)),
                )
