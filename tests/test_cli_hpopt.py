"""``tritonpool hpopt`` searches settings, goes on with a search, and keeps the best."""

import csv
import json
import re
import shlex
import sys
from argparse import Namespace

import pytest
import torch
from cli_tools import SHORT, SMALL, train, tritonpool, write_table
from filelock import FileLock

from tritonpool.cli import trials
from tritonpool.cli.callbacks import History
from tritonpool.cli.errors import Interrupted
from tritonpool.cli.parser import read_config

pytest.importorskip("optuna")

POOLING = ("--search-parameter-keywords", "diffpool")
EARLY = ("--trial-scheduler", "AsyncHyperBand", "--grace-period", 1)
RATES = ("--search-parameter-keywords", "max_lr", "--search-algorithm", "random")
WRITTEN = ("all_progress.csv", "best_config.toml", "best_checkpoint.ckpt")


def hpopt(data, out, *more, samples=3, epochs=2) -> int:
    given = ("-i", data, "--hpopt-save-dir", out, "--num-samples", samples)
    given += ("--search-seed", 0)
    return tritonpool("hpopt", *given, *SMALL, *SHORT, "--epochs", epochs, *POOLING, *more)


def progress(out) -> list[dict[str, str]]:
    with (out / "all_progress.csv").open(newline="") as file:
        return list(csv.DictReader(file))


def last_checkpoint(folder) -> dict:
    return torch.load(folder / "model_0/checkpoints/last.ckpt", "cpu", weights_only=False)


def of_best_epoch(folder, monitor="val_loss") -> dict:
    """What lightning kept of it."""
    (state,) = (
        state
        for state in last_checkpoint(folder)["callbacks"].values()
        if isinstance(state, dict) and state.get("monitor") == monitor and "dirpath" in state
    )
    return state


def best_score(folder, monitor="val_loss") -> float:
    return float(of_best_epoch(folder, monitor)["best_model_score"])


def best_epoch(folder) -> int:
    return int(re.search(r"epoch=(\d+)", of_best_epoch(folder)["best_model_path"])[1])


def stop_at(epoch: int):
    def stop(history, trainer, module):
        if trainer.current_epoch == epoch:
            raise Interrupted("the training was stopped")
        history._start = 0.0

    return stop


def test_the_best_is_kept_and_can_be_trained_and_compared(tmp_path, capsys):
    data, out = write_table(tmp_path / "data.csv", 50), tmp_path / "out"
    assert hpopt(data, out, "--aggregation", "mean", "--metrics", "rmse") == 0
    rows, printed = progress(out), capsys.readouterr().out
    assert [row["state"] for row in rows] == ["complete"] * 3
    values = [float(row["val_loss"]) for row in rows]
    assert values == sorted(values) and values[0] < values[-1]
    best = out / rows[0]["trial"]
    assert json.loads((best / "result.json").read_text())["value"] == values[0]
    assert best_score(best) == pytest.approx(values[0], rel=1e-6)
    # of the others no model is left, but what they gave
    assert [path.parent.parent for path in out.glob("trial_*/model_0/best.pt")] == [best]
    assert len(list(out.glob("trial_*/result.json"))) == 3
    # the test part was not looked at
    assert not [path for path in out.rglob("test*") if path.is_file()]
    saved = torch.load(out / "best_checkpoint.ckpt", "cpu", weights_only=False)
    assert saved["epoch"] == best_epoch(best)
    assert "message_passing.W_i.weight" in saved["state_dict"]
    config = read_config(out / "best_config.toml")
    given = shlex.split(rows[0]["options"])
    assert given[::2] and all(
        config[k[2:]] == v for k, v in zip(given[::2], given[1::2], strict=True)
    )
    assert not {"output-dir", "config-path", "hpopt-save-dir", "num-samples"} & config.keys()
    # its two lines are commands that run
    lines = [line.split()[1:] for line in printed.splitlines() if line.startswith("  tritonpool")]
    assert [line[0] for line in lines] == ["train", "compare"]
    assert tritonpool(*lines[0], "-o", tmp_path / "trained") == 0
    assert (tmp_path / "trained" / "splits.json").read_text() == (out / "splits.json").read_text()
    assert lines[1][-4:] == ["--num-replicates", "5", "--data-seed", "1"]
    several = ("--settings", "dmpnn", "diffpool", "--num-replicates", 1)
    assert tritonpool(*lines[1], "-o", tmp_path / "compared", *several) == 0
    # and the model predicts
    words = ("-i", data, "--model-paths", out / "best_checkpoint.ckpt", "-o", tmp_path / "p.csv")
    assert tritonpool("predict", *words, "--accelerator", "cpu") == 0


