"""``tritonpool compare`` trains settings on the same splits, each once, and compares them."""

import csv
import json

import pandas as pd
import pytest
import torch
from cli_tools import SHORT, SMALL, tritonpool, write_table

from tritonpool.cli import compared
from tritonpool.cli.callbacks import History

WORDS = (*SMALL, *SHORT)


def compare(data, out, *words, epochs=2) -> int:
    return tritonpool("compare", "-i", data, "-o", out, *WORDS, "--epochs", epochs, *words)


def results(out) -> dict:
    return json.loads((out / "results.json").read_text())


def test_every_setting_is_trained_on_the_same_splits(tmp_path, capsys):
    data, out = write_table(tmp_path / "data.csv", 60), tmp_path / "out"
    more = ("--setting", "sharp=--diffpool-temperature 0.2 --diffpool-depth 2")
    assert compare(data, out, "--num-replicates", 2, *more, "--diffpool-ratio", 0.5) == 0
    names = ["dmpnn", "diffpool", "one-cluster", "rings", "sharp"]
    found = results(out)
    assert list(found["settings"]) == names and found["splits"] == 2 and found["metric"] == "rmse"
    assert found["settings"]["sharp"]["options"] == more[1].split("=")[1].split()
    splits = [(out / name / "splits.json").read_text() for name in names]
    assert len(set(splits)) == 1 and len(json.loads(splits[0])) == 2
    truth = pd.read_csv(data)["y"].to_numpy()
    for name in names:
        parameters = {
            sum(p.numel() for p in saved.values())
            for saved in _weights(out / name / "replicate_0" / "model_0" / "best.pt")
        }
        for i, row in enumerate(found["settings"][name]["trainings"]):
            test = json.loads(splits[0])[i]["test"]
            table = pd.read_csv(out / name / f"replicate_{i}/model_0/test_predictions.csv")
            error = table["y"].to_numpy() - truth[test]
            assert row["test"]["rmse"] == pytest.approx((error**2).mean() ** 0.5, rel=1e-5)
            assert row["test"]["mae"] == pytest.approx(abs(error).mean(), rel=1e-5)
            assert (row["train_molecules"], row["test_molecules"]) == (48, 6)
            assert row["parameters"] in parameters
    # the ratio holds for all that have one
    config = (out / "diffpool" / "config.toml").read_text()
    assert "diffpool-ratio = 0.5" in config
    assert "diffpool-levels = 0" in (out / "dmpnn" / "config.toml").read_text()
    printed = capsys.readouterr().out
    assert printed.count("split 0") == printed.count("split 1") == 5
    assert (out / "results.md").read_text() in printed and "Begin with " in printed
    with (out / "results.csv").open(newline="") as file:
        assert len(list(csv.reader(file))) == 11
    assert (out / "results.png").read_bytes().startswith(b"\x89PNG")


def _weights(path):
    """The learned numbers of a model file, without buffers: those of metrics and scaling."""
    state = torch.load(path, "cpu", weights_only=False)["state_dict"]
    yield {
        name: value
        for name, value in state.items()
        if value.is_floating_point()
        and not name.startswith(("metrics", "criterion", "predictor.criterion"))
        and "output_transform" not in name
    }


def test_splits_and_settings_can_be_added(tmp_path, capsys):
    data, out = write_table(tmp_path / "data.csv", 50), tmp_path / "out"
    two = ("--settings", "dmpnn", "diffpool", "--pytorch-seed", 0)
    assert compare(data, out, *two, "--num-replicates", 2) == 0
    before = results(out)
    path = out / "diffpool" / "replicate_0" / "model_0" / "best.pt"
    stamp = path.stat().st_mtime_ns
    capsys.readouterr()
    more = ("--setting", "half=--diffpool-ratio 0.5")
    assert compare(data, out, *two, *more, "--num-replicates", 3) == 0
    printed = capsys.readouterr().out
    assert printed.count("(from an earlier call)") == 4 and "9 of 9: half, split 2" in printed
    after = results(out)
    assert path.stat().st_mtime_ns == stamp and after["splits"] == 3
    for name in ("dmpnn", "diffpool"):
        trainings = after["settings"][name]["trainings"]
        assert trainings[:2] == before["settings"][name]["trainings"]
    # at once is the same as in two calls
    assert compare(data, tmp_path / "other", *two, "--num-replicates", 3) == 0
    at_once = results(tmp_path / "other")["settings"]
    for name in ("dmpnn", "diffpool"):
        scores = [
            [row["test"] for row in found[name]["trainings"]]
            for found in (at_once, after["settings"])
        ]
        assert scores[0] == scores[1]


class Stopped(Exception):
    pass


def _start(history):
    history._start = 0.0


def stop_in_second_epoch(history, trainer, module):
    if trainer.current_epoch == 1:
        raise Stopped


