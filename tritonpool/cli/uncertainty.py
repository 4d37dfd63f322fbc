"""Which uncertainties a trained model has, and what calibrating and judging them needs."""

from __future__ import annotations

import argparse
import logging
from collections.abc import Collection, Mapping, Sequence
from pathlib import Path

from chemprop import uncertainty
from chemprop.nn import PredictorRegistry, RegressionFFN
from chemprop.nn.predictors import BinaryClassificationFFNBase, MulticlassClassificationFFN

from tritonpool.cli.errors import UsageError
from tritonpool.cli.features import OF_ATOMS
from tritonpool.cli.options import flag
from tritonpool.cli.saved import SavedEncoder, columns_of
from tritonpool.cli.tasks import Kinds, fits

__all__ = ["OF_METHODS", "check_given", "check_uncertainty"]

logger = logging.getLogger(__name__)

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
    # of models with several outputs for a target chemprop cannot write the mean
    "ensemble": ("regression", "classification"),
}

# options that only some methods read
OF_METHODS = {
    "uncertainty_dropout_p": ("uncertainty_method", ("dropout",)),
    "dropout_sampling_size": ("uncertainty_method", ("dropout",)),
    "conformal_alpha": (
        "calibration_method",
        tuple(name for name in uncertainty.UncertaintyCalibratorRegistry if "conformal" in name),
    ),
}

METHODS = {
    "calibration_method": uncertainty.UncertaintyCalibratorRegistry,
    "evaluation_methods": uncertainty.UncertaintyEvaluatorRegistry,
}

# calibrators and evaluators by the models that they are for
KINDS: Kinds = (
    ((uncertainty.RegressionCalibrator, uncertainty.RegressionEvaluator), RegressionFFN),
    (
        (uncertainty.BinaryClassificationCalibrator, uncertainty.BinaryClassificationEvaluator),
        BinaryClassificationFFNBase,
    ),
    (
        (
            uncertainty.MulticlassClassificationCalibrator,
            uncertainty.MulticlassClassificationEvaluator,
        ),
        MulticlassClassificationFFN,
    ),
)

# Those that chemprop 2.3 fails in, whatever the data: it reads classes as numbers with a fraction,
# and has no room for sets of labels. What judges such sets is of no use without them.
FAILING = (
    uncertainty.MulticlassConformalCalibrator,
    uncertainty.MulticlassConformalEvaluator,
    uncertainty.MultilabelConformalCalibrator,
    uncertainty.MultilabelConformalEvaluator,
)


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
    for name, known in METHODS.items():
        given, option = getattr(args, name), flag(name)
        if given is None:
            continue
        if method == "none":
            raise UsageError(f"argument {option}: needs an --uncertainty-method")
        if columns_of(args) > 1:
            raise UsageError(f"argument {option}: works for one column of molecules only")
        if task is not None:
            names = [given] if isinstance(given, str) else given
            _check_methods(option, names, known, task, method)
    if args.calibration_method is not None and method == "classification":
        _check_use(args)
    if args.cal_path is not None:
        if args.calibration_method is None:
            raise UsageError("argument --cal-path: needs a --calibration-method")
        return
    for name in ("calibration_method", *CALIBRATION_FILES):
        if getattr(args, name) is not None:
            raise UsageError(f"argument {flag(name)}: needs --cal-path")


def _check_use(args: argparse.Namespace) -> None:
    """chemprop 2.3 writes the probabilities of classes as the models gave them, and not as they
    were calibrated, which it only judges."""
    if args.evaluation_methods is None:
        raise UsageError(
            "argument --calibration-method: changes nothing that chemprop 2.3 writes with "
            "--uncertainty-method classification; it can only be judged, by --evaluation-methods"
        )
    logger.warning(
        "the probabilities that are written are not calibrated, which chemprop 2.3 does for "
        "--evaluation-methods only"
    )


def check_given(args: argparse.Namespace, given: Collection[str]) -> None:
    """Refuse options that have no effect without a method that is not given.

    Parameters
    ----------
    args
        Options of ``predict``.
    given
        Those of :data:`OF_METHODS` that were given.

    Raises
    ------
    UsageError
        If one has none.
    """
    for name in sorted(given):
        method, values = OF_METHODS[name]
        if getattr(args, method) not in values:
            raise UsageError(f"argument {flag(name)}: needs {flag(method)} {' or '.join(values)}")


def _check_methods(
    option: str, given: Sequence[str], known: Mapping[str, type], task: str, method: str
) -> None:
    """Are calibrators or evaluators for the task of the model, and for its uncertainty?"""
    predictor = PredictorRegistry[task]
    fitting = [name for name, cls in known.items() if fits(cls, predictor, KINDS)]
    usable = [name for name in fitting if not issubclass(known[name], FAILING)]
    for name in given:
        if name not in usable:
            other = f"does not fit a model of --task-type {task}"
            why = "fails in chemprop 2.3" if name in fitting else other
            raise UsageError(f"argument {option}: {name!r} {why}; use {' or '.join(usable)}")
        if issubclass(predictor, MulticlassClassificationFFN) and method != "classification":
            raise UsageError(
                f"argument {option}: {name!r} needs --uncertainty-method classification"
            )