def test_the_files_follow_the_best(tmp_path, monkeypatch):
    data, out = write_table(tmp_path / "data.csv"), tmp_path / "out"
    real, values = trials.fit_replicate, [2.0, 1.0, 3.0]

    def give(args, prepared, folder, **more):
        (fitted,) = real(args, prepared, folder, **more)
        fitted.best = values.pop(0)
        return [fitted]

    monkeypatch.setattr(trials, "fit_replicate", give)
    assert hpopt(data, out) == 0
    rows = progress(out)
    assert [float(row["val_loss"]) for row in rows] == [1.0, 2.0, 3.0]
    config, given = read_config(out / "best_config.toml"), shlex.split(rows[0]["options"])
    assert all(config[k[2:]] == v for k, v in zip(given[::2], given[1::2], strict=True))
    (model,) = out.glob(f"{rows[0]['trial']}/model_0/checkpoints/best-*.ckpt")
    assert (out / "best_checkpoint.ckpt").read_bytes() == model.read_bytes()


def test_a_longer_search_repeats_nothing(tmp_path, capsys, monkeypatch):
    data, out = write_table(tmp_path / "data.csv"), tmp_path / "out"
    assert hpopt(data, out, samples=2) == 0
    first = {row["trial"]: row["val_loss"] for row in progress(out)}
    ran, real = [], trials.fit_replicate
    monkeypatch.setattr(
        trials,
        "fit_replicate",
        lambda args, data, folder, **more: ran.append(folder) or real(args, data, folder, **more),
    )
    assert hpopt(data, out, samples=4) == 0
    assert len(ran) == 2 and not first.keys() & {folder.name for folder in ran}
    assert first.items() <= {row["trial"]: row["val_loss"] for row in progress(out)}.items()
    assert hpopt(data, out, samples=2) == 0 and len(ran) == 2  # only shows what there is
    assert "4 trials, in " in capsys.readouterr().out


def test_what_does_not_belong_together_is_refused(tmp_path, capsys):
    data, out = write_table(tmp_path / "data.csv"), tmp_path / "out"
    assert hpopt(data, out, samples=1) == 0
    for more, message in (
        (("--batch-size", 8), "--batch-size is 8, but what is in"),
        (("--diffpool-ratio", 0.3), "--diffpool-ratio is 0.3, but what is in"),
        (("--search-parameter-keywords", "depth"), "was begun with parameters diffpool_ratio"),
        (("--num-replicates", 2), "was begun with splits 1, not 2"),
        (("--epochs", 3), "--epochs is 3, but what is in"),
    ):
        assert hpopt(data, out, *more) == 2, more
        assert message in capsys.readouterr().err
    write_table(data, 41)
    assert hpopt(data, out) == 1
    error = capsys.readouterr().err
    assert "is not split as it was" in error or "is from other data" in error
    assert train(data, tmp_path / "trained") == 0
    assert hpopt(data, tmp_path / "trained") == 2
    assert "is not of a search; name another folder" in capsys.readouterr().err


@pytest.mark.parametrize("epoch", [0, 1])
def test_an_interrupted_trial_goes_on(tmp_path, monkeypatch, capsys, epoch):
    data, out, whole = write_table(tmp_path / "data.csv"), tmp_path / "out", tmp_path / "whole"
    assert hpopt(data, whole, samples=2, epochs=3) == 0
    assert hpopt(data, out, samples=1, epochs=3) == 0
    with monkeypatch.context() as patch:
        patch.setattr(History, "on_train_epoch_start", stop_at(epoch))
        assert hpopt(data, out, samples=2, epochs=3) == 1
    assert "the same command goes on with it" in capsys.readouterr().err
    assert len(progress(out)) == 1
    begun, real = [], History.on_train_epoch_start
    monkeypatch.setattr(
        History,
        "on_train_epoch_start",
        lambda self, trainer, module: (
            begun.append(trainer.current_epoch) or real(self, trainer, module)
        ),
    )
    assert hpopt(data, out, samples=2, epochs=3) == 0
    assert begun == list(range(epoch, 3))
    for row, same in zip(progress(out), progress(whole), strict=True):
        assert {**row, "seconds": ""} == {**same, "seconds": ""}


