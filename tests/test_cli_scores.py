"""``test_scores.csv`` holds what the models reach on their test parts."""

import json
import shutil

import numpy as np
import pandas as pd
import pytest
from cli_tools import OLD_NUMPY, train, tritonpool, write_table

from tritonpool.cli.scores import write_summary


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
    names += [f"replicate_{i}/ensemble" for i in range(2)]
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
    logged = capsys.readouterr().err
    for kind, rmse in (("4 models", table.rmse[:4]), ("2 ensembles", table.rmse[4:])):
        assert f"test/rmse of {kind}: {rmse.mean():.4g} ± {rmse.std():.2g}" in logged
    other = out / "other" / "model_0"  # a training of its own in a folder beneath
    other.mkdir(parents=True)
    (other / "test_scores.csv").write_text((out / names[0] / "test_scores.csv").read_text())
    # what was finished before counts after --resume, too
    (out / "test_scores.csv").unlink()
    (out / "replicate_1" / "model_1" / "best.pt").unlink()
    shutil.rmtree(out / "replicate_1" / "ensemble")
    assert train(data, out, "--resume", "--target-columns", "y", "z", *words) == 0
    again = pd.read_csv(out / "test_scores.csv")
    pd.testing.assert_frame_equal(again, table)


def predicted(folder):
    return pd.read_csv(folder / "test_predictions.csv")


@OLD_NUMPY
@pytest.mark.parametrize("task", ["regression", "classification", "multiclass"])
def test_an_ensemble_predicts_the_mean_of_its_models(task, tmp_path, capsys):
    data = write_table(
        tmp_path / "data.csv", 60, y=lambda row, _: row % 3 if task[0] == "m" else row % 2
    )
    words = ("--ensemble-size", 2, "--task-type", task, "--target-columns", "y")
    words += ("--multiclass-num-classes", 3) if task == "multiclass" else ()
    out, new = tmp_path / "out", tmp_path / "new.csv"
    assert train(data, out, *words, "--remove-checkpoints") == 0
    assert "The mean prediction of the 2 models" in capsys.readouterr().err
    rows = json.loads((out / "splits.json").read_text())[0]["test"]
    pd.read_csv(data).iloc[rows][["smiles"]].to_csv(tmp_path / "test.csv", index=False)
    test = ("--test-path", tmp_path / "test.csv", "--smiles-columns", "smiles")
    assert tritonpool("predict", *test, "--model-paths", out, "-o", new) == 0
    shown, together = pd.read_csv(new), predicted(out / "ensemble")
    if task == "multiclass":
        np.testing.assert_array_equal(together.y, shown.y)
        np.testing.assert_allclose(*(numbers(table) for table in (together, shown)), atol=1e-5)
        mean = sum(numbers(predicted(out / f"model_{i}")) for i in range(2)) / 2
        np.testing.assert_allclose(numbers(together), mean, atol=2e-6)
    else:
        np.testing.assert_allclose(together.y, shown.y, rtol=1e-5)
        mean = sum(predicted(out / f"model_{i}").y for i in range(2)) / 2
        np.testing.assert_allclose(together.y, mean, rtol=1e-6)
    # a training that was finished before there were ensembles, from what stands in the tables
    shutil.rmtree(out / "ensemble")
    assert train(data, out, "--resume") == 0
    again = predicted(out / "ensemble")
    np.testing.assert_allclose(*(numbers(table) for table in (again, together)), rtol=2e-6)
    assert (out / "ensemble" / "test_scores.csv").exists()


def test_an_ensemble_that_was_not_scored_is_of_the_same_data(tmp_path, capsys):
    data, out = write_table(tmp_path / "data.csv", 60), tmp_path / "out"
    assert train(data, out, "--ensemble-size", 2) == 0
    shutil.rmtree(out / "ensemble")
    table = pd.read_csv(data)

    def resumed(rows: pd.DataFrame) -> str:
        rows.to_csv(data, index=False)
        assert train(data, out, "--ensemble-size", 2, "--resume") == 1
        assert not (out / "ensemble").exists()
        return capsys.readouterr().err

    assert "are not those that the training was begun with" in resumed(table.assign(y=table.y + 5))
    for i in range(2):
        shutil.rmtree(out / f"model_{i}" / "checkpoints")
    told = f"are not those in '{out / 'model_0' / 'test_predictions.csv'}'"
    assert told in resumed(table[::-1])
    lost = out / "model_1" / "test_predictions.csv"
    text = lost.read_text()
    lost.unlink()
    told = f"argument --resume: '{lost}' cannot be read; without the folder 'model_1' that model"
    assert told in resumed(table)
    lost.write_text(text)
    assert train(data, out, "--ensemble-size", 2, "--resume") == 0
    assert (out / "ensemble" / "test_scores.csv").exists()


def test_targets_that_are_called_as_probabilities_of_others(tmp_path):
    """chemprop then writes two columns of one name."""
    data = write_table(
        tmp_path / "data.csv", y=lambda row, _: row % 3, y_prob=lambda row, _: row % 2
    )
    out, words = tmp_path / "out", ("--task-type", "multiclass", "--ensemble-size", 2)
    words += ("--target-columns", "y", "y_prob")
    assert train(data, out, *words) == 0
    before = (out / "ensemble" / "test_predictions.csv").read_text()
    shutil.rmtree(out / "ensemble")
    assert train(data, out, *words, "--resume") == 0
    after = (out / "ensemble" / "test_predictions.csv").read_text()
    assert after.splitlines()[0] == before.splitlines()[0] == "smiles,y,y_prob,y_prob,y_prob_prob"
    assert [line.split(",")[:3] for line in after.splitlines()] == [
        line.split(",")[:3] for line in before.splitlines()
    ]


def test_models_with_metrics_of_their_own(tmp_path):
    for name, metrics in (("model_0", "rmse"), ("model_1", "mae,rmse"), ("model_2", "mae")):
        (tmp_path / name).mkdir()
        (tmp_path / name / "test_predictions.csv").touch()
        values = ",".join("1" for _ in metrics.split(","))
        (tmp_path / name / "test_scores.csv").write_text(f"target,{metrics}\ny,{values}\n")
    write_summary(tmp_path)
    table = pd.read_csv(tmp_path / "test_scores.csv").set_index("model")
    assert table.rmse.notna().tolist() == [True, True, False]
    assert table.mae.notna().tolist() == [False, True, True]


def numbers(table):
    """Probabilities of all classes, or what else is predicted."""
    if "y_prob" not in table:
        return table.y.to_numpy()
    return np.array([[float(word) for word in cell.split(",")] for cell in table.y_prob])


def test_models_of_an_earlier_version_are_named(tmp_path, capsys):
    data, out = write_table(tmp_path / "data.csv"), tmp_path / "out"
    assert train(data, out, "--ensemble-size", 2) == 0
    (out / "model_0" / "test_scores.csv").unlink()
    (out / "model_1" / "best.pt").unlink()
    assert train(data, out, "--ensemble-size", 2, "--resume") == 0
    assert f"'{out / 'model_0'}' has no test_scores.csv" in capsys.readouterr().err
    assert pd.read_csv(out / "test_scores.csv").model.tolist() == ["model_1", "ensemble"]


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
