"""The trainings of ``tritonpool compare``: every setting on every split, each once."""

from __future__ import annotations

import argparse
import copy
import json
import statistics
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

from chemprop.cli.train import save_config

from tritonpool.cli.checks import output_folder
from tritonpool.cli.data import Splits, prepare
from tritonpool.cli.errors import InputError, UsageError
from tritonpool.cli.fit import fit_replicate, make_model, try_out
from tritonpool.cli.parser import Parser, read_config
from tritonpool.cli.train import FREE
from tritonpool.compare.report import Trained

__all__ = ["Setting", "begin", "train_all"]


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
    parameters : int
        of the model, once it was made
    """

    name: str
    words: list[str]
    args: argparse.Namespace
    parser: Parser
    parameters: int = 0

    def folder(self, split: int) -> Path:
        return self.args.output_dir / f"replicate_{split}"


def begin(settings: Sequence[Setting], splits: Splits) -> None:
    """Try every model, compare its options with those of an earlier call, and write them."""
    record = splits.folder / "splits.json"
    found = json.loads(record.read_text()) if record.is_file() else None
    if found is not None and len({json.dumps(split["test"]) for split in found}) < len(found):
        raise UsageError(
            "argument --num-replicates: must be 1 with this --split, which makes the same split "
            "each time"
        )
    for setting in settings:
        args = copy.deepcopy(setting.args)  # building a model changes some options
        first = prepare(args, *next(iter(splits)))
        model = make_model(args, first, 0)
        setting.parameters = sum(p.numel() for p in model.parameters())
        try_out(model, first)
        _compare_with_earlier(setting, splits.folder, found)
    for setting in settings:
        with output_folder(setting.args.output_dir):
            splits.write(setting.args.output_dir)
            _write_config(setting, setting.args.output_dir)


def _write_config(setting: Setting, folder: Path) -> Path:
    given = copy.copy(setting.args)
    given.config_path = None  # all of its settings are in the new file
    path = folder / "config.toml"
    save_config(setting.parser, given, path)
    return path


def _compare_with_earlier(setting: Setting, scratch: Path, splits: list | None) -> None:
    """Are options and splits those of what is in the folder of the setting?"""
    folder = setting.args.output_dir
    new, old = _write_config(setting, scratch), folder / "config.toml"
    if old.is_file() and (changed := _changed(old, new)):
        raise UsageError(
            f"argument --output-dir: {changed}; name another folder, or give the setting another "
            f"name"
        )
    new.unlink()
    record = folder / "splits.json"
    if splits is not None and record.is_file():
        earlier = json.loads(record.read_text())
        both = min(len(earlier), len(splits))
        if earlier[:both] != splits[:both]:
            raise InputError(f"the data is not split as it was for what is in {str(folder)!r}")


def _changed(old: Path, new: Path) -> str | None:
    """The first option that is not what it was, and both values."""
    was, now = read_config(old), read_config(new)
    free = {name.replace("_", "-") for name in (*FREE, "num_replicates")}
    for name in sorted((was.keys() | now.keys()) - free):
        if was.get(name) != now.get(name):
            return (
                f"--{name} is {now.get(name, 'not given')}, but what is in {str(old.parent)!r} was "
                f"trained with {was.get(name, 'none')}"
            )
    return None


def train_all(settings: Sequence[Setting], splits: Splits, data: str) -> dict[str, list[Trained]]:
    """Train what is not there yet, split by split, so that early splits can be compared soon."""
    rows: dict[str, list[Trained]] = {setting.name: [] for setting in settings}
    parts = list(splits)
    total, spent, done = len(parts) * len(settings), 0.0, 0
    waiting = sum(
        not (s.folder(i) / "result.json").is_file() for i in range(len(parts)) for s in settings
    )
    for i, part in enumerate(parts):
        for setting in settings:
            path = setting.folder(i) / "result.json"
            start = time.perf_counter()
            new = not path.is_file()
            row = _train_one(setting, i, part, data) if new else _read(path, data)
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


def _read(path: Path, data: str) -> Trained:
    found = json.loads(path.read_text())
    if found.pop("data") != data:
        raise InputError(f"{str(path)!r} is from other data; name another --output-dir")
    return Trained(**found)


def _train_one(setting: Setting, split: int, part: tuple, data: str) -> Trained:
    """Train one model, or go on with it, and record what it gave."""
    folder = setting.folder(split)
    model = folder / "model_0" / "best.pt"
    model.unlink(missing_ok=True)  # of a call that ended before its result was written
    args = copy.deepcopy(setting.args)
    args.resume = True  # from the checkpoints, if there are any
    prepared = prepare(args, *part)
    folder.mkdir(exist_ok=True, parents=True)
    (fitted,) = fit_replicate(args, prepared, folder)
    row = Trained(
        test=fitted.test,
        seconds_per_epoch=statistics.median(fitted.seconds) if fitted.seconds else None,
        parameters=setting.parameters,
        train_molecules=len(prepared.train),
        test_molecules=len(prepared.test),
    )
    partial = folder / "result.part"
    partial.write_text(json.dumps({**asdict(row), "data": data}, indent=2) + "\n")
    partial.replace(folder / "result.json")
    return row
