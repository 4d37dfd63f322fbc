"""Checks of the CSV files and of what is in their columns."""

from __future__ import annotations

import argparse
from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np
import pandas as pd

from tritonpool.cli.errors import InputError, UsageError
from tritonpool.cli.options import flag
from tritonpool.cli.reading import option_of, other_separator, place_of, read_table
from tritonpool.cli.smiles import smiles_problem
from tritonpool.cli.splits import PARTS

__all__ = [
    "check_columns",
    "check_endings",
    "check_files",
    "check_tables",
    "check_targets",
    "count_rows",
    "smiles_by_column",
]


def check_files(paths: Sequence[Path], args: argparse.Namespace) -> None:
    """Check that the CSV files are there and have rows.

    Raises
    ------
    InputError
        If one cannot be read as a table or is empty.
    """
    for path in paths:
        read_table(path, args, rows=1)


def check_endings(paths: Sequence[Path], args: argparse.Namespace) -> None:
    """Check that chemprop takes the files for CSV files, which it does by their names; those that
    are not there are left to `check_files`.

    Raises
    ------
    UsageError
        If the name of one ends otherwise.
    """
    for path in paths:
        if path.suffix != ".csv" and path.is_file():
            raise UsageError(
                f"argument {option_of(path, args)}: {str(path)!r} must be a CSV file, whose name "
                f"ends in .csv (in lower case); convert or rename it"
            )


def check_tables(args: argparse.Namespace, all_columns: bool = False) -> None:
    """Check that the named columns exist and hold numbers where they must.

    Call it once chemprop has filled in ``args.input_columns`` and ``args.target_columns``; with
    ``all_columns`` it took all there are for targets, because none were named.

    Raises
    ------
    UsageError
        If a column that an option names is missing, or a target is a descriptor too.
    InputError
        If a target, weight or descriptor is not a number, or if no row holds a target.
    """
    bounded = args.loss_function is not None and "bounded" in args.loss_function
    named = {
        "--smiles-columns": args.smiles_columns,
        "--reaction-columns": args.reaction_columns,
        "--target-columns": args.target_columns,
        "--descriptors-columns": args.descriptors_columns,
        "--weight-column": args.weight_column and [args.weight_column],
        "--splits-column": args.splits_column and [args.splits_column],
        "--ignore-columns": args.ignore_columns,
    }
    if not args.target_columns:
        path = args.data_path[0]
        hint = other_separator(read_table(path, args, rows=1).columns)
        raise InputError(f"{str(path)!r} has no column besides the SMILES to learn{hint}")
    targets, weights = len(args.target_columns), len(args.task_weights or [])
    if weights not in (0, 1, targets):
        raise UsageError(
            f"argument --task-weights: must be one for each target ({targets}), got {weights}"
        )
    _check_roles(args, all_columns)
    for path in args.data_path:
        table = read_table(path, args)
        for option, names in named.items():
            for name in names or []:
                _check_column(option, name, path, table)
        for option in ("--target-columns", "--descriptors-columns", "--weight-column"):
            for name in named[option] or []:
                target = option == "--target-columns"
                taken = all_columns and target
                _check_numbers(table[name], path, args, bounded and target, taken)
        for name in named["--weight-column"] or []:
            _check_weights(table[name], path, args)
        for name in named["--splits-column"] or []:
            _check_parts(table[name], path, args)
        for name in args.target_columns:
            if path == args.data_path[0] and table[name].isna().all():
                raise InputError(f"{str(path)!r} has no value in column {name!r}")
            _check_labels(table[name], path, args)


def _check_roles(args: argparse.Namespace, all_columns: bool) -> None:
    """Is no column learned twice, or both learned and something else?"""
    targets = args.target_columns
    for name in targets:
        if targets.count(name) > 1:
            raise UsageError(f"argument --target-columns: names {name!r} twice")
    both = "is in --target-columns, too"
    if all_columns:  # without what is ignored, the weights and the parts of the split
        given = "would be learned, too, as there is no --target-columns; name the targets by it"
    else:
        given = f"{both}, so the model would be given what it should predict"
    for option, names, why in (
        ("--descriptors-columns", args.descriptors_columns, given),
        ("--weight-column", [args.weight_column], both),
        ("--splits-column", [args.splits_column], both),
        ("--ignore-columns", args.ignore_columns, both),
    ):
        for name in names or []:
            if name in targets:
                raise UsageError(f"argument {option}: {name!r} {why}")


def check_columns(paths: Sequence[Path], args: argparse.Namespace) -> None:
    """Check that the columns which a model is applied to exist.

    Raises
    ------
    UsageError
        If one is missing.
    """
    for path in paths:
        table = read_table(path, args, rows=1)
        for option in ("smiles_columns", "reaction_columns", "descriptors_columns"):
            for name in getattr(args, option) or []:
                _check_column(flag(option), name, path, table)


