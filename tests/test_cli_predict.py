"""``tritonpool predict`` and ``fingerprint`` name what they cannot use."""

import re
import shutil
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from cli_tools import (
    OLD_NUMPY,
    SHORT,
    SMALL,
    chemprop_command,
    train,
    tritonpool,
    write_pairs,
    write_table,
)
from rdkit import Chem

COMMANDS = {"predict": (), "fingerprint": ("--ffn-block-index", 1)}


@pytest.fixture
def data(tmp_path) -> Path:
    return write_table(tmp_path / "data.csv", 24)


@pytest.fixture(params=COMMANDS)
def refused(request, tmp_path, model, capsys):
    """Run a command that must fail and write nothing, and return its message."""

    def run(code: int, data: Path, *words: object, models: tuple = (model,)) -> str:
        out = tmp_path / "new" / "out.csv"
        needed = ("--test-path", data, "--model-paths", *models, "-o", out)
        assert tritonpool(request.param, *needed, *COMMANDS[request.param], *words) == code
        assert not list(tmp_path.glob("new/*"))
        captured = capsys.readouterr().err
        assert "Traceback" not in captured and "Parse Error" not in captured
        return captured.splitlines()[-1].removeprefix(f"tritonpool {request.param}: error: ")

    return run


def test_predictions_are_those_of_chemprop(tmp_path, data, model, monkeypatch):
    words = ("--test-path", data, "--model-paths", model)
    assert tritonpool("predict", *words, "-o", tmp_path / "new" / "ours.csv") == 0
    chemprop_command(monkeypatch, "predict", *words, "-o", tmp_path / "theirs.csv")
    ours, theirs = tmp_path / "new" / "ours.csv", tmp_path / "theirs.csv"
    assert ours.read_text() == theirs.read_text()
    words = (*words, *COMMANDS["fingerprint"], "-o", tmp_path / "fps.npz")
    assert tritonpool("fingerprint", *words) == 0
    assert np.load(tmp_path / "fps_0.npz")["H"].shape[0] == 24


@pytest.mark.parametrize("words", [(), ("--use-cuikmolmaker-featurization",)])
def test_a_bad_smiles(refused, tmp_path, words):
    (tmp_path / "bad.csv").write_text("smiles\nCC\nC(\n")
    assert refused(1, tmp_path / "bad.csv", *words) == (
        f"'{tmp_path / 'bad.csv'}', row 2 below the header: the SMILES 'C(' in column 'smiles' "
        f"cannot be read by RDKit"
    )


def test_semicolons_between_columns(refused, tmp_path):
    (tmp_path / "data.csv").write_text("smiles;y\nCC;1\n")
    hint = "; columns must be separated by commas, not by semicolons"
    assert refused(1, tmp_path / "data.csv").endswith(f"cannot be read by RDKit{hint}")
    assert refused(2, tmp_path / "data.csv", "-s", "smiles").endswith(hint)


@pytest.mark.parametrize("option", ["--smiles-columns", "--reaction-columns"])
def test_a_column_that_is_not_there(refused, data, option):
    message = refused(2, data, option, "SMILES")
    assert message.startswith(f"argument {option}: '{data}' has no column 'SMILES'; its columns")


def test_files_that_are_not_there(refused, tmp_path, data):
    missing = tmp_path / "no.csv"
    assert refused(1, missing).startswith(f"argument --test-path: cannot read '{missing}'")
    folder, empty = tmp_path / "folder", tmp_path / "empty"
    empty.mkdir()
    message = refused(1, data, models=(folder,))
    assert message == f"argument --model-paths: '{folder}' does not exist"
    message = refused(1, data, models=(empty,))
    assert message == f"argument --model-paths: there is no .pt file in '{empty}'"
    assert refused(2, data, models=(data,)).startswith("argument --model-paths: Expected a .ckpt")


def test_paths_that_are_no_csv_files(refused, tmp_path, data):
    missing = tmp_path / "no.txt"
    assert refused(1, missing).startswith(f"argument --test-path: cannot read '{missing}'")
    assert refused(1, tmp_path).startswith(f"argument --test-path: cannot read '{tmp_path}'")
    message = refused(2, data.rename(tmp_path / "data.tsv"))
    assert message.startswith(f"argument --test-path: '{tmp_path / 'data.tsv'}' must be a CSV file")


