"""Has the op become slower? ``python -m benchmarks.compare RUN.json`` (``make bench-compare``).

Compares the ratios of a tracking run (:mod:`benchmarks.bench_track`) with the baseline committed
for this chip, and exits with 1 if one has worsened by more than 15 % beyond the spread over
repeats.
``--accept`` makes the run the baseline, and adds it to the history and its plot.
"""

from __future__ import annotations

import argparse
import csv
import json
import sys
from dataclasses import asdict, dataclass, fields
from pathlib import Path

__all__ = ["Row", "compare", "main", "read_run"]

RESULTS = Path(__file__).parent / "results"
TOLERANCE = 0.15


@dataclass
class Row:
    """One case of one run."""

    date: str
    commit: str
    chip: str
    threads: int
    driver: str
    torch: str
    triton: str
    case: str
    ratio: float  # our time over that of the yardstick
    spread: float  # of the ratio, over repeats
    milliseconds: float  # our median

    def __post_init__(self):
        for field in fields(self):
            kind = {"int": int, "float": float, "str": str}[str(field.type)]
            value = getattr(self, field.name)
            setattr(self, field.name, kind("" if value is None else value))


def read_run(path: Path) -> list[Row]:
    """The rows of a pytest-benchmark JSON file."""
    run = json.loads(path.read_text())
    info = run["machine_info"]
    return [
        Row(
            date=run["datetime"][:19],
            case=bench["extra_info"]["case"],
            ratio=round(bench["extra_info"]["ratio"], 4),
            spread=round(bench["extra_info"]["spread"], 4),
            milliseconds=round(1e3 * bench["stats"]["median"], 3),
            **{k: info[k] for k in ("commit", "chip", "threads", "driver", "torch", "triton")},
        )
        for bench in run["benchmarks"]
        if "ratio" in bench["extra_info"]
    ]


def read_rows(path: Path) -> list[Row]:
    if not path.exists():
        return []
    with path.open(newline="") as file:
        return [Row(**row) for row in csv.DictReader(file)]


def write_rows(path: Path, rows: list[Row]) -> None:
    with path.open("w", newline="") as file:
        writer = csv.DictWriter(file, [f.name for f in fields(Row)], lineterminator="\n")
        writer.writeheader()
        writer.writerows(asdict(row) for row in rows)


def compare(rows: list[Row], baseline: list[Row]) -> tuple[list[str], list[str]]:
    """A line for each case, and the names of those that have become slower.

    A case is slower if its ratio exceeds the baseline's by more than 15 % and the larger of the
    two spreads. Only rows of the same chip and number of threads are compared.
    """
    known = {(row.chip, row.threads, row.case): row for row in baseline}
    lines, slower = [], []
    for row in rows:
        base = known.get((row.chip, row.threads, row.case))
        text = f"{row.case:40} {row.ratio:7.3f} +- {row.spread / 2:.3f}"
        if base is None:
            lines.append(f"{text}   no baseline on this chip with {row.threads} threads")
            continue
        allowed = base.ratio * (1 + TOLERANCE) + max(row.spread, base.spread)
        verdict = "SLOWER" if row.ratio > allowed else "ok"
        lines.append(f"{text}   baseline {base.ratio:.3f}, at most {allowed:.3f}   {verdict}")
        if row.ratio > allowed:
            slower.append(row.case)
    return lines, slower


def plot(rows: list[Row], path: Path) -> None:
    """The history of every case, a panel for each chip."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    chips = sorted({(row.chip, row.threads) for row in rows})
    figure, axes = pyplot.subplots(len(chips), squeeze=False, figsize=(9, 4 * len(chips)))
    for axis, chip in zip(axes[:, 0], chips, strict=True):
        own = [row for row in rows if (row.chip, row.threads) == chip]
        runs = list(dict.fromkeys((row.date, row.commit) for row in own))
        for case in dict.fromkeys(row.case for row in own):
            line = [row for row in own if row.case == case]
            axis.errorbar(
                [runs.index((row.date, row.commit)) for row in line],
                [row.ratio for row in line],
                [row.spread / 2 for row in line],
                marker="o",
                capsize=3,
                label=case,
            )
        axis.set_xticks(range(len(runs)), [f"{c}\n{d[:10]}" for d, c in runs], fontsize=7)
        axis.set(title=f"{chip[0]}, {chip[1]} threads", ylabel="time / yardstick", ylim=(0, None))
        axis.legend(fontsize=7)
    figure.tight_layout()
    figure.savefig(path, dpi=120)
    pyplot.close(figure)


def accept(rows: list[Row], folder: Path) -> None:
    """Make ``rows`` the baseline of their chip, and add them to the history."""
    replaced = {(row.chip, row.threads) for row in rows}
    kept = [
        row for row in read_rows(folder / "baseline.csv") if (row.chip, row.threads) not in replaced
    ]
    write_rows(folder / "baseline.csv", kept + rows)
    history = read_rows(folder / "history.csv") + rows
    write_rows(folder / "history.csv", history)
    plot(history, folder / "history.png")


def main(arguments: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("run", type=Path, help="JSON file of a run of benchmarks/bench_track.py")
    parser.add_argument("--accept", action="store_true", help="make this run the baseline")
    parser.add_argument("--results", type=Path, default=RESULTS, help="folder of the baseline")
    args = parser.parse_args(arguments)
    rows = read_run(args.run)
    if not rows:
        print(f"{args.run} holds no ratios: run benchmarks/bench_track.py", file=sys.stderr)
        return 2
    if args.accept:
        accept(rows, args.results)
    lines, slower = compare(rows, read_rows(args.results / "baseline.csv"))
    print(*lines, sep="\n")
    if slower:
        print(f"slower than the baseline: {', '.join(slower)}", file=sys.stderr)
    return bool(slower)


if __name__ == "__main__":
    sys.exit(main())