def check_targets(
    path: Path, names: Sequence[str], args: argparse.Namespace, option: str, bounded: bool
) -> None:
    """Check that a table has the targets of a model, as ``option`` needs them; limits (``<1``) may
    be among them where the loss of the model was ``bounded``.

    Raises
    ------
    InputError
        If one is missing or not a number.
    """
    table = read_table(path, args)
    for name in names:
        if name not in table.columns:
            missing = _no_column(name, path, table)
            raise InputError(f"argument {option}: needs the measured values, but {missing}")
        _check_numbers(table[name], path, args, bounded)


def count_rows(paths: Sequence[Path], args: argparse.Namespace) -> int:
    """Rows under the headers of some tables."""
    return sum(len(read_table(path, args)) for path in paths)


def smiles_by_column(path: Path, args: argparse.Namespace) -> dict[str, list[str]]:
    """The SMILES of a table under the names of their columns: those of ``--smiles-columns``, or the
    first one.

    Raises
    ------
    UsageError
        If there is no such column.
    """
    table = read_table(path, args)
    names = args.smiles_columns or [table.columns[0]]
    for name in names:
        _check_column("--smiles-columns", name, path, table)
    return {str(name): table[name].tolist() for name in names}


def _check_column(option: str, name: str, path: Path, table: pd.DataFrame) -> None:
    if name not in table.columns:
        raise UsageError(f"argument {option}: {_no_column(name, path, table)}")


def _no_column(name: str, path: Path, table: pd.DataFrame) -> str:
    columns = ", ".join(map(repr, table.columns))
    hint = other_separator(table.columns)
    return f"{str(path)!r} has no column {name!r}; its columns are {columns}{hint}"


def _check_numbers(
    values: pd.Series,
    path: Path,
    args: argparse.Namespace,
    bounded: bool,
    taken: bool = False,
) -> None:
    """Check that every cell is a number or empty; with ``bounded``, < and > may stand before it.
    With ``taken`` nobody named the column, so that it may not be meant."""
    cells = values.astype(str).str.strip("<>") if bounded else values
    numbers = pd.to_numeric(cells, errors="coerce")
    wrong = (numbers.isna() & values.notna()) | np.isinf(numbers)
    for place, value in _first(wrong, values, path, args):
        raise InputError(
            f"{place}: the value '{value}' in column {values.name!r} is not a finite number"
            f"{_hint(value) or (_other_columns(value, args) if taken else '')}"
        )


def _check_weights(values: pd.Series, path: Path, args: argparse.Namespace) -> None:
    """Check that every weight is there and not negative."""
    for place, value in _first(~(values.astype(float) >= 0), values, path, args):
        what = "missing" if pd.isna(value) else f"negative: {value:g}"
        raise InputError(f"{place}: the weight in column {values.name!r} is {what}")


def _check_parts(values: pd.Series, path: Path, args: argparse.Namespace) -> None:
    """Check that every row belongs to a part of the split, or by an empty cell to none."""
    wrong = values.notna() & ~values.astype(str).str.lower().isin(PARTS)
    for place, value in _first(wrong, values, path, args):
        raise InputError(
            f"{place}: the value '{value}' in column {values.name!r} is no part of a split; see "
            f"--splits-column, whose values must be {', '.join(PARTS)}"
        )


def _first(
    wrong: pd.Series, values: pd.Series, path: Path, args: argparse.Namespace
) -> Iterator[tuple[str, object]]:
    """The place and the value of the first wrong cell of a column, if there is one."""
    for row in np.flatnonzero(wrong)[:1].tolist():
        yield place_of(path, row, args), values.iloc[row]


def _hint(value: object) -> str:
    limit = isinstance(value, str) and value.startswith(("<", ">"))
    return "; limits need a model with a bounded --loss-function" if limit else ""


def _other_columns(value: object, args: argparse.Namespace) -> str:
    """How to leave out a column that is no target; a table without header has no names for it."""
    if args.no_header_row:
        return ""
    named = args.smiles_columns or args.reaction_columns
    if not named and not smiles_problem(value, False, args):
        return "; if the column holds SMILES, name it by --smiles-columns"
    return "; name the targets by --target-columns, or leave the column out by --ignore-columns"


def _check_labels(values: pd.Series, path: Path, args: argparse.Namespace) -> None:
    """Check that the cells of a classification are empty or classes that the model knows."""
    if args.task_type.startswith("classification"):
        known, expected = {0, 1}, "0 or 1"
    elif args.task_type.startswith("multiclass"):
        classes = args.multiclass_num_classes
        known, expected = set(range(classes)), f"a whole number from 0 to {classes - 1}"
    else:
        return
    for place, value in _first(values.notna() & ~values.isin(known), values, path, args):
        raise InputError(
            f"{place}: the value '{value}' in column {values.name!r} is no class; --task-type "
            f"{args.task_type} needs {expected}"
        )
