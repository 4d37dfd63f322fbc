"""``tritonpool predict`` and ``fingerprint``: chemprop's own, which name what they cannot use."""

from __future__ import annotations

import argparse
import copy
import logging
from collections.abc import Sequence
from pathlib import Path

from chemprop.cli import fingerprint, predict
from chemprop.cli.common import process_common_args
from chemprop.models import MPNN, MulticomponentMPNN, load_model
from chemprop.nn.metrics import BoundedMixin
from torch.utils.data import DataLoader

from tritonpool.cli.checks import check_device, check_writable
from tritonpool.cli.errors import InputError, UsageError
from tritonpool.cli.features import OF_ATOMS, OF_MOLECULES, check_feature_files, check_fit
from tritonpool.cli.limits import check_numbers
from tritonpool.cli.loaders import unsplit_loader
from tritonpool.cli.options import flag, set_on_purpose
from tritonpool.cli.predictions import drop_extra_columns
from tritonpool.cli.recorded import warn_of_differences
from tritonpool.cli.saved import SavedEncoder, columns_of, saved_encoder, trained_models
from tritonpool.cli.smiles import blaming_smiles
from tritonpool.cli.tables import (
    check_columns,
    check_endings,
    check_files,
    check_targets,
)
from tritonpool.cli.uncertainty import OF_METHODS, check_given, check_uncertainty

__all__ = ["FingerprintSubcommand", "PredictSubcommand"]

logger = logging.getLogger(__name__)


class _Checked:
    """Before one of chemprop's sub-commands for trained models."""

    @classmethod
    def func(cls, args: argparse.Namespace) -> None:
        """Check the input, then do what chemprop does.

        Raises
        ------
        UsageError
            If an option names a column or device that is not there, a model is for other columns,
            or it has not the uncertainty or layer that is asked for.
        InputError
            If a file cannot be used, or models and data do not fit each other.
        argparse.ArgumentError
            From chemprop's own checks.
        """
        check_device(args)
        check_numbers(args)
        tables = {"": args.test_path}
        if getattr(args, "cal_path", None) is not None:
            tables["cal_"] = args.cal_path
            _sort_calibration_files(args)
        check_endings([args.test_path], args)
        check_files(list(tables.values()), args)
        check_columns(list(tables.values()), args)
        models = trained_models(args)
        _check_ensemble(models)
        if hasattr(args, "uncertainty_method"):
            check_uncertainty(models, args)
        for prefix, table in tables.items():
            check_feature_files(table, args, prefix)
        if not models[0][1].atoms:
            first = load_model(models[0][0], columns_of(args) > 1)
            _check_targets(models, isinstance(first.criterion, BoundedMixin), args)
            _check_descriptors(first, models[0][0], args)
            if hasattr(args, "ffn_block_index"):
                _check_block(models, args)
        warn_of_differences([path for path, _ in models], args)
        for prefix in tables:
            if any(getattr(args, prefix + name) for name in OF_ATOMS):
                _loader(args, bool(prefix))
        if args.output is not None:  # which chemprop opens when all is predicted
            check_writable(args.output.parent, "--output")
            args.output.parent.mkdir(parents=True, exist_ok=True)
        args.model_paths = [path for path, _ in models]  # in our order
        given = copy.deepcopy(args)
        try:
            with blaming_smiles(list(tables.values()), args):
                super().func(args)
        except (RuntimeError, TypeError, ValueError, argparse.ArgumentError):
            for prefix in tables:
                _blame_features(models, given, prefix)
            raise


def _loader(args: argparse.Namespace, calibration: bool) -> DataLoader:
    common = process_common_args(copy.deepcopy(args))
    return unsplit_loader(common, columns_of(args) > 1, calibration)


def _sort_calibration_files(args: argparse.Namespace) -> None:
    """Give the files of ``--cal-*`` the form of the others, in place, which chemprop 2.3 omits."""

    def words(name: str) -> list | None:
        given = getattr(args, f"cal_{name}")
        return None if given is None else [word for group in given for word in group]

    atoms = argparse.Namespace(**{name: words(name) for name in OF_ATOMS})
    atoms.bond_descriptors_path = None
    for name, paths in vars(process_common_args(atoms)).items():
        setattr(args, f"cal_{name}", paths)
    whole = words("descriptors_path")
    if whole is not None:
        if len(whole) > 1:
            raise UsageError("argument --cal-descriptors-path: takes one file")
        args.cal_descriptors_path = Path(whole[0])