def test_a_trial_that_fails_is_recorded(tmp_path, capsys, monkeypatch):
    data, out, real = write_table(tmp_path / "data.csv"), tmp_path / "out", trials.fit_replicate

    def fail(args, prepared, folder, **more):
        if folder.name == "trial_0":
            raise RuntimeError("out of\nmemory")
        return real(args, prepared, folder, **more)

    with monkeypatch.context() as patch:
        patch.setattr(trials, "fit_replicate", fail)
        assert hpopt(data, out, samples=2) == 0
    printed = capsys.readouterr().out
    assert "trial_0: failed (RuntimeError: out of memory), none finished yet" in printed
    assert "2 trials, 1 failed, in " in printed
    assert [row["state"] for row in progress(out)] == ["complete", "fail"]
    assert progress(out)[1]["error"] == "RuntimeError: out of memory"
    monkeypatch.setattr(trials, "fit_replicate", lambda *_, **__: [Namespace(best=float("nan"))])
    assert hpopt(data, tmp_path / "none", samples=2) == 1
    assert "no trial could be finished; the last error: val_loss was never finite" in (
        capsys.readouterr().err
    )


def test_trials_that_begin_worse_are_stopped(tmp_path, capsys):
    data, out = write_table(tmp_path / "data.csv", 50), tmp_path / "out"
    assert hpopt(data, out, *EARLY, *RATES, samples=5, epochs=5) == 0
    rows = progress(out)
    stopped = [row for row in rows if row["state"] == "pruned"]
    assert rows[0]["state"] == "complete" and stopped
    assert f"5 trials, {len(stopped)} stopped early" in capsys.readouterr().out
    for row in stopped:
        assert row["val_loss"] == "" and not (out / row["trial"] / "result.json").exists()
    # of all, only those that were not stopped have trained to the end
    assert last_checkpoint(out / rows[0]["trial"])["epoch"] == 4


def test_the_mean_of_several_splits_decides(tmp_path):
    data, out = write_table(tmp_path / "data.csv", 50), tmp_path / "out"
    by_r2 = ("--num-replicates", 2, "--metrics", "r2", "--tracking-metric", "r2")
    assert hpopt(data, out, *by_r2, samples=2) == 0
    rows = progress(out)
    values = [float(row["val/r2"]) for row in rows]
    assert values[0] > values[1]  # more is better
    best = [out / rows[0]["trial"] / f"replicate_{i}" for i in range(2)]
    scores = [best_score(folder, "val/r2") for folder in best]
    assert scores[0] != scores[1] and values[0] == pytest.approx(sum(scores) / 2, rel=1e-6)
    config = read_config(out / "best_config.toml")
    assert config["num-replicates"] == "2" and config["tracking-metric"] == "r2"


def test_nothing_is_tried_twice(tmp_path, capsys):
    data, out = write_table(tmp_path / "data.csv"), tmp_path / "out"
    few = ("--search-parameter-keywords", "diffpool_assignment", "diffpool_ratio", "-q")
    assert hpopt(data, out, *few, "--diffpool-max-clusters", 2, samples=12) == 0
    found = [row["options"] for row in progress(out)]
    assert len(found) == len(set(found)) == 9  # two networks with four ratios, and rings
    assert "there is nothing else to try" in capsys.readouterr().err
    assert sorted(path.name for path in out.glob("trial_*")) == sorted(
        row["trial"] for row in progress(out)
    )


def test_a_trial_that_goes_on_is_not_stopped_by_itself(tmp_path, monkeypatch):
    data, out, whole = write_table(tmp_path / "data.csv"), tmp_path / "out", tmp_path / "whole"
    words = (*EARLY, *RATES)
    assert hpopt(data, whole, *words, samples=4, epochs=6) == 0
    with monkeypatch.context() as patch:
        patch.setattr(History, "on_train_epoch_start", stop_at(4))
        assert hpopt(data, out, *words, samples=4, epochs=6) == 1
    assert hpopt(data, out, *words, samples=4, epochs=6) == 0
    for row, same in zip(progress(out), progress(whole), strict=True):
        assert {**row, "seconds": ""} == {**same, "seconds": ""}


def test_an_interruption_in_the_second_split(tmp_path, monkeypatch):
    data, out, whole = write_table(tmp_path / "data.csv"), tmp_path / "out", tmp_path / "whole"
    words = ("--num-replicates", 2)
    assert hpopt(data, whole, *words, samples=1) == 0
    real = trials.fit_replicate

    def stop(args, prepared, folder, **more):
        if folder.name == "replicate_1":
            raise Interrupted("the training was stopped")
        return real(args, prepared, folder, **more)

    with monkeypatch.context() as patch:
        patch.setattr(trials, "fit_replicate", stop)
        assert hpopt(data, out, *words, samples=1) == 1
    assert hpopt(data, out, *words, samples=1) == 0
    assert progress(out)[0]["val_loss"] == progress(whole)[0]["val_loss"]


