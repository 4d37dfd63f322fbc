"""Checks of the options of ``tritonpool train``, before anything is written."""

from __future__ import annotations

import argparse
import logging
import os
import re
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import torch
from chemprop.cli.train import FoundationModels
from lightning.pytorch.accelerators import AcceleratorRegistry
from lightning.pytorch.utilities.exceptions import MisconfigurationException

from tritonpool.backend import choose_backend
from tritonpool.cli.activation import check_activation
from tritonpool.cli.errors import InputError, UsageError
from tritonpool.cli.limits import check_numbers_of_training
from tritonpool.cli.options import flag
from tritonpool.cli.saved import columns_of, model_files, saved_encoder
from tritonpool.cli.tasks import check_task

__all__ = [
    "check_components",
    "check_device",
    "check_new_models",
    "check_options",
    "check_output",
    "check_writable",
    "earlier_training",
    "model_with_own_pooling",
    "on_gpu",
    "on_one_device",
    "output_folder",
]

logger = logging.getLogger(__name__)

ATOM_OR_BOND = (
    "atom_target_columns",
    "bond_target_columns",
    "constraints_path",
    "constraints_to_targets",
    "bond_descriptors_path",
)

FILES = (
    "splits_file",
    "descriptors_path",
    "model_frzn",
    "atom_features_path",
    "atom_descriptors_path",
    "bond_features_path",
)

# what there is of a training in its folder
MODELS = ("model_*", "replicate_*/model_*", "trial_*/model_*", "trial_*/replicate_*/model_*")
WRITTEN = ("checkpoints/last*.ckpt", "best.pt")


def check_options(args: argparse.Namespace) -> None:
    """Check what can be checked without reading the data.

    Raises
    ------
    UsageError
        If an option contradicts another, or asks for what this machine or DiffPool cannot do.
    InputError
        If a file that an option names is not there.
    """
    if args.mol_target_columns is not None:
        raise UsageError(
            "argument --mol-target-columns: belongs to models that predict atoms and bonds too; "
            "give --target-columns instead"
        )
    for name in ATOM_OR_BOND:
        if getattr(args, name) is not None:
            raise UsageError(
                f"argument {flag(name)}: atom and bond targets cannot be predicted, because "
                f"DiffPool returns one row for each molecule; give --target-columns instead"
            )
    check_task(args)
    check_device(args)
    _check_computation(args)
    for name in ("data_path", "checkpoint"):
        for path in getattr(args, name) or []:
            if not path.exists():
                raise InputError(f"argument {flag(name)}: {str(path)!r} does not exist")
    for name in FILES:
        given = getattr(args, name)
        # those of atoms and bonds have a file for each column
        for path in given.values() if isinstance(given, dict) else [given]:
            if path is not None and not Path(path).is_file():
                raise InputError(f"argument {flag(name)}: there is no file {str(path)!r}")
    check_numbers_of_training(args)
    _check_split_key(args)
    check_activation(args)
    if args.checkpoint and not model_files(args.checkpoint):
        raise InputError(f"argument --checkpoint: there is no .pt file in {args.checkpoint[0]}")


def _check_split_key(args: argparse.Namespace) -> None:
    """Is there the column that the data is split by?"""
    key, last = args.split_key_molecule, columns_of(args) - 1
    if not 0 <= key <= last:
        raise UsageError(
            f"argument --split-key-molecule: must be the number of a column of molecules or "
            f"reactions, {f'from 0 to {last}' if last else '0 for the only one'}, got {key}"
        )


def check_device(args: argparse.Namespace) -> None:
    """Check that lightning finds the devices that ``--accelerator`` and ``--devices`` ask for.

    Raises
    ------
    UsageError
        If not.
    """
    known = {"auto", "gpu", *AcceleratorRegistry.available_accelerators()}
    if args.accelerator not in known:
        raise UsageError(
            f"argument --accelerator: must be one of {', '.join(sorted(known))}, "
            f"got {args.accelerator!r}"
        )
    mps = torch.backends.mps.is_available()
    missing = {"gpu": not (torch.cuda.is_available() or mps), "mps": not mps}
    missing["cuda"] = not torch.cuda.is_available()
    if missing.get(args.accelerator, False):
        raise UsageError(
            f"argument --accelerator: {args.accelerator!r} needs a GPU, and torch finds none; "
            f"use 'cpu' or 'auto'"
        )
    name = args.accelerator
    if name in ("auto", "gpu"):
        name = "cuda" if on_gpu(args) else "mps" if mps else "cpu"
    try:
        found = args.devices == "auto" or AcceleratorRegistry.get(name).parse_devices(args.devices)
    except (TypeError, ValueError, MisconfigurationException):
        found = None
    if not found:
        what = f"how many of this machine's {name} devices to use, at least 1, or their numbers"
        what = "how many processes to train in, at least 1" if name == "cpu" else f"{what}, as 0,1"
        raise UsageError(f"argument --devices: must be auto or {what}; got {args.devices!r}")


def _check_computation(args: argparse.Namespace) -> None:
    """Can the wanted precision and backend run on the device?"""
    if args.precision == "16-mixed" and not on_gpu(args):
        raise UsageError(
            "argument --precision: '16-mixed' needs a GPU; use 'bf16-mixed' or '32-true'"
        )
    try:
        choose_backend("cuda" if on_gpu(args) else "cpu")
    except (ValueError, RuntimeError) as error:
        raise UsageError(str(error)) from error


