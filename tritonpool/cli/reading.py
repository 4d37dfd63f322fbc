"""Reading a CSV file as chemprop does, and where in it something is."""

from __future__ import annotations

import argparse
import csv
import warnings
from collections.abc import Iterable
from pathlib import Path

import pandas as pd

from tritonpool.cli.errors import InputError
from tritonpool.cli.options import flag

__all__ = ["option_of", "other_separator", "place_of", "read_table"]


def option_of(path: Path, args: argparse.Namespace) -> str:
    """The option that named a table."""
    for name in ("test_path", "cal_path"):
        if getattr(args, name, None) == path:
            return flag(name)
    return "--data-path"


def read_table(path: Path, args: argparse.Namespace, rows: int | None = None) -> pd.DataFrame:
    """Read a table as chemprop does, or its first rows only."""
    header, option = None if args.no_header_row else "infer", option_of(path, args)
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


def other_separator(names: Iterable[object]) -> str:
    """What a header seems to have between its columns instead of commas."""
    for mark, what in ((";", "semicolons"), ("\t", "tabs")):
        if any(mark in str(name) for name in names):
            return f"; columns must be separated by commas, not by {what}"
    return ""


def place_of(path: Path, row: int, args: argparse.Namespace) -> str:
    """Where a row of the table is; the table has no blank lines, but the file may."""
    with path.open("rb") as file:
        blank = any(not line.strip() for line in file)
    where = f"row {row + 1}" + ("" if args.no_header_row else " below the header")
    return f"{str(path)!r}, {where}{', blank lines not counted' * blank}"
