"""A folder of several trainings, as ``tritonpool compare`` makes for each setting and ``tritonpool
hpopt`` for a search: what an earlier call left there, and whether it is of the same data, splits
and options."""

from __future__ import annotations

import argparse
import copy
import hashlib
import json
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from chemprop.cli.train import save_config

from tritonpool.cli.checks import earlier_training, output_folder
from tritonpool.cli.data import Splits
from tritonpool.cli.errors import InputError, UsageError
from tritonpool.cli.parser import Parser, read_config
from tritonpool.cli.train import FREE
from tritonpool.compare.report import Trained

__all__ = [
    "FILES",
    "Kind",
    "check_folder",
    "digest",
    "read_result",
    "splits_in",
    "whole",
    "write_config",
    "write_folder",
    "write_record",
    "write_result",
]


@dataclass(frozen=True)
class Kind:
    """What such a folder is of: the file that marks it, the option that names it, and what to do
    instead of going on with it."""

    mark: str
    option: str
    otherwise: str


COMPARISON = Kind(
    "comparison.json", "--output-dir", "name another folder, or give the setting another name"
)

# more files that a model takes something from, which a setting may have of its own
FILES = (
    *("descriptors_path", "atom_features_path", "bond_features_path", "atom_descriptors_path"),
    "from_foundation",
)
# files whose content is compared with that of an earlier call, so that they may have moved
COMPARED = ("splits_file", "descriptors_path")


def digest(args: argparse.Namespace) -> str:
    """A hash of the data files, and of the files that a model takes more from."""
    given = [getattr(args, name) for name in FILES]
    more = [
        path for value in given for path in (value.values() if isinstance(value, dict) else [value])
    ]
    found = hashlib.sha256()
    for path in [*args.data_path, *more]:
        if path is not None and Path(path).is_file():  # a foundation may be a name
            found.update(Path(path).read_bytes())
    return found.hexdigest()


def splits_in(folder: Path) -> list | None:
    """The splits.json of a folder, None if it has none."""
    record = folder / "splits.json"
    return _read(record) if record.is_file() else None


def _read(record: Path) -> Any:
    try:
        return json.loads(record.read_text())
    except ValueError as error:
        raise InputError(
            f"{str(record)!r} cannot be read, so what is there cannot be gone on with; name "
            f"another folder"
        ) from error


def write_config(
    args: argparse.Namespace, parser: Parser, folder: Path, name: str = "config.toml"
) -> Path:
    """Write the options of a training as ``tritonpool train`` does, and return the path."""
    given = copy.copy(args)
    given.config_path = None  # all of its settings are in the new file
    path = folder / name
    save_config(parser, given, path)
    return path


def check_folder(
    args: argparse.Namespace,
    parser: Parser,
    data: str,
    scratch: Path,
    splits: list | None,
    kind: Kind = COMPARISON,
) -> None:
    """Are data, options and splits those of what is in a folder?

    Raises
    ------
    UsageError
        If the options are others, or what is there is of no such kind.
    InputError
        If the data or the splits are others, or a result cannot be read.
    """
    folder = args.output_dir
    mark = folder / kind.mark
    earlier = earlier_training(folder) or next(folder.glob(f"*/{COMPARISON.mark}"), None)
    if not mark.is_file() and earlier is not None:
        raise UsageError(
            f"argument {kind.option}: {str(earlier)!r} is not of a {mark.stem}; {kind.otherwise}"
        )
    new, old = write_config(args, parser, scratch), folder / "config.toml"
    if old.is_file() and (changed := _changed(old, new)):
        raise UsageError(f"argument {kind.option}: {changed}; {kind.otherwise}")
    new.unlink()
    known = splits_in(folder)
    if splits is not None and known is not None:
        both = min(len(known), len(splits))
        if known[:both] != splits[:both]:
            raise InputError(f"the data is not split as it was for what is in {str(folder)!r}")
    if mark.is_file() and _read(mark)["data"] != data:
        raise InputError(
            f"what is in {str(folder)!r} is from other data; name another {kind.option}"
        )
    for path in sorted(folder.glob("replicate_*/result.json")):
        read_result(path)  # before time is spent on others


def _changed(old: Path, new: Path) -> str | None:
    """The first option that is not what it was, and both values."""
    was, now = read_config(old), read_config(new)
    for found in (was, now):  # all are known of a training, and the first is only what decides
        found["metrics"] = sorted(found.get("metrics") or ())
    free = {name.replace("_", "-") for name in (*FREE, "num_replicates", *COMPARED)}
    for name in sorted((was.keys() | now.keys()) - free):
        if was.get(name) != now.get(name):
            return (
                f"--{name} is {now.get(name, 'not given')}, but what is in {str(old.parent)!r} was "
                f"trained with {was.get(name, 'none')}"
            )
    return None


def write_folder(
    args: argparse.Namespace, parser: Parser, data: str, splits: Splits, kind: Kind = COMPARISON
) -> None:
    """Make such a folder, and write its options and splits; of fewer splits than are there already
    nothing is written."""
    folder = args.output_dir
    with output_folder(folder, kind.option):
        write_record(folder / kind.mark, {"data": data})
        if len(splits_in(folder) or []) <= len(splits.test):
            splits.write(folder)
            write_config(args, parser, folder)


def read_result(path: Path) -> Trained:
    """The result of a training that is finished.

    Raises
    ------
    InputError
        If the file cannot be read.
    """
    try:
        return Trained(**json.loads(path.read_text()))
    except (ValueError, TypeError) as error:
        raise InputError(
            f"{str(path)!r} cannot be read; without it that model is trained again"
        ) from error


def write_result(path: Path, row: Trained) -> None:
    """Write the result of a training, whole or not at all."""
    write_record(path, asdict(row))


def write_record(path: Path, record: dict) -> None:
    """Write JSON, whole or not at all."""
    with whole(path) as partial:
        partial.write_text(json.dumps(record, indent=2) + "\n")


@contextmanager
def whole(path: Path) -> Iterator[Path]:
    """A file beside ``path`` that takes its place in the end."""
    partial = path.with_name(f"{path.name}.part")
    yield partial
    partial.replace(path)
