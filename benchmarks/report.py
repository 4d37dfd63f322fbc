"""The table and the plot of ``make bench``: ``python -m benchmarks.report RUN.json``.

Every row has the median and the 20 % and 80 % quantiles of its time, its memory, and the least time
that this machine allows (:mod:`benchmarks.limits`) with the ratio to it.
"""

from __future__ import annotations

import argparse
import json
import sys
from itertools import groupby
from pathlib import Path

import numpy as np
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure

__all__ = ["draw", "main", "read", "table"]

HEAD = ["", "ms", "20 % to 80 %", "peak MB", "kept MB", "limit ms", "set by", "time / limit"]


def read(run: dict) -> list[dict]:
    """The rows of a pytest-benchmark run, in its order; times in milliseconds."""
    rows = []
    for bench in run["benchmarks"]:
        info = bench["extra_info"]
        low, median, high = 1e3 * np.quantile(bench["stats"]["data"], (0.2, 0.5, 0.8))
        rows.append(
            {
                "group": bench["group"] or bench["name"],
                "row": info.get("row") or bench["name"],
                "low": float(low),
                "median": float(median),
                "high": float(high),
                "peak": info.get("peak_bytes"),
                "kept": info.get("saved_bytes"),
                "limit": 1e3 * info["limit"] if "limit" in info else None,
                "bound": info.get("bound", ""),
            }
        )
    return rows


def _number(value: float | None, scale: float = 1.0) -> str:
    return "" if value is None else f"{value / scale:.3g}"


def table(rows: list[dict]) -> str:
    """A Markdown table for each group."""
    parts = []
    for group, members in groupby(rows, key=lambda row: row["group"]):
        cells = [HEAD]
        for row in members:
            times = None if not row["limit"] else row["median"] / row["limit"]
            cells.append(
                [
                    row["row"],
                    f"{row['median']:.3f}",
                    f"{row['low']:.3f} to {row['high']:.3f}",
                    _number(row["peak"], 1e6),
                    _number(row["kept"], 1e6),
                    _number(row["limit"]),
                    row["bound"],
                    _number(times),
                ]
            )
        widths = [max(len(row[i]) for row in cells) for i in range(len(HEAD))]
        rule = ["-" * widths[0], *("-" * (width - 1) + ":" for width in widths[1:])]
        lines = (
            " | ".join(
                [row[0].ljust(widths[0])]
                + [cell.rjust(width) for cell, width in zip(row[1:], widths[1:], strict=True)]
            )
            for row in [cells[0], rule, *cells[1:]]
        )
        parts.append(f"{group}\n\n" + "".join(f"| {line} |\n" for line in lines))
    return "\n".join(parts)


def draw(rows: list[dict], title: str, path: Path) -> None:
    """A panel of bars for each group, with a mark where the limit is."""
    groups = [(name, list(members)) for name, members in groupby(rows, key=lambda r: r["group"])]
    heights = [0.9 + 0.24 * len(members) for _, members in groups]
    figure = Figure(figsize=(10, sum(heights) + 0.4), layout="constrained")
    FigureCanvasAgg(figure)
    panels = figure.subplots(len(groups), 1, squeeze=False, height_ratios=heights)[:, 0]
    for axes, (name, members) in zip(panels, groups, strict=True):
        median = np.array([row["median"] for row in members])
        low = median - [row["low"] for row in members]
        high = [row["high"] for row in members] - median
        colours = ["C1" if row["row"].startswith("tritonpool") else "C0" for row in members]
        places = np.arange(len(members))
        error = np.clip([low, high], 0, None)
        axes.barh(places, median, xerr=error, color=colours, error_kw={"elinewidth": 0.8})
        known = [i for i, row in enumerate(members) if row["limit"]]
        limits = [members[i]["limit"] for i in known]
        axes.plot(limits, known, "k|", markersize=10, label="limit of this machine")
        axes.set(yticks=places, xscale="log", xlabel="ms")
        axes.set_yticklabels([row["row"] for row in members], fontsize=7)
        axes.set_title(name, fontsize=8, loc="left")
        axes.invert_yaxis()
        if known:
            axes.legend(fontsize=6, loc="lower right")
    figure.suptitle(title, fontsize=9)
    figure.savefig(path, dpi=110)


def main(arguments: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("run", type=Path, help="JSON file of pytest-benchmark")
    args = parser.parse_args(arguments)
    run = json.loads(args.run.read_text())
    rows = read(run)
    if not rows:
        print(f"{args.run} holds no rows", file=sys.stderr)
        return 2
    machine = run["machine_info"]
    words = [f"{name} {machine[name]}" for name in ("torch", "triton", "commit") if machine[name]]
    title = f"{machine['chip']}, {machine['threads']} threads, {', '.join(words)}"
    text = f"{title}\n\n{table(rows)}"
    args.run.with_suffix(".md").write_text(text)
    draw(rows, title, args.run.with_suffix(".png"))
    print(text)
    print(f"{args.run.with_suffix('.md')} and {args.run.with_suffix('.png')} hold table and plot.")
    return 0


if __name__ == "__main__":
    sys.exit(main())
