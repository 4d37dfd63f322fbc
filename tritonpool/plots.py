"""Pictures of a training: parity plot and learning curves, written as PNG without a display."""

from __future__ import annotations

import io
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator, StrMethodFormatter

if TYPE_CHECKING:
    from numpy.typing import ArrayLike

_DPI = 150


def parity(
    actual: ArrayLike,
    predicted: Mapping[str, ArrayLike],
    path: str | Path,
    *,
    quantity: str = "gap",
    unit: str = "eV",
) -> Figure:
    """Plot predictions against the true values, one panel per model, and save them as PNG.

    Each panel shows the line of perfect agreement and gives RMSE and R2.

    Parameters
    ----------
    actual
        True values, ``N``, in ``unit``.
    predicted
        Name of each model to its predictions, ``N`` each, in ``unit``.
    path
        PNG file to write.
    quantity, unit
        What the values are, for the axis labels.

    Returns
    -------
    matplotlib.figure.Figure
        The figure that was saved.

    Raises
    ------
    ValueError
        If there is no model, no value, or a model's predictions have another shape.
    OSError
        If the file cannot be written.
    """
    truth = np.asarray(actual, dtype=float)
    if truth.ndim != 1 or not truth.size:
        raise ValueError(f"actual must be a non-empty list of numbers, got shape {truth.shape}.")
    if not predicted:
        raise ValueError("predicted must hold the predictions of at least one model, got none.")
    models = {name: np.asarray(values, dtype=float) for name, values in predicted.items()}
    for name, values in models.items():
        if values.shape != truth.shape:
            raise ValueError(
                f"predicted[{name!r}] must have the shape of actual, {truth.shape}, "
                f"got {values.shape}."
            )
    everything = np.concatenate([truth, *models.values()])
    margin = 0.04 * (np.ptp(everything) or 1.0)
    limits = (everything.min() - margin, everything.max() + margin)

    figure = Figure(figsize=(3.6 * len(models) + 0.4, 3.9), layout="constrained")
    panels = figure.subplots(1, len(models), sharey=True, squeeze=False)[0]
    for panel, (name, values) in zip(panels, models.items(), strict=True):
        panel.plot(limits, limits, color="0.6", linewidth=1, zorder=1)
        panel.scatter(truth, values, s=9, alpha=0.6, linewidths=0, zorder=2)
        rmse, r2 = scores(truth, values)
        panel.set(xlim=limits, ylim=limits, aspect="equal", xlabel=f"true {quantity} / {unit}")
        panel.set_title(f"{name}\nRMSE {rmse:.3f} {unit}, R² {r2:.3f}", fontsize="medium")
    panels[0].set_ylabel(f"predicted {quantity} / {unit}")
    save(figure, path)
    return figure


def scores(actual: ArrayLike, predicted: ArrayLike) -> tuple[float, float]:
    """RMSE and R2 of predictions; R2 is NaN if all true values are equal.

    Parameters
    ----------
    actual, predicted
        True and predicted values, ``N`` each.

    Returns
    -------
    tuple of float
        RMSE in the unit of the values, and R2.
    """
    truth, values = np.asarray(actual, dtype=float), np.asarray(predicted, dtype=float)
    error = np.mean((values - truth) ** 2)
    variance = np.var(truth)
    return float(np.sqrt(error)), float(1 - error / variance) if variance else float("nan")


def learning_curves(
    curves: Mapping[str, tuple[ArrayLike, ArrayLike]],
    path: str | Path,
    *,
    ylabel: str = "validation RMSE / eV",
) -> Figure:
    """Plot one line per model over the epochs and save the picture as PNG.

    Parameters
    ----------
    curves
        Name of each model to its epochs, ``N``, and its values, ``N``; lengths may differ
        between models.
    path
        PNG file to write.
    ylabel
        Label of the vertical axis, which is logarithmic if all values are positive.

    Returns
    -------
    matplotlib.figure.Figure
        The figure that was saved.

    Raises
    ------
    ValueError
        If there is no curve, or epochs and values of one differ in length.
    OSError
        If the file cannot be written.
    """
    if not curves:
        raise ValueError("curves must hold at least one curve, got none.")
    figure = Figure(figsize=(5.4, 3.9), layout="constrained")
    axes = figure.subplots()
    positive = True
    for name, (epochs, values) in curves.items():
        x, y = np.asarray(epochs, dtype=float), np.asarray(values, dtype=float)
        if x.ndim != 1 or x.shape != y.shape or not x.size:
            raise ValueError(
                f"curves[{name!r}] must hold as many values as epochs and at least one, "
                f"got shapes {x.shape} and {y.shape}."
            )
        # A single epoch makes no line, so every epoch also gets a dot.
        axes.plot(x, y, marker=".", label=name)
        positive = positive and bool((y > 0).all())
    if positive:
        axes.set_yscale("log")
        # Plain numbers: the values span about one power of ten.
        axes.yaxis.set_major_formatter(StrMethodFormatter("{x:g}"))
        axes.yaxis.set_minor_formatter(StrMethodFormatter("{x:g}"))
    axes.xaxis.set_major_locator(MaxNLocator(integer=True))
    axes.set(xlabel="epoch", ylabel=ylabel)
    axes.grid(True, which="both", color="0.9")
    axes.legend(frameon=False)
    save(figure, path)
    return figure


def save(figure: Figure, path: str | Path) -> None:
    """Draw in memory first, so that an error in drawing leaves no file."""
    picture = io.BytesIO()
    FigureCanvasAgg(figure)
    figure.savefig(picture, format="png", dpi=_DPI)
    Path(path).write_bytes(picture.getvalue())