@pytest.mark.parametrize("finished", [True, False])
def test_a_training_that_was_stopped_goes_on(tmp_path, monkeypatch, finished):
    data = write_table(tmp_path / "data.csv", 50)
    words = ("--settings", "dmpnn", "diffpool", "--num-replicates", 1, "--pytorch-seed", 0)
    assert compare(data, tmp_path / "whole", *words, epochs=3) == 0
    out = tmp_path / "out"

    real = compared.fit_replicate

    def stop(args, prepared, folder):
        if "diffpool" not in str(folder):
            return real(args, prepared, folder)
        with monkeypatch.context() as patch:
            if not finished:
                patch.setattr(History, "on_train_epoch_start", stop_in_second_epoch)
            real(args, prepared, folder)
        raise Stopped  # before its result is written

    with monkeypatch.context() as patch:
        patch.setattr(compared, "fit_replicate", stop)
        assert compare(data, out, *words, epochs=3) == 1
    checkpoints = out / "diffpool" / "replicate_0" / "model_0" / "checkpoints"
    assert (checkpoints / "last.ckpt").exists() and not list(out.glob("diffpool/*/result.json"))
    begun = []
    with monkeypatch.context() as patch:
        patch.setattr(History, "on_train_epoch_start", lambda self, *_: begun.append(_start(self)))
        assert compare(data, out, *words, epochs=3) == 0
    assert len(begun) == (0 if finished else 2)
    trainings = [results(f)["settings"]["diffpool"]["trainings"] for f in (out, tmp_path / "whole")]
    assert trainings[0][0]["test"] == trainings[1][0]["test"]


def test_classes_are_compared_by_their_own_metric(tmp_path):
    data = write_table(tmp_path / "data.csv", 60, y=lambda row, text: row % 2)
    words = ("-t", "classification", "--settings", "dmpnn", "diffpool", "--num-replicates", 2)
    assert compare(data, tmp_path / "out", *words, "--metrics", "accuracy", "roc") == 0
    found = results(tmp_path / "out")
    assert found["metric"] == "accuracy"
    against = found["settings"]["diffpool"]["against"]
    assert against["higher_is_better"] and not against["relative"]
    assert set(found["settings"]["dmpnn"]["trainings"][0]["test"]) == {"accuracy", "roc"}


@pytest.mark.parametrize(
    "words, code, message",
    [
        (("--resume",), 2, "argument --resume: not allowed here, models are new"),
        (("--checkpoint", "x.pt"), 2, "argument --checkpoint: not allowed here, models are new"),
        (("--ensemble-size", 2), 2, "argument --ensemble-size: not allowed here; more splits"),
        (("--diffpool-levels", 0), 2, "argument --diffpool-levels: must be at least 1; D-MPNN is"),
        (("--settings", "dmpnn"), 2, "argument --settings: needs at least two"),
        (("--settings", "dmpnn", "other"), 2, "argument --settings: invalid choice: 'other'"),
        (("--settings", "rings", "rings"), 2, "argument --setting: there is a setting 'rings'"),
        (("--setting", "rings=--depth 2"), 2, "argument --setting: there is a setting 'rings'"),
        (("--setting", "a/b=--depth 2"), 2, "argument --setting: must be a name, =, and options"),
        (("--setting", "deep"), 2, "argument --setting: must be a name, =, and options"),
        (("--setting", "deep=--depth '2"), 2, "argument --setting: deep: No closing quotation"),
        (("--setting", "x=--data-seed 3"), 2, "setting 'x': --data-seed must be the same for all"),
        (("--setting", "x=--metrics mae"), 2, "setting 'x': --metrics must be the same for all"),
        (("--setting", "x=--diffpool-ratio 2"), 2, "argument --diffpool-ratio: must be above 0"),
        (("--setting", "x=--nothing"), 2, "unrecognized arguments: --nothing"),
        (
            ("--setting", "x=--diffpool-levels 0 --diffpool-gate"),
            2,
            "setting 'x': argument --diffpool-gate: not allowed with --diffpool-levels 0",
        ),
        (("--split-sizes", 0.9, 0.1, 0), 2, "argument --split-sizes: needs a test part"),
        (("--split", "kennard_stone"), 2, "argument --num-replicates: must be 1 with this --split"),
    ],
)
def test_bad_options_are_named(tmp_path, capsys, words, code, message):
    data = write_table(tmp_path / "data.csv")
    assert compare(data, tmp_path / "out", *words) == code
    captured = capsys.readouterr().err
    assert "Traceback" not in captured and "tritonpool compare: " in captured
    assert message in captured
    assert not (tmp_path / "out").exists()


def test_earlier_trainings_must_be_of_the_same_data_and_options(tmp_path, capsys):
    data, out = write_table(tmp_path / "data.csv"), tmp_path / "out"
    words = ("--settings", "dmpnn", "one-cluster", "--num-replicates", 1)
    assert compare(data, out, *words) == 0
    for more, message in [
        (("--diffpool-depth", 2), "argument --output-dir: --diffpool-depth is 2, but what is in '"),
        (("--dropout", 0.1), "argument --output-dir: --dropout is 0.1, but what is in '"),
        (("--data-seed", 7), "argument --output-dir: --data-seed is 7, but what is in '"),
    ]:
        assert compare(data, out, *words, *more) == 2
        assert message in capsys.readouterr().err
    write_table(data, 41)
    assert compare(data, out, *words) == 1
    assert "the data is not split as it was" in capsys.readouterr().err
    write_table(data, 40, y=lambda row, text: 2 * row)
    assert compare(data, out, *words) == 1
    assert "result.json' is from other data; name another --output-dir" in capsys.readouterr().err
