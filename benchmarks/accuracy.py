"""Does pooling help, and do learned clusters? ``python -m benchmarks.accuracy --data-path X.csv``.

Trains every model on the same random splits and compares each with the reference model split by
split. Finished rows are kept in the output folder and skipped when the script is started again.
``--rows`` makes the tables and the plot from the rows of an earlier ``--csv``, and trains nothing.
"""

from __future__ import annotations

import argparse
import itertools
import statistics
from collections.abc import Sequence
from pathlib import Path

from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure

from benchmarks.experiment import WHEN, Experiment, load, run_all, save
from benchmarks.models import BASELINES, MODELS, POOLED
from tritonpool.compare.paired import Comparison, compare, ratio

__all__ = [
    "Comparison",
    "compare",
    "comparisons",
    "main",
    "overlap",
    "plot",
    "ratio_table",
    "table",
]


Rows = dict[tuple[str, int], dict]
"""What trainings gave, by model and seed."""

METRICS = ("rmse", "mae")


def overlap(rows: Rows, model: str, seeds: Sequence[int]) -> float:
    """What intervals are corrected by: the size of the test part over that of the training part, or
    0 if each seed has data of its own, so that no two trainings share any."""
    found = [rows[model, seed] for seed in seeds]
    data = {row.get("data") for row in found}  # older rows do not say
    if None not in data and len(data) == len(found) > 1:
        return 0.0
    return found[0]["test_molecules"] / found[0]["train_molecules"]


def _errors(rows: Rows, model: str, seeds: Sequence[int], when: str, metric: str) -> list[float]:
    return [rows[model, seed][when][metric] for seed in seeds]


def comparisons(
    rows: Rows, models: Sequence[str], seeds: Sequence[int], when: str, metric: str = "rmse"
) -> dict[str, Comparison]:
    """Every model against the first, by their errors at the ``"best"`` or the ``"last"`` epoch."""
    found = {model: _errors(rows, model, seeds, when, metric) for model in models}
    share = overlap(rows, models[0], seeds)
    return {model: compare(found[model], found[models[0]], share) for model in models}


def plot(
    rows: Rows, models: Sequence[str], seeds: Sequence[int], path: Path, metric: str = "rmse"
) -> None:
    """Differences from the first model with their intervals, as PNG."""
    figure = Figure(figsize=(7, 1.2 + 0.4 * (len(models) - 1)), layout="constrained")
    axes = figure.subplots()
    names = list(models[1:])
    for offset, when in zip((-0.12, 0.12), WHEN, strict=True):
        found = comparisons(rows, models, seeds, when, metric)
        axes.errorbar(
            [found[name].difference for name in names],
            [i + offset for i in range(len(names))],
            xerr=[found[name].half_width for name in names],
            fmt="o",
            label=f"{when} epoch",
        )
    axes.axvline(0, color="0.6", linewidth=1)
    axes.set_yticks(range(len(names)), names)
    axes.set_ylim(len(names) - 0.5, -0.5)
    axes.set_xlabel(
        f"test {metric.upper()} minus that of {models[0]}, 95 % interval, {len(seeds)} splits"
    )
    axes.legend(loc="center left", bbox_to_anchor=(1, 0.5))
    FigureCanvasAgg(figure).print_png(path)


def table(rows: Rows, models: Sequence[str], seeds: Sequence[int], metric: str = "rmse") -> str:
    """A line for each model: errors at the best and at the last epoch, the differences from the
    first model with their intervals, and the time."""
    name = metric.upper()
    head = (
        f"| model | {name} | R2 | minus {models[0]} | {name}, last epoch | minus {models[0]} "
        f"| parameters | s / epoch |"
    )
    lines = [head, "| --- |" + " ---: |" * 7]
    found = {when: comparisons(rows, models, seeds, when, metric) for when in WHEN}
    for model in models:
        seconds = statistics.median(rows[model, seed]["seconds_per_epoch"] for seed in seeds)
        r2 = statistics.mean(rows[model, seed]["best"]["r2"] for seed in seeds)
        best, last = found["best"][model], found["last"][model]
        differences = [
            "" if model == models[0] else f"{c.difference:+.3f} ± {c.half_width:.3f}"
            for c in (best, last)
        ]
        lines.append(
            f"| {model} | {best.mean:.3f} ± {best.sd:.3f} | {r2:.3f} | {differences[0]} "
            f"| {last.mean:.3f} ± {last.sd:.3f} | {differences[1]} "
            f"| {rows[model, seeds[0]]['parameters']:,} | {seconds:.1f} |"
        )
    return "\n".join(lines)


