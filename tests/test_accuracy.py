"""The statistics of the accuracy study, and the baselines it needs."""

import math
import re
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch
from chemprop.models import MPNN
from chemprop.nn import BondMessagePassing, MeanAggregation, RegressionFFN
from molecules import POLYMERS, batch_of
from scipy import stats

from benchmarks import accuracy
from benchmarks.accuracy import main, overlap, plot, ratio_table, table
from benchmarks.controls import CONTROLS
from benchmarks.models import MODELS
from tritonpool.chemprop import DiffPoolBondMessagePassing, DiffPoolMPNN, GraphReadout


def test_the_table_pairs_splits(tmp_path):
    def row(rmse: float) -> dict:
        found = {"rmse": rmse, "r2": 1 - rmse}
        more = {"seconds_per_epoch": 2.0, "parameters": 12345}
        return {"best": found, "last": found, "train_molecules": 80, "test_molecules": 10, **more}

    errors = {"D-MPNN": (0.5, 0.6), "DiffPool": (0.4, 0.5)}
    rows = {(m, s): row(errors[m][i]) for m in errors for i, s in enumerate((42, 43))}
    lines = table(rows, list(errors), [42, 43]).splitlines()
    assert "minus D-MPNN" in lines[0]
    assert lines[3].startswith(
        "| DiffPool | 0.450 ± 0.071 | 0.550 | -0.100 ± 0.000 | 0.450 ± 0.071 | -0.100 ± 0.000 "
        "| 12,345 | 2.0 |"
    )
    plot(rows, list(errors), [42, 43], tmp_path / "differences.png")
    assert (tmp_path / "differences.png").read_bytes().startswith(b"\x89PNG")


def test_ratios_are_geometric_means():
    errors = {
        "D-MPNN": (0.2, 0.8, 0.4),
        "DiffPool": (0.1, 0.2, 0.4),
        "control: shuffled": (1, 1, 1),
    }
    rows = {
        (model, seed): {"last": {"rmse": e}, "train_molecules": 80, "test_molecules": 10}
        for model, found in errors.items()
        for seed, e in enumerate(found)
    }
    lines = ratio_table(rows, list(errors), [0, 1, 2], ["D-MPNN", "control: shuffled"]).splitlines()
    assert lines[0] == "| last epoch | over D-MPNN | over control: shuffled |"
    # 1/2, 1/4 and 1: their logarithms are -1, -2 and 0 times that of 2, with a deviation of 1
    half = stats.t.ppf(0.975, 2) * math.sqrt(1 / 3 + 1 / 8)
    assert lines[3].startswith(
        f"| DiffPool | 0.50 ({2 ** (-1 - half):.2f} to {2 ** (half - 1):.2f}) |"
    )
    assert lines[2].startswith("| D-MPNN |  | 0.40 (")


@pytest.mark.parametrize(
    ("data", "share"),
    [
        ((None, None), 0.25),
        ((None, "a"), 0.25),
        (("a", "a"), 0.25),
        (("a", "b"), 0.0),
        (("a", "b", "a"), 0.25),
    ],
)
def test_data_of_their_own_need_no_correction(data, share):
    rows = {
        (model, i): {"last": {"rmse": e}, "data": d, "train_molecules": 80, "test_molecules": 20}
        for i, d in enumerate(data)
        for model, e in (("D-MPNN", 1.0), ("DiffPool", 2.0**i))
    }
    seeds = range(len(data))
    assert overlap(rows, "D-MPNN", seeds) == share
    half = stats.t.ppf(0.975, len(data) - 1) * math.sqrt(1 / len(data) + share)
    half *= np.std(seeds, ddof=1)
    line = ratio_table(rows, ["D-MPNN", "DiffPool"], seeds, ["D-MPNN"]).splitlines()[2]
    assert f"({2 ** (np.mean(seeds) - half):.2f} to {2 ** (np.mean(seeds) + half):.2f})" in line