def test_what_a_killed_call_did_not_write_is_written(tmp_path):
    data, out = write_table(tmp_path / "data.csv"), tmp_path / "out"
    assert hpopt(data, out, samples=2) == 0
    found = {name: (out / name).read_bytes() for name in WRITTEN}
    for name in WRITTEN:
        (out / name).unlink()
    with (out / "study.journal").open("a") as file:
        file.write('{"op_code":4,"worker')  # a line that was not finished
    assert hpopt(data, out, samples=2) == 0
    assert {name: (out / name).read_bytes() for name in WRITTEN} == found
    assert not list(out.glob("*.part"))


@pytest.mark.parametrize(
    "name, content, message",
    [
        ("study.journal", None, "does not know of 'trial_0', so the search cannot go on"),
        ("study.journal", "", "does not know of 'trial_0', so the search cannot go on"),
        ("study.journal", "{\n", "study.journal' cannot be read, so the search cannot go on"),
        ("search.json", "{", "search.json' cannot be read, so what is there cannot be gone on"),
        ("splits.json", "{", "splits.json' cannot be read, so what is there cannot be gone on"),
    ],
)
def test_a_damaged_folder_is_refused(tmp_path, capsys, name, content, message):
    data, out = write_table(tmp_path / "data.csv"), tmp_path / "out"
    out.mkdir()
    (out / "trial_0").mkdir()
    if content is not None:
        (out / name).write_text(content)
    if name == "splits.json":
        (out / "search.json").write_text("{}")
    assert hpopt(data, out) == 1
    assert message in capsys.readouterr().err


def test_two_calls_in_one_folder_are_refused(tmp_path, capsys):
    data, out = write_table(tmp_path / "data.csv"), tmp_path / "out"
    out.mkdir()
    with FileLock(out / "lock"):
        assert hpopt(data, out) == 1
    assert "another `tritonpool hpopt` searches in" in capsys.readouterr().err
    assert hpopt(data, out, samples=1) == 0


def test_a_trial_that_is_killed_again_and_again_fails(tmp_path, monkeypatch):
    data, out = write_table(tmp_path / "data.csv"), tmp_path / "out"

    class Killed(BaseException):
        pass

    def killed(*_, **__):
        raise Killed

    with monkeypatch.context() as patch:
        patch.setattr(trials, "fit_replicate", killed)
        for _ in range(2):
            with pytest.raises(Killed):
                hpopt(data, out)
    assert hpopt(data, out) == 0
    rows = progress(out)
    assert [row["state"] for row in rows] == ["complete", "complete", "fail"]
    assert rows[2]["trial"] == "trial_0" and "killed twice in its first epoch" in rows[2]["error"]


def test_options_of_train_hold_for_the_trials(tmp_path, capsys):
    data, out = write_table(tmp_path / "data.csv"), tmp_path / "out"
    more = ("--save-smiles-splits", "--remove-checkpoints", "--split-sizes", 0.8, 0.2, 0)
    for samples in (1, 2, 2):
        assert hpopt(data, out, *more, samples=samples) == 0
        assert (out / "best_checkpoint.ckpt").is_file()
        assert not list(out.rglob("checkpoints"))
    assert len(list(out.glob("trial_*/train_smiles.csv"))) == 2
    assert "On the test part" not in capsys.readouterr().out  # there is none


def test_layers_of_a_file_are_as_many_as_a_trial_has(tmp_path):
    data, out = write_table(tmp_path / "data.csv"), tmp_path / "out"
    assert train(data, tmp_path / "trained", "--ffn-num-layers", 2) == 0
    config = ("--config-path", tmp_path / "trained" / "config.toml")
    words = ("--search-parameter-keywords", "ffn_num_layers", "--num-samples", 2)
    assert tritonpool("hpopt", *config, "--hpopt-save-dir", out, *words) == 0
    rows = progress(out)
    assert {row["ffn_num_layers"] for row in rows} == {"1", "2"}
    assert [row["state"] for row in rows] == ["complete"] * 2


