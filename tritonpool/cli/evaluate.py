"""What is predicted for the test part, by one model or by an ensemble, and how good it is."""

from __future__ import annotations

import argparse
import logging
import statistics
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pandas as pd
from chemprop.cli.train import evaluate_and_save_predictions
from chemprop.data import MulticomponentDataset
from chemprop.models.utils import load_model
from chemprop.nn import ChempropMetric
from torch import Tensor
from torch.utils.data import DataLoader

from tritonpool.cli.errors import InputError
from tritonpool.cli.scores import ENSEMBLE, FILE, PREDICTIONS, write_scores

__all__ = ["evaluate", "evaluate_ensemble", "is_evaluated", "read_predictions"]

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
    """Whether the scores of an ensemble, which are written last, are there or none are due: for a
    single model, or without a test part."""
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
    predicted: Sequence[np.ndarray],
    folder: Path,
) -> None:
    """Do so with the means of several models, as ``predict`` gives them: of the probabilities where
    there are classes.

    Parameters
    ----------
    args, loader
        As for :func:`evaluate`.
    predicted
        What each model predicts.
    folder
        That of the replicate; the metrics are those of its first model.
    """
    multi = isinstance(loader.dataset, MulticomponentDataset)
    metrics = load_model(folder / "model_0" / "best.pt", multi).metrics[:-1]
    together = folder / ENSEMBLE
    together.mkdir(exist_ok=True)
    logger.info("The mean prediction of the %d models in '%s':", len(predicted), folder)
    evaluate(args, loader, np.mean(predicted, axis=0), metrics, together)


def read_predictions(args: argparse.Namespace, loader: DataLoader, folder: Path) -> np.ndarray:
    """What :func:`evaluate` wrote for a model that is finished.

    Raises
    ------
    InputError
        If the table is missing, or of other molecules than the loader's.
    """
    path = folder / PREDICTIONS
    try:
        # by position: chemprop names the probabilities as another target may be called
        table = pd.read_csv(path, dtype=str, keep_default_na=False, header=None, skiprows=1)
    except (OSError, ValueError) as error:
        raise InputError(
            f"argument --resume: {str(path)!r} cannot be read; without the folder {folder.name!r} "
            f"that model is trained again"
        ) from error
    columns, targets = len(args.input_columns), len(args.target_columns)
    multi = isinstance(loader.dataset, MulticomponentDataset)
    names = [tuple(name) if multi else (name,) for name in loader.dataset.names]
    if list(table.iloc[:, :columns].itertuples(index=False, name=None)) != names:
        raise InputError(
            f"argument --resume: the SMILES or targets in the rows of splits.json are not those in "
            f"{str(path)!r}"
        )
    found = table.iloc[:, -targets:]
    if "multiclass" not in args.task_type:
        return found.to_numpy(np.float32)
    shares = [[[float(word) for word in cell.split(",")] for cell in row] for row in found.values]
    return np.array(shares, np.float32)
