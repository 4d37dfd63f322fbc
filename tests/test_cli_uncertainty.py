"""``tritonpool predict`` with uncertainties, their calibration and evaluation."""

from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from cli_tools import OLD_NUMPY, train, tritonpool, write_pairs, write_table
from rdkit import Chem


@pytest.fixture
def data(tmp_path) -> Path:
    return write_table(tmp_path / "data.csv", 24)


@pytest.mark.parametrize("name", ["no.csv", "no.txt"])
def test_calibration_data_that_are_not_there(tmp_path, data, model, capsys, name):
    words = ("--test-path", data, "--model-paths", model, "--cal-path", tmp_path / name)
    assert tritonpool("predict", *words) == 1
    assert "argument --cal-path: cannot read" in capsys.readouterr().err


def test_an_uncertainty_that_a_model_does_not_have(data, model, capsys):
    words = ("--test-path", data, "--model-paths", model, "--uncertainty-method")
    for method, task in (("mve", "regression-mve"), ("evidential-total", "regression-evidential")):
        assert tritonpool("predict", *words, method) == 2
        message = capsys.readouterr().err
        assert f"{method!r} needs a model of --task-type {task}, but that in " in message
        assert message.endswith(" is one of 'regression'\n")


@pytest.mark.parametrize(
    ("option", "value", "message"),
    [
        ("--dropout-sampling-size", 0, "must be a whole number at least 1, got 0"),
        ("--uncertainty-dropout-p", 2, "must be from 0 to below 1, got 2"),
        ("--conformal-alpha", 2, "must be from 0 to 1, got 2"),
        ("--calibration-interval-percentile", 101, "must be from 0 to 100, got 101"),
    ],
)
def test_numbers_of_uncertainties_out_of_range(data, model, capsys, option, value, message):
    words = ("--uncertainty-method", "dropout", option, value)
    words += ("--calibration-method", "conformal-regression", "--cal-path", data)
    assert tritonpool("predict", "-i", data, "--model-paths", model, *words) == 2
    assert f"argument {option}: {message}" in capsys.readouterr().err
    assert not list(data.parent.glob("*_preds*"))


@OLD_NUMPY
@pytest.mark.parametrize("option", ["--cal-path", "--evaluation-methods"])
def test_measured_values_are_needed_to_compare_with(tmp_path, data, model, capsys, option):
    table = pd.read_csv(data)
    (target,) = table.columns.drop("smiles")
    words = ["--model-paths", model, "--uncertainty-method", "dropout", "-o", tmp_path / "p.csv"]
    words += ["--calibration-method", "zscaling"] if option == "--cal-path" else []
    asked = "nll-regression" if option == "--evaluation-methods" else tmp_path / "new.csv"
    words += ["-i", tmp_path / "new.csv", option, asked]
    table.to_csv(tmp_path / "new.csv", index=False)
    assert tritonpool("predict", *words) == 0
    table.drop(columns=target).to_csv(tmp_path / "new.csv", index=False)
    assert tritonpool("predict", *words) == 1
    message = capsys.readouterr().err
    assert f"argument {option}: needs the measured values, but '{tmp_path / 'new.csv'}'" in message
    assert f"has no column {target!r}; its columns are 'smiles'" in message
    table.assign(**{target: "high"}).to_csv(tmp_path / "new.csv", index=False)
    assert tritonpool("predict", *words) == 1
    assert f"the value 'high' in column {target!r} is not a finite" in capsys.readouterr().err


@OLD_NUMPY
def test_calibration_with_features_of_its_own(tmp_path, data, capsys):
    """chemprop 2.3 reads none of these files."""
    mols = [Chem.MolFromSmiles(text) for text in pd.read_csv(data)["smiles"]]
    np.savez(tmp_path / "d.npz", np.arange(48.0).reshape(24, 2))
    np.savez(tmp_path / "wide.npz", np.ones((24, 3)))
    np.savez(tmp_path / "a.npz", *(np.ones((mol.GetNumAtoms(), 2)) for mol in mols))
    np.savez(tmp_path / "other.npz", *(np.ones((mol.GetNumAtoms() + 1, 2)) for mol in mols))
    given = ("--descriptors-path", tmp_path / "d.npz", "--atom-features-path", tmp_path / "a.npz")
    assert train(data, tmp_path / "m", *given) == 0
    words = ("-i", data, "--model-paths", tmp_path / "m", *given, "-o", tmp_path / "p.csv")
    words += ("--cal-path", data, "--uncertainty-method", "dropout")
    words += ("--calibration-method", "zscaling")

    def predict(descriptors: str, atoms: str) -> int:
        cal = ("--cal-descriptors-path", tmp_path / descriptors)
        return tritonpool("predict", *words, *cal, "--cal-atom-features-path", tmp_path / atoms)

    assert predict("d.npz", "a.npz") == 0
    assert len(pd.read_csv(tmp_path / "p.csv")) == 24
    capsys.readouterr()
    assert predict("d.npz", "other.npz") == 1
    assert "argument --cal-atom-features-path: there are " in capsys.readouterr().err
    assert predict("wide.npz", "a.npz") == 1
    message = capsys.readouterr().err
    assert "argument --cal-path: the model in " in message
    assert "it takes 2 descriptors of molecules, but 3 are given; see --cal-descriptors-" in message
    cal = ("--cal-descriptors-path", tmp_path / "d.npz", tmp_path / "d.npz")
    assert tritonpool("predict", *words, *cal) == 2
    assert "argument --cal-descriptors-path: takes one file" in capsys.readouterr().err


