"""From the CSV files to the parts of every split, with chemprop's own functions."""

from __future__ import annotations

import argparse
import copy
import json
import logging
import math
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from chemprop.cli.train import build_splits
from chemprop.data import MoleculeDatapoint, ReactionDatapoint
from rdkit import Chem

from tritonpool.cli.errors import InputError
from tritonpool.cli.features import check_points
from tritonpool.cli.smiles import blaming_smiles
from tritonpool.cli.splits import check_splits
from tritonpool.cli.tables import count_rows

__all__ = ["Splits", "draw", "molecules_of", "read_splits"]

# where a split that fails has the size of the data to blame
FEW_ROWS = 30

logger = logging.getLogger(__name__)


@dataclass
class Splits:
    """Data points of every replicate, and the files that describe the splits."""

    train: list
    val: list
    test: list
    folder: Path

    def __iter__(self) -> Iterator[tuple]:
        return zip(self.train, self.val, self.test, strict=True)

    def write(self, output: Path) -> None:
        """Copy splits.json and what else chemprop wrote to the output folder."""
        for path in self.folder.iterdir():
            if path.is_dir():  # of a replicate, made by --save-data-splits
                shutil.copytree(path, output / path.name, dirs_exist_ok=True)
            else:
                shutil.copy(path, output)


def read_splits(args: argparse.Namespace, folder: Path, splits_file: Path | None = None) -> Splits:
    """Read the data and split it; nothing is written to the output folder yet.

    Parameters
    ----------
    args
        Checked options. ``num_replicates`` is set to the number of splits.
    folder
        Where splits.json and the like go until `Splits.write`.
    splits_file
        The splits.json of a training to go on with.

    Raises
    ------
    InputError
        If a SMILES or the splits cannot be read, or the data or its training part are too small or
        of one class where they should be balanced.
    """
    local = copy.copy(args)
    local.output_dir = folder
    if splits_file is not None:
        local.splits_file, local.splits_column = splits_file, None
    format_kwargs = {
        "no_header_row": args.no_header_row,
        "smiles_cols": args.smiles_columns,
        "rxn_cols": args.reaction_columns,
        # without a header the names are chemprop's inventions, which the file does not have
        "target_cols": None if args.no_header_row else args.target_columns,
        "ignore_cols": args.ignore_columns,
        "splits_col": args.splits_column,
        "weight_col": args.weight_column,
        "bounded": args.loss_function is not None and "bounded" in args.loss_function,
    }
    featurization_kwargs = {
        "molecule_featurizers": args.molecule_featurizers,
        "keep_h": args.keep_h,
        "add_h": args.add_h,
        "ignore_stereo": args.ignore_stereo,
        "reorder_atoms": args.reorder_atoms,
        "use_cuikmolmaker_featurization": args.use_cuikmolmaker_featurization,
    }
    if local.splits_file is not None:
        check_splits(Path(local.splits_file), count_rows(args.data_path, args))
    try:
        with blaming_smiles(args.data_path, args), _without_news():
            train, val, test = build_splits(local, format_kwargs, featurization_kwargs)
    except InputError:
        raise
    except Exception as error:
        if (rows := count_rows(args.data_path, args)) < FEW_ROWS:
            sizes = " ".join(f"{share:g}" for share in args.split_sizes)
            least = math.ceil(1 / min(share for share in args.split_sizes if share > 0))
            needed = f"at least {least}" if rows < least else "more"
            raise InputError(
                f"{str(args.data_path[0])!r} has {rows} rows, too few to be split by --split-sizes "
                f"{sizes}: {error}; give {needed} rows, or --split-sizes 1 0 0 to train on all"
            ) from None
        raise
    if args.num_replicates not in (1, len(train)):
        source = "--splits-file" if local.splits_file is not None else "--splits-column"
        logger.warning(
            "--num-replicates %d is not used: there %s (%s)",
            args.num_replicates,
            "is 1 split" if len(train) == 1 else f"are {len(train)} splits",
            source,
        )
    args.num_replicates = len(train)
    for part in (*train, *val, *test):
        check_points(part)
    splits = Splits(train, val, test, folder)
    for part in splits.train:
        if len(part[0]) == 0:
            option = "--split-sizes"
            if args.splits_column is not None:
                option = "--splits-column, whose values must be train, val or test"
            raise InputError(f"the training part of the split is empty; see {option}")
    if args.train_size is not None and splits_file is None:
        _subsample(splits, args.train_size, args.data_seed)
    if args.class_balance:
        _check_balance(splits)
    if not args.use_cuikmolmaker_featurization:  # which makes no molecules beforehand
        _warn_of_repeats(splits)
    return splits


@contextmanager
def _without_news() -> Iterator[None]:
    """Hold back what chemprop says to callers of a function that has changed since its 2.0."""
    source = logging.getLogger("chemprop.data.splitting")

    def other(record: logging.LogRecord) -> bool:
        return "make_split_indices has changed" not in record.getMessage()

    source.addFilter(other)
    try:
        yield
    finally:
        source.removeFilter(other)


def _check_balance(splits: Splits) -> None:
    """Have the training parts rows of both classes, as chemprop's sampler sees them? It would
    otherwise give no batch."""
    for part in splits.train:
        found = {bool(point.y.any()) for point in part[0]}
        if len(found) == 1:
            missing, there = (0, 1) if True in found else (1, 0)
            raise InputError(
                f"argument --class-balance: needs rows of both classes in the training part, but "
                f"all {len(part[0])} are of class {there} and none of class {missing}; leave the "
                f"option out, or split the data otherwise"
            )


def _warn_of_repeats(splits: Splits) -> None:
    """Tell of molecules that a model is trained on and judged by."""
    for i, (train, *others) in enumerate(splits):
        known = set(_canonical(train))
        for name, part in zip(("validation", "test"), others, strict=True):
            texts = list(_canonical(part))
            if repeated := sum(text in known for text in texts):
                logger.warning(
                    "%d of the %d molecules in the %s part of split %d are in its training part "
                    "too: their errors say little about new molecules",
                    *(repeated, len(texts), name, i),
                )


def _canonical(part: list) -> Iterator[tuple[str, ...]]:
    """Of each row the canonical SMILES in all its columns."""
    for points in zip(*(part or []), strict=True):
        yield tuple(Chem.MolToSmiles(mol) for point in points for mol in molecules_of(point))


def molecules_of(point: MoleculeDatapoint | ReactionDatapoint) -> tuple[Chem.Mol, ...]:
    """The molecule of a data point, or both sides of a reaction."""
    return (point.rct, point.pdt) if isinstance(point, ReactionDatapoint) else (point.mol,)


def _subsample(splits: Splits, size: int, seed: int) -> None:
    """Keep ``size`` training molecules of each replicate, in place, and record it."""
    record = splits.folder / "splits.json"
    known = json.loads(record.read_text()) if record.exists() else None
    for i, part in enumerate(splits.train):
        total = len(part[0])
        if size > total:
            raise InputError(
                f"argument --train-size: must be at most {total}, the size of the training part "
                f"after the split, got {size}"
            )
        kept = draw(total, size, seed + i)
        splits.train[i] = [[component[j] for j in kept] for component in part]
        logger.info("train split_%d is cut from %d to %d molecules", i, total, size)
        if known is not None:
            known[i]["train"] = [known[i]["train"][j] for j in kept]
    if known is not None:
        record.write_text(json.dumps(known))


def draw(total: int, size: int, seed: int) -> np.ndarray:
    """``size`` of ``total`` places; sorted, so that all of them are in their own order."""
    return np.sort(np.random.default_rng(seed).permutation(total)[:size])
