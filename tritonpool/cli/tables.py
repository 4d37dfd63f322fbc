"""Checks of the CSV files, and which SMILES is to blame when one cannot be read."""

from __future__ import annotations

import argparse
import csv
import warnings
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import pandas as pd
from chemprop.utils import make_mol
from rdkit import rdBase

from tritonpool.cli.errors import InputError, UsageError
from tritonpool.cli.options import flag
from tritonpool.cli.splits import PARTS

__all__ = [
    "blaming_smiles",
    "check_columns",
    "check_endings",
    "check_files",
    "check_tables",
    "check_targets",
    "count_rows",
    "smiles_by_column",
]

MOST_ROWS = 10  # that a message names


def check_files(paths: Sequence[Path], args: argparse.Namespace) -> None:
    """Check that the CSV files are there and have rows.

    Raises
    ------
    InputError
        If one cannot be read as a table or is empty.
    """
    for path in paths:
        _read(path, args, rows=1)


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
                f"argument {_option_of(path, args)}: {str(path)!r} must be a CSV file, whose name "
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
        hint = _other_separator(_read(path, args, rows=1).columns)
        raise InputError(f"{str(path)!r} has no column besides the SMILES to learn{hint}")
    targets, weights = len(args.target_columns), len(args.task_weights or [])
    if weights not in (0, 1, targets):
        raise UsageError(
            f"argument --task-weights: must be one for each target ({targets}), got {weights}"
        )
    _check_roles(args, all_columns)
    for path in args.data_path:
        table = _read(path, args)
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
        table = _read(path, args, rows=1)
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
    table = _read(path, args)
    for name in names:
        if name not in table.columns:
            missing = _no_column(name, path, table)
            raise InputError(f"argument {option}: needs the measured values, but {missing}")
        _check_numbers(table[name], path, args, bounded)


def count_rows(paths: Sequence[Path], args: argparse.Namespace) -> int:
    """Rows under the headers of some tables."""
    return sum(len(_read(path, args)) for path in paths)


def smiles_by_column(path: Path, args: argparse.Namespace) -> dict[str, list[str]]:
    """The SMILES of a table under the names of their columns: those of ``--smiles-columns``, or the
    first one.

    Raises
    ------
    UsageError
        If there is no such column.
    """
    table = _read(path, args)
    names = args.smiles_columns or [table.columns[0]]
    for name in names:
        _check_column("--smiles-columns", name, path, table)
    return {str(name): table[name].tolist() for name in names}


def _option_of(path: Path, args: argparse.Namespace) -> str:
    """The option that named a table."""
    for name in ("test_path", "cal_path"):
        if getattr(args, name, None) == path:
            return flag(name)
    return "--data-path"


def _read(path: Path, args: argparse.Namespace, rows: int | None = None) -> pd.DataFrame:
    """Read a table as chemprop does, or its first rows only."""
    header, option = None if args.no_header_row else "infer", _option_of(path, args)
    try:
        with warnings.catch_warnings(record=True) as caught:
            warnings.simplefilter("always", pd.errors.ParserWarning)
            table = pd.read_csv(path, header=header, index_col=False, nrows=rows)
        if any(issubclass(warning.category, pd.errors.ParserWarning) for warning in caught):
            _check_fields(path, len(table.columns))
    except pd.errors.EmptyDataError:
        raise InputError(f"argument {option}: {str(path)!r} is empty") from None
    except UnicodeDecodeError as error:
        raise InputError(
            f"argument {option}: {str(path)!r} cannot be read as UTF-8 ({error.reason} at byte "
            f"{error.start}); save it as UTF-8"
        ) from None
    except pd.errors.ParserError as error:
        raise InputError(f"argument {option}: {str(path)!r} is no CSV file: {error}") from None
    except OSError as error:
        reason = error.strerror or error
        raise InputError(f"argument {option}: cannot read {str(path)!r}: {reason}") from None
    if args.no_header_row and hasattr(args, "input_columns"):
        table.columns = [*args.input_columns, *args.target_columns]  # chemprop's names for them
    if table.empty:
        raise InputError(f"argument {option}: {str(path)!r} has no rows under its header")
    return table


