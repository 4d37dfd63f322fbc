"""One training and its test errors: ``python -m benchmarks.experiment '{"name": ...}'``.

The data, the split, the scaling and the model come from the functions of ``tritonpool train``, so a
row says what that command would have reached; in addition the test part is predicted with the
weights of the last epoch, and the model may be changed (:mod:`benchmarks.controls`).
"""

from __future__ import annotations

import argparse
import copy
import csv
import json
import os
import signal
import statistics
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass, field
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from chemprop.data import MoleculeDatapoint

__all__ = ["Experiment", "load", "run_all", "save", "train", "watch_parent"]

WHEN = ("best", "last")  # by validation, and of the training


@dataclass(frozen=True)
class Experiment:
    """What to train.

    Attributes
    ----------
    name : str
        unique; the file of the row is called so
    seed : int
        of split, weights and order
    options : tuple of str
        options of ``tritonpool train``, with the data but without seeds and folder
    control : str | None
        a change of the model, by its name in :data:`benchmarks.controls.CONTROLS`
    test_path : str | None
        more of such data, to test on instead of the test part of the split; molecules that are in
        the split, too, are left out
    """

    name: str
    seed: int
    options: tuple[str, ...] = field(default_factory=tuple)
    control: str | None = None
    test_path: str | None = None


def train(experiment: Experiment) -> dict:
    """Train in this process and return the row: settings, errors, seconds per epoch."""
    import torch
    from chemprop.conf import LIGHTNING_26_COMPAT_ARGS
    from lightning import pytorch as pl
    from lightning.pytorch.callbacks import EarlyStopping, ModelCheckpoint

    from benchmarks.controls import CONTROLS
    from tritonpool.cli.callbacks import History
    from tritonpool.cli.data import read_splits
    from tritonpool.cli.earlier_calls import digest
    from tritonpool.cli.fit import trainer_options
    from tritonpool.cli.loaders import prepare
    from tritonpool.cli.models import make_model
    from tritonpool.cli.parser import Parser
    from tritonpool.cli.quiet import only_progress
    from tritonpool.cli.train import TrainSubcommand

    seed = str(experiment.seed)
    words = [*experiment.options, "--data-seed", seed, "--pytorch-seed", seed]
    with TemporaryDirectory() as scratch, only_progress():
        TrainSubcommand.add_args(Parser(prog="tritonpool train"))
        args = TrainSubcommand.parse([*words, "--output-dir", scratch])
        TrainSubcommand.check(args)
        parts = next(iter(read_splits(args, Path(scratch))))
        if experiment.test_path is not None:
            known = {point.name for (points,) in parts for point in points}
            found = _molecules_in(experiment.test_path, args, Path(scratch))
            parts = *parts[:2], [[point for point in found if point.name not in known]]
        data = prepare(args, *parts)
        torch.manual_seed(experiment.seed)
        model = make_model(args, data, 0)
        if experiment.control is not None:
            model = CONTROLS[experiment.control](model)
        history = History()
        best = ModelCheckpoint(scratch, "best", "val_loss", save_weights_only=True)
        patience = args.epochs if args.patience is None else args.patience
        stop = EarlyStopping("val_loss", patience=patience)
        trainer = pl.Trainer(
            logger=False,
            enable_progress_bar=False,
            enable_model_summary=False,
            callbacks=[history, best, stop],
            **trainer_options(args),
        )
        trainer.fit(model, data.train_loader, data.val_loader)

        def errors() -> dict[str, float]:
            rows = trainer.predict(model, data.test_loader, **LIGHTNING_26_COMPAT_ARGS)
            return _errors(torch.concat(rows).float().numpy()[:, 0], data.test.Y[:, 0])

        last = errors()
        state = torch.load(best.best_model_path, "cpu", weights_only=False)["state_dict"]
        model.load_state_dict(state)
        losses = [row["val_loss"] for row in history.metrics]
        return {
            **asdict(experiment),
            "data": f"sha256:{digest(args)[:12]}",
            "train_molecules": len(data.train),
            "test_molecules": len(data.test),
            "parameters": sum(p.numel() for p in model.parameters()),
            "epochs": len(losses),
            "best_epoch": int(np.argmin(losses)) + 1,
            "best": errors(),
            "last": last,
            "seconds_per_epoch": statistics.median(history.seconds),
            "torch": torch.__version__,
            "threads": torch.get_num_threads(),
        }


