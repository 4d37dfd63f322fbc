"""What ``predict`` leaves out of the tables that chemprop wrote."""

from __future__ import annotations

import argparse
from pathlib import Path

import pandas as pd
from chemprop.nn.predictors import MulticlassClassificationFFN

from tritonpool.cli.saved import SavedEncoder

__all__ = ["drop_extra_columns"]


def drop_extra_columns(args: argparse.Namespace, first: SavedEncoder) -> None:
    """Do what ``--drop-extra-columns`` says, which chemprop 2.3 forgets: keep the molecules and
    what was predicted.

    Parameters
    ----------
    args
        Options of ``predict``, as chemprop has completed them.
    first
        What the first of the models says, by which chemprop names the columns.
    """
    header = None if args.no_header_row else "infer"
    given = pd.read_csv(args.test_path, header=header, index_col=False, nrows=1).columns
    molecules = [*(args.smiles_columns or []), *(args.reaction_columns or [])]
    molecules = {str(name) for name in molecules or given[:1]}
    individual = args.output.with_name(f"{args.output.stem}_individual{args.output.suffix}")
    written = {args.output: [""]}
    if len(args.model_paths) > 1:
        written[individual] = [f"_model_{i}" for i in range(len(args.model_paths))]
    for path, ends in written.items():
        kept = molecules | {name + end for name in _written(args, first) for end in ends}
        _drop(path, [name for name in given if str(name) not in kept])


def _written(args: argparse.Namespace, first: SavedEncoder) -> list[str]:
    """The names that chemprop gives to what it predicts."""
    predictor, number, names = first.predicts
    names = names or [f"pred_{i}" for i in range(number)]
    ends = [""]
    if issubclass(predictor, MulticlassClassificationFFN):
        ends.append("_prob")
    if args.uncertainty_method not in ("none", "classification"):
        ends.append("_unc")
    return [name + end for name in names for end in ends]


def _drop(path: Path, columns: list) -> None:
    if path.suffix == ".pkl":
        pd.read_pickle(path).drop(columns=columns).to_pickle(path)
        return
    table = pd.read_csv(path, dtype=str, keep_default_na=False)
    table.drop(columns=map(str, columns)).to_csv(path, index=False)
