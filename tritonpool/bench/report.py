"""The measured grid as a table in Markdown and as a picture."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
from matplotlib.figure import Figure
from matplotlib.ticker import ScalarFormatter
from numpy.typing import ArrayLike

from tritonpool.bench.advice import Row, slowdown
from tritonpool.markdown import markdown_table
from tritonpool.plots import save

__all__ = ["draw", "histogram", "markdown"]

BINS = 10


def histogram(atoms: ArrayLike) -> list[tuple[int, int, int]]:
    """How many graphs have ``first`` to ``last`` nodes, in at most ten bins of whole numbers.

    Parameters
    ----------
    atoms
        number of nodes of each graph

    Returns
    -------
    list of tuple
        ``(first, last, count)``, ascending, without gaps
    """
    sizes = np.asarray(atoms)
    low, high = int(sizes.min()), int(sizes.max())
    width = -(-(high - low + 1) // BINS)
    edges = np.arange(low, high + width + 1, width)
    counts = np.histogram(sizes, edges)[0]
    return [
        (int(first), min(int(first) + width - 1, high), int(count))
        for first, count in zip(edges[:-1], counts, strict=True)
    ]


def name(ratio: float | None) -> str:
    """What a ratio is called in tables and pictures."""
    return "D-MPNN" if ratio is None else f"ratio {ratio:g}"


def markdown(rows: Sequence[Row], bins: list[tuple[int, int, int]], best: Row | None) -> str:
    """Both tables: graph sizes, and the cost of each setting with the recommended one marked."""
    sizes = [["atoms", "molecules"]]
    sizes += [[f"{first} to {last}", str(count)] for first, last, count in bins]
    cells = [["batch", "model", "ms / step", "s / epoch", "x D-MPNN", "MiB", ""]]
    for row in rows:
        mark = "recommended" if row is best else ""
        if row.step_seconds is None:
            cells.append([str(row.batch_size), name(row.ratio), "does not fit", "", "", "", mark])
            continue
        times = slowdown(row, rows)
        cells.append(
            [
                str(row.batch_size),
                name(row.ratio),
                f"{1e3 * row.step_seconds:.1f} ± {1e3 * row.spread_seconds / 2:.1f}",
                f"{row.epoch_seconds:.2f}",
                "" if times is None else f"{times:.2f}",
                f"{row.memory_bytes / 2**20:.0f}",
                mark,
            ]
        )
    return "\n".join(markdown_table(part, right=True) for part in (sizes, cells))


def draw(
    rows: Sequence[Row], atoms: ArrayLike, best: Row | None, path: str | Path, device: str
) -> Figure:
    """Graph sizes, and time and memory over the batch size; saved as PNG.

    Parameters
    ----------
    rows
        the measured settings
    atoms
        number of nodes of each graph
    best
        the recommended setting, which gets a ring
    path
        file to write
    device
        what the settings ran on, for the title

    Returns
    -------
    matplotlib.figure.Figure
        the figure that was saved
    """
    figure = Figure(figsize=(12, 3.9), layout="constrained")
    sizes, time, memory = figure.subplots(1, 3)
    bins = histogram(atoms)
    sizes.hist(np.asarray(atoms), [first - 0.5 for first, _, _ in bins] + [bins[-1][1] + 0.5])
    sizes.set(xlabel="atoms", ylabel="molecules")
    ran = [row for row in rows if row.step_seconds is not None]
    for ratio in dict.fromkeys(row.ratio for row in ran):
        own = [row for row in ran if row.ratio == ratio]
        style = {"color": "0.4", "linestyle": "--"} if ratio is None else {}
        batch = [row.batch_size for row in own]
        label = name(ratio)
        time.plot(batch, [row.epoch_seconds for row in own], marker=".", label=label, **style)
        memory.plot(
            batch, [row.memory_bytes / 2**20 for row in own], marker=".", label=label, **style
        )
    if best is not None:
        ring = {"marker": "o", "s": 120, "facecolors": "none", "edgecolors": "black"}
        time.scatter(best.batch_size, best.epoch_seconds, label="recommended", zorder=3, **ring)
        memory.scatter(best.batch_size, best.memory_bytes / 2**20, zorder=3, **ring)
    time.set(ylabel="seconds per epoch, without validation", title=device)
    memory.set(ylabel="tensor memory of a step / MiB")
    for axes in (time, memory):
        axes.set(xlabel="batch size", xscale="log", ylim=(0, None))
        axes.set_xticks(sorted({row.batch_size for row in rows}))
        axes.xaxis.set_major_formatter(ScalarFormatter())
        axes.minorticks_off()
        axes.grid(True, color="0.9")
    time.legend(frameon=False)
    save(figure, path)
    return figure
