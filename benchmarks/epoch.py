"""Epochs of ``tritonpool train`` over those of ``chemprop train``: ``python -m benchmarks.epoch``.

Both commands run in turn in one process, on the same molecules. So all counts that an epoch does:
loading, copying, the step, logging, validation and checkpoints. With ``--host`` layers are narrow
and kernels are compiled and not run (:mod:`benchmarks.host`), which leaves what a GPU waits for.
Options after ``--`` go to ``tritonpool train`` only.
"""

from __future__ import annotations

import argparse
import statistics
import sys
import time
from collections.abc import Callable
from contextlib import ExitStack, redirect_stdout
from functools import partial, partialmethod
from pathlib import Path
from tempfile import TemporaryDirectory
from unittest.mock import patch

import pandas as pd
import torch
from chemprop.cli.main import main as chemprop_train
from chemprop.models import MPNN
from lightning.pytorch.callbacks import EarlyStopping

from benchmarks.host import on_the_host_only
from benchmarks.inputs import smiles
from tritonpool.cli.main import main as tritonpool_train

__all__ = ["main", "seconds"]


def seconds(train: Callable[[], object]) -> list[float]:
    """What each epoch of a training took, but for the first, which warms up."""
    times: list[float] = []
    with ExitStack() as stack:
        for hook in ("on_train_epoch_start", "on_train_end"):
            stack.enter_context(
                patch.object(MPNN, hook, lambda model: times.append(time.perf_counter()))
            )
        train()
    return [b - a for a, b in zip(times[1:-1], times[2:], strict=True)]


def stock(words: list[str]) -> None:
    """``chemprop`` with these words, which takes them from the process only."""
    with patch.object(sys, "argv", ["chemprop", *words]):
        chemprop_train()


def ours(words: list[str]) -> None:
    """``tritonpool`` with these words."""
    if tritonpool_train(words):
        sys.exit("tritonpool train failed")


def narrow(stack: ExitStack) -> list[str]:
    """Let nothing count but what the host does, within ``stack``; returns options for this."""
    torch.set_num_threads(1)
    torch.set_flush_denormal(True)
    stack.enter_context(on_the_host_only())
    for cls, given in (
        # results are whatever was in memory, at which early stopping would stop
        (EarlyStopping, {"check_finite": False}),
        # what Adam does by itself on a card
        (torch.optim.Adam, {"foreach": True}),
    ):
        init = partialmethod(cls.__init__, **given)
        stack.enter_context(patch.object(cls, "__init__", init))
    return ["--message-hidden-dim", "16", "--ffn-hidden-dim", "16", "--accelerator", "cpu"]


def main(argv: list[str] | None = None) -> None:
    words = sys.argv[1:] if argv is None else argv
    split = words.index("--") if "--" in words else len(words)
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("-n", type=int, default=2000, help="molecules, of which 80 %% train")
    parser.add_argument("--epochs", type=int, default=6)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--accelerator", default="auto")
    parser.add_argument("--host", action="store_true", help="run no kernels; see above")
    args = parser.parse_args(words[:split])
    source, texts = smiles(args.n)
    with ExitStack() as stack:
        folder = Path(stack.enter_context(TemporaryDirectory()))
        table = pd.DataFrame({"smiles": texts, "y": torch.randn(args.n).tolist()})
        table.to_csv(folder / "data.csv", index=False)
        common = ["train", "-i", str(folder / "data.csv"), "-s", "smiles", "--target-columns", "y"]
        common += ["--aggregation", "mean", "--epochs", str(args.epochs), "--data-seed", "0"]
        common += narrow(stack) if args.host else ["--accelerator", args.accelerator]
        medians: dict[str, list[float]] = {"chemprop": [], "tritonpool": []}
        for i in range(args.rounds):
            for name, train, more in (
                ("chemprop", stock, []),
                ("tritonpool", ours, words[split + 1 :]),
            ):
                given = [*common, *more, "-o", str(folder / f"{name}-{i}")]
                with redirect_stdout(sys.stderr):  # tables and bars
                    medians[name].append(statistics.median(seconds(partial(train, given))))
    ratios = [a / b for a, b in zip(medians["tritonpool"], medians["chemprop"], strict=True)]
    of_all = {name: statistics.median(found) for name, found in medians.items()}
    print(
        f"{args.n} {source}: {of_all['tritonpool']:.3f} s per epoch, chemprop "
        f"{of_all['chemprop']:.3f} s: {statistics.median(ratios):.2f}x "
        f"({min(ratios):.2f} to {max(ratios):.2f})"
    )


if __name__ == "__main__":
    main()
