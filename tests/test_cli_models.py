"""Models and data that do not fit each other are named before anything is written."""

from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from cli_tools import train, tritonpool, write_pairs, write_table
from rdkit import Chem


@pytest.fixture
def data(tmp_path) -> Path:
    return write_table(tmp_path / "data.csv", 24)


@pytest.fixture
def refused(tmp_path, capsys):
    def run(*words: object, code: int = 1) -> str:
        out = tmp_path / "refused"
        assert train(*words[:1], out, *words[1:]) == code
        assert not out.exists()
        captured = capsys.readouterr().err
        assert "Traceback" not in captured
        return captured.splitlines()[-1].removeprefix("tritonpool train: error: ")

    return run


def descriptors(data: Path, path: Path, extra: int = 0) -> Path:
    """Two numbers for each atom; ``extra`` for atoms that are not there."""
    counts = [Chem.MolFromSmiles(text).GetNumAtoms() for text in pd.read_csv(data)["smiles"]]
    np.savez(path, *[np.ones((n + extra, 2)) for n in counts])
    return path


def test_a_checkpoint_for_another_number_of_targets(refused, data, tmp_path):
    assert train(data, tmp_path / "first") == 0
    two = write_table(
        tmp_path / "two.csv", 24, y=lambda row, text: row, z=lambda row, text: len(text)
    )
    message = refused(two, "--checkpoint", tmp_path / "first" / "model_0" / "best.pt")
    assert message == ("the model does not fit the data: it predicts 1 targets, but there are 2")


@pytest.mark.parametrize("option", ["--checkpoint", "--model-frzn"])
def test_a_checkpoint_for_more_targets(refused, data, tmp_path, option):
    table = pd.read_csv(data).assign(z=2.0)
    table.to_csv(tmp_path / "two.csv", index=False)
    assert train(tmp_path / "two.csv", tmp_path / "first") == 0
    message = refused(data, option, tmp_path / "first" / "model_0" / "best.pt")
    assert message == "the model does not fit the data: it predicts 2 targets, but there are 1"


def test_a_checkpoint_for_targets_in_another_order(refused, data, tmp_path):
    pd.read_csv(data).assign(z=2.0).to_csv(tmp_path / "two.csv", index=False)
    words = (tmp_path / "two.csv", "-s", "smiles", "--target-columns")
    assert train(words[0], tmp_path / "first", *words[1:], "y", "z") == 0
    best = tmp_path / "first" / "model_0" / "best.pt"
    assert refused(*words, "z", "y", "--checkpoint", best) == (
        f"argument --target-columns: must be in the order of the model in '{best}', y z, but is z y"
    )


def test_a_checkpoint_for_another_target_keeps_its_scale(data, tmp_path, capsys):
    assert train(data, tmp_path / "first") == 0
    best = tmp_path / "first" / "model_0" / "best.pt"
    (known,) = pd.read_csv(data).columns[1:]
    pd.read_csv(data).rename(columns={known: "z"}).to_csv(tmp_path / "z.csv", index=False)
    text = f"the model in '{best}' was trained to predict {known}, and keeps their scale for z"
    for path, warned in ((data, False), (tmp_path / "z.csv", True)):
        capsys.readouterr()
        out = tmp_path / path.stem
        assert (
            train(path, out, "--target-columns", pd.read_csv(path).columns[1], "--checkpoint", best)
            == 0
        )
        assert (text in capsys.readouterr().err) == warned


def test_a_checkpoint_for_more_descriptors(refused, data, tmp_path):
    table = pd.read_csv(data).assign(d=range(24), e=range(24))
    table.to_csv(tmp_path / "more.csv", index=False)
    words = (tmp_path / "more.csv", "--target-columns", table.columns[1], "--descriptors-columns")
    assert train(words[0], tmp_path / "first", *words[1:], "d", "e") == 0
    best = tmp_path / "first" / "model_0" / "best.pt"
    assert refused(*words, "d", "--checkpoint", best).startswith(
        "the model does not fit the data: it takes 2 descriptors of molecules, but 1 are given; see"
    )


