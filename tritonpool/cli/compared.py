"""The trainings of ``tritonpool compare``: every setting on every split, each once."""

from __future__ import annotations

import argparse
import copy
import json
import logging
import statistics
from collections.abc import Iterator, Sequence
from contextlib import closing
from dataclasses import dataclass, replace
from pathlib import Path
from tempfile import TemporaryDirectory

from chemprop.cli.train import save_smiles_splits

from tritonpool.cli.data import Splits, read_splits
from tritonpool.cli.earlier_calls import (
    FILES,
    check_folder,
    digest,
    read_result,
    splits_in,
    write_folder,
    write_result,
)
from tritonpool.cli.errors import InputError, Interrupted, UsageError
from tritonpool.cli.fit import fit_replicate
from tritonpool.cli.loaders import prepare
from tritonpool.cli.models import make_model, try_out
from tritonpool.cli.parser import Parser
from tritonpool.cli.processes import side_by_side
from tritonpool.cli.remaining import Remaining
from tritonpool.cli.splits import check_metrics, check_tests, undecided
from tritonpool.compare.report import Trained

__all__ = ["Setting", "begin", "read_for_each", "train_all"]

# options by which the data is read, but for those that all settings share
READING = (
    *FILES[:-1],
    *("descriptors_columns", "molecule_featurizers", "keep_h", "add_h", "ignore_stereo"),
    *("reorder_atoms", "use_cuikmolmaker_featurization", "class_balance"),
)

logger = logging.getLogger(__name__)


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
    parser : Parser | None
        which read them, and remembers them for config.toml
    splits : Splits
        the data, as its options say that it is read
    parameters : int
        of the model, once it was made
    metric : str
        the first of the model, which decides
    """

    name: str
    words: list[str]
    args: argparse.Namespace
    parser: Parser | None
    splits: Splits | None = None
    parameters: int = 0
    metric: str = ""

    def folder(self, split: int) -> Path:
        return self.args.output_dir / f"replicate_{split}"

    def alone(self, split: int) -> Setting:
        """The same with the data of one split, and nothing that another process cannot have."""
        parts = ([part[split]] for part in (self.splits.train, self.splits.val, self.splits.test))
        splits = Splits(*parts, self.splits.folder)
        return replace(self, args=copy.deepcopy(self.args), parser=None, splits=splits)


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
    found = splits_in(splits.folder)
    if found is not None:
        _check_different(found, settings[0].args)
    for tracked in sorted({setting.args.tracking_metric for setting in settings}):
        if doubt := undecided(splits, tracked):
            logger.warning("%s", doubt)
    data = {}
    for setting in settings:
        args = copy.deepcopy(setting.args)  # building a model changes some options
        first = prepare(args, *next(iter(setting.splits)))
        model = make_model(args, first, 0)
        setting.parameters = sum(p.numel() for p in model.parameters())
        metrics = [metric.alias for metric in model.metrics[:-1]]
        setting.metric = metrics[0]
        check_tests(splits, metrics, args.target_columns)
        check_metrics(splits, metrics, args.target_columns)
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


def train_all(settings: Sequence[Setting], jobs: int) -> dict[str, list[Trained]]:
    """Train what is not there yet, split by split, so that early splits can be compared soon.

    Parameters
    ----------
    settings
        With their data.
    jobs
        How many trainings at a time.
    """
    splits = range(len(settings[0].splits.test))
    rows, waiting = {}, []

    def tell(setting: Setting, split: int, row: Trained, more: str) -> None:
        rows[setting.name, split] = row
        value, total = row.test[setting.metric], len(splits) * len(settings)
        print(
            f"{len(rows)} of {total}: {setting.name}, split {split}: {setting.metric} {value:.4f}"
            f"{more}",
            flush=True,
        )

    for split in splits:
        for setting in settings:
            path = setting.folder(split) / "result.json"
            if path.is_file():
                tell(setting, split, read_result(path), " (from an earlier call)")
            else:
                waiting.append((setting, split))
    jobs, remaining = min(jobs, len(waiting)), Remaining(len(waiting))
    with closing(side_by_side(_train_one, _calls(waiting, jobs), jobs)) as trained:
        for done, ((setting, split), row) in enumerate(trained, 1):
            tell(setting, split, row, remaining.words(done))
    return {setting.name: [rows[setting.name, split] for split in splits] for setting in settings}


def _calls(
    waiting: Sequence[tuple[Setting, int]], jobs: int
) -> Iterator[tuple[tuple[Setting, int], tuple[Setting, int]]]:
    """What is trained, with the data of one split each."""
    for setting, i in waiting:
        alone = setting.alone(i)
        if jobs > 1 and alone.args.devices == "auto":
            alone.args.devices = "1"
        yield (setting, i), (alone, i)


def _train_one(setting: Setting, split: int, *, progress: bool = True) -> Trained:
    """Train one model, or go on with it, and record what it gave.

    Parameters
    ----------
    setting
        With the data of this split only; its options are changed.
    split
        Its number.
    progress
        Whether progress bars may be shown.
    """
    folder = setting.folder(split)
    model = folder / "model_0" / "best.pt"
    model.unlink(missing_ok=True)  # of a call that ended before its result was written
    args = setting.args
    args.resume = True  # from the checkpoints, if there are any
    ((train, val, test),) = setting.splits
    prepared = prepare(args, train, val, test)
    folder.mkdir(exist_ok=True, parents=True)
    if args.save_smiles_splits:
        save_smiles_splits(args, folder, prepared.train, prepared.val, prepared.test)
    try:
        (fitted,) = fit_replicate(args, prepared, folder, progress=progress)
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
