"""``tritonpool compare`` trains settings on the same splits, each once, and compares them."""

import csv
import json
import multiprocessing
import os
import shutil
import signal

import numpy as np
import pandas as pd
import pytest
import torch
from cli_tools import SHORT, SMALL, train, tritonpool, write_table

from tritonpool.cli import compared, processes
from tritonpool.cli.callbacks import History
from tritonpool.cli.compare import CompareSubcommand, learns
from tritonpool.cli.parser import Parser, logging_options, read_config

WORDS = (*SMALL, *SHORT)
TWO = ("--settings", "dmpnn", "one-cluster")
ONE_SPLIT = (*TWO, "--num-replicates", 1)


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
        parameters = _parameters(out / name / "replicate_0" / "model_0" / "best.pt")
        for i, row in enumerate(found["settings"][name]["trainings"]):
            test = json.loads(splits[0])[i]["test"]
            table = pd.read_csv(out / name / f"replicate_{i}/model_0/test_predictions.csv")
            error = table["y"].to_numpy() - truth[test]
            assert row["test"]["rmse"] == pytest.approx((error**2).mean() ** 0.5, rel=1e-5)
            assert row["test"]["mae"] == pytest.approx(abs(error).mean(), rel=1e-5)
            assert (row["train_molecules"], row["test_molecules"]) == (48, 6)
            assert row["parameters"] == parameters
    # the ratio holds for all that have one
    config = (out / "diffpool" / "config.toml").read_text()
    assert "diffpool-ratio = 0.5" in config
    assert "diffpool-levels = 0" in (out / "dmpnn" / "config.toml").read_text()
    printed, logged = capsys.readouterr()
    assert logged.count("--aggregation is norm, chemprop's default") == 1
    assert printed.count("split 0") == printed.count("split 1") == 5
    assert (out / "results.md").read_text() in printed and "Begin with " in printed
    with (out / "results.csv").open(newline="") as file:
        assert len(list(csv.reader(file))) == 11
    assert (out / "results.png").read_bytes().startswith(b"\x89PNG")


def _parameters(path) -> int:
    """How many numbers of a model file are learned: those but for metrics and scaling."""
    state = torch.load(path, "cpu", weights_only=False)["state_dict"]
    return sum(
        value.numel()
        for name, value in state.items()
        if value.is_floating_point()
        and not name.startswith(("metrics", "criterion", "predictor.criterion"))
        and "output_transform" not in name
    )


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


def test_the_metric_that_decides_may_be_another_afterwards(tmp_path, capsys):
    data, out = write_table(tmp_path / "data.csv", 50), tmp_path / "out"
    assert compare(data, out, *ONE_SPLIT) == 0
    before = results(out)
    # as if the call had ended before, so that one goes on
    (out / "one-cluster" / "replicate_0" / "result.json").unlink()
    model = out / "dmpnn" / "replicate_0" / "model_0" / "best.pt"
    stamp = model.stat().st_mtime_ns
    capsys.readouterr()
    assert compare(data, out, *ONE_SPLIT, "--metrics", "mae", "rmse", "r2") == 0
    printed, after = capsys.readouterr().out, results(out)
    assert model.stat().st_mtime_ns == stamp
    for name in ("dmpnn", "one-cluster"):
        (was,), (now,) = (each["settings"][name]["trainings"] for each in (before, after))
        assert now["test"] == pytest.approx(was["test"])
        assert f"{name}, split 0: mae {was['test']['mae']:.4f}" in printed
    assert (before["metric"], after["metric"]) == ("rmse", "mae")
    assert "one-cluster: mae " in printed and "one-cluster: rmse" not in printed
    assert compare(data, out, *ONE_SPLIT, "--metrics", "mae", "rmse") == 2
    assert "--metrics is ['mae', 'rmse'], but what is in" in capsys.readouterr().err


def test_several_trainings_at_a_time_give_the_same(tmp_path, capfd):
    data = write_table(tmp_path / "data.csv", 50)
    words = (*TWO, "--num-replicates", 2, "--pytorch-seed", 0)
    assert compare(data, tmp_path / "one", *words) == 0
    assert compare(data, tmp_path / "two", *words, "--jobs", 2) == 0
    one, two = (results(tmp_path / name)["settings"] for name in ("one", "two"))
    for name in one:
        for alone, beside in zip(one[name]["trainings"], two[name]["trainings"], strict=True):
            assert beside["test"] == pytest.approx(alone["test"], rel=1e-5)
            assert beside["parameters"] == alone["parameters"]
    captured = capfd.readouterr()
    assert captured.out.count("4 of 4: ") == 2
    assert "Epoch 1" in captured.out.partition("4 of 4: ")[0]
    assert "Epoch" not in captured.out.partition("4 of 4: ")[2]  # lines of several bars would mix


