"""``tritonpool train --resume`` ends where an undisturbed training ends."""

import shutil

import numpy as np
import pytest
import torch
from cli_tools import (
    SHORT,
    SMALL,
    chemprop_command,
    last_metrics,
    predictions,
    train,
    tritonpool,
    write_table,
)

from tritonpool.cli.callbacks import History

WORDS = ("--epochs", 6, "--dropout", 0.3, "--ensemble-size", 2)


class Killed(Exception):
    """Stands for whatever ends a training early."""


@pytest.fixture
def kill(monkeypatch):
    """End the training when the given epoch of the given model starts."""

    def at(model: int, epoch: int) -> None:
        original = History.on_train_epoch_start
        seen = []

        def hook(self, trainer, pl_module):
            if self not in seen:
                seen.append(self)
            if len(seen) - 1 == model and trainer.current_epoch == epoch:
                raise Killed
            original(self, trainer, pl_module)

        monkeypatch.setattr(History, "on_train_epoch_start", hook)

    yield at


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory):
    folder = tmp_path_factory.mktemp("undisturbed")
    data = write_table(folder / "data.csv")
    assert train(data, folder / "out", *WORDS) == 0
    return data, folder / "out"


@pytest.mark.parametrize(("model", "epoch"), [(0, 0), (0, 3), (1, 0), (1, 4)])
def test_resumed_training_ends_like_an_undisturbed_one(
    tmp_path, undisturbed, kill, monkeypatch, model, epoch
):
    data, expected = undisturbed
    out = tmp_path / "out"
    with monkeypatch.context():
        kill(model, epoch)
        assert train(data, out, *WORDS) == 1
    monkeypatch.undo()
    assert not (out / f"model_{model}" / "best.pt").exists()
    # the generators of a new process are in another state, and folder and data may be elsewhere
    torch.manual_seed(12345)
    moved = tmp_path / "moved"
    out.rename(moved)
    elsewhere = shutil.copy(data, tmp_path / "elsewhere.csv")
    assert train(elsewhere, moved, "--resume", small=()) == 0
    for i in (0, 1):
        np.testing.assert_allclose(predictions(moved, i), predictions(expected, i), atol=1e-6)
        assert last_metrics(moved, i) == pytest.approx(last_metrics(expected, i), abs=1e-6)
        best = [next((f / f"model_{i}/checkpoints").glob("best-*")) for f in (moved, expected)]
        assert best[0].name == best[1].name
        assert len(list((moved / f"model_{i}/checkpoints").iterdir())) == 2


def test_finished_models_are_left_alone(tmp_path, undisturbed):
    data, expected = undisturbed
    out = tmp_path / "out"
    shutil.copytree(expected, out)
    before = {p: p.read_bytes() for p in out.rglob("*") if p.is_file()}
    assert train(data, out, "--resume", *WORDS, small=SMALL + SHORT[2:]) == 0
    assert {p: p.read_bytes() for p in out.rglob("*") if p.is_file()} == before


def test_early_stopping_is_not_undone(tmp_path):
    data = write_table(tmp_path / "data.csv")
    words = ("--epochs", 20, "--patience", 1, "--max-lr", 0.5, "--init-lr", 0.5, "--final-lr", 0.5)
    assert train(data, tmp_path / "out", *words) == 0
    done = last_metrics(tmp_path / "out")
    assert done["epoch"] < 19
    saved = predictions(tmp_path / "out")
    # as if the process had ended after the last epoch, before the best model was written
    (tmp_path / "out/model_0/best.pt").unlink()
    (tmp_path / "out/model_0/test_predictions.csv").unlink()
    assert train(data, tmp_path / "out", "--resume", small=()) == 0
    np.testing.assert_allclose(predictions(tmp_path / "out"), saved, atol=1e-6)
    last = torch.load(tmp_path / "out/model_0/checkpoints/last.ckpt", weights_only=False)
    assert last["epoch"] == done["epoch"]


