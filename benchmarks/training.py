"""Whole commands on a real data set: ``python -m benchmarks.training --data-path X.csv``.

Runs stock ``chemprop train`` and ``tritonpool train`` in turn with the same splits, seeds and
aggregation, and reports the test RMSE and the time of the whole command. Finished runs are kept
as JSON rows in the output folder and skipped when the script is started again.
"""

from __future__ import annotations

import argparse
import json
import statistics
import subprocess
import sys
import sysconfig
import time
from pathlib import Path

import numpy as np
import pandas as pd

__all__ = ["main", "run"]

MODELS = ("chemprop", "tritonpool")


def run(model: str, seed: int, args: argparse.Namespace, extra: list[str]) -> dict:
    """Train one model and read its test predictions back."""
    output = args.output / f"{model}-{seed}"
    common = {
        "--data-path": args.data_path,
        "--smiles-columns": args.smiles_column,
        "--target-columns": args.target_column,
        "--task-type": "regression",
        "--epochs": args.epochs,
        "--data-seed": seed,
        "--pytorch-seed": seed,
        "--aggregation": args.aggregation,
        "--output-dir": output,
    }
    command = [str(Path(sysconfig.get_path("scripts")) / model), "train", "--save-smiles-splits"]
    command += [str(word) for item in common.items() for word in item]
    command += extra if model == "tritonpool" else []
    start = time.perf_counter()
    done = subprocess.run(command, capture_output=True, text=True)
    seconds = time.perf_counter() - start
    if done.returncode:
        sys.exit(f"{' '.join(command)} failed:\n{done.stdout[-2000:]}\n{done.stderr[-2000:]}")
    truth = pd.read_csv(args.data_path)
    predicted = pd.read_csv(output / "model_0" / "test_predictions.csv")[args.target_column]
    rows = json.loads((output / "splits.json").read_text())[0]["test"]
    error = predicted.to_numpy() - truth[args.target_column].to_numpy()[parse_rows(rows)]
    sd = truth[args.target_column].to_numpy()[parse_rows(rows)].std()
    rmse = float(np.sqrt((error**2).mean()))
    return {
        "model": model,
        "seed": seed,
        "epochs": args.epochs,
        "options": extra if model == "tritonpool" else [],
        "rmse": rmse,
        "mae": float(np.abs(error).mean()),
        "r2": 1 - (rmse / sd) ** 2,
        "test_rows": len(error),
        "seconds": seconds,
    }


def parse_rows(rows: list[int] | str) -> list[int]:
    """Row numbers from a list or from ranges such as ``"0-3,7"``."""
    if not isinstance(rows, str):
        return rows
    numbers = []
    for piece in rows.split(","):
        first, _, last = piece.partition("-")
        numbers += range(int(first), int(last or first) + 1)
    return numbers


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__.splitlines()[0],
        epilog="Options after -- go to `tritonpool train` only.",
    )
    parser.add_argument("--data-path", type=Path, required=True)
    parser.add_argument("--smiles-column", default="smiles")
    parser.add_argument("--target-column", default="bandgap_chain")
    parser.add_argument("--aggregation", default="mean")
    parser.add_argument("--epochs", type=int, default=20)
    parser.add_argument("--seeds", type=int, nargs="+", default=[42, 43, 44])
    parser.add_argument("--output", type=Path, default=Path("training-results"))
    words = sys.argv[1:]
    extra = words[words.index("--") + 1 :] if "--" in words else []
    args = parser.parse_args(words[: words.index("--")] if "--" in words else words)
    args.output.mkdir(parents=True, exist_ok=True)
    rows = []
    for seed in args.seeds:
        for model in MODELS:
            path = args.output / f"{model}-{seed}.json"
            if not path.exists():
                path.write_text(json.dumps(run(model, seed, args, extra)))
            rows.append(json.loads(path.read_text()))
            print("{model:11} seed {seed}: RMSE {rmse:.4f}, {seconds:.0f} s".format(**rows[-1]))
    for key in ("rmse", "seconds"):
        mean = {m: statistics.mean(r[key] for r in rows if r["model"] == m) for m in MODELS}
        ours, stock = mean["tritonpool"], mean["chemprop"]
        print(f"mean {key}: tritonpool {ours:.4f}, chemprop {stock:.4f}, ratio {ours / stock:.3f}")


if __name__ == "__main__":
    main()