def killed(*_, **__):
    os.kill(os.getpid(), signal.SIGKILL)


def interrupt(*_, **__):
    raise KeyboardInterrupt


@pytest.mark.parametrize(
    "module, name, fake, message",
    [
        (
            compared,
            "_train_one",
            killed,
            "a training was ended from outside, perhaps because memory ran out",
        ),
        (processes, "wait", interrupt, "the trainings were interrupted; the same command goes on"),
    ],
)
def test_trainings_at_a_time_that_end_early_say_what_can_be_done(
    tmp_path, capsys, monkeypatch, module, name, fake, message
):
    monkeypatch.setattr(module, name, fake)
    data = write_table(tmp_path / "data.csv")
    assert compare(data, tmp_path / "out", *ONE_SPLIT, "--jobs", 2) == 1
    assert message in capsys.readouterr().err
    assert not multiprocessing.active_children()


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

    def stop(args, prepared, folder, **progress):
        if "diffpool" not in str(folder):
            return real(args, prepared, folder, **progress)
        with monkeypatch.context() as patch:
            if not finished:
                patch.setattr(History, "on_train_epoch_start", stop_in_second_epoch)
            real(args, prepared, folder, **progress)
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
        (("--setting", "a|b=--depth 2"), 2, "argument --setting: must be a name, =, and options"),
        (("--setting", "results.md="), 2, "argument --setting: must be a name, =, and options"),
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
        (
            ("--jobs", 2, "--devices", 2),
            2,
            "argument --jobs: each of several trainings takes one device, but --devices is 2",
        ),
        (("--jobs", 0), 2, "argument --jobs: must be a whole number at least 1, got 0"),
        (("--split-sizes", 0.9, 0.1, 0), 2, "argument --split-sizes: needs a test part"),
        (
            ("--split-sizes", 0.95, 0.03, 0.02),
            1,
            "the test part of split 0 has 1 value(s) of 'y', but",
        ),
        (
            ("--split-sizes", 0.9, 0.03, 0.07),
            1,
            "the validation part of split 0 has one value only",
        ),
        (("--split", "kennard_stone"), 2, "splits 0 and 1 are the same with this --split"),
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
    assert (
        f"what is in {str(out / 'dmpnn')!r} is from other data; name another --output-dir"
        in capsys.readouterr().err
    )


@pytest.mark.parametrize(
    "splits, message",
    [
        ([{"train": "0-29", "val": "30-39"}], "split 0 has no test part to compare on"),
        ([{"train": "0-29", "val": "30-34", "test": "35-39"}] * 2, "splits 0 and 1 are the same"),
    ],
)
def test_splits_of_a_file_must_be_good_to_compare_on(tmp_path, capsys, splits, message):
    data, file = write_table(tmp_path / "data.csv"), tmp_path / "splits.json"
    file.write_text(json.dumps(splits))
    assert compare(data, tmp_path / "out", *TWO, "--splits-file", file)
    assert message in capsys.readouterr().err and not (tmp_path / "out").exists()


def test_splits_may_have_the_same_test_part(tmp_path):
    data, file = write_table(tmp_path / "data.csv"), tmp_path / "splits.json"
    same = {"val": "30-34", "test": "35-39"}
    file.write_text(json.dumps([{"train": "0-29", **same}, {"train": "0-14", **same}]))
    assert compare(data, tmp_path / "out", *TWO, "--splits-file", file) == 0
    assert results(tmp_path / "out")["splits"] == 2


def test_the_test_part_may_be_a_file_of_its_own(tmp_path, capsys):
    data, out = write_table(tmp_path / "data.csv"), tmp_path / "out"
    assert compare(data, out, "-i", data, data, *ONE_SPLIT, "--split-sizes", 0.9, 0.1, 0) == 0
    assert results(out)["settings"]["dmpnn"]["trainings"][0]["test_molecules"] == 40
    assert "36 of the 40 molecules in the test part of split 0 are in" in capsys.readouterr().err


