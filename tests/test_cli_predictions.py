"""What ``predict`` writes, where chemprop forgets or mixes up what it was asked for."""

import shutil
from pathlib import Path

import pandas as pd
import pytest
from cli_tools import OLD_NUMPY, train, tritonpool, write_table

from tritonpool.cli.saved import model_files


@pytest.fixture(scope="module")
def table(tmp_path_factory) -> Path:
    """A name, molecules, two targets and the text ``007``."""
    return write_table(
        tmp_path_factory.mktemp("data") / "data.csv",
        24,
        y=lambda row, text: row % 2,
        z=lambda row, text: (row + 1) % 2,
        name=lambda row, text: "007",
    )


@pytest.fixture(scope="module")
def ensemble(tmp_path_factory, table) -> Path:
    out = tmp_path_factory.mktemp("model") / "out"
    words = ("--task-type", "classification", "--ensemble-size", 2)
    assert train(table, out, "--target-columns", "y", "z", *words) == 0
    return out


@OLD_NUMPY
@pytest.mark.parametrize("suffix", [".csv", ".pkl"])
def test_extra_columns_are_dropped(tmp_path, table, ensemble, suffix):
    words = ("predict", "-i", table, "-s", "smiles", "--model-paths", ensemble)
    out, whole = tmp_path / f"p{suffix}", tmp_path / "whole.csv"
    assert tritonpool(*words, "-o", whole) == 0
    assert tritonpool(*words, "-o", out, "--drop-extra-columns") == 0
    read = pd.read_csv if suffix == ".csv" else pd.read_pickle
    found, kept = read(out), pd.read_csv(whole)
    assert list(kept) == ["smiles", "y", "z", "name"] and list(found) == ["smiles", "y", "z"]
    pd.testing.assert_frame_equal(found, kept[["smiles", "y", "z"]], check_dtype=False)
    own = [f"{name}_model_{i}" for i in range(2) for name in ("y", "z")]
    assert list(read(tmp_path / f"p_individual{suffix}")) == ["smiles", *own]


@OLD_NUMPY
def test_what_was_predicted_before_makes_room(tmp_path, table, ensemble):
    words = ("predict", "-s", "smiles", "--model-paths", ensemble)
    assert tritonpool(*words, "-i", table, "-o", tmp_path / "p.csv") == 0
    before = pd.read_csv(tmp_path / "p_individual.csv")
    before = before.assign(y_unc=1.0, y_model_0=-1.0)
    before.to_csv(tmp_path / "again.csv", index=False)
    words += ("-i", tmp_path / "again.csv", "-o", tmp_path / "q.csv", "--drop-extra-columns")
    assert tritonpool(*words) == 0
    assert list(pd.read_csv(tmp_path / "q.csv")) == ["smiles", "y", "z"]
    found = pd.read_csv(tmp_path / "q_individual.csv")
    assert set(found) == {"smiles", *(f"{t}_model_{i}" for t in "yz" for i in range(2))}
    assert (found.y_model_0 >= 0).all()


@OLD_NUMPY
def test_extra_columns_of_a_table_without_header_are_dropped(tmp_path, table, ensemble):
    bare = tmp_path / "bare.csv"
    bare.write_text("".join(table.read_text().splitlines(keepends=True)[1:]))
    words = ("predict", "-i", bare, "--no-header-row", "--model-paths", ensemble)
    assert tritonpool(*words, "-o", tmp_path / "p.csv", "--drop-extra-columns") == 0
    assert list(pd.read_csv(tmp_path / "p.csv")) == ["0", "y", "z"]


@OLD_NUMPY
def test_models_are_in_the_order_of_their_numbers(tmp_path, table, ensemble, capsys):
    source = ensemble / "model_0" / "best.pt"
    for number in (10, 9, 2, 1, 0):
        path = tmp_path / "models" / f"model_{number}" / "best.pt"
        path.parent.mkdir(parents=True)
        shutil.copy(source, path)
    found = [path.parent.name for path in model_files([tmp_path / "models"])]
    assert found == ["model_0", "model_1", "model_2", "model_9", "model_10"]
    given = [tmp_path / "models" / name / "best.pt" for name in ("model_9", "model_2")]
    assert model_files(given) == given
    words = ("-i", table, "-s", "smiles", "--model-paths", tmp_path / "models")
    assert tritonpool("predict", *words, "-o", tmp_path / "p.csv") == 0
    shown = capsys.readouterr().err
    for i, path in enumerate(model_files([tmp_path / "models"])):
        assert f"model path {path} are saved under the column name ending with 'model_{i}'" in shown


@OLD_NUMPY
def test_probabilities_that_are_not_calibrated_are_named(tmp_path, table, ensemble, capsys):
    words = ("predict", "-i", table, "-s", "smiles", "--model-paths", ensemble)
    words += ("--uncertainty-method", "classification", "--cal-path", table)
    words += ("--calibration-method", "platt", "-o", tmp_path / "p.csv")
    assert tritonpool(*words) == 2
    message = "argument --calibration-method: changes nothing that chemprop 2.3 writes with"
    assert message in capsys.readouterr().err and not (tmp_path / "p.csv").exists()
    assert tritonpool(*words, "--evaluation-methods", "nll-classification") == 0
    assert "the probabilities that are written are not calibrated" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (("--uncertainty-dropout-p", 0.5), "needs --uncertainty-method dropout"),
        (("--dropout-sampling-size", 10), "needs --uncertainty-method dropout"),
        (("--conformal-alpha", 0.1), "needs --calibration-method conformal-regression or"),
        (("--cal-path", "data.csv"), "needs a --calibration-method"),
    ],
)
def test_options_without_their_method_are_refused(table, ensemble, capsys, words, message):
    words = ("-i", table, "-s", "smiles", "--model-paths", ensemble, *words)
    words = [table if word == "data.csv" else word for word in words]
    assert tritonpool("predict", *words) == 2
    assert f": {message}" in capsys.readouterr().err


@OLD_NUMPY
def test_the_dropout_of_an_uncertainty_may_be_given(tmp_path, table, ensemble):
    words = ("-i", table, "-s", "smiles", "--model-paths", ensemble, "-o", tmp_path / "p.csv")
    words += ("--uncertainty-method", "dropout", "--uncertainty-dropout-p", 0.3)
    assert tritonpool("predict", *words, "--dropout-sampling-size", 2) == 0
