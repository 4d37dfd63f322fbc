"""Model files: where they are, and what they say about their encoder before it is made."""

from __future__ import annotations

import argparse
import re
from collections.abc import Iterable
from pathlib import Path
from typing import NamedTuple

import torch
from chemprop.cli.common import find_models

from tritonpool.chemprop.message_passing import DiffPoolMixin
from tritonpool.cli.errors import InputError, UsageError

__all__ = [
    "SavedEncoder",
    "columns_of",
    "model_files",
    "natural",
    "saved_encoder",
    "trained_models",
]


class SavedEncoder(NamedTuple):
    """The message passing in a model file, and what is predicted from it."""

    pools: bool  # whether it has DiffPool levels, for one column at least
    components: int  # how many columns of molecules or reactions it is for
    predicts: tuple  # class of the predictor, number of targets, their names where they are known
    atoms: bool = False  # whether it was made to predict atoms or bonds too, as chemprop's can be


def saved_encoder(path: str | Path) -> SavedEncoder:
    """Read the settings of the message passing in a .pt or .ckpt file.

    Raises
    ------
    InputError
        If the file cannot be read as a model of chemprop.
    """
    try:
        saved = torch.load(path, "cpu", weights_only=False)
        settings = saved["hyper_parameters"]["message_passing"]
    except Exception as error:
        raise InputError(f"{str(path)!r} is not a model that chemprop can load: {error}") from error
    blocks = settings.get("blocks", [settings])
    pools = any(issubclass(block["cls"], DiffPoolMixin) for block in blocks)
    predictor = saved["hyper_parameters"].get("predictor") or {}
    names = tuple(saved.get("output_columns") or ())
    predicts = predictor.get("cls"), predictor.get("n_tasks"), names
    components = settings.get("n_components") or len(blocks)
    return SavedEncoder(pools, components, predicts, "atom_predictor" in saved["hyper_parameters"])


def natural(path: Path) -> list[tuple[int, int | str]]:
    """A key that sorts model_10 behind model_9."""
    parts = re.split(r"(\d+)", path.as_posix())
    return [(0, int(part)) if part.isdecimal() else (1, part) for part in parts]


def model_files(given: Iterable[Path]) -> list[Path]:
    """The model files that paths name, those in a folder in the order of their names, which
    chemprop takes as the file system lists them.

    Raises
    ------
    argparse.ArgumentError
        If a path can be neither.
    """
    return [path for each in given for path in sorted(find_models([each]), key=natural)]


def columns_of(args: argparse.Namespace) -> int:
    """How many columns of molecules or reactions the options name."""
    return len(args.smiles_columns or []) + len(args.reaction_columns or []) or 1


def trained_models(args: argparse.Namespace) -> list[tuple[Path, SavedEncoder]]:
    """The files that ``--model-paths`` names, which must be for the columns of the data, and what
    they say.

    Raises
    ------
    UsageError
        If a path cannot be a model, or a model is for another number of columns.
    InputError
        If there is no model at a path, or a file cannot be read as one.
    """
    models = []
    columns = columns_of(args)
    for given in args.model_paths:
        if not given.exists():
            raise InputError(f"argument --model-paths: {str(given)!r} does not exist")
        try:
            found = model_files([given])
        except argparse.ArgumentError as error:
            raise UsageError(f"argument --model-paths: {error}") from None
        if not found:
            raise InputError(f"argument --model-paths: there is no .pt file in {str(given)!r}")
        models += [(path, saved_encoder(path)) for path in found]
    for path, saved in models:
        if saved.components != columns:
            option = "--reaction-columns" if args.reaction_columns else "--smiles-columns"
            raise UsageError(
                f"argument {option}: must name {saved.components}, because the model in "
                f"{str(path)!r} is for so many, but {columns} is given"
            )
    return models
