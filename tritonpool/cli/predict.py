"""``tritonpool predict`` and ``fingerprint``: chemprop's own, which name what they cannot use."""

from __future__ import annotations

import argparse
from pathlib import Path

from chemprop.cli import fingerprint, predict
from chemprop.models import MPNN, MulticomponentMPNN, load_model

from tritonpool.cli.checks import check_writable
from tritonpool.cli.errors import InputError
from tritonpool.cli.options import flag
from tritonpool.cli.saved import columns_of, trained_models
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
        model = trained_models(args)[0]
        if args.output is not None:  # which chemprop opens when all is predicted
            check_writable(args.output.parent, "--output")
            args.output.parent.mkdir(parents=True, exist_ok=True)
        try:
            with blaming_smiles(tables, args):
                super().func(args)
        except RuntimeError:
            _blame_descriptors(load_model(model, columns_of(args) > 1), model, args)
            raise


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