def test_a_file_that_goes_wrong_below_its_first_rows(refused, tmp_path):
    """Where it is read again, another option would be named."""
    (tmp_path / "long.csv").write_text("smiles\n" + "CC\n" * 300_000 + 'C,"\n')
    message = refused(1, tmp_path / "long.csv")
    assert message.startswith("argument --test-path: '")


def test_an_output_that_cannot_be_written(data, model, capsys):
    words = ("--test-path", data, "--model-paths", model, "-o", data / "out.csv")
    assert tritonpool("predict", *words) == 1
    assert f"argument --output: '{data}' cannot be made" in capsys.readouterr().err


def test_devices_that_are_not_there(refused, data):
    message = refused(2, data, "--devices", "banana")
    told = ("processes to train in, at least 1", "of this machine's ")  # on a CPU, on a GPU
    start = "argument --devices: must be auto or how many "
    assert message.startswith(tuple(start + words for words in told))
    assert message.endswith("got 'banana'")
    assert refused(2, data, "--accelerator", "abacus").startswith("argument --accelerator: must be")


@pytest.mark.parametrize("index", [-3, 3, 7])
def test_a_layer_that_a_predictor_does_not_have(tmp_path, data, model, capsys, index):
    out = tmp_path / "new" / "out.csv"
    words = ("-i", data, "--model-paths", model, "-o", out, "--ffn-block-index", index)
    assert tritonpool("fingerprint", *words) == 2
    assert capsys.readouterr().err.splitlines()[-1] == (
        f"tritonpool fingerprint: error: argument --ffn-block-index: must be from 0 (what the "
        f"predictor is given) to 2 (what it predicts), or below 0 to count from its end, for the "
        f"model in '{model / 'model_0' / 'best.pt'}'; got {index}"
    )
    assert not out.parent.exists()


def test_a_model_for_two_columns(refused, tmp_path, data):
    pairs = write_pairs(tmp_path / "pairs.csv")
    columns = ("-s", "smiles", "other", "--target-columns", "y")
    assert train(pairs, tmp_path / "two", *columns) == 0
    message = refused(2, data, models=(tmp_path / "two",))
    assert message.startswith("argument --smiles-columns: must name 2, because the model in ")


def test_models_that_predict_different_things(refused, tmp_path, data, model):
    table = pd.read_csv(data)
    table.assign(z=1.5).to_csv(tmp_path / "two.csv", index=False)
    assert train(tmp_path / "two.csv", tmp_path / "two") == 0
    message = refused(1, data, models=(model, tmp_path / "two"))
    assert message.startswith("argument --model-paths: the models in ")
    assert " predict different targets" in message


def test_an_ensemble_of_one(data, model, capsys):
    words = ("--test-path", data, "--model-paths", model, "--uncertainty-method", "ensemble")
    assert tritonpool("predict", *words) == 2
    assert "argument --uncertainty-method: 'ensemble' needs several" in capsys.readouterr().err


def test_descriptors_for_other_molecules(refused, tmp_path, data):
    np.savez(tmp_path / "d.npz", np.ones((23, 2)))
    message = refused(1, data, "--descriptors-path", tmp_path / "d.npz")
    assert message.endswith("d.npz' is for 23 molecules, but the data has 24 rows")
    message = refused(1, data, "--atom-descriptors-path", "no.npz")
    assert message.startswith("argument --atom-descriptors-path: cannot read 'no.npz'")
    counts = [Chem.MolFromSmiles(text).GetNumAtoms() for text in pd.read_csv(data)["smiles"]]
    counts.sort(reverse=counts[0] < counts[-1])  # as many rows in all, in another order
    np.savez(tmp_path / "a.npz", *(np.ones((n, 2)) for n in counts))
    message = refused(1, data, "--atom-descriptors-path", tmp_path / "a.npz")
    assert re.match("argument --atom-descriptors-path: there are .* rows for '.*', which", message)