def test_a_validation_part_of_one_class_is_named(tmp_path, capsys):
    data = write_table(tmp_path / "data.csv", y=lambda row, text: row % 2)
    (tmp_path / "splits.json").write_text('[{"train": "0-19", "val": [21, 23], "test": "30-39"}]')
    words = (*TWO, "-t", "classification", "--splits-file", tmp_path / "splits.json")
    words += ("--metrics", "roc", "prc", "--tracking-metric", "prc")
    assert compare(data, tmp_path / "out", *words) == 0
    message = "split 0 does not have both classes, so --tracking-metric prc says nothing"
    assert capsys.readouterr().err.count(message) == 1


def test_a_test_part_of_one_class_is_refused(tmp_path, capsys):
    data = write_table(tmp_path / "data.csv", 60, y=lambda row, text: int(row == 0))
    words = (*TWO, "-t", "classification")
    assert compare(data, tmp_path / "out", *words) == 1
    assert "has one class of 'y' only, of which roc says nothing" in capsys.readouterr().err
    assert not (tmp_path / "out").exists()


def test_a_setting_may_read_the_data_its_own_way(tmp_path):
    data, out = write_table(tmp_path / "data.csv"), tmp_path / "out"
    own = ("--setting", "sizes=--molecule-featurizers morgan_binary --diffpool-levels 0")
    words = ("--settings", "dmpnn", "--num-replicates", 1, *own)
    assert compare(data, out, *words) == 0
    found = results(out)["settings"]
    parameters = [found[name]["trainings"][0]["parameters"] for name in ("dmpnn", "sizes")]
    assert parameters[1] - parameters[0] == 16 * 2048  # the bits, into the predictor
    splits = {(out / name / "splits.json").read_text() for name in found}
    assert len(splits) == 1
    # neither has clusters that are learned
    assert not any("learned" in line for line in results(out)["findings"])


@pytest.mark.parametrize(
    "words, learned",
    [
        ("", True),
        ("--diffpool-max-clusters 1", False),
        ("--diffpool-assignment rings", False),
        ("--diffpool-assignment rings --diffpool-levels 2", True),
        ("--diffpool-assignment rings --diffpool-levels 2 --diffpool-max-clusters 8 1", False),
        ("--diffpool-levels 2 --diffpool-max-clusters 8 1", True),
    ],
)
def test_a_control_is_known_by_its_options(words, learned):
    parser = CompareSubcommand.add_args(Parser())
    args = parser.parse_args(["-i", "data.csv", *words.split()])
    if args.diffpool_max_clusters and len(args.diffpool_max_clusters) == 1:
        (args.diffpool_max_clusters,) = args.diffpool_max_clusters
    assert learns(args) is learned


def test_a_training_that_is_no_comparison_is_left_alone(tmp_path, capsys):
    data, out = write_table(tmp_path / "data.csv"), tmp_path / "out"
    words = ("--diffpool-levels", 0, "--num-replicates", 2, "--metrics", "rmse", "mae", "r2")
    assert train(data, out / "dmpnn", *words) == 0
    best = out / "dmpnn" / "replicate_0" / "model_0" / "best.pt"
    before = best.stat().st_mtime_ns
    capsys.readouterr()
    assert compare(data, out, *TWO, "--num-replicates", 2) == 2
    assert "last.ckpt' is not of a comparison; name another folder" in capsys.readouterr().err
    assert best.stat().st_mtime_ns == before and not (out / "one-cluster").exists()


def test_files_beside_the_data_are_compared_too(tmp_path, capsys, monkeypatch):
    data, out = write_table(tmp_path / "data.csv"), tmp_path / "out"
    numbers = np.random.default_rng(0).random((40, 2))
    np.savez(tmp_path / "one.npz", numbers)
    monkeypatch.chdir(tmp_path)
    assert compare(data, out, *ONE_SPLIT, "--descriptors-path", "one.npz") == 0
    shutil.copy("one.npz", "moved.npz")
    assert compare(data, out, *ONE_SPLIT, "--descriptors-path", "moved.npz") == 0
    assert "2 of 2: one-cluster, split 0: rmse " in (printed := capsys.readouterr().out)
    assert printed.count("(from an earlier call)") == 2
    np.savez("one.npz", 2 * numbers)
    assert compare(data, out, *ONE_SPLIT, "--descriptors-path", "one.npz") == 1
    assert "dmpnn' is from other data; name another --output-dir" in capsys.readouterr().err


