"""Checks of the CSV files, and which SMILES is to blame when one cannot be read."""

from __future__ import annotations

import argparse
from pathlib import Path

import numpy as np
import pandas as pd
from chemprop.utils import make_mol
from rdkit import rdBase

from tritonpool.cli.errors import InputError, UsageError

__all__ = ["check_files", "check_tables", "count_rows", "unreadable_smiles"]


def check_files(args: argparse.Namespace) -> None:
    """Check that the CSV files are there and have rows.

    Raises
    ------
    InputError
        If one cannot be read as a table or is empty.
    """
    for path in args.data_path or []:
        # chemprop has its own sentence for other endings
        if path.suffix == ".csv":
            _read(path, args, rows=1)


def check_tables(args: argparse.Namespace) -> None:
    """Check that the named columns exist and hold numbers where they must.

    Call it once chemprop has filled in ``args.input_columns`` and ``args.target_columns``.

    Raises
    ------
    UsageError
        If a column that an option names is missing.
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
        raise InputError(f"{str(args.data_path[0])!r} has no column besides the SMILES to learn")
    for path in args.data_path:
        table = _read(path, args)
        columns = list(table.columns)
        for option, names in named.items():
            for name in names or []:
                if name not in columns:
                    raise UsageError(
                        f"argument {option}: {str(path)!r} has no column {name!r}; its columns "
                        f"are {', '.join(map(repr, columns))}"
                    )
        for option in ("--target-columns", "--descriptors-columns", "--weight-column"):
            for name in named[option] or []:
                _check_numbers(table[name], path, bounded and option == "--target-columns")
        for name in args.target_columns:
            if table[name].isna().all():
                raise InputError(f"{str(path)!r} has no value in column {name!r}")
            _check_labels(table[name], path, args)


def count_rows(args: argparse.Namespace) -> int:
    """Rows under the headers of all tables."""
    return sum(len(_read(path, args)) for path in args.data_path)


def _read(path: Path, args: argparse.Namespace, rows: int | None = None) -> pd.DataFrame:
    """Read a table as chemprop does, or its first rows only."""
    header = None if args.no_header_row else "infer"
    try:
        table = pd.read_csv(path, header=header, index_col=False, nrows=rows)
    except pd.errors.EmptyDataError:
        raise InputError(f"argument --data-path: {str(path)!r} is empty") from None
    except (UnicodeDecodeError, pd.errors.ParserError) as error:
        raise InputError(f"argument --data-path: {str(path)!r} is no CSV file: {error}") from None
    except OSError as error:
        reason = error.strerror or error
        raise InputError(f"argument --data-path: cannot read {str(path)!r}: {reason}") from None
    if args.no_header_row and hasattr(args, "input_columns"):
        table.columns = [*args.input_columns, *args.target_columns]  # chemprop's names for them
    if table.empty:
        raise InputError(f"argument --data-path: {str(path)!r} has no rows under its header")
    return table


def _check_numbers(values: pd.Series, path: Path, bounded: bool) -> None:
    """Check that every cell is a number or empty; with ``bounded``, < and > may stand before it."""
    cells = values.astype(str).str.strip("<>") if bounded else values
    numbers = pd.to_numeric(cells, errors="coerce")
    wrong = np.flatnonzero((numbers.isna() & values.notna()) | np.isinf(numbers))
    if wrong.size:
        row = int(wrong[0])
        raise InputError(
            f"{str(path)!r}, row {row + 1} below the header: the value '{values.iloc[row]}' in "
            f"column {values.name!r} is not a finite number"
        )


def _check_labels(values: pd.Series, path: Path, args: argparse.Namespace) -> None:
    """Check that the cells of a classification are empty or classes that the model knows."""
    if args.task_type.startswith("classification"):
        known, expected = {0, 1}, "0 or 1"
    elif args.task_type.startswith("multiclass"):
        classes = args.multiclass_num_classes
        known, expected = set(range(classes)), f"a whole number from 0 to {classes - 1}"
    else:
        return
    wrong = np.flatnonzero(values.notna() & ~values.isin(known))
    if wrong.size:
        row = int(wrong[0])
        raise InputError(
            f"{str(path)!r}, row {row + 1} below the header: the value '{values.iloc[row]}' in "
            f"column {values.name!r} is no class; --task-type {args.task_type} needs {expected}"
        )


def unreadable_smiles(args: argparse.Namespace) -> str | None:
    """A sentence that names the first SMILES or reaction that RDKit cannot read, or None."""
    reactions = args.reaction_columns or []
    molecules = args.smiles_columns or ([] if reactions else args.input_columns)
    with rdBase.BlockLogs():
        for path in args.data_path:
            table = _read(path, args)
            for name in (*molecules, *reactions):
                for row, text in enumerate(table[name]):
                    if problem := _problem(text, name in reactions, args):
                        return (
                            f"{str(path)!r}, row {row + 1} below the header: the SMILES {text!r} "
                            f"in column {name!r} {problem}"
                        )
    return None


def _problem(text: object, reaction: bool, args: argparse.Namespace) -> str | None:
    if not isinstance(text, str):
        return "is missing" if pd.isna(text) else "is a number, not a text"
    parts = text.split(">") if reaction else [text]
    if reaction and len(parts) != 3:
        return "is not of the form reactants>agents>products"
    for part in parts:
        try:
            make_mol(part, args.keep_h, args.add_h, args.ignore_stereo, args.reorder_atoms)
        except Exception:
            return "cannot be read by RDKit"
    return None
