"""``tritonpool demo`` writes what it says, and its numbers are those of the files."""

import json

import numpy as np
import pandas as pd
import pytest
from cli_tools import tritonpool

from tritonpool.cli import demo

PNG = b"\x89PNG\r\n\x1a\n"


def test_demo_writes_table_and_pictures(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(demo, "SETTINGS", demo.SETTINGS.replace("128", "16"))
    out = tmp_path / "out"
    words = ("demo", "-n", 60, "--epochs", 3, "-o", out)
    assert tritonpool(*words) == 0
    assert "Epoch 2/2" in capsys.readouterr().out  # so that one sees it advance
    first = pd.read_csv(out / "results.csv")
    # a second run replaces the first, and repeats it
    assert tritonpool(*words, "-qq") == 0
    printed = capsys.readouterr().out
    assert "Epoch" not in printed
    table = pd.read_csv(out / "results.csv")
    assert list(table["model"]) == ["mean of the training part", demo.PLAIN, demo.POOLED]
    for column in ("test RMSE / eV", "test R2"):
        np.testing.assert_array_equal(table[column], first[column])

    gaps = pd.read_csv(out / "oligomers.csv")["gap"].to_numpy()
    split = json.loads((out / "plain" / "splits.json").read_text())[0]
    assert json.loads((out / "diffpool" / "splits.json").read_text())[0] == split
    truth = gaps[split["test"]]
    saved = pd.read_csv(out / "diffpool/model_0/test_predictions.csv")["gap"].to_numpy()
    rmse = np.sqrt(np.mean((saved - truth) ** 2))
    assert table["test RMSE / eV"][2] == pytest.approx(rmse)
    guess = gaps[split["train"]].mean()
    assert table["test RMSE / eV"][0] == pytest.approx(np.sqrt(np.mean((guess - truth) ** 2)))
    assert table["seconds per epoch"][1:].between(0, 60).all()

    for name in ("parity.png", "learning_curves.png"):
        assert (out / name).read_bytes().startswith(PNG)
    assert (out / "results.md").read_text() in printed
    assert "This is one split and one seed" in printed
    assert printed.strip().endswith(f"Table, parity plot and learning curves are in {out}.")
    # the plain model is chemprop's, the other ours
    assert "diffpool-levels = 0" in (out / "plain" / "config.toml").read_text()
    assert "diffpool-levels = 1" in (out / "diffpool" / "config.toml").read_text()


def test_demo_refuses_what_it_cannot_do(tmp_path, capsys):
    assert tritonpool("demo", "--epochs", 2, "-o", tmp_path / "out") == 2
    message = (
        "tritonpool demo: error: argument --epochs: must be a whole number at least 3, got '2'"
    )
    assert capsys.readouterr().err.strip() == message
    (tmp_path / "file").touch()
    assert tritonpool("demo", "-o", tmp_path / "file" / "out") == 1
    assert capsys.readouterr().err.count("\n") == 1
