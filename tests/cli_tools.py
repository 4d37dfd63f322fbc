"""What the tests of the command line share: small data, few epochs, and a way to run it."""

import csv
import logging
import random
from collections.abc import Callable, Sequence
from pathlib import Path

import chemprop.cli.main
import numpy as np
import pandas as pd
import pytest

from tritonpool.cli.main import main

UNITS = ("C=C", "c1ccc(cc1)", "C#C", "C(F)C", "c1ccsc1", "CC(=O)O", "CO", "C(C)N")
SMALL = ("--message-hidden-dim", "16", "--ffn-hidden-dim", "16", "--batch-size", "16")
SHORT = ("--epochs", "2", "--warmup-epochs", "1", "--pytorch-seed", "0", "--accelerator", "cpu")

# of chemprop, with a NumPy that is newer than it knows
OLD_NUMPY = pytest.mark.filterwarnings("ignore:__array_wrap__:DeprecationWarning")


def smiles(number: int, seed: int = 0) -> list[str]:
    """Random chains of a few units between two open ends."""
    draw = random.Random(seed)
    return [
        "[*]" + "".join(draw.choice(UNITS) for _ in range(draw.randint(2, 5))) + "[*]"
        for _ in range(number)
    ]


def write_table(path: Path, number: int = 40, **columns: Callable[[int, str], object]) -> Path:
    """Write a CSV file with a column ``smiles`` and others computed from row and SMILES.

    Without others there is one, ``y``: the length of the SMILES plus a tenth of its carbons.
    """
    columns = columns or {"y": lambda row, text: len(text) + text.count("C") / 10}
    with path.open("w", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(["smiles", *columns])
        for row, text in enumerate(smiles(number)):
            writer.writerow([text, *(make(row, text) for make in columns.values())])
    return path


def write_pairs(path: Path) -> Path:
    """Twenty rows with two columns of molecules, ``smiles`` and ``other``, and the target ``y``."""
    return write_table(path, 20, other=lambda row, text: "C" * (row + 2), y=lambda row, text: row)


def train(data: Path, output: Path, *words: object, small: Sequence[str] = SMALL + SHORT) -> int:
    """Run ``tritonpool train`` on a table and return its exit code."""
    return tritonpool("train", "-i", data, "-o", output, *small, *words)


def tritonpool(*words: object) -> int:
    """Run ``tritonpool`` in this process and return its exit code."""
    root = logging.getLogger()
    handlers, level = root.handlers[:], root.level
    root.handlers.clear()  # the command closes and replaces those it finds
    try:
        return main([str(word) for word in words])
    except SystemExit as leave:
        return int(leave.code or 0)
    finally:
        for handler in root.handlers:
            handler.close()
        root.handlers[:], root.level = handlers, level


def chemprop_command(monkeypatch: pytest.MonkeyPatch, *words: object) -> None:
    """Run stock ``chemprop`` in this process."""
    monkeypatch.setattr("sys.argv", ["chemprop", *(str(word) for word in words)])
    chemprop.cli.main.main()


def predictions(folder: Path, model: int = 0) -> np.ndarray:
    """The test predictions that a training wrote, without the SMILES."""
    table = pd.read_csv(folder / f"model_{model}" / "test_predictions.csv")
    return table.drop(columns="smiles").to_numpy()


def last_metrics(folder: Path, model: int = 0) -> dict[str, float]:
    """The metrics of the last epoch that a training logged."""
    logs = folder / f"model_{model}" / "trainer_logs"
    table = pd.read_csv(sorted(logs.glob("version_*/metrics.csv"))[-1])
    rows = table[table["val_loss"].notna()]
    return rows.iloc[-1][["epoch", "step", "val_loss"]].to_dict()
