"""What ``predict`` leaves out of the tables that chemprop wrote."""

from __future__ import annotations

import argparse
from collections.abc import Collection
from pathlib import Path

import pandas as pd

__all__ = ["drop_extra_columns"]


def drop_extra_columns(args: argparse.Namespace, targets: Collection[str]) -> None:
    """Do what ``--drop-extra-columns`` says, which chemprop 2.3 forgets: keep the molecules and
    what was predicted.

    Parameters
    ----------
    args
        Options of ``predict``, as chemprop has completed them.
    targets
        Names of the targets; those that the data has too are predictions now.
    """
    header = None if args.no_header_row else "infer"
    given = pd.read_csv(args.test_path, header=header, index_col=False, nrows=1).columns
    molecules = [*(args.smiles_columns or []), *(args.reaction_columns or [])]
    kept = {str(name) for name in molecules or given[:1]}
    kept |= {f"{target}{end}" for target in targets for end in ("", "_prob", "_unc")}
    extra = [name for name in given if str(name) not in kept]
    individual = args.output.with_name(f"{args.output.stem}_individual{args.output.suffix}")
    for path in (args.output, individual):
        if path.exists():
            _drop(path, extra)


def _drop(path: Path, columns: list) -> None:
    if path.suffix == ".pkl":
        pd.read_pickle(path).drop(columns=columns).to_pickle(path)
        return
    table = pd.read_csv(path, dtype=str, keep_default_na=False)
    table.drop(columns=map(str, columns)).to_csv(path, index=False)
