"""``test_scores.csv``: what the models of a training reach on their test parts."""

from __future__ import annotations

import csv
import logging
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np

from tritonpool.cli.checks import MODELS
from tritonpool.cli.saved import natural

__all__ = ["ENSEMBLE", "FILE", "PREDICTIONS", "write_scores", "write_summary"]

FILE = "test_scores.csv"
PREDICTIONS = "test_predictions.csv"
ENSEMBLE = "ensemble"  # folder of what several models reach together

logger = logging.getLogger(__name__)


def write_scores(
    folder: Path, scores: Mapping[str, Sequence[float]], targets: Sequence[str]
) -> None:
    """Write those of one model to its folder.

    Parameters
    ----------
    folder
        Of the model.
    scores
        For each metric the value of every target.
    targets
        The names of the targets.
    """
    with (folder / FILE).open("w", newline="") as file:
        writer = csv.writer(file, lineterminator="\n")
        writer.writerow(["target", *scores])
        writer.writerows(zip(targets, *scores.values(), strict=True))


def write_summary(output: Path) -> None:
    """Write a line for each model and each ensemble of a training to its folder, means over
    targets, and log the means over several of either; nothing for models without a test part."""
    models = _lines(output, MODELS)
    ensembles = _lines(output, (ENSEMBLE, f"replicate_*/{ENSEMBLE}"))
    every = models + ensembles
    if not every:
        return
    columns = list(dict.fromkeys(name for row in every for name in row))
    with (output / FILE).open("w", newline="") as file:
        writer = csv.DictWriter(file, columns, lineterminator="\n")
        writer.writeheader()
        writer.writerows(every)
    for rows, kind in ((models, "models"), (ensembles, "ensembles")):
        for metric in columns[1:]:
            values = [row[metric] for row in rows if metric in row]
            if len(values) < 2:
                continue
            mean, sd = np.mean(values), np.std(values, ddof=1)
            logger.info("test/%s of %d %s: %.4g ± %.2g", metric, len(values), kind, mean, sd)


def _lines(output: Path, places: Sequence[str]) -> list[dict[str, str | float]]:
    """The means over targets of what stands in each of these folders, if it was tested."""
    rows = []
    folders = sorted((path for place in places for path in output.glob(place)), key=natural)
    for folder in (path for path in folders if (path / PREDICTIONS).exists()):
        if not (folder / FILE).exists():
            logger.warning("'%s' has no %s: an earlier version trained it", folder, FILE)
            continue
        with (folder / FILE).open(newline="") as file:
            head, *lines = csv.reader(file)
        row: dict[str, str | float] = {"model": folder.relative_to(output).as_posix()}
        for name, *values in zip(head, *lines, strict=True):
            if name != "target":
                row[name] = float(np.mean([float(value) for value in values]))
        rows.append(row)
    return rows