@OLD_NUMPY
def test_limits_where_the_loss_was_bounded(tmp_path, data, model, capsys):
    limits = write_table(tmp_path / "limits.csv", 24, y=lambda row, _: f"{'<>'[row % 2]}{row}.5")
    assert train(limits, tmp_path / "m", "--loss-function", "bounded-mse") == 0
    words = ("predict", "-i", data, "-o", tmp_path / "p.csv", "--cal-path", limits)
    words += ("--uncertainty-method", "dropout", "--calibration-method", "zscaling")
    assert tritonpool(*words, "--model-paths", tmp_path / "m") == 0
    capsys.readouterr()
    assert tritonpool(*words, "--model-paths", model) == 1
    message = capsys.readouterr().err
    assert "is not a finite number; limits need a model with a bounded --loss-function" in message


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (("--evaluation-methods", "spearman"), "--evaluation-methods: needs an --uncertainty-meth"),
        (
            ("--calibration-method", "zscaling", "--uncertainty-method", "dropout"),
            "--calibration-method: needs --cal-path",
        ),
        (("--calibration-method", "zscaling"), "--calibration-method: needs an --uncertainty-meth"),
        (("--cal-descriptors-path", "d.npz"), "--cal-descriptors-path: needs --cal-path"),
        (("--cal-bond-features-path", "f.npz"), "--cal-bond-features-path: needs --cal-path"),
    ],
)
def test_uncertainty_options_that_lack_another(data, model, capsys, words, message):
    assert tritonpool("predict", "-i", data, "--model-paths", model, *words) == 2
    assert f"argument {message}" in capsys.readouterr().err


def test_uncertainties_of_several_columns_and_of_dirichlet_models(tmp_path, capsys):
    pairs = write_pairs(tmp_path / "pairs.csv")
    columns = ("-s", "smiles", "other")
    assert train(pairs, tmp_path / "two", *columns, "--target-columns", "y") == 0
    words = ("predict", "-i", pairs, "--model-paths", tmp_path / "two", "-o", tmp_path / "p.csv")
    for order, warned in ((columns[1:], False), (columns[:0:-1], True)):
        assert tritonpool(*words, "-s", *order) == 0
        text = f"'{tmp_path / 'two'}' were trained with --smiles-columns smiles other, but are"
        assert (text in capsys.readouterr().err) == warned
    words += (*columns,)
    words += ("--uncertainty-method", "dropout", "--evaluation-methods", "spearman")
    assert tritonpool(*words) == 2
    assert "--evaluation-methods: works for one column of mol" in capsys.readouterr().err
    data = write_table(tmp_path / "data.csv", 24, y=lambda row, _: row % 2)
    for task in ("classification-dirichlet", "multiclass-dirichlet"):
        words = ("--task-type", task, "--multiclass-num-classes", 2)
        assert train(data, tmp_path / task, *words) == 0
    words = ("predict", "-i", data, "-o", tmp_path / "p.csv", "--model-paths")
    assert tritonpool(*words, tmp_path / "classification-dirichlet") == 2
    assert "must be 'classification-dirichlet' for the model in" in capsys.readouterr().err
    words += (tmp_path / "multiclass-dirichlet", "--uncertainty-method")
    assert tritonpool(*words, "classification") == 0
    assert tritonpool(*words, "dropout") == 2
    assert "'dropout' needs a model of --task-type regression or" in capsys.readouterr().err


