"""``test_scores.csv`` holds what the models reach on their test parts."""

import json

import numpy as np
import pandas as pd
import pytest
from cli_tools import train, write_table


def test_scores_of_all_models_and_targets(tmp_path, capsys):
    data = write_table(
        tmp_path / "data.csv",
        60,
        y=lambda row, text: len(text),
        z=lambda row, text: text.count("C") if row % 7 else "",
    )
    out = tmp_path / "out"
    words = ("--num-replicates", 2, "--ensemble-size", 2, "--metrics", "rmse", "mae")
    assert train(data, out, "--target-columns", "y", "z", *words) == 0
    table = pd.read_csv(out / "test_scores.csv")
    names = [f"replicate_{i}/model_{j}" for i in range(2) for j in range(2)]
    assert table.model.tolist() == names and list(table) == ["model", "rmse", "mae"]
    truth = pd.read_csv(data)
    splits = json.loads((out / "splits.json").read_text())
    for name, (_, row) in zip(names, table.iterrows(), strict=True):
        test = splits[int(name[len("replicate_")])]["test"]
        predicted = pd.read_csv(out / name / "test_predictions.csv")
        own = pd.read_csv(out / name / "test_scores.csv").set_index("target")
        for target in ("y", "z"):
            error = predicted[target].to_numpy() - truth[target].to_numpy()[test]
            assert own.rmse[target] == pytest.approx(np.nanmean(error**2) ** 0.5, rel=1e-4)
            assert own.mae[target] == pytest.approx(np.nanmean(abs(error)), rel=1e-4)
        assert row.rmse == pytest.approx(own.rmse.mean())
    text = f"test/rmse of 4 models: {table.rmse.mean():.4g} ± {table.rmse.std():.2g}"
    assert text in capsys.readouterr().err
    other = out / "other" / "model_0"  # a training of its own in a folder beneath
    other.mkdir(parents=True)
    (other / "test_scores.csv").write_text((out / names[0] / "test_scores.csv").read_text())
    # what was finished before counts after --resume, too
    (out / "test_scores.csv").unlink()
    (out / "replicate_1" / "model_1" / "best.pt").unlink()
    assert train(data, out, "--resume", "--target-columns", "y", "z", *words) == 0
    again = pd.read_csv(out / "test_scores.csv")
    pd.testing.assert_frame_equal(again, table)


def test_models_of_an_earlier_version_are_named(tmp_path, capsys):
    data, out = write_table(tmp_path / "data.csv"), tmp_path / "out"
    assert train(data, out, "--ensemble-size", 2) == 0
    (out / "model_0" / "test_scores.csv").unlink()
    (out / "model_1" / "best.pt").unlink()
    assert train(data, out, "--ensemble-size", 2, "--resume") == 0
    assert f"'{out / 'model_0'}' has no test_scores.csv" in capsys.readouterr().err
    assert pd.read_csv(out / "test_scores.csv").model.tolist() == ["model_1"]


def test_without_a_test_part_there_are_none(tmp_path):
    data, out = write_table(tmp_path / "data.csv"), tmp_path / "out"
    assert train(data, out, "--split-sizes", 0.8, 0.2, 0) == 0
    assert not list(out.rglob("test_scores.csv"))


def test_replicates_that_a_file_overrules_are_named(tmp_path, capsys):
    data, file, out = write_table(tmp_path / "data.csv"), tmp_path / "s.json", tmp_path / "out"
    part = {"val": "30-34", "test": "35-39"}
    file.write_text(json.dumps([{"train": "0-29", **part}, {"train": "0-14", **part}]))
    assert train(data, out, "--splits-file", file, "--num-replicates", 5) == 0
    shown = capsys.readouterr().err
    assert "--num-replicates 5 is not used: there are 2 splits (--splits-file)" in shown
    assert "num-replicates = 2" in (out / "config.toml").read_text()
    (out / "replicate_1" / "model_0" / "best.pt").unlink()
    words = ("--splits-file", file, "--num-replicates", 5, "--resume")
    assert train(data, out, *words) == 0  # the same words
    assert (out / "replicate_1" / "model_0" / "best.pt").exists()
    data = write_table(
        tmp_path / "own.csv",
        y=lambda row, _: row,
        part=lambda row, _: "train" if row < 30 else "val" if row < 35 else "test",
    )
    words = ("--splits-column", "part", "--target-columns", "y")
    assert train(data, tmp_path / "own", *words, "--num-replicates", 3) == 0
    shown = capsys.readouterr().err
    assert "--num-replicates 3 is not used: there is 1 split (--splits-column)" in shown
    assert (tmp_path / "own" / "model_0" / "best.pt").exists()


def test_what_chemprop_says_to_programmers_is_not_shown(tmp_path, capsys):
    assert train(write_table(tmp_path / "data.csv"), tmp_path / "out") == 0
    shown = capsys.readouterr().err
    assert "train/val/test split_0 sizes" in shown and "make_split_indices" not in shown
