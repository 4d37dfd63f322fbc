"""Which SMILES is to blame when molecules cannot be made."""

from __future__ import annotations

import argparse
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

import pandas as pd
from chemprop.utils import make_mol
from rdkit import rdBase

from tritonpool.cli.errors import InputError
from tritonpool.cli.reading import other_separator, place_of, read_table

__all__ = ["blaming_smiles", "smiles_problem"]

MOST_ROWS = 10  # that a message names


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
        table = read_table(path, args)
        molecules = args.smiles_columns or ([] if reactions else [table.columns[0]])
        for name in (*molecules, *reactions):
            _check_texts(table[name], path, args, name in reactions)


def _check_texts(texts: pd.Series, path: Path, args: argparse.Namespace, reaction: bool) -> None:
    problems = ((row, smiles_problem(text, reaction, args)) for row, text in enumerate(texts))
    found = [(row, problem) for row, problem in problems if problem]
    if not found:
        return
    (row, problem), *others = found
    text = texts.tolist()[row]  # Python's numbers
    which = "the SMILES" if pd.isna(text) else f"the SMILES {text!r}"
    more = ", ".join(str(other + 1) for other, _ in others[:MOST_ROWS])
    more += ", ..." if len(others) > MOST_ROWS else ""
    raise InputError(
        f"{place_of(path, row, args)}: {which} in column {texts.name!r} {problem}"
        f"{other_separator([texts.name])}"
        f"{f'; {len(others)} more cannot be used, in rows {more}' if others else ''}"
    )


def smiles_problem(text: object, reaction: bool, args: argparse.Namespace) -> str | None:
    """Why no molecule can be made of a cell, or of a reaction; None if it can."""
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
