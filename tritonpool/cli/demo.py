"""``tritonpool demo``: D-MPNN with and without DiffPool on oligomers made on the spot."""

from __future__ import annotations

import argparse
import json
import shutil
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from tritonpool.cli import demo_data
from tritonpool.cli.parser import Parser
from tritonpool.cli.quiet import only_progress
from tritonpool.cli.ranges import MOST_SEED, whole_number
from tritonpool.markdown import markdown_table

if TYPE_CHECKING:
    import numpy as np
    import pandas as pd

    from tritonpool.cli.train import TrainSubcommand

__all__ = ["add_args", "run"]

PLAIN, POOLED = "D-MPNN", "D-MPNN + DiffPool"
# narrower than chemprop's 300, so that two cores need minutes only; a gap is no sum over atoms
SETTINGS = "--message-hidden-dim 128 --ffn-hidden-dim 128 --aggregation mean --metrics rmse r2"
WORDS = {PLAIN: "--diffpool-levels 0", POOLED: "--diffpool-levels 1"}
FOLDERS = {PLAIN: "plain", POOLED: "diffpool"}


@dataclass
class Outcome:
    """What one model gave."""

    predicted: np.ndarray
    seconds: float
    epochs: list[int]
    val_rmse: list[float]


def add_args(parser: argparse.ArgumentParser) -> argparse.ArgumentParser:
    """Add the options of ``demo`` to its parser."""
    parser.add_argument(
        "-o",
        "--output-dir",
        type=Path,
        default=Path("demo"),
        help="folder for data, models, table and pictures (default: %(default)s)",
    )
    parser.add_argument(
        "-n",
        "--number",
        type=whole_number(20),
        default=1000,
        help="how many oligomers (default: %(default)s)",
    )
    parser.add_argument(
        "--epochs",
        type=whole_number(3),
        default=20,
        help="epochs of each training (default: %(default)s)",
    )
    parser.add_argument(
        "--seed",
        type=whole_number(0, MOST_SEED),
        default=0,
        help="seed of data, split and weights (default: %(default)s)",
    )
    return parser


def run(args: argparse.Namespace) -> None:
    """Make the data, train both models, and write table and pictures.

    Raises
    ------
    OSError
        If the output folder cannot be written.
    """
    import numpy as np
    import pandas as pd

    from tritonpool import plots
    from tritonpool.cli.checks import check_writable, output_folder

    # imported here, because lightning sets the level of its log when it is imported
    from tritonpool.cli.train import TrainSubcommand

    out = args.output_dir
    check_writable(out)
    with output_folder(out):
        pass
    data = out / "oligomers.csv"
    parser = demo_data.add_args(Parser(prog="tritonpool demo-data"))
    words = ["-n", str(args.number), "--seed", str(args.seed), "-o", str(data)]
    demo_data.run(parser.parse_args(words))

    outcomes = {}
    for name in WORDS:
        print(f"\nTraining {name} for {args.epochs} epochs.", flush=True)
        with only_progress():
            outcomes[name] = _train(TrainSubcommand, name, data, args)

    gaps = pd.read_csv(data)["gap"].to_numpy()
    split = json.loads((out / FOLDERS[PLAIN] / "splits.json").read_text())[0]
    truth, spread = gaps[split["test"]], gaps[split["train"]].std()
    mean = np.full_like(truth, gaps[split["train"]].mean())
    rows = [("mean of the training part", *plots.scores(truth, mean), np.nan)]
    for name, outcome in outcomes.items():
        rows.append((name, *plots.scores(truth, outcome.predicted), outcome.seconds))
    table = pd.DataFrame(rows, columns=["model", "test RMSE / eV", "test R2", "seconds per epoch"])
    table.to_csv(out / "results.csv", index=False)
    (out / "results.md").write_text(_markdown(table))
    plots.parity(truth, {k: o.predicted for k, o in outcomes.items()}, out / "parity.png")
    # chemprop validates on targets that are scaled to unit variance
    curves = {k: (o.epochs, spread * np.array(o.val_rmse)) for k, o in outcomes.items()}
    plots.learning_curves(curves, out / "learning_curves.png")

    print(f"\nTest part: {len(truth)} of {len(gaps)} oligomers.\n\n{_markdown(table)}")
    print(_meaning(table))
    print(f"\nTable, parity plot and learning curves are in {out}.")


def _train(
    command: type[TrainSubcommand], name: str, data: Path, args: argparse.Namespace
) -> Outcome:
    """Train one model through ``tritonpool train``."""
    import numpy as np
    import pandas as pd

    folder = args.output_dir / FOLDERS[name]
    if (folder / "config.toml").exists():  # of an earlier demo
        shutil.rmtree(folder)
    seed = str(args.seed)
    words = ["--data-path", str(data), "--output-dir", str(folder), "--smiles-columns", "smiles"]
    words += ["--target-columns", "gap", "--epochs", str(args.epochs)]
    words += ["--data-seed", seed, "--pytorch-seed", seed, *SETTINGS.split(), *WORDS[name].split()]
    command.add_args(Parser(prog="tritonpool train"))
    (fitted,) = command.func(command.parse(words))
    return Outcome(
        predicted=pd.read_csv(fitted.folder / "test_predictions.csv")["gap"].to_numpy(),
        seconds=float(np.median(fitted.seconds)),
        epochs=[row["epoch"] + 1 for row in fitted.metrics],
        val_rmse=[row["val/rmse"] for row in fitted.metrics],
    )


def _markdown(table: pd.DataFrame) -> str:
    """The table as aligned markdown."""
    cells = [list(table.columns)]
    for model, rmse, r2, seconds in table.itertuples(index=False):
        time = f"{seconds:.2f}" if seconds == seconds else "-"
        cells.append([model, f"{rmse:.3f}", f"{r2:.3f}", time])
    return markdown_table(cells)


def _meaning(table: pd.DataFrame) -> str:
    """What the numbers say and what they do not."""
    errors = table.set_index("model")["test RMSE / eV"]
    times = table.set_index("model")["seconds per epoch"]
    change = 100 * (errors[POOLED] / errors[PLAIN] - 1)
    direction = "lower" if change < 0 else "higher"
    return (
        f"With DiffPool the test error is {abs(change):.0f} % {direction} here, for "
        f"{times[POOLED] / times[PLAIN]:.1f} times the time per epoch.\n"
        f"This is one split and one seed: repeat it with other values of --seed before you draw a "
        f"conclusion.\nA lower error alone does not show that the clusters mean something: the "
        f"pooled level also adds a second encoder."
    )
