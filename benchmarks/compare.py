"""Has the op become slower? ``python -m benchmarks.compare RUN.json`` (``make bench-compare``).

Compares the ratios of a tracking run (:mod:`benchmarks.bench_track`) with the baseline committed
for this chip; without one, with a run of the code accepted last, made here and now. Where a ratio
has worsened by more than 15 % beyond the spread over repeats, the accepted code is timed beside the
present code (:mod:`benchmarks.confirm`); exits with 1 if that confirms it.
``--accept`` makes the run the baseline, and adds it to the history and its plot.
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

from benchmarks.confirm import accepted_code, confirm, measure_known
from benchmarks.rows import Row, judge, read_rows, read_run, write_rows

__all__ = ["compare", "main"]

RESULTS = Path(__file__).parent / "results"
UNCONFIRMED = (
    "perhaps slower, perhaps only this machine: {} (a clone with its whole history could tell)"
)
UNKNOWN = "no baseline on this chip with {} threads, so with the accepted code, run here and now:"


def missing(rows: list[Row], baseline: list[Row]) -> list[str]:
    """The cases without a baseline, where ``baseline`` has none at all for this chip."""
    known = {(row.chip, row.threads) for row in baseline}
    return [row.case for row in rows if (row.chip, row.threads) not in known]


def compare(
    rows: list[Row], baseline: list[Row], name: str = "baseline"
) -> tuple[list[str], list[str]]:
    """A line for each case, and the names of those that may have become slower.

    Only rows of the same chip and number of threads are compared.
    """
    known = {(row.chip, row.threads, row.case): row for row in baseline}
    lines, suspects = [], []
    for row in rows:
        base = known.get((row.chip, row.threads, row.case))
        if base is None:
            where = f"no baseline on this chip with {row.threads} threads"
            lines.append(f"{row.case:40} {row.ratio:7.3f} +- {row.spread / 2:.3f}   {where}")
            continue
        line, suspect = judge(row, base, name)
        lines.append(line)
        suspects += [row.case] * suspect
    return lines, suspects


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
    baseline = args.results / "baseline.csv"
    known, name = read_rows(baseline), "baseline"
    unknown = missing(rows, known)
    with accepted_code(baseline, rows[0].chip, rows[0].threads) as accepted:
        if unknown and accepted is not None:
            print(UNKNOWN.format(rows[0].threads), flush=True)
            known, name = measure_known(accepted, unknown), "accepted code"
        lines, suspects = compare(rows, known, name)
        print(*lines, sep="\n")
        if not suspects:
            return 0
        if accepted is None:
            print(UNCONFIRMED.format(", ".join(suspects)), file=sys.stderr)
            return 0
        print("\nIs it this machine? The accepted code and the present one, in turn:", flush=True)
        lines, slower = confirm(suspects, accepted)
    print(*lines, sep="\n")
    if slower:
        print(f"slower than the accepted code: {', '.join(slower)}", file=sys.stderr)
    return bool(slower)


if __name__ == "__main__":
    sys.exit(main())
