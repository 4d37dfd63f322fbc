"""What is predicted for the test part, by one model or by an ensemble, and how good it is."""

from __future__ import annotations

import argparse
import logging
import statistics
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
import pandas as pd
from chemprop.cli.train import evaluate_and_save_predictions
from chemprop.data import MulticomponentDataset
from chemprop.models.utils import load_model
from chemprop.nn import ChempropMetric
from torch import Tensor
from torch.utils.data import DataLoader

from tritonpool.cli.scores import ENSEMBLE, FILE, PREDICTIONS, write_scores

__all__ = ["evaluate", "evaluate_ensemble", "is_evaluated"]

logger = logging.getLogger(__name__)


class _Kept:
    """A metric that remembers its values."""

    def __init__(self, metric: ChempropMetric):
        self.alias, self.values = metric.alias, []
        self._metric = metric

    def __call__(self, *args: Tensor | None) -> Tensor:
        value = self._metric(*args)
        self.values.append(float(value))
        return value


def is_evaluated(folder: Path, size: int) -> bool:
    """Whether what the models of a replicate reach together is there, its scores are written last,
    or not to be: of a single model, or without a test part."""
    if size == 1 or not (folder / "model_0" / PREDICTIONS).exists():
        return True
    return (folder / ENSEMBLE / FILE).exists()


def evaluate(
    args: argparse.Namespace,
    loader: DataLoader,
    predicted: np.ndarray,
    metrics: Sequence[ChempropMetric],
    folder: Path,
) -> dict[str, float]:
    """Write predictions and their scores to a folder, and log them.

    Parameters
    ----------
    args
        Checked options.
    loader
        Of the test part.
    predicted
        Molecules by targets; with several classes by classes.
    metrics
        Those of the model.
    folder
        Where the files go.

    Returns
    -------
    dict of float
        Each metric as a mean over targets.
    """
    kept = [_Kept(metric) for metric in metrics]
    evaluate_and_save_predictions(predicted, loader, kept, folder, args)
    scores = {metric.alias: metric.values for metric in kept}
    write_scores(folder, scores, args.target_columns)
    return {name: statistics.mean(values) for name, values in scores.items()}


def evaluate_ensemble(
    args: argparse.Namespace,
    loader: DataLoader,
    predicted: Mapping[Path, np.ndarray | None],
    folder: Path,
) -> None:
    """Do so with the means of several models, as ``predict`` gives them: of the probabilities where
    there are classes.

    Parameters
    ----------
    args, loader
        As for :func:`evaluate`.
    predicted
        For the folder of each model what it predicts, or ``None``: then it stands there.
    folder
        That of the replicate.
    """
    every = [_read(args, path) if rows is None else rows for path, rows in predicted.items()]
    multi = isinstance(loader.dataset, MulticomponentDataset)
    metrics = load_model(next(iter(predicted)) / "best.pt", multi).metrics[:-1]
    together = folder / ENSEMBLE
    together.mkdir(exist_ok=True)
    logger.info("The mean prediction of the %d models in '%s':", len(every), folder)
    evaluate(args, loader, np.mean(every, axis=0), metrics, together)


def _read(args: argparse.Namespace, folder: Path) -> np.ndarray:
    """The predictions that chemprop wrote for a model."""
    table = pd.read_csv(folder / PREDICTIONS)
    if "multiclass" not in args.task_type:
        return table[args.target_columns].to_numpy(np.float32)
    columns = [
        [[float(word) for word in cell.split(",")] for cell in table[f"{name}_prob"]]
        for name in args.target_columns
    ]
    return np.array(columns, np.float32).swapaxes(0, 1)