def _molecules_in(path: str, args: argparse.Namespace, scratch: Path) -> list[MoleculeDatapoint]:
    """All molecules of another file, read as the options say."""
    from tritonpool.cli.data import read_splits

    others = copy.copy(args)
    others.data_path, others.split_sizes, others.train_size = [Path(path)], [1.0, 0.0, 0.0], None
    ((found,),) = read_splits(others, scratch).train
    return found


def _errors(predicted: np.ndarray, actual: np.ndarray) -> dict[str, float]:
    difference = predicted - actual
    rmse = float(np.sqrt((difference**2).mean()))
    return {
        "rmse": rmse,
        "mae": float(np.abs(difference).mean()),
        "r2": float(1 - rmse**2 / actual.var()),
    }


def run_all(
    experiments: Iterable[Experiment], folder: Path, jobs: int, log: Callable = print
) -> list[dict]:
    """The rows of all experiments; those whose file is in ``folder`` already are not run again.

    Each runs in a process of its own, ``jobs`` at a time.
    """
    folder.mkdir(parents=True, exist_ok=True)

    def one(experiment: Experiment) -> dict:
        path = folder / f"{experiment.name}.json"
        if path.exists():
            row = json.loads(path.read_text())
            asked = json.loads(json.dumps(asdict(experiment)))
            if any(row.get(name) != value for name, value in asked.items()):
                raise ValueError(f"{path} was made with other settings: remove or rename it")
            return row
        command = [sys.executable, "-m", "benchmarks.experiment", json.dumps(asdict(experiment))]
        done = subprocess.run(command, capture_output=True, text=True)
        if done.returncode:
            raise RuntimeError(f"{experiment.name} failed:\n{done.stdout}{done.stderr}")
        row = json.loads(done.stdout.splitlines()[-1])
        partial = path.with_suffix(".part")
        partial.write_text(json.dumps(row, indent=2) + "\n")
        partial.replace(path)
        return row

    def report(rows: Iterator[dict]) -> Iterator[dict]:
        for row in rows:
            log(
                f"{row['name']}: test RMSE {row['best']['rmse']:.4f} (epoch {row['best_epoch']} "
                f"of {row['epochs']}), {row['seconds_per_epoch']:.2f} s per epoch"
            )
            yield row

    with ThreadPoolExecutor(jobs) as pool:
        return list(report(pool.map(one, list(experiments))))


def save(rows: Iterable[dict], path: Path) -> None:
    """The rows as one CSV file, errors in columns of their own; without the paths of the data and
    the options, which hold one."""
    flat = [
        {
            **{k: v for k, v in row.items() if k not in ("options", "test_path", *WHEN)},
            **{f"{metric}_{when}": row[when][metric] for when in WHEN for metric in row[when]},
        }
        for row in rows
    ]
    columns = list(dict.fromkeys(name for row in flat for name in row))
    with path.open("w", newline="") as file:
        writer = csv.DictWriter(file, columns, lineterminator="\n")
        writer.writeheader()
        writer.writerows(flat)


def load(path: Path) -> list[dict]:
    """The rows of :func:`save`, numbers as numbers."""
    rows = []
    with path.open(newline="") as file:
        for flat in csv.DictReader(file):
            row = {}
            for name, text in flat.items():
                try:
                    value = json.loads(text)
                except ValueError:
                    value = text or None
                metric, _, when = name.rpartition("_")
                if when in WHEN and metric:
                    row.setdefault(when, {})[metric] = value
                else:
                    row[name] = value
            rows.append(row)
    return rows


def watch_parent() -> None:
    """From now on this process ends, tidily if it can, when the one that started it has ended; else
    a training would go on for nobody and take time from the next."""
    parent = os.getppid()

    def watch() -> None:
        while os.getppid() == parent:
            time.sleep(1)
        os.kill(os.getpid(), signal.SIGINT)
        time.sleep(10)
        os._exit(1)

    threading.Thread(target=watch, daemon=True).start()


if __name__ == "__main__":
    watch_parent()
    settings = json.loads(sys.argv[1])
    settings["options"] = tuple(settings["options"])
    print(json.dumps(train(Experiment(**settings))))
