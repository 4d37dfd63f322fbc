"""Which uncertainties a trained model has, and what calibrating and judging them needs."""

from __future__ import annotations

import argparse
from pathlib import Path

from chemprop.nn import PredictorRegistry

from tritonpool.cli.errors import UsageError
from tritonpool.cli.features import OF_ATOMS
from tritonpool.cli.options import flag
from tritonpool.cli.saved import SavedEncoder, columns_of

__all__ = ["check_uncertainty"]

CALIBRATION_FILES = [f"cal_{name}" for name in (*OF_ATOMS, "descriptors_path")]

# the tasks whose models have what an uncertainty is made of, or what chemprop can make it of
TASKS = {
    "mve": ("regression-mve",),
    "evidential-total": ("regression-evidential",),
    "evidential-epistemic": ("regression-evidential",),
    "evidential-aleatoric": ("regression-evidential",),
    "quantile-regression": ("regression-quantile",),
    "classification": ("classification", "multiclass", "multiclass-dirichlet"),
    "classification-dirichlet": ("classification-dirichlet",),
    "multiclass-dirichlet": ("multiclass-dirichlet",),
    "dropout": ("regression", "classification", "spectral"),
}


def check_uncertainty(models: list[tuple[Path, SavedEncoder]], args: argparse.Namespace) -> None:
    """Check the options of ``predict`` on uncertainties against the models and each other.

    Raises
    ------
    UsageError
        If a model has not the uncertainty that is asked for, or an option lacks another.
    """
    (path, model), *others = models
    method = args.uncertainty_method
    if method == "ensemble" and not others:
        raise UsageError("argument --uncertainty-method: 'ensemble' needs several --model-paths")
    task = next((name for name, cls in PredictorRegistry.items() if cls is model.predicts[0]), None)
    needed = TASKS.get(method)
    if needed is not None and task is not None and task not in needed:
        raise UsageError(
            f"argument --uncertainty-method: {method!r} needs a model of --task-type "
            f"{' or '.join(needed)}, but that in {str(path)!r} is one of {task!r}"
        )
    if method == "none" and task == "classification-dirichlet":
        raise UsageError(
            f"argument --uncertainty-method: must be 'classification-dirichlet' for the model in "
            f"{str(path)!r}, whose predictions chemprop cannot write otherwise"
        )
    for option, given in (
        ("--calibration-method", args.calibration_method),
        ("--evaluation-methods", args.evaluation_methods),
    ):
        if given is None:
            continue
        if method == "none":
            raise UsageError(f"argument {option}: needs an --uncertainty-method")
        if columns_of(args) > 1:
            raise UsageError(f"argument {option}: works for one column of molecules only")
    if args.cal_path is not None:
        return
    for name in ("calibration_method", *CALIBRATION_FILES):
        if getattr(args, name) is not None:
            raise UsageError(f"argument {flag(name)}: needs --cal-path")