def test_descriptors_left_out_or_too_many(refused, tmp_path, data):
    table = pd.read_csv(data).assign(d=1.5)
    table.to_csv(tmp_path / "more.csv", index=False)
    given = ("--descriptors-columns", "d")
    message = refused(1, tmp_path / "more.csv", *given)
    assert message.endswith(
        "without any descriptors of molecules, but --descriptors-columns is given"
    )
    target = table.columns[1]
    words = ("--target-columns", target, *given)
    assert train(tmp_path / "more.csv", tmp_path / "with", *words) == 0
    message = refused(1, data, models=(tmp_path / "with",))
    assert message.endswith(
        "was trained with 1 descriptors of molecules, but none of --descriptors-path, "
        "--descriptors-columns, --molecule-featurizers is given"
    )


def test_descriptors_of_another_width(refused, tmp_path, data):
    table = pd.read_csv(data).assign(d=1.5, e=2.5)
    table.to_csv(tmp_path / "more.csv", index=False)
    words = ("--target-columns", table.columns[1], "--descriptors-columns", "d")
    assert train(tmp_path / "more.csv", tmp_path / "with", *words) == 0
    words = ("--descriptors-columns", "d", "e")
    message = refused(1, tmp_path / "more.csv", *words, models=(tmp_path / "with",))
    assert message.startswith("argument --test-path: the model in ")
    assert "it takes 1 descriptors of molecules, but 2 are given; see --descriptors-p" in message


def test_features_of_another_width(refused, tmp_path, data):
    message = refused(1, data, "--multi-hot-atom-featurizer-mode", "ORGANIC")
    assert "it takes 72 features of atoms, but 44 are given; see --atom-features-path, " in message
    mols = [Chem.MolFromSmiles(text) for text in pd.read_csv(data)["smiles"]]
    np.savez(tmp_path / "bonds.npz", *(np.ones((mol.GetNumBonds(), 3)) for mol in mols))
    message = refused(1, data, "--bond-features-path", tmp_path / "bonds.npz")
    assert "it takes 14 features of bonds, but 17 are given; see --bond-features-path" in message
    np.savez(tmp_path / "atoms.npz", *(np.ones((mol.GetNumAtoms(), 2)) for mol in mols))
    message = refused(1, data, "--atom-descriptors-path", tmp_path / "atoms.npz")
    assert "it takes 0 descriptors of atoms, but 2 are given; see --atom-desc" in message


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (("--num-workers", -1), "--num-workers: must be a whole number at least 0, got -1"),
        (("--batch-size", 0), "--batch-size: must be a whole number at least 1, got 0"),
    ],
)
def test_numbers_out_of_range(refused, data, words, message):
    assert refused(2, data, *words) == f"argument {message}"


@pytest.mark.parametrize("command", [*COMMANDS, "clusters"])
def test_other_molecules_than_in_the_training_are_warned_about(
    tmp_path, data, model, capsys, command
):
    out = tmp_path / "out" if command == "clusters" else tmp_path / "out.csv"
    words = (command, "-i", data, "--model-paths", model, "-o", out)
    words += COMMANDS.get(command, ())
    assert tritonpool(*words) == 0
    assert "the results may be wrong" not in capsys.readouterr().err
    assert tritonpool(*words, "--add-h") == 0
    assert (
        f"the models in '{model}' were trained without --add-h, but are applied with --add-h"
        in capsys.readouterr().err
    )


@OLD_NUMPY
def test_models_that_are_missing_are_warned_about(tmp_path, data, capsys):
    folder = tmp_path / "m"
    assert train(data, folder, "--ensemble-size", 2, "--add-h") == 0
    words = ("predict", "-i", data, "-o", tmp_path / "p.csv", "--add-h", "--model-paths")
    capsys.readouterr()
    assert tritonpool(*words, folder) == 0
    assert tritonpool(*words, folder / "model_0") == 0
    assert "models that" not in capsys.readouterr().err
    (folder / "model_1" / "best.pt").unlink()
    assert tritonpool(*words, folder) == 0
    message = f"'{folder}' holds 1 of the 2 models that its config.toml asks for"
    assert message in capsys.readouterr().err


def test_a_config_file_that_cannot_be_read_is_passed_over(tmp_path, data, capsys):
    assert train(data, tmp_path / "m") == 0
    (tmp_path / "m" / "config.toml").write_bytes(b"\xff\xfe = [\n")
    assert tritonpool("predict", "-i", data, "--model-paths", tmp_path / "m", "--add-h") == 0
    assert "the results may be wrong" not in capsys.readouterr().err


