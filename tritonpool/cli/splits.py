"""Checks of splits: of a file, which chemprop reads as it comes, and of what metrics need."""

from __future__ import annotations

import argparse
import json
import logging
from collections.abc import Iterable, Iterator, Sequence
from itertools import combinations
from pathlib import Path

from chemprop.cli.utils import parse_indices

from tritonpool.cli.errors import InputError

__all__ = ["PARTS", "check_metrics", "check_splits", "check_tests", "draws_splits", "undecided"]

PARTS = ("train", "val", "test")
OF_BOTH_CLASSES = ("roc", "prc")  # metrics
MORE = "see --split-sizes, --splits-file or --splits-column, and --metrics"

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


def draws_splits(args: argparse.Namespace) -> bool:
    """Are the splits made here, and not given?"""
    return args.splits_file is None and args.splits_column is None


def check_metrics(splits: Iterable[tuple], metrics: Sequence[str], targets: Sequence[str]) -> None:
    """Check that no metric fails on a part, as ``r2`` does with fewer than two values: of all
    targets together on a validation part, of each on a test part.

    Parameters
    ----------
    splits
        Data points of the parts of each split, a list for each component.
    metrics
        What is computed.
    targets
        Names of the targets.

    Raises
    ------
    InputError
        If one does.
    """
    for i, (_, val, test) in enumerate(splits if "r2" in metrics else ()):
        for target, values in _known(test, targets):
            _check_number(i, target, values, "r2", 2)
        if len(_all_known(val)) == 1:
            raise InputError(
                f"the validation part of split {i} has one value only, but r2 needs at least 2; "
                f"{MORE}"
            )


def check_tests(splits: Iterable[tuple], metrics: Sequence[str], targets: Sequence[str]) -> None:
    """Check that metrics have a value on every test part.

    Parameters
    ----------
    splits
        Data points of the parts of each split, a list for each component.
    metrics
        What is computed; the first is what decides.
    targets
        Names of the targets.

    Raises
    ------
    InputError
        If one has not.
    """
    for i, (_, _, test) in enumerate(splits):
        if not test[0]:
            raise InputError(f"split {i} has no test part to compare on; {MORE}")
        for target, values in _known(test, targets):
            _check_number(i, target, values, metrics[0], 1)
            if metrics[0] in OF_BOTH_CLASSES and len(set(values)) == 1:
                raise InputError(
                    f"the test part of split {i} has one class of {target!r} only, of which "
                    f"{metrics[0]} says nothing; {MORE}"
                )


def undecided(splits: Iterable[tuple], tracked: str) -> str:
    """What keeps ``--tracking-metric`` from telling epochs and models apart: a validation part
    without both classes. Nothing if it can.

    Parameters
    ----------
    splits
        Data points of the parts of each split, a list for each component.
    tracked
        The metric.
    """
    for i, (_, val, _) in enumerate(splits if tracked in OF_BOTH_CLASSES else ()):
        if val[0] and len(set(_all_known(val))) < 2:
            return (
                f"the validation part of split {i} does not have both classes, so "
                f"--tracking-metric {tracked} says nothing; see --split-sizes, --splits-file or "
                f"--splits-column, and --tracking-metric"
            )
    return ""


def _known(part: list, targets: Sequence[str]) -> Iterator[tuple[str, list[float]]]:
    """The values of each target that are not missing; nothing for a part that is empty."""
    columns = zip(*(point.y for point in part[0]), strict=True)
    for target, column in zip(targets, columns, strict=False):
        yield target, [y for y in column if y == y]


def _all_known(part: list) -> list[float]:
    """The values of all targets together that are not missing."""
    return [y for point in part[0] for y in point.y if y == y]


def _check_number(split: int, target: str, values: list[float], metric: str, least: int) -> None:
    if len(values) < least:
        raise InputError(
            f"the test part of split {split} has {len(values)} value(s) of {target!r}, but "
            f"{metric} needs at least {least}; {MORE}"
        )
