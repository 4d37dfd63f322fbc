"""Which losses, metrics and the like a ``--task-type`` has the outputs for."""

from __future__ import annotations

import argparse
from collections.abc import Sequence

from chemprop.nn import LossFunctionRegistry, MetricRegistry, PredictorRegistry, RegressionFFN
from chemprop.nn import metrics as chemprop_metrics
from chemprop.nn.predictors import (
    BinaryClassificationFFNBase,
    MulticlassClassificationFFN,
    SpectralFFN,
)

from tritonpool.cli.errors import UsageError
from tritonpool.cli.options import flag

__all__ = ["Kinds", "check_task", "fits"]

# losses that take what another takes, which is the default of some tasks
LIKE = {
    chemprop_metrics.MAE: chemprop_metrics.MSE,
    chemprop_metrics.PointQuantileLoss: chemprop_metrics.MSE,
    chemprop_metrics.BinaryMCCLoss: chemprop_metrics.BCELoss,
    chemprop_metrics.MulticlassMCCLoss: chemprop_metrics.CrossEntropyLoss,
    chemprop_metrics.Wasserstein: chemprop_metrics.SID,
}

# classes of losses, metrics and the like, and those of the predictors that they are for
Kinds = Sequence[tuple[type | tuple[type, ...], type | tuple[type, ...]]]

# metrics by the predictors they can judge; the squared error of a probability is the Brier score
JUDGED: Kinds = (
    (
        (chemprop_metrics.MSE, chemprop_metrics.MAE, chemprop_metrics.R2Score),
        (RegressionFFN, BinaryClassificationFFNBase),
    ),
    (
        (chemprop_metrics.ClassificationMixin, chemprop_metrics.BinaryMCCMetric),
        BinaryClassificationFFNBase,
    ),
    (chemprop_metrics.MulticlassMCCMetric, MulticlassClassificationFFN),
)

# numbers of losses and their defaults; chemprop hands them on to no loss but a named one
OF_LOSSES = {"v_kl": 0.0, "eps": 1e-8, "alpha": 0.1}

NO_SPECTRA = (
    "'spectral' cannot be trained, because chemprop 2.3 makes such a model for one target and a "
    "width of 300, whatever is given"
)


def check_task(args: argparse.Namespace) -> None:
    """Check ``--task-type``, and that the loss and the metrics are some that it has the outputs
    for. Others fail after minutes, or compare numbers that do not belong together. Numbers of a
    loss need one that is named.

    Raises
    ------
    UsageError
        If one is not.
    """
    predictor = PredictorRegistry[args.task_type]
    if issubclass(predictor, SpectralFFN):
        raise UsageError(f"argument --task-type: {NO_SPECTRA}; use 'regression'")
    if args.loss_function is not None:
        _check_loss(args.loss_function, args.task_type)
    else:
        for name, default in OF_LOSSES.items():
            if getattr(args, name) != default:
                raise UsageError(
                    f"argument {flag(name)}: has no effect without --loss-function; name the loss, "
                    f"too"
                )
    fitting = [name for name, cls in MetricRegistry.items() if fits(cls, predictor, JUDGED)]
    for name in args.metrics or []:
        if name not in fitting:
            raise UsageError(
                f"argument --metrics: {name!r} does not fit --task-type {args.task_type}; use "
                f"{' or '.join(fitting)}"
            )
        if args.metrics.count(name) > 1:
            raise UsageError(f"argument --metrics: names {name!r} more than once")


def _check_loss(loss: str, task: str) -> None:
    """Is the loss one that a model of this task has the outputs for?"""
    cls = LossFunctionRegistry[loss]
    base = next((base for like, base in LIKE.items() if issubclass(cls, like)), cls)
    tasks = [
        name
        for name, predictor in PredictorRegistry.items()
        if issubclass(base, predictor._T_default_criterion)
    ]
    if tasks and task not in tasks:
        but = f"; {NO_SPECTRA}" if tasks == ["spectral"] else f", but that is {task!r}"
        raise UsageError(
            f"argument --loss-function: {loss!r} needs --task-type {' or '.join(tasks)}{but}"
        )


def fits(cls: type, predictor: type, kinds: Kinds) -> bool:
    """Whether a predictor is one that ``cls`` is for; what ``kinds`` does not know fits all."""
    predictors = next((predictors for classes, predictors in kinds if issubclass(cls, classes)), ())
    return not predictors or issubclass(predictor, predictors)