@pytest.fixture(scope="module")
def models_by_task(tmp_path_factory) -> tuple[Path, Path]:
    """A table with classes, one of them missing, and a folder of models, two of each task."""
    folder = tmp_path_factory.mktemp("tasks")
    data = write_table(
        folder / "data.csv",
        24,
        y=lambda row, _: row % 2,
        z=lambda row, _: row // 2 % 2 if row else "",
    )
    for task in ("regression-mve", "classification", "multiclass", "multiclass-dirichlet"):
        words = ("--task-type", task, "--multiclass-num-classes", 2, "--ensemble-size", 2)
        assert train(data, folder / task, *words) == 0
    return data, folder


MVE, CLASSES = ("regression-mve", "mve"), ("classification", "classification")
SEVERAL = ("multiclass", "classification")


@pytest.mark.parametrize(
    ("model", "option", "method", "message"),
    [
        (MVE, "evaluation-methods", "nll-classification", "does not fit a model of --task-type re"),
        (MVE, "evaluation-methods", "nll-multiclass", "does not fit a model of --task-type regre"),
        (MVE, "calibration-method", "platt", "does not fit a model of --task-type regression-mve;"),
        (MVE, "calibration-method", "conformal-adaptive", "does not fit a model of --task-type re"),
        (CLASSES, "calibration-method", "zscaling", "does not fit a model of --task-type classif"),
        (CLASSES, "evaluation-methods", "nll-regression", "does not fit a model of --task-type cl"),
        (
            CLASSES,
            "calibration-method",
            "conformal-multilabel",
            "fails in chemprop 2.3; use platt or isotonic",
        ),
        (
            CLASSES,
            "evaluation-methods",
            "conformal-coverage-classification",
            "fails in chemprop 2.3; use nll-classification",
        ),
        (
            SEVERAL,
            "calibration-method",
            "conformal-multiclass",
            "fails in chemprop 2.3; use isotonic-multiclass",
        ),
        (
            SEVERAL,
            "calibration-method",
            "conformal-adaptive",
            "fails in chemprop 2.3; use isotonic-multiclass",
        ),
        (
            SEVERAL,
            "evaluation-methods",
            "conformal-coverage-multiclass",
            "fails in chemprop 2.3; use nll-multiclass",
        ),
        (
            ("multiclass-dirichlet", "multiclass-dirichlet"),
            "calibration-method",
            "isotonic-multiclass",
            "needs --uncertainty-method classification",
        ),
    ],
)
def test_calibration_and_evaluation_that_a_model_is_not_for(
    tmp_path, models_by_task, capsys, model, option, method, message
):
    data, folder = models_by_task
    task, uncertainty = model
    words = ("-i", data, "--model-paths", folder / task, "-o", tmp_path / "new" / "p.csv")
    words += ("--cal-path", data, "--uncertainty-method", uncertainty, f"--{option}", method)
    assert tritonpool("predict", *words) == 2
    assert f"argument --{option}: {method!r} {message}" in capsys.readouterr().err
    assert not (tmp_path / "new").exists()


@OLD_NUMPY
@pytest.mark.parametrize(
    ("model", "calibration", "evaluation"),
    [
        (MVE, "zscaling", ("nll-regression", "spearman")),
        (MVE, "conformal-regression", ("conformal-coverage-regression",)),
        (CLASSES, "platt", ("nll-classification",)),
        (("classification", "ensemble"), "isotonic", ("nll-classification",)),
        (SEVERAL, "isotonic-multiclass", ("nll-multiclass",)),
        (("multiclass-dirichlet", "classification"), "isotonic-multiclass", ("nll-multiclass",)),
    ],
)
def test_calibration_and_evaluation_of_a_task(
    tmp_path, models_by_task, model, calibration, evaluation
):
    data, folder = models_by_task
    task, uncertainty = model
    words = ("-i", data, "--model-paths", folder / task, "-o", tmp_path / "p.csv")
    words += ("--cal-path", data, "--uncertainty-method", uncertainty)
    words += ("--calibration-method", calibration, "--evaluation-methods", *evaluation)
    assert tritonpool("predict", *words) == 0
    assert (tmp_path / "p.csv").exists()


def test_an_ensemble_of_models_with_several_outputs(tmp_path, models_by_task, capsys):
    data, folder = models_by_task
    words = ("-i", data, "-o", tmp_path / "new" / "p.csv", "--uncertainty-method", "ensemble")
    for task in ("regression-mve", "multiclass"):
        assert tritonpool("predict", *words, "--model-paths", folder / task) == 2
        message = "'ensemble' needs a model of --task-type regression or classification, but that"
        assert f"argument --uncertainty-method: {message}" in capsys.readouterr().err
    assert not (tmp_path / "new").exists()
