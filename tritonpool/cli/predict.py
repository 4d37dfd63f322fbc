"""``tritonpool predict`` and ``fingerprint``: chemprop's own, which name what they cannot use."""

from __future__ import annotations

import argparse
import copy
from pathlib import Path

from chemprop.cli import fingerprint, predict
from chemprop.cli.common import process_common_args
from chemprop.models import MPNN, MulticomponentMPNN, load_model

from tritonpool.cli.checks import check_writable
from tritonpool.cli.data import unsplit_loader
from tritonpool.cli.errors import InputError, UsageError
from tritonpool.cli.features import OF_ATOMS, check_feature_files
from tritonpool.cli.options import flag
from tritonpool.cli.saved import SavedEncoder, columns_of, trained_models
from tritonpool.cli.tables import blaming_smiles, check_columns, check_files

__all__ = ["FingerprintSubcommand", "PredictSubcommand"]

OF_MOLECULES = ("descriptors_path", "descriptors_columns", "molecule_featurizers")


class _Checked:
    """Before one of chemprop's sub-commands for trained models."""

    @classmethod
    def func(cls, args: argparse.Namespace) -> None:
        """Check the input, then do what chemprop does.

        Raises
        ------
        UsageError
            If an option names a column that is not there, or a model is for other columns.
        InputError
            If a file cannot be used.
        argparse.ArgumentError
            From chemprop's own checks.
        """
        tables = [args.test_path]
        check_files(tables, args, "--test-path")
        if getattr(args, "cal_path", None) is not None:
            check_files([args.cal_path], args, "--cal-path")
            tables.append(args.cal_path)
        check_columns(tables, args)
        models = trained_models(args)
        _check_ensemble(models, args)
        check_feature_files(args.test_path, args)
        if any(getattr(args, name) for name in OF_ATOMS):
            unsplit_loader(process_common_args(copy.deepcopy(args)), columns_of(args) > 1)
        if args.output is not None:  # which chemprop opens when all is predicted
            check_writable(args.output.parent, "--output")
            args.output.parent.mkdir(parents=True, exist_ok=True)
        try:
            with blaming_smiles(tables, args):
                super().func(args)
        except RuntimeError:
            path, _ = models[0]
            _blame_descriptors(load_model(path, columns_of(args) > 1), path, args)
            raise


def _check_ensemble(models: list[tuple[Path, SavedEncoder]], args: argparse.Namespace) -> None:
    """Do all models predict the same, and are they enough for what is asked for?"""
    (first, known), *others = models
    for other, saved in others:
        if saved.predicts != known.predicts:
            raise InputError(
                f"argument --model-paths: the models in {str(first)!r} and {str(other)!r} predict "
                f"different targets, or were trained for another --task-type"
            )
    if getattr(args, "uncertainty_method", None) == "ensemble" and not others:
        raise UsageError("argument --uncertainty-method: 'ensemble' needs several --model-paths")


def _blame_descriptors(
    model: MPNN | MulticomponentMPNN, path: Path, args: argparse.Namespace
) -> None:
    """Were descriptors of molecules left out that the model needs, or given where it has none?"""
    wanted = model.predictor.input_dim - model.message_passing.output_dim
    given = [flag(name) for name in OF_MOLECULES if getattr(args, name)]
    if bool(wanted) == bool(given):
        return
    trained = f"with {wanted}" if wanted else "without any"
    options = ", ".join(given) if given else "none of " + ", ".join(map(flag, OF_MOLECULES))
    raise InputError(
        f"the model in {str(path)!r} was trained {trained} descriptors of molecules, but {options} "
        f"is given"
    ) from None


class PredictSubcommand(_Checked, predict.PredictSubcommand):
    """``predict``."""


class FingerprintSubcommand(_Checked, fingerprint.FingerprintSubcommand):
    """``fingerprint``."""