def _check_fields(path: Path, columns: int) -> None:
    """Refuse rows with more fields than columns, which pandas cuts off where the first row has
    them, too: numbers with decimal commas, say."""
    with path.open(newline="", encoding="utf-8-sig") as file:
        reader = csv.reader(file)
        for fields in reader:
            if any(fields[columns:]):
                raise InputError(
                    f"{str(path)!r}, line {reader.line_num}: there are {len(fields)} fields, but "
                    f"{columns} columns; commas separate fields, and decimals need points"
                )


def _check_column(option: str, name: str, path: Path, table: pd.DataFrame) -> None:
    if name not in table.columns:
        raise UsageError(f"argument {option}: {_no_column(name, path, table)}")


def _no_column(name: str, path: Path, table: pd.DataFrame) -> str:
    columns = ", ".join(map(repr, table.columns))
    hint = _other_separator(table.columns)
    return f"{str(path)!r} has no column {name!r}; its columns are {columns}{hint}"


def _other_separator(names: Iterable[object]) -> str:
    """What a header seems to have between its columns instead of commas."""
    for mark, what in ((";", "semicolons"), ("\t", "tabs")):
        if any(mark in str(name) for name in names):
            return f"; columns must be separated by commas, not by {what}"
    return ""


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
        yield _place(path, row, args), values.iloc[row]


def _place(path: Path, row: int, args: argparse.Namespace) -> str:
    """Where a row of the table is; the table has no blank lines, but the file may."""
    with path.open("rb") as file:
        blank = any(not line.strip() for line in file)
    where = f"row {row + 1}" + ("" if args.no_header_row else " below the header")
    return f"{str(path)!r}, {where}{', blank lines not counted' * blank}"


def _hint(value: object) -> str:
    limit = isinstance(value, str) and value.startswith(("<", ">"))
    return "; limits need a model with a bounded --loss-function" if limit else ""


def _other_columns(value: object, args: argparse.Namespace) -> str:
    """How to leave out a column that is no target; a table without header has no names for it."""
    if args.no_header_row:
        return ""
    if not (args.smiles_columns or args.reaction_columns) and not _problem(value, False, args):
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


@contextmanager
def blaming_smiles(paths: Sequence[Path], args: argparse.Namespace) -> Iterator[None]:
    """Where the molecules of some tables are made: if that fails, name the SMILES to blame.

    Raises
    ------
    InputError
        If RDKit cannot read a SMILES or reaction.
    """
    # with cuik-molmaker they are made lazily, so a bad SMILES would surface later
    if args.use_cuikmolmaker_featurization:
        _check_smiles(paths, args)
    try:
        with rdBase.BlockLogs():
            yield
    except Exception:
        _check_smiles(paths, args)
        raise


def _check_smiles(paths: Sequence[Path], args: argparse.Namespace) -> None:
    reactions = args.reaction_columns or []
    for path in paths:
        table = _read(path, args)
        molecules = args.smiles_columns or ([] if reactions else [table.columns[0]])
        for name in (*molecules, *reactions):
            _check_texts(table[name], path, args, name in reactions)


def _check_texts(texts: pd.Series, path: Path, args: argparse.Namespace, reaction: bool) -> None:
    problems = ((row, _problem(text, reaction, args)) for row, text in enumerate(texts))
    found = [(row, problem) for row, problem in problems if problem]
    if not found:
        return
    (row, problem), *others = found
    text = texts.tolist()[row]  # Python's numbers
    which = "the SMILES" if pd.isna(text) else f"the SMILES {text!r}"
    more = ", ".join(str(other + 1) for other, _ in others[:MOST_ROWS])
    more += ", ..." if len(others) > MOST_ROWS else ""
    raise InputError(
        f"{_place(path, row, args)}: {which} in column {texts.name!r} {problem}"
        f"{_other_separator([texts.name])}"
        f"{f'; {len(others)} more cannot be used, in rows {more}' if others else ''}"
    )


def _problem(text: object, reaction: bool, args: argparse.Namespace) -> str | None:
    if not isinstance(text, str):
        return "is missing" if pd.isna(text) else "is a number, not a text"
    parts = text.split(">") if reaction else [text]
    if reaction and len(parts) != 3:
        return "is not of the form reactants>agents>products"
    for part in parts:
        try:
            with rdBase.BlockLogs():
                make_mol(part, args.keep_h, args.add_h, args.ignore_stereo, args.reorder_atoms)
        except Exception:
            return "cannot be read by RDKit"
    return None