def test_sub_sample_and_splits_are_those_of_the_first_start(tmp_path, kill, monkeypatch):
    data = write_table(tmp_path / "data.csv")
    words = ("--train-size", 20, "--diffpool-levels", 0)
    assert train(data, tmp_path / "whole", *words) == 0
    with monkeypatch.context():
        kill(0, 1)
        assert train(data, tmp_path / "out", *words) == 1
    monkeypatch.undo()
    splits = (tmp_path / "out/splits.json").read_text()
    assert train(data, tmp_path / "out", "--resume", small=()) == 0
    assert (tmp_path / "out/splits.json").read_text() == splits
    np.testing.assert_allclose(predictions(tmp_path / "out"), predictions(tmp_path / "whole"))


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (("--epochs", 7), "argument --resume: --epochs is 7, but"),
        (("--diffpool-max-clusters", 6), "argument --resume: --diffpool-max-clusters is 6, but"),
        (("--diffpool-ratio", 0.5), "argument --resume: --diffpool-ratio is 0.5, but"),
        (("--checkpoint", "best.pt"), "argument --resume: not allowed with --checkpoint"),
    ],
)
def test_other_settings_are_refused(undisturbed, capsys, words, message):
    data, out = undisturbed
    assert train(data, out, "--resume", *words, small=()) == 2
    assert message in capsys.readouterr().err


@pytest.mark.parametrize("first_is_done", [False, True])
def test_other_data_is_refused(tmp_path, undisturbed, capsys, first_is_done):
    data, expected = undisturbed
    shutil.copytree(expected, tmp_path / "out")
    shutil.rmtree(tmp_path / "out/model_1")  # not begun, so nothing of its own to compare with
    if not first_is_done:
        (tmp_path / "out/model_0/best.pt").unlink()
    header, *rows = data.read_text().splitlines()
    words = ("--resume", "-i", tmp_path / "data.csv", "-o", tmp_path / "out")
    config = (tmp_path / "out/config.toml").read_text()
    (tmp_path / "out/config.toml").write_text(config.replace(str(data), str(words[2])))
    words[2].write_text("\n".join([header, *rows[::-1]]) + "\n")
    assert tritonpool("train", *words) == 1
    assert "the SMILES or targets in the rows of splits.json are not" in capsys.readouterr().err
    # rows that no part has do not matter
    words[2].write_text("\n".join([header, *rows, "CC,1.5"]) + "\n")
    assert tritonpool("train", *words) == 0


def test_a_training_of_stock_chemprop_is_refused(tmp_path, monkeypatch, capsys):
    data, out = write_table(tmp_path / "data.csv"), tmp_path / "out"
    chemprop_command(monkeypatch, "train", "-i", data, "-o", out, *SMALL, *SHORT)
    (out / "model_0" / "best.pt").unlink()
    assert train(data, out, "--resume", small=()) == 1
    assert "so the training was begun by `chemprop train`" in capsys.readouterr().err


@pytest.mark.parametrize("finished", [False, True])
@pytest.mark.parametrize("damage", ["cut", "zeros", "gone"])
def test_a_broken_checkpoint_is_named(tmp_path, undisturbed, capsys, finished, damage):
    data, expected = undisturbed
    out = tmp_path / "out"
    shutil.copytree(expected, out)
    (out / "model_1" / "best.pt").unlink()
    folder = out / ("model_0" if finished else "model_1")
    last = folder / "checkpoints" / "last.ckpt"
    whole = last.read_bytes()
    last.unlink()
    if damage == "cut":
        last.write_bytes(whole[:20_000])
    elif damage == "zeros":
        last.write_bytes(whole[:100] + bytes(20_000) + whole[20_100:])
    if finished or damage != "gone":
        assert train(data, out, "--resume", small=()) == 1
        message = f"{str(last)!r} cannot be read; without the folder {folder.name!r}"
        assert message in capsys.readouterr().err
        shutil.rmtree(folder)
    assert train(data, out, "--resume", small=()) == 0
    np.testing.assert_allclose(predictions(out, 1), predictions(expected, 1), atol=1e-6)


def test_there_must_be_something_to_resume(tmp_path, capsys):
    data = write_table(tmp_path / "data.csv")
    assert train(data, tmp_path / "none", "--resume") == 1
    assert "holds no config.toml" in capsys.readouterr().err
    assert not (tmp_path / "none").exists()