def on_one_device(args: argparse.Namespace) -> bool:
    """Whether ``--devices`` asks for one device, or leaves it open."""
    given = str(args.devices)
    return given in ("auto", "1") or re.fullmatch(r"\d+,|\[\d+\]", given) is not None


def on_gpu(args: argparse.Namespace) -> bool:
    """Whether the training runs on a CUDA or ROCm device."""
    return args.accelerator in ("auto", "gpu", "cuda") and torch.cuda.is_available()


def earlier_training(folder: Path) -> Path | None:
    """A file of a training that a folder holds already."""
    # where a training writes its models; others may lie deeper in the folder
    models = [model for place in MODELS for model in folder.glob(place)]
    return next((file for model in models for name in WRITTEN for file in model.glob(name)), None)


def check_output(folder: Path) -> None:
    """Check that a new training can be written to a folder, without making it.

    Raises
    ------
    UsageError
        If the folder holds a training already.
    InputError
        If it cannot be made or written.
    """
    if (earlier := earlier_training(folder)) is not None:
        raise UsageError(
            f"argument --output-dir: {str(folder)!r} already holds a training "
            f"({earlier.relative_to(folder)}); go on with it by --resume or name another folder"
        )
    check_writable(folder)


def check_new_models(args: argparse.Namespace) -> None:
    """Refuse the options that bring a model with them.

    Raises
    ------
    UsageError
        If one is given.
    """
    for name in ("checkpoint", "model_frzn", "resume"):
        if getattr(args, name):
            raise UsageError(f"argument {flag(name)}: not allowed here, models are new")


def check_writable(folder: Path, option: str = "--output-dir") -> None:
    """Check that a folder, which ``option`` named, can be made or written, without making it.

    Raises
    ------
    InputError
        If not.
    """
    existing = folder.absolute()
    while not (existing.exists() or existing.is_symlink()):
        existing = existing.parent
    if not existing.is_dir():
        raise InputError(
            f"argument {option}: {str(folder)!r} cannot be made, because {str(existing)!r} is "
            f"not a folder"
        )
    if not os.access(existing, os.W_OK | os.X_OK):
        raise InputError(
            f"argument {option}: {str(folder)!r} cannot be written; {str(existing)!r} is "
            f"read-only for this user"
        )


@contextmanager
def output_folder(folder: Path, option: str = "--output-dir") -> Iterator[None]:
    """Make the output folder, which `option` named, and name that if it cannot be written.

    Raises
    ------
    InputError
        If it cannot be made, or what follows cannot write to it.
    """
    try:
        folder.mkdir(exist_ok=True, parents=True)
        yield
    except OSError as error:
        raise InputError(
            f"argument {option}: cannot write to {str(folder)!r}: {error.strerror}"
        ) from error


def model_with_own_pooling(args: argparse.Namespace) -> str | None:
    """The option (and its value) that loads a model whose pooling is fixed, or None.

    A checkpoint is trained as it was saved. The encoder of a foundation model becomes ours unless
    it has DiffPool levels already.
    """
    if args.checkpoint is not None:
        return f"--checkpoint {args.checkpoint[0]}"
    if args.model_frzn is not None:
        return f"--model-frzn {args.model_frzn}"
    file = _foundation_file(args)
    return f"--from-foundation {file}" if file is not None and saved_encoder(file).pools else None


def _foundation_file(args: argparse.Namespace) -> str | None:
    """The file that ``--from-foundation`` names, if it names one and no published model."""
    name = args.from_foundation
    return None if name is None or name.upper() in FoundationModels.keys() else name


def check_components(args: argparse.Namespace) -> None:
    """Check that models which are loaded have an encoder for each column of the data, and its
    targets in their order.

    Raises
    ------
    InputError
        If one has not, or cannot be read.
    """
    columns = columns_of(args)
    named = [("checkpoint", path) for path in model_files(args.checkpoint or [])]
    named += [("model_frzn", args.model_frzn), ("from_foundation", _foundation_file(args))]
    for name, path in named:
        if path is None:
            continue
        saved = saved_encoder(path)
        found = saved.components
        # a foundation for one column serves all
        if found != columns and not (name == "from_foundation" and found == 1):
            raise InputError(
                f"argument {flag(name)}: the model in {str(path)!r} is for {found} columns of "
                f"molecules or reactions, but the data has {columns}"
            )
        if name != "from_foundation":
            _check_targets(path, saved.predicts[-1], tuple(args.target_columns), args.task_type)


def _check_targets(path: Path, known: tuple, targets: tuple[str, ...], task: str) -> None:
    """Other targets may be learned in the place of a model's own, but the same ones in another
    order would be mixed up."""
    if not known or known == targets or len(known) != len(targets):
        return
    if sorted(map(str, known)) == sorted(targets):
        raise InputError(
            f"argument --target-columns: must be in the order of the model in {str(path)!r}, "
            f"{' '.join(known)}, but is {' '.join(targets)}"
        )
    if "regression" in task:
        logger.warning(
            "the model in '%s' was trained to predict %s, and keeps their scale for %s",
            *(path, " ".join(map(str, known)), " ".join(targets)),
        )
