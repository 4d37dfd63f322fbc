"""``tritonpool bench``: what batch size and ratio cost on one's own data and machine."""

from __future__ import annotations

import argparse
import copy
import json
import statistics
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np
import torch
from torch.utils.data import DataLoader
from tqdm import tqdm

from tritonpool.bench import report, timing
from tritonpool.bench.advice import BATCH_GAIN, Row, affordable, recommend
from tritonpool.cli.checks import check_new_models, check_writable, on_gpu, output_folder
from tritonpool.cli.data import draw, read_splits
from tritonpool.cli.errors import InputError, UsageError
from tritonpool.cli.fit import trainer_options
from tritonpool.cli.info import collect
from tritonpool.cli.loaders import Prepared, make_train_loader, prepare
from tritonpool.cli.models import make_model
from tritonpool.cli.options import DEFAULTS, from_file, given_options, set_on_purpose
from tritonpool.cli.quiet import only_progress
from tritonpool.cli.ranges import fraction, non_negative, whole_number
from tritonpool.cli.train import TrainSubcommand

__all__ = ["BenchSubcommand"]

BATCH_SIZES = (16, 32, 64, 128, 256)
RATIOS = (0.1, 0.25, 0.5)
BLOCKS = 3


class BenchSubcommand(TrainSubcommand):
    """The options of ``train``, and the grid."""

    @classmethod
    def add_args(cls, parser: argparse.ArgumentParser) -> argparse.ArgumentParser:
        """Add the options of ``train`` and those of the grid."""
        parser = super().add_args(parser)
        group = parser.add_argument_group(
            "bench args",
            "All options of `tritonpool train` say which model is measured; --batch-size and "
            "--diffpool-ratio give way to the grid. The results are written to --output-dir "
            "(default: bench).",
        )
        group.add_argument(
            "--batch-sizes",
            type=whole_number(1),
            nargs="+",
            default=list(BATCH_SIZES),
            help="batch sizes to measure (default: %(default)s)",
        )
        group.add_argument(
            "--ratios",
            type=fraction,
            nargs="+",
            default=list(RATIOS),
            help="ratios to measure (default: %(default)s); chemprop's D-MPNN is measured too",
        )
        group.add_argument(
            "--steps",
            type=whole_number(1),
            default=5,
            help=f"training steps in each of {BLOCKS} blocks for every setting; the settings take "
            "turns (default: %(default)s)",
        )
        group.add_argument(
            "--sample",
            type=whole_number(1),
            default=5000,
            help="measure on at most this many training molecules; the time of an epoch is that "
            "of all (default: %(default)s)",
        )
        group.add_argument(
            "--max-slowdown",
            type=non_negative,
            default=1.5,
            help=f"recommend ratio {DEFAULTS.ratio:g} if an epoch takes at most this many times "
            "that of D-MPNN, else the largest ratio that does (default: %(default)s)",
        )
        return parser

    @classmethod
    def parse(cls, words: Sequence[str]) -> argparse.Namespace:
        """Read the options.

        Raises
        ------
        UsageError
            If an option of ``train`` is given that has no meaning here.
        """
        args = cls.parser.parse_args(words)
        check_new_models(args)
        filed = from_file(cls.parser)
        args.given_diffpool = given_options(cls.parser, words)
        if "diffpool_ratio" in set(args.given_diffpool) - filed:
            raise UsageError("argument --diffpool-ratio: give --ratios instead")
        if "batch_size" in set_on_purpose(cls.parser, words, ("batch_size",)) - filed:
            raise UsageError("argument --batch-size: give --batch-sizes instead")
        if args.diffpool_levels == 0:
            raise UsageError(
                "argument --diffpool-levels: must be at least 1; D-MPNN is always measured too"
            )
        if args.diffpool_assignment == "rings" and args.diffpool_levels == 1:
            raise UsageError(
                "argument --diffpool-assignment: rings has no ratio to choose unless there are "
                "more levels"
            )
        if args.output_dir is None or "output_dir" in filed:  # the file's is that of its training
            args.output_dir = Path("bench")
        return args

    @classmethod
    def func(cls, args: argparse.Namespace) -> list[Row]:
        """Measure the grid; print and write tables, JSON and a picture.

        Returns
        -------
        list of Row
            One entry for each setting.

        Raises
        ------
        UsageError
            If an option contradicts another or the machine.
        InputError
            If a file cannot be used, or the data does not fill the smallest batch.
        """
        cls.check(args)
        if args.diffpool_ratio is None:
            raise UsageError(
                "argument --from-foundation: the model has DiffPool levels already, so no ratio "
                "can be chosen"
            )
        check_writable(args.output_dir)  # better now than after minutes of measuring
        with TemporaryDirectory(prefix="tritonpool-") as scratch, only_progress():
            train, val, test = next(iter(read_splits(args, Path(scratch))))
            kept = draw(len(train[0]), args.sample, args.data_seed)
            data = prepare(args, [[part[i] for i in kept] for part in train], val, test)
            grid = _Grid(args, data, len(train[0]))
            atoms, bonds = timing.graph_sizes(data.train_loader)
            rows = grid.measure()
        best = recommend(rows, args.max_slowdown, DEFAULTS.ratio)
        bins = report.histogram(atoms)
        table = report.markdown(rows, bins, best)
        record = {
            "machine": collect(),
            "data": {
                "path": [str(path) for path in args.data_path],
                "training_molecules": grid.total,
                "measured_molecules": len(kept),
                "atoms": _quantiles(atoms),
                "directed_bonds": _quantiles(bonds),
                "histogram": [{"first": a, "last": b, "count": n} for a, b, n in bins],
            },
            "settings": [asdict(row) for row in rows],
            "recommended": None if best is None else asdict(best),
        }
        device = torch.cuda.get_device_name() if on_gpu(args) else "CPU"
        with output_folder(args.output_dir):
            (args.output_dir / "results.md").write_text(table)
            (args.output_dir / "results.json").write_text(json.dumps(record, indent=2) + "\n")
            report.draw(rows, atoms, best, args.output_dir / "results.png", device)
        print(f"\n{grid.total} training molecules on {device}.\n\n{table}")
        print(_advice(best, rows, args))
        print(f"Tables, JSON and picture are in {args.output_dir}.")
        return rows