def ratio_table(
    rows: Rows,
    models: Sequence[str],
    seeds: Sequence[int],
    references: Sequence[str],
    when: str = "last",
    metric: str = "rmse",
) -> str:
    """Each model's error over that of each reference, as the geometric mean over the splits with
    its interval."""
    share = overlap(rows, models[0], seeds)

    def cell(model: str, reference: str) -> str:
        if model == reference:
            return ""
        both = (_errors(rows, name, seeds, when, metric) for name in (model, reference))
        middle, low, high = ratio(*both, share)
        return f"{middle:.2f} ({low:.2f} to {high:.2f})"

    lines = [f"| {when} epoch | {' | '.join(f'over {name}' for name in references)} |"]
    lines.append("| --- |" + " ---: |" * len(references))
    for model in models:
        cells = [cell(model, reference) for reference in references]
        lines += [f"| {model} | {' | '.join(cells)} |"] if any(cells) else []
    return "\n".join(lines)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    source = parser.add_mutually_exclusive_group(required=True)
    source.add_argument(
        "--data-path",
        type=Path,
        help="CSV file; with '{seed}' in its name each seed has a file of its own, whose trainings "
        "share nothing with the others, so that intervals need no correction",
    )
    source.add_argument("--rows", type=Path, help="CSV file of an earlier --csv; trains nothing")
    parser.add_argument(
        "--test-path",
        type=Path,
        help="CSV file with more of such molecules, to test on instead of the test part, which may "
        "be small; '{seed}' as above",
    )
    parser.add_argument("--smiles-column", default="smiles")
    parser.add_argument("--target-column", default="bandgap_chain")
    parser.add_argument("--epochs", type=int, default=50)
    parser.add_argument("--patience", type=int, default=15, help="of early stopping")
    parser.add_argument("--batch-size", type=int, default=64)
    parser.add_argument("--train-size", type=int, help="training molecules of each split")
    parser.add_argument(
        "--models",
        nargs="+",
        default=[*BASELINES, *POOLED],
        choices=list(MODELS),
        metavar="MODEL",
        help=f"some of {'; '.join([*BASELINES, *POOLED])} (default: all of these); what pools also "
        "with ', sums' or ', normalized' behind its name",
    )
    parser.add_argument("--seeds", type=int, nargs="+", default=[42, 43, 44, 45, 46])
    parser.add_argument("--jobs", type=int, default=1, help="trainings at a time")
    parser.add_argument("--output", type=Path, default=Path("accuracy-results"))
    parser.add_argument("--plot", type=Path, help="PNG file for the differences")
    parser.add_argument("--csv", type=Path, help="file for all rows")
    parser.add_argument(
        "--ratios-to",
        nargs="+",
        default=[],
        choices=list(MODELS),
        metavar="MODEL",
        help="also print the errors over those of these models",
    )
    parser.add_argument(
        "--metric",
        choices=METRICS,
        default="rmse",
        help="the error to compare by; a few molecules that are like no other decide rmse, mae "
        "less so (default: rmse)",
    )
    args = parser.parse_args()
    if args.rows is None:
        rows = _train(args)
    else:
        rows = {(row["name"].rpartition(", seed ")[0], row["seed"]): row for row in load(args.rows)}
        for model, seed in itertools.product([*args.models, *args.ratios_to], args.seeds):
            if (model, seed) not in rows:
                parser.error(f"{str(args.rows)!r} has no row of {model!r} with seed {seed}")
    which = rows, args.models, args.seeds
    print(f"\n{table(*which, args.metric)}")
    if args.ratios_to:
        for when in WHEN:
            print(f"\n{ratio_table(*which, args.ratios_to, when, args.metric)}")
    if args.csv is not None:
        save(rows.values(), args.csv)
    if args.plot is not None:
        plot(*which, args.plot, args.metric)


def _train(args: argparse.Namespace) -> Rows:
    """The rows of all models and seeds, by both."""
    common = ["--smiles-columns", args.smiles_column]
    common += ["--target-columns", args.target_column, "--epochs", str(args.epochs)]
    common += ["--patience", str(args.patience), "--aggregation", "mean"]
    if args.batch_size != 64:
        common += ["--batch-size", str(args.batch_size)]
    common += ["--train-size", str(args.train_size)] if args.train_size else []

    def experiment(model: str, seed: int) -> Experiment:
        options, control = MODELS[model]
        data = "--data-path", str(args.data_path).replace("{seed}", str(seed))
        test = str(args.test_path).replace("{seed}", str(seed)) if args.test_path else None
        words = *data, *common, *options
        return Experiment(f"{model}, seed {seed}", seed, words, control, test)

    plan = {(m, s): experiment(m, s) for s in args.seeds for m in args.models}
    return dict(zip(plan, run_all(plan.values(), args.output, args.jobs), strict=True))


if __name__ == "__main__":
    main()