def test_fewer_splits_leave_the_record_of_all(tmp_path, capsys):
    data, out = write_table(tmp_path / "data.csv"), tmp_path / "out"
    assert compare(data, out, *TWO, "--num-replicates", 2) == 0
    files = [out / "dmpnn" / name for name in ("splits.json", "config.toml")]
    before = [file.read_text() for file in files]
    assert compare(data, out, *ONE_SPLIT) == 0
    assert results(out)["splits"] == 1 and [file.read_text() for file in files] == before
    # a result that was cut off is named before anything is trained
    (out / "one-cluster" / "replicate_0" / "result.json").unlink()
    result = out / "one-cluster" / "replicate_1" / "result.json"
    result.write_text(result.read_text()[:20])
    capsys.readouterr()
    assert compare(data, out, *TWO, "--num-replicates", 2) == 1
    captured = capsys.readouterr()
    assert "result.json' cannot be read; without it that model is trained again" in captured.err
    assert "split 0" not in captured.out


@pytest.mark.parametrize(
    "error, message",
    [
        (SystemExit(1), "the training was interrupted; the same command goes on with it"),
        (ValueError("too hot"), "setting 'dmpnn', split 0: ValueError: too hot"),
    ],
)
def test_a_training_that_fails_says_what_can_be_done(tmp_path, capsys, monkeypatch, error, message):
    def fail(history, trainer, module):
        raise error

    monkeypatch.setattr(History, "on_train_epoch_start", fail)
    data = write_table(tmp_path / "data.csv")
    assert compare(data, tmp_path / "out", *ONE_SPLIT) == 1
    assert message in capsys.readouterr().err


def test_splits_are_saved_as_train_saves_them(tmp_path):
    data, out = write_table(tmp_path / "data.csv"), tmp_path / "out"
    words = ("--num-replicates", 2, "--save-smiles-splits", "--save-data-splits")
    assert compare(data, out, *TWO, *words) == 0
    assert train(data, tmp_path / "train", *words) == 0
    for i in range(2):
        folders = [root / f"replicate_{i}" for root in (out / "dmpnn", tmp_path / "train")]
        saved = [{f.name: f.read_text() for f in folder.glob("*.csv")} for folder in folders]
        assert saved[0] == saved[1] and len(saved[0]) == 6


def parsed(*words):
    parser = Parser(parents=[logging_options("")])
    CompareSubcommand.add_args(parser)
    CompareSubcommand.parser = parser
    return CompareSubcommand.parse([str(word) for word in words])


def test_a_file_of_a_training_says_nothing_about_splits(tmp_path, capsys):
    config = tmp_path / "config.toml"
    for text, splits in [("num-replicates = 1", 5), ("num-replicates = 3", 3)]:
        config.write_text(text + "\n")
        assert parsed("-i", "data.csv", "--config-path", config).num_replicates == splits
    data = write_table(tmp_path / "data.csv")
    for text, more in (
        ("settings = [dmpnn, rings]", ()),
        ("jobs = 2", ()),
        ("jobs = 2", ("--jobs", 3)),  # the words overrule it
    ):
        config.write_text(text + "\n")
        assert compare(data, tmp_path / "out", "--config-path", config, *more) == 2
        assert "argument --config-path: cannot hold --settings, " in capsys.readouterr().err


def test_a_file_may_name_the_log(tmp_path):
    data, config = write_table(tmp_path / "data.csv"), tmp_path / "config.toml"
    log = tmp_path / "log.txt"
    config.write_text(f'logfile = "{log}"\n')
    assert compare(data, tmp_path / "out", *ONE_SPLIT, "--config-path", config) == 0
    assert log.is_file()
    for name in ("dmpnn", "one-cluster"):
        kept = read_config(tmp_path / "out" / name / "config.toml")
        assert "epochs" in kept and "logfile" not in kept


def test_options_may_be_shortened(tmp_path):
    data, log = write_table(tmp_path / "data.csv"), tmp_path / "log.txt"
    assert compare(data, tmp_path / "out", *ONE_SPLIT, "--logf", log) == 0
    assert log.exists()