def test_each_seed_may_have_a_file_of_its_own(monkeypatch):
    asked = []

    def run_all(experiments, folder, jobs):
        asked.extend(experiments)
        raise KeyboardInterrupt

    monkeypatch.setattr(accuracy, "run_all", run_all)
    words = ["--data-path", "long-{seed}.csv", "--models", "D-MPNN", "--seeds", "3", "5"]
    words += ["--test-path", "test-{seed}.csv"]
    monkeypatch.setattr("sys.argv", ["accuracy", *words])
    with pytest.raises(KeyboardInterrupt):
        main()
    files = [one.options[one.options.index("--data-path") + 1] for one in asked]
    assert files == ["long-3.csv", "long-5.csv"]
    assert [one.test_path for one in asked] == ["test-3.csv", "test-5.csv"]


def rows_of(csv: Path, model: str, column: str) -> list[float]:
    rows = pd.read_csv(csv).set_index("name")[column]
    return [rows[f"{model}, seed {seed}"] for seed in range(42, 47)]


def test_tables_from_rows_that_are_there(tmp_path, monkeypatch, capsys):
    csv = Path(__file__).parent.parent / "benchmarks" / "results" / "accuracy-insulator.csv"
    words = ["--rows", str(csv), "--models", "D-MPNN", "control: one cluster", "--plot"]
    monkeypatch.setattr("sys.argv", ["accuracy", *words, str(tmp_path / "p.png")])
    main()
    mean = np.mean(rows_of(csv, "control: one cluster", "rmse_best"))
    assert f"| control: one cluster | {mean:.3f} ± " in capsys.readouterr().out
    assert (tmp_path / "p.png").exists()
    more = ["--metric", "mae", "--ratios-to", "D-MPNN"]
    monkeypatch.setattr("sys.argv", ["accuracy", *words, str(tmp_path / "p.png"), *more])
    main()
    printed = capsys.readouterr().out
    both = [[rows_of(csv, m, f"mae_{when}") for m in words[3:5]] for when in ("best", "last")]
    assert f"| control: one cluster | {np.mean(both[0][1]):.3f} ± " in printed
    assert "| model | MAE | R2 | minus D-MPNN | MAE, last epoch |" in printed
    for when, (plain, pooled) in zip(("best", "last"), both, strict=True):
        middle = stats.gmean(np.divide(pooled, plain))
        (line,) = re.findall(rf"\| {when} epoch \|.*\n.*\n(.*)\n", printed)
        assert line.startswith(f"| control: one cluster | {middle:.2f} (")
    monkeypatch.setattr("sys.argv", ["accuracy", *words[:4], "--seeds", "1"])
    with pytest.raises(SystemExit):
        main()
    assert "has no row of 'D-MPNN' with seed 1" in capsys.readouterr().err


def plain_model() -> MPNN:
    return MPNN(BondMessagePassing(d_h=8), MeanAggregation(), RegressionFFN(input_dim=8))


def test_mean_and_sum_are_both_read_out():
    torch.manual_seed(0)
    model = plain_model()
    changed = CONTROLS["mean and sum"](model)
    batch = batch_of(POLYMERS[:4])
    rows = changed.fingerprint(batch.bmg)
    mean = model.fingerprint(batch.bmg)
    atoms = torch.bincount(batch.bmg.batch)[:, None]
    torch.testing.assert_close(rows, torch.cat([mean, mean * atoms / 100], 1))
    assert changed(batch.bmg).shape == (4, 1)


def test_attentive_readout_is_chemprops():
    changed = CONTROLS["attentive"](plain_model())
    assert type(changed.agg).__name__ == "AttentiveAggregation"
    assert changed(batch_of(POLYMERS[:4]).bmg).shape == (4, 1)


def test_without_bond_features_the_coarse_graph_has_none():
    mp = DiffPoolBondMessagePassing(d_h=8, ratio=0.5, readout="last")
    model = DiffPoolMPNN(mp, GraphReadout(), RegressionFFN(input_dim=mp.output_dim))
    batch = batch_of(POLYMERS[:4])
    changed = CONTROLS["no bond features"](model)
    seen = {}
    mp.encoders[0].register_forward_pre_hook(lambda _, args: seen.update(attr=args[0].edge_attr))
    changed(batch.bmg)
    assert not seen["attr"][:, :-1].any() and seen["attr"][:, -1].any()


def test_every_change_that_a_model_names_exists():
    names = {change for _, change in MODELS.values()} - {None}
    assert names == set(CONTROLS)