def test_a_file_may_name_the_log(tmp_path):
    data, config = write_table(tmp_path / "data.csv"), tmp_path / "config.toml"
    log = tmp_path / "log.txt"
    config.write_text(f'logfile = "{log}"\n')
    assert hpopt(data, tmp_path / "out", "--config-path", config, samples=1) == 0
    assert log.is_file()
    kept = read_config(tmp_path / "out" / "best_config.toml")
    assert "epochs" in kept and "logfile" not in kept


def test_what_was_never_finite_has_failed(tmp_path, capsys):
    data, out = write_table(tmp_path / "data.csv"), tmp_path / "out"
    rates = ("--max-lr", 1e30, "--init-lr", 1e30, "--final-lr", 1e30)
    assert hpopt(data, out, *EARLY, *rates, samples=1, epochs=3) == 1
    assert "the last error: val_loss was never finite" in capsys.readouterr().err


def test_several_at_a_time(tmp_path, capfd):
    data, out = write_table(tmp_path / "data.csv"), tmp_path / "out"
    assert hpopt(data, out, "--jobs", 2, samples=3) == 0
    rows = progress(out)
    assert len({row["trial"] for row in rows}) == len({row["options"] for row in rows}) == 3
    assert len(list(out.glob("trial_*/model_0/best.pt"))) == 1
    assert "Epoch" not in capfd.readouterr().out


def test_without_optuna(tmp_path, capsys, monkeypatch):
    monkeypatch.setitem(sys.modules, "optuna", None)
    assert hpopt(write_table(tmp_path / "data.csv"), tmp_path / "out") == 1
    assert "needs Optuna, which is not installed: pip install optuna" in capsys.readouterr().err
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    "more, message",
    [
        (("-o", "out"), "argument --output-dir: not allowed here; see --hpopt-save-dir"),
        (("--ensemble-size", 2), "argument --ensemble-size: not allowed here"),
        (("--resume",), "argument --resume: not allowed here"),
        (("--split-sizes", 1, 0, 0), "argument --split-sizes: needs a validation part"),
        (("--devices", 2), "argument --devices: each trial takes one device, got 2"),
        (("--epochs", -1), "argument --epochs: must be at least 1 here"),
        (("--num-samples", 0), "argument --num-samples/--raytune-num-samples: must be"),
        (("--search-parameter-keywords", "width"), "invalid choice: 'width'"),
        (
            ("--search-parameter-keywords", "diffpool_ratio", "--diffpool-ratio", 0.5),
            "diffpool_ratio cannot be searched, because --diffpool-ratio is given",
        ),
    ],
)
def test_what_cannot_be_is_refused(tmp_path, capsys, monkeypatch, more, message):
    monkeypatch.chdir(tmp_path)
    assert hpopt(write_table(tmp_path / "data.csv"), tmp_path / "search", *more) == 2
    assert message in capsys.readouterr().err
    assert not (tmp_path / "search").exists()


def test_what_cannot_choose_is_refused(tmp_path, capsys):
    data = write_table(tmp_path / "data.csv", y=lambda row, text: row % 2)
    (tmp_path / "splits.json").write_text('[{"train": "0-19", "val": [20, 22], "test": "30-39"}]')
    words = ("-t", "classification", "--splits-file", tmp_path / "splits.json")
    assert hpopt(data, tmp_path / "search", *words, "--tracking-metric", "roc") == 1
    assert "does not have both classes, so --tracking-metric roc says" in capsys.readouterr().err
    assert not (tmp_path / "search").exists()


def test_a_file_holds_nothing_of_the_search(tmp_path, capsys):
    data, config = write_table(tmp_path / "data.csv"), tmp_path / "config.toml"
    for text in ("num-samples = 2", "search-algorithm = random"):
        config.write_text(text + "\n")
        assert hpopt(data, tmp_path / "out", "--config-path", config) == 2
        assert "argument --config-path: cannot hold the options of the search" in (
            capsys.readouterr().err
        )


def test_names_of_chemprop_are_known(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    data = write_table(tmp_path / "data.csv")
    given = ("-i", data, "--raytune-num-samples", 2, "--raytune-search-algorithm", "random")
    given += ("--search-parameter-keywords", "init_lr", "--hyperopt-random-state-seed", 3)
    assert tritonpool("hpopt", *given, *SMALL, *SHORT) == 0
    rows = progress(tmp_path / "tritonpool_hpopt" / "data")
    assert len(rows) == 2
    for row in rows:
        option, value = row["options"].split()
        assert option == "--init-lr"
        assert float(value) == pytest.approx(1e-3 * float(row["init_lr_ratio"]), rel=1e-4)
