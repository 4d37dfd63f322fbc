"""Test error by batch size and ratio: ``python -m benchmarks.guide --data-path X.csv``.

The errors of the tuning guide (docs/tuning.md); its times and memory are those of ``tritonpool
bench``. Finished rows are kept in the output folder and skipped when the script is started again.
"""

from __future__ import annotations

import argparse
import statistics
from pathlib import Path

from benchmarks.experiment import Experiment, run_all, save

__all__ = ["main"]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--data-path", type=Path, required=True)
    parser.add_argument("--smiles-column", default="smiles")
    parser.add_argument("--target-column", default="bandgap_chain")
    parser.add_argument("--aggregation", default="mean")
    parser.add_argument("--epochs", type=int, default=20)
    parser.add_argument("--batch-sizes", type=int, nargs="+", default=[16, 32, 64, 128, 256])
    parser.add_argument("--ratios", type=float, nargs="+", default=[0.1, 0.25, 0.5])
    parser.add_argument("--encoders", nargs="+", default=["bond"], help="of the coarse graph")
    parser.add_argument("--max-clusters", type=int, help="default: that of tritonpool train")
    parser.add_argument("--seeds", type=int, nargs="+", default=[42, 43, 44])
    parser.add_argument("--jobs", type=int, default=1, help="trainings at a time")
    parser.add_argument("--output", type=Path, default=Path("guide-results"))
    parser.add_argument("--csv", type=Path, help="file for all rows")
    args = parser.parse_args()
    common = ["--data-path", str(args.data_path), "--smiles-columns", args.smiles_column]
    common += ["--target-columns", args.target_column, "--aggregation", args.aggregation]
    common += ["--epochs", str(args.epochs)]
    models = {"D-MPNN": ["--diffpool-levels", "0"]}
    for encoder in args.encoders:
        for ratio in args.ratios:
            words = ["--diffpool-ratio", f"{ratio:g}", "--diffpool-encoder", encoder]
            name = f"ratio {ratio:g}, {encoder}"
            if args.max_clusters is not None:
                words += ["--diffpool-max-clusters", str(args.max_clusters)]
                name += f", at most {args.max_clusters} clusters"
            models[name] = words
    plan = [
        Experiment(
            f"{model}, batch {size}, seed {seed}",
            seed,
            (*common, "--batch-size", str(size), *words),
        )
        for seed in args.seeds
        for size in args.batch_sizes
        for model, words in models.items()
    ]
    rows = {row["name"]: row for row in run_all(plan, args.output, args.jobs)}
    if args.csv is not None:
        save(rows.values(), args.csv)
    print(f"\n| batch | {' | '.join(models)} |\n| ---: |{' ---: |' * len(models)}")
    for size in args.batch_sizes:
        cells = []
        for model in models:
            found = [rows[f"{model}, batch {size}, seed {s}"]["best"]["rmse"] for s in args.seeds]
            each = ", ".join(f"{rmse:.3f}" for rmse in found)
            cells.append(f"{statistics.mean(found):.3f} ({each})")
        print(f"| {size} | {' | '.join(cells)} |")


if __name__ == "__main__":
    main()
