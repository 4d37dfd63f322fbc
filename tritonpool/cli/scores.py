"""``test_scores.csv``: what the models of a training reach on their test parts."""

from __future__ import annotations

import csv
import logging
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np

from tritonpool.cli.checks import MODELS
from tritonpool.cli.saved import natural

__all__ = ["FILE", "write_scores", "write_summary"]

FILE = "test_scores.csv"

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
    """Write a line for each model of a training to its folder, means over targets, and log the
    means over several models; nothing for models without a test part."""
    rows = []
    models = sorted((path for place in MODELS for path in output.glob(place)), key=natural)
    for path in (model / FILE for model in models if (model / "test_predictions.csv").exists()):
        if not path.exists():
            logger.warning("'%s' has no %s: an earlier version trained it", path.parent, FILE)
            continue
        with path.open(newline="") as file:
            head, *lines = csv.reader(file)
        row = {"model": path.parent.relative_to(output).as_posix()}
        for name, *values in zip(head, *lines, strict=True):
            if name != "target":
                row[name] = float(np.mean([float(value) for value in values]))
        rows.append(row)
    if not rows:
        return
    with (output / FILE).open("w", newline="") as file:
        writer = csv.DictWriter(file, list(rows[0]), lineterminator="\n")
        writer.writeheader()
        writer.writerows(rows)
    for metric in list(rows[0])[1:] if len(rows) > 1 else ():
        values = [row[metric] for row in rows]
        mean, sd = np.mean(values), np.std(values, ddof=1)
        logger.info("test/%s of %d models: %.4g ± %.2g", metric, len(values), mean, sd)