def _quantiles(sizes: np.ndarray) -> dict[str, float]:
    """The smallest, the largest, and what lies between."""
    names = ("min", "p05", "median", "p95", "max")
    found = np.quantile(sizes, (0, 0.05, 0.5, 0.95, 1)).tolist()
    return {**dict(zip(names, found, strict=True)), "mean": float(sizes.mean())}


def _advice(best: Row | None, rows: Sequence[Row], args: argparse.Namespace) -> str:
    """The recommended options, and what they rest on."""
    if best is None:
        return "No setting with pooling fits into the memory."
    plain = [row.epoch_seconds for row in rows if row.ratio is None and row.epoch_seconds]
    times = f", {best.epoch_seconds / min(plain):.2f} times the shortest of D-MPNN" if plain else ""
    limit = f"--max-slowdown {args.max_slowdown:g}"
    if (within := affordable(rows, args.max_slowdown)) and DEFAULTS.ratio in within:
        ratio = f"the usual ratio, which is within {limit}"
    elif within:
        ratio = f"the largest ratio within {limit}"
    else:
        ratio = f"the ratio with the shortest epoch, since none is within {limit}"
    return (
        f"Begin with --batch-size {best.batch_size} --diffpool-ratio {best.ratio:g}: an epoch "
        f"takes {best.epoch_seconds:.2f} s{times}. Time alone decides here: {ratio}, then the "
        f"smallest batch within {100 * BATCH_GAIN:.0f} % of the shortest epoch; test errors are "
        f"compared by `tritonpool compare`."
    )


class _Grid:
    """The models, one for each ratio and a plain one, and the loaders, one for each batch size."""

    def __init__(self, args: argparse.Namespace, data: Prepared, total: int):
        self.args, self.data, self.total = args, data, total
        batch_sizes = [size for size in sorted(set(args.batch_sizes)) if size <= len(data.train)]
        if not batch_sizes:
            raise InputError(
                f"argument --batch-sizes: the smallest is {min(args.batch_sizes)}, but only "
                f"{len(data.train)} training molecules are measured"
            )
        ratios = [None, *sorted(set(args.ratios))]
        self.rows = [Row(size, ratio) for size in batch_sizes for ratio in ratios]
        self.models = {ratio: make_model(self._options(ratio), data, 0) for ratio in ratios}
        # few molecules give few steps in an epoch, so there may be more epochs than --epochs
        self.options = {**trainer_options(args), "max_epochs": -1, "devices": 1}

    def _options(self, ratio: float | None) -> argparse.Namespace:
        """The options of ``train`` for one ratio; building a model changes them, so a copy."""
        args = copy.deepcopy(self.args)
        args.diffpool_ratio = ratio
        if ratio is None:
            args.diffpool_levels = 0
        return args

    def _loader(self, row: Row) -> DataLoader:
        """Training batches as ``train`` makes them."""
        args = self._options(row.ratio)
        args.batch_size = row.batch_size
        return make_train_loader(args, self.data.train)

    def measure(self) -> list[Row]:
        """Fill the rows: memory first, which warms up, then blocks of steps in turn."""
        times: dict[int, list[float]] = {i: [] for i in range(len(self.rows))}
        with tqdm(total=len(self.rows) * (1 + BLOCKS), unit="block", leave=False) as bar:
            for row in self.rows:
                self._measure_memory(row)
                bar.update()
            fitting = [i for i, row in enumerate(self.rows) if row.memory_bytes is not None]
            for _ in range(BLOCKS):
                for i in fitting:
                    row = self.rows[i]
                    times[i].append(
                        timing.step_seconds(
                            self.models[row.ratio], self._loader(row), self.args.steps, self.options
                        )
                    )
                    bar.update()
        for i in fitting:
            row = self.rows[i]
            row.step_seconds = statistics.median(times[i])
            row.spread_seconds = max(times[i]) - min(times[i])
            row.epoch_seconds = row.step_seconds * -(-self.total // row.batch_size)
        return self.rows

    def _measure_memory(self, row: Row) -> None:
        """Fill in the memory of a setting, or leave it out if it is more than the device has."""
        device = "cuda" if on_gpu(self.args) else "cpu"
        try:
            row.memory_bytes = timing.step_memory(
                self.models[row.ratio], self._loader(row), self.options, device
            )
        except torch.OutOfMemoryError:
            torch.cuda.empty_cache()