def _check_ensemble(models: list[tuple[Path, SavedEncoder]]) -> None:
    """Do all models predict the same? The names of targets are not in a checkpoint."""
    (first, known), *others = models
    for other, saved in others:
        *same, names = known.predicts
        *also, others_names = saved.predicts
        if also != same or (names and others_names and names != others_names):
            raise InputError(
                f"argument --model-paths: the models in {str(first)!r} and {str(other)!r} predict "
                f"different targets, or were trained for another --task-type"
            )


def _check_targets(
    models: list[tuple[Path, SavedEncoder]], bounded: bool, args: argparse.Namespace
) -> None:
    """Have the tables, where predictions are compared with them, the targets of the models?"""
    names = next((saved.predicts[-1] for _, saved in models if saved.predicts[-1]), ())
    if getattr(args, "cal_path", None) is not None:
        check_targets(args.cal_path, names, args, "--cal-path", bounded)
    if getattr(args, "evaluation_methods", None) is not None:
        check_targets(args.test_path, names, args, "--evaluation-methods", bounded)


def _check_descriptors(
    model: MPNN | MulticomponentMPNN, path: Path, args: argparse.Namespace
) -> None:
    """Were descriptors of molecules left out that the model needs, or given where it has none?
    Not every use of a model fails then."""
    wanted = model.predictor.input_dim - model.message_passing.output_dim
    given = [flag(name) for name in OF_MOLECULES if getattr(args, name)]
    if bool(wanted) == bool(given):
        return
    trained = f"with {wanted}" if wanted else "without any"
    options = ", ".join(given) if given else "none of " + ", ".join(map(flag, OF_MOLECULES))
    raise InputError(
        f"the model in {str(path)!r} was trained {trained} descriptors of molecules, but {options} "
        f"is given"
    )


def _check_block(models: list[tuple[Path, SavedEncoder]], args: argparse.Namespace) -> None:
    """Have all predictors so many blocks? Of fewer chemprop would take what there are."""
    for path, _ in models:
        blocks = len(load_model(path, columns_of(args) > 1).predictor.ffn)
        if abs(args.ffn_block_index) > blocks:
            raise UsageError(
                f"argument --ffn-block-index: must be from 0 (what the predictor is given) to "
                f"{blocks} (what it predicts), or below 0 to count from its end, for the model in "
                f"{str(path)!r}; got {args.ffn_block_index}"
            )


def _blame_features(
    models: list[tuple[Path, SavedEncoder]], args: argparse.Namespace, prefix: str
) -> None:
    """Have the features and descriptors of the data the widths that the models take?"""
    many, loader = columns_of(args) > 1, _loader(args, bool(prefix))
    for path, saved in models:
        if not saved.atoms:
            check_fit(load_model(path, many), path, loader, prefix)


class PredictSubcommand(_Checked, predict.PredictSubcommand):
    """``predict``."""

    @classmethod
    def add_args(cls, parser: argparse.ArgumentParser) -> argparse.ArgumentParser:
        """Add chemprop's options."""
        cls.parser = super().add_args(parser)
        return cls.parser

    @classmethod
    def parse(cls, words: Sequence[str]) -> argparse.Namespace:
        """Read the options.

        Raises
        ------
        UsageError
            If one is given whose method is not.
        """
        args = cls.parser.parse_args(words)
        check_given(args, set_on_purpose(cls.parser, words, tuple(OF_METHODS)))
        return args

    @classmethod
    def func(cls, args: argparse.Namespace) -> None:
        super().func(args)
        if not args.drop_extra_columns:
            return
        first = saved_encoder(args.model_paths[0])
        if first.atoms:
            logger.warning("--drop-extra-columns is not used for models of atoms and bonds")
        else:
            drop_extra_columns(args, first)


class FingerprintSubcommand(_Checked, fingerprint.FingerprintSubcommand):
    """``fingerprint``."""
