"""The trainings of ``tritonpool compare``: every setting on every split, each once."""

from __future__ import annotations

import argparse
import copy
import json
import statistics
import time
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from tempfile import TemporaryDirectory

from chemprop.cli.train import save_smiles_splits

from tritonpool.cli.compare_folder import (
    FILES,
    check_folder,
    digest,
    read_result,
    write_folder,
    write_result,
)
from tritonpool.cli.data import Splits, prepare, read_splits
from tritonpool.cli.errors import InputError, Interrupted, UsageError
from tritonpool.cli.fit import fit_replicate, make_model, try_out
from tritonpool.cli.parser import Parser
from tritonpool.cli.splits import check_parts
from tritonpool.compare.report import Trained

__all__ = ["Setting", "begin", "read_for_each", "train_all"]

# options by which the data is read, but for those that all settings share
READING = (
    *FILES[:-1],
    *("descriptors_columns", "molecule_featurizers", "keep_h", "add_h", "ignore_stereo"),
    *("reorder_atoms", "use_cuikmolmaker_featurization", "class_balance"),
)


@dataclass
class Setting:
    """What is compared.

    Attributes
    ----------
    name : str
    words : list of str
        its own options of ``tritonpool train``
    args : argparse.Namespace
        those, with the options for all settings, checked
    parser : Parser
        which read them, and remembers them for config.toml
    splits : Splits
        the data, as its options say that it is read
    parameters : int
        of the model, once it was made
    """

    name: str
    words: list[str]
    args: argparse.Namespace
    parser: Parser
    splits: Splits | None = None
    parameters: int = 0

    def folder(self, split: int) -> Path:
        return self.args.output_dir / f"replicate_{split}"


def read_for_each(settings: Sequence[Setting], base: argparse.Namespace, splits: Splits) -> None:
    """Give every setting its data: those that were read, or the same rows read its own way."""
    known = {_reading(base): splits}
    record = splits.folder / "splits.json"
    for setting in settings:
        way = _reading(setting.args)
        if way not in known:
            same = record if record.is_file() else None
            with TemporaryDirectory(prefix="tritonpool-") as scratch:  # which holds nothing new
                known[way] = read_splits(copy.copy(setting.args), Path(scratch), same)
        setting.splits = replace(known[way], folder=splits.folder)


def _reading(args: argparse.Namespace) -> str:
    """What options say about how the data is read."""
    bounded = "bounded" in (args.loss_function or "")
    return str([bounded, *(getattr(args, name) for name in READING)])


def begin(settings: Sequence[Setting]) -> None:
    """Check the splits and try every model, compare data and options with those of an earlier call,
    and write them."""
    splits = settings[0].splits
    record = splits.folder / "splits.json"
    found = json.loads(record.read_text()) if record.is_file() else None
    if found is not None:
        _check_different(found, settings[0].args)
    data = {}
    for setting in settings:
        args = copy.deepcopy(setting.args)  # building a model changes some options
        first = prepare(args, *next(iter(setting.splits)))
        model = make_model(args, first, 0)
        setting.parameters = sum(p.numel() for p in model.parameters())
        check_parts(splits, [metric.alias for metric in model.metrics[:-1]], args.target_columns)
        try_out(model, first)
        data[setting.name] = digest(setting.args)
        check_folder(setting.args, setting.parser, data[setting.name], splits.folder, found)
    for setting in settings:
        write_folder(setting.args, setting.parser, data[setting.name], splits)


def _check_different(splits: list, args: argparse.Namespace) -> None:
    """Is no split there twice?"""
    # --train-size draws anew where the split is the same
    parts = ("train", "val", "test") if args.splits_file else ("val", "test")
    texts = [json.dumps([split.get(part) for part in parts]) for split in splits]
    for i, text in enumerate(texts):
        if (first := texts.index(text)) < i:
            raise UsageError(
                f"argument --splits-file: splits {first} and {i} are the same"
                if args.splits_file
                else f"argument --num-replicates: splits {first} and {i} are the same with this "
                "--split; give fewer, or another --split"
            )


def train_all(settings: Sequence[Setting]) -> dict[str, list[Trained]]:
    """Train what is not there yet, split by split, so that early splits can be compared soon."""
    rows: dict[str, list[Trained]] = {setting.name: [] for setting in settings}
    splits = range(len(settings[0].splits.test))
    total, spent, done = len(splits) * len(settings), 0.0, 0
    waiting = sum(not (s.folder(i) / "result.json").is_file() for i in splits for s in settings)
    for i in splits:
        for setting in settings:
            path = setting.folder(i) / "result.json"
            start = time.perf_counter()
            new = not path.is_file()
            row = _train_one(setting, i) if new else read_result(path)
            rows[setting.name].append(row)
            if new:
                spent += time.perf_counter() - start
                done += 1
                waiting -= 1
            name, value = next(iter(row.test.items()))
            left = f", about {spent / done * waiting / 60:.0f} min left" if new and waiting else ""
            number = sum(map(len, rows.values()))
            print(
                f"{number} of {total}: {setting.name}, split {i}: {name} {value:.4f}"
                f"{'' if new else ' (from an earlier call)'}{left}",
                flush=True,
            )
    return rows


def _train_one(setting: Setting, split: int) -> Trained:
    """Train one model, or go on with it, and record what it gave."""
    folder = setting.folder(split)
    model = folder / "model_0" / "best.pt"
    model.unlink(missing_ok=True)  # of a call that ended before its result was written
    args = copy.deepcopy(setting.args)
    args.resume = True  # from the checkpoints, if there are any
    prepared = prepare(args, *list(setting.splits)[split])
    folder.mkdir(exist_ok=True, parents=True)
    if args.save_smiles_splits:
        save_smiles_splits(args, folder, prepared.train, prepared.val, prepared.test)
    try:
        (fitted,) = fit_replicate(args, prepared, folder)
    except Interrupted as error:
        raise InputError(f"{error.how}; the same command goes on with it") from error
    except InputError:
        raise
    except Exception as error:
        raise InputError(
            f"setting {setting.name!r}, split {split}: {type(error).__name__}: {error}"
        ) from error
    row = Trained(
        test=fitted.test,
        seconds_per_epoch=statistics.median(fitted.seconds) if fitted.seconds else None,
        parameters=setting.parameters,
        train_molecules=len(prepared.train),
        test_molecules=len(prepared.test),
    )
    write_result(folder / "result.json", row)
    return row