def test_a_model_with_atom_descriptors(refused, data, tmp_path, capsys):
    given = ("--atom-descriptors-path", descriptors(data, tmp_path / "d.npz"))
    assert train(data, tmp_path / "first", *given) == 0
    best = tmp_path / "first" / "model_0" / "best.pt"
    expected = "it takes 2 descriptors of atoms, but 0 are given; see --atom-descriptors-path"
    assert refused(data, "--from-foundation", best).startswith(
        f"the model does not fit the data: {expected}"
    )
    words = ("--test-path", data, "-s", "smiles", "--model-paths", best)
    assert tritonpool("predict", *words, "--output", tmp_path / "p.csv") == 1
    assert expected in capsys.readouterr().err


def test_descriptors_of_other_atoms(refused, data, tmp_path):
    words = ("--atom-descriptors-path", descriptors(data, tmp_path / "d.npz", extra=1))
    message = refused(data, *words)
    assert message.startswith("argument --atom-descriptors-path: there are ")
    assert " rows for '" in message and message.endswith(" atoms")


def test_weights_of_other_tasks(refused, tmp_path):
    two = write_table(
        tmp_path / "two.csv", 24, y=lambda row, text: row, z=lambda row, text: len(text)
    )
    message = refused(two, "--task-weights", 1, 2, 3, code=2)
    assert message == "argument --task-weights: must be one for each target (2), got 3"


def test_a_checkpoint_for_another_kind_of_targets(refused, data, tmp_path):
    assert train(data, tmp_path / "first") == 0
    best = tmp_path / "first" / "model_0" / "best.pt"
    labels = write_table(tmp_path / "labels.csv", 24, y=lambda row, text: row % 2)
    words = ("--task-type", "classification", "--checkpoint", best)
    assert refused(labels, *words) == (
        f"argument --task-type: the model in '{best}' was trained for 'regression', not for "
        f"'classification'"
    )


def test_models_are_tried_out_where_the_backend_cannot_run(data, tmp_path, monkeypatch):
    """A GPU's backend is asked for by name, but two molecules are predicted on the CPU."""
    monkeypatch.setenv("TRITONPOOL_BACKEND", "triton")
    monkeypatch.setenv("TRITON_INTERPRET", "0")
    monkeypatch.setattr("tritonpool.cli.checks.choose_backend", lambda device: None)  # a GPU
    monkeypatch.setattr("tritonpool.cli.train.fit_replicate", lambda *_: [])
    assert train(data, tmp_path / "out") == 0


@pytest.mark.parametrize("option", ["atom-features", "atom-descriptors", "bond-features"])
def test_a_file_that_is_not_there(refused, data, option):
    assert refused(data, f"--{option}-path", "no.npz") == (
        f"argument --{option}-path: there is no file 'no.npz'"
    )


@pytest.mark.parametrize("option", ["--checkpoint", "--from-foundation", "--model-frzn"])
def test_a_model_of_two_columns(refused, data, tmp_path, option):
    pairs = write_pairs(tmp_path / "pairs.csv")
    columns = ("-s", "smiles", "other", "--target-columns", "y")
    assert train(pairs, tmp_path / "first", *columns) == 0
    best = tmp_path / "first" / "model_0" / "best.pt"
    assert refused(data, option, best) == (
        f"argument {option}: the model in '{best}' is for 2 columns of molecules or reactions, but "
        f"the data has 1"
    )


def test_a_foundation_of_one_column_serves_two(data, tmp_path):
    assert train(data, tmp_path / "first") == 0
    pairs = write_pairs(tmp_path / "pairs.csv")
    best = tmp_path / "first" / "model_0" / "best.pt"
    words = ("-s", "smiles", "other", "--target-columns", "y", "--from-foundation", best)
    assert train(pairs, tmp_path / "second", *words) == 0


@pytest.mark.filterwarnings("ignore::RuntimeWarning")  # chemprop's, of metrics over nothing
def test_a_file_without_targets_to_validate_or_test_on(tmp_path):
    paths = []
    for name, value in (("train", 1.5), ("val", 2.5), ("test", "")):
        paths.append(tmp_path / f"{name}.csv")
        write_table(paths[-1], 20, y=lambda row, text, v=value: v and v + row)
    words = ("-i", *paths, "-o", tmp_path / "out", "--epochs", 2, "--warmup-epochs", 1)
    assert tritonpool("train", *words, "--accelerator", "cpu") == 0


def test_no_patience(data, tmp_path):
    assert train(data, tmp_path / "out", "--patience", 0) == 0
    assert (tmp_path / "out" / "model_0" / "best.pt").exists()