def test_a_model_that_chemprop_made_for_atoms_too(tmp_path, data, monkeypatch, capsys):
    words = ("-i", data, "--mol-target-columns", "y", "-o", tmp_path / "m", *SMALL, *SHORT)
    chemprop_command(monkeypatch, "train", *words)
    words = ("-i", data, "--model-paths", tmp_path / "m", "-o", tmp_path / "p.csv")
    assert tritonpool("predict", *words, "--drop-extra-columns") == 0
    assert "--drop-extra-columns is not used for models of atoms" in capsys.readouterr().err
    assert tritonpool("fingerprint", *words, *COMMANDS["fingerprint"]) == 0


def test_every_model_of_an_ensemble_must_fit(tmp_path, data, model, capsys):
    assert train(data, tmp_path / "m", "--multi-hot-atom-featurizer-mode", "ORGANIC") == 0
    words = ("-i", data, "-o", tmp_path / "p.csv", "--model-paths", model, tmp_path / "m")
    capsys.readouterr()
    assert tritonpool("predict", *words) == 1
    message = capsys.readouterr().err
    assert f"the model in '{tmp_path / 'm' / 'model_0' / 'best.pt'}' does not fit" in message
    assert "it takes 44 features of atoms, but 72 are given" in message


@pytest.mark.parametrize("command", COMMANDS)
def test_version_1_features_are_found_out_as_by_chemprop(tmp_path, data, capsys, command):
    assert train(data, tmp_path / "m", "--multi-hot-atom-featurizer-mode", "V1") == 0
    words = ("-i", data, "--model-paths", tmp_path / "m", "-o", tmp_path / "p.csv")
    capsys.readouterr()
    code = tritonpool(command, *words, *COMMANDS[command])
    shown = capsys.readouterr().err
    assert "the results may be wrong" not in shown
    assert code == (0 if command == "predict" else 1)  # only that one of chemprop's mends it


@OLD_NUMPY
def test_a_checkpoint_beside_a_model_file(tmp_path, data):
    assert train(data, tmp_path / "m", "--ensemble-size", 2) == 0
    models = (tmp_path / "m/model_0/checkpoints/last.ckpt", tmp_path / "m/model_1/best.pt")
    words = ("predict", "-i", data, "-o", tmp_path / "p.csv", "--model-paths")
    assert tritonpool(*words, *models, "--uncertainty-method", "ensemble") == 0
    words = (*words, *models[::-1], "--uncertainty-method", "ensemble")
    assert tritonpool(*words, "--cal-path", data, "--calibration-method", "zscaling") == 0


def test_a_config_file_counts_beside_its_own_models_only(
    tmp_path, data, model, monkeypatch, capsys
):
    """Neither one of another program or by hand, nor one that lies above by chance."""
    (tmp_path / "config.toml").write_text("add-h = true\nensemble-size = 5\n")
    (tmp_path / "models").mkdir()
    copy = shutil.copy(model / "model_0" / "best.pt", tmp_path / "models" / "m.pt")
    words = ("predict", "-i", data, "-o", tmp_path / "p.csv")
    capsys.readouterr()
    assert tritonpool(*words, "--model-paths", copy) == 0
    (tmp_path / "model_0").mkdir()
    shutil.copy(copy, tmp_path / "model_0" / "best.pt")
    (tmp_path / "config.toml").write_text("epochs = 3\n")
    assert tritonpool(*words, "--model-paths", tmp_path / "model_0") == 0
    assert "recorded" not in capsys.readouterr().err
    monkeypatch.chdir(model / "model_0" / "checkpoints")
    assert tritonpool(*words, "--model-paths", "last.ckpt", "--add-h") == 0
    assert f"the models in '{model}' were trained without --add-h" in capsys.readouterr().err


def test_clusters_do_not_depend_on_descriptors_of_molecules(tmp_path, data, capsys):
    assert train(data, tmp_path / "m", "--molecule-featurizers", "morgan_binary") == 0
    words = ("-i", data, "--model-paths", tmp_path / "m", "-o", tmp_path / "out")
    assert tritonpool("clusters", *words) == 0
    assert "the results may be wrong" not in capsys.readouterr().err
