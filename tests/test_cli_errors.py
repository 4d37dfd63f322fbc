"""Wrong options and places give one sentence, the right exit code, and no output folder."""

import os
import re

import pytest
import torch
from cli_tools import train, tritonpool
from lightning import pytorch as pl
from lightning.pytorch.utilities.exceptions import SIGTERMException

from tritonpool.cli.models import make_model

NO_GPU = pytest.mark.skipif(torch.cuda.is_available(), reason="needs a machine without a GPU")


OPTIONS = [
    # DiffPool options out of range
    (("--diffpool-ratio", 0), "argument --diffpool-ratio: must be above 0 and at most 1, got '0'"),
    (("--diffpool-ratio", 1.5), "argument --diffpool-ratio: must be above 0 and at most 1, got '1"),
    (("--diffpool-ratio", "nan"), "argument --diffpool-ratio: must be above 0 and at most 1, got"),
    (("--diffpool-ratio", "x"), "argument --diffpool-ratio: must be above 0 and at most 1, got 'x"),
    (("--diffpool-levels", -1), "argument --diffpool-levels: must be a whole number at least 0"),
    (
        ("--diffpool-max-clusters", 0),
        "argument --diffpool-max-clusters: must be a whole number from 1 to 4096",
    ),
    (
        ("--diffpool-max-clusters", 8, 1),
        "argument --diffpool-max-clusters: needs one number, or one for each level (--diffpool-lev",
    ),
    (("--diffpool-hidden-dim", 0), "argument --diffpool-hidden-dim: must be a whole number at lea"),
    (("--diffpool-depth", 0), "argument --diffpool-depth: must be a whole number at least 1, got"),
    (("--diffpool-link-weight", -1), "argument --diffpool-link-weight: must be a number of 0 or m"),
    (
        ("--diffpool-entropy-weight", "inf"),
        "argument --diffpool-entropy-weight: must be a number o",
    ),
    (("--diffpool-assignment", "cnn"), "argument --diffpool-assignment: invalid choice: 'cnn'"),
    (("--diffpool-encoder", "x"), "argument --diffpool-encoder: invalid choice: 'x'"),
    (("--diffpool-readout", "sum"), "argument --diffpool-readout: invalid choice: 'sum'"),
    (
        ("--diffpool-temperature", 0),
        "argument --diffpool-temperature: must be a number above 0, go",
    ),
    (("--diffpool-top-k", 1), "argument --diffpool-top-k: must be a whole number at least 2, got"),
    (("--diffpool-positions", -1), "argument --diffpool-positions: must be a whole number from 0 "),
    (("--diffpool-prior", "brics"), "argument --diffpool-prior: invalid choice: 'brics'"),
    (("--train-size", 0), "argument --train-size: must be a whole number at least 1, got '0'"),
    (("--precision", "8"), "argument --precision: invalid choice: '8'"),
    (("--num-workers", -1), "argument --num-workers: must be a whole number at least 0, got -1"),
    (("--patience", -1), "argument --patience: must be a whole number at least 0, got -1"),
    (("--depth", 0), "argument --depth: must be a whole number at least 1, got 0"),
    (("--message-hidden-dim", 0), "argument --message-hidden-dim: must be a whole number at lea"),
    (("--max-lr", -1), "argument --max-lr: must be a number above 0, got -1"),
    (("--final-lr", "nan"), "argument --final-lr: must be a number above 0, got nan"),
    (("--dropout", 1), "argument --dropout: must be from 0 to below 1, got 1"),
    (("--grad-clip", -1), "argument --grad-clip: must be 0 or more, got -1"),
    (("--task-weights", 1, 2), "argument --task-weights: must be one for each target (1), got 2"),
    *(
        (
            ("--task-weights", weight),
            f"argument --task-weights: must be numbers of 0 or more, not all 0, got {weight}",
        )
        for weight in (-1, 0, "nan")
    ),
    (
        ("--task-type", "regression-quantile", "--loss-function", "quantile", "--alpha", 1.5),
        "argument --alpha: must be above 0 and below 1, got 1.5",
    ),
    *(
        (words, f"argument {words[2]}: has no effect without --loss-function; name the loss, too")
        for words in (
            ("--task-type", "regression-quantile", "--alpha", 0.3),
            ("--task-type", "regression-evidential", "--v-kl", 0.2),
            ("--task-type", "regression", "--eps", 1e-6),
        )
    ),
    (("--batch-size", 0), "argument --batch-size: must be a whole number at least 1, got 0"),
    (("--ensemble-size", 0), "argument --ensemble-size: must be a whole number at least 1, got 0"),
    (("--data-seed", -1), "argument --data-seed: must be a whole number from 0 to 4294967295, got"),
    (
        ("--data-seed", 2**32 - 1, "--num-replicates", 2),
        "argument --data-seed: must be a whole number from 0 to 4294967294, got 4294967295",
    ),
    (
        ("--pytorch-seed", "99999999999999999999"),
        "argument --pytorch-seed: must be a whole number from 0 to 18446744073709551615, got 99999",
    ),
    (
        ("--split-key-molecule", 2, "-s", "smiles", "y"),
        "argument --split-key-molecule: must be the number of a column of molecules or reactions, "
        "from 0 to 1, got 2",
    ),
    (
        ("--split-key-molecule", 1),
        "argument --split-key-molecule: must be the number of a column of molecules or reactions, "
        "0 for the only one, got 1",
    ),
    (("--frobnicate",), "unrecognized arguments: --frobnicate"),
    (
        ("--split-sizes", 80, 10, 10),
        "argument --split-sizes: must be shares from 0 to 1 that add up to 1, such as 0.8 0.1 0.1",
    ),
    (
        ("--split-sizes", 0.8, 0.1, 0.3),
        "argument --split-sizes: must be shares from 0 to 1 that add up to 1, such as 0.8 0.1 0.1",
    ),
    # options that contradict another
    (
        ("--diffpool-levels", 0, "--diffpool-ratio", 0.25),
        "argument --diffpool-ratio: not allowed with --diffpool-levels 0",
    ),
    (
        ("--diffpool-assignment", "rings", "--diffpool-ratio", 0.5),
        "argument --diffpool-ratio: not allowed with --diffpool-assignment rings",
    ),
    (
        ("--diffpool-assignment", "rings", "--diffpool-top-k", 2),
        "argument --diffpool-top-k: not allowed with --diffpool-assignment rings",
    ),
    (
        ("--diffpool-assignment", "rings", "--diffpool-levels", 2, "--diffpool-prior", "rings"),
        "argument --diffpool-prior: not allowed with --diffpool-assignment rings",
    ),
    (
        ("--diffpool-gate", "--diffpool-readout", "last"),
        "argument --diffpool-gate: not allowed with --diffpool-readout last",
    ),
    (
        ("--loss-function", "evidential"),
        "argument --loss-function: 'evidential' needs --task-type regression-evidential, but that",
    ),
    (
        ("--task-type", "classification", "--loss-function", "dirichlet"),
        "argument --loss-function: 'dirichlet' needs --task-type classification-dirichlet or mult",
    ),
    *(
        (
            ("--task-type", task, "--loss-function", loss),
            f"argument --loss-function: {loss!r} needs --task-type regression, but that is '{task}",
        )
        for task, loss in (
            ("regression-mve", "mse"),
            ("regression-quantile", "rmse"),
            ("regression-evidential", "mae"),
            ("regression-mve", "bounded-mae"),
            ("regression-quantile", "pinball-point"),
            ("multiclass", "mse"),
            ("classification", "rmse"),
        )
    ),
    (
        ("--task-type", "spectral"),
        "argument --task-type: 'spectral' cannot be trained, because chemprop 2.3 makes such a mod",
    ),
    (
        ("--loss-function", "wasserstein"),
        "argument --loss-function: 'wasserstein' needs --task-type spectral; 'spectral' cannot be",
    ),
    (("--metrics", "mae", "r2", "mae"), "argument --metrics: names 'mae' more than once"),
    (
        ("--task-type", "multiclass", "--metrics", "accuracy"),
        "argument --metrics: 'accuracy' does not fit --task-type multiclass; use multiclass-mcc",
    ),
    *(
        (
            ("--task-type", task, "--metrics", *metrics),
            f"argument --metrics: {metrics[-1]!r} does not fit --task-type {task}; use ",
        )
        for task, metrics in (
            ("multiclass", ("multiclass-mcc", "roc")),
            ("multiclass", ("rmse",)),
            ("multiclass-dirichlet", ("f1",)),
            ("regression", ("multiclass-mcc",)),
            ("regression", ("rmse", "roc")),
            ("regression-mve", ("binary-mcc",)),
            ("classification", ("roc", "multiclass-mcc")),
        )
    ),
    *(
        (
            ("--activation", name),
            f"argument --activation: {name.upper()} does not work without arguments (",
        )
        for name in ("threshold", "multiheadattention", "glu", "softmax2d")
    ),
    *(
        (
            ("--activation", name, "--activation-args", *words),
            f"argument --activation-args: {name.upper()} does not work with these (",
        )
        for name, *words in (
            ("elu", "foo=1"),
            ("elu", "much"),
            ("prelu", 3),
            ("multiheadattention", 8, 2),
        )
    ),
    (("-v", "-q"), "argument -q: not allowed with argument -v"),
    (("--freeze-encoder",), "`--freeze-encoder` can only be used when `--checkpoint` is used."),
    (("--epochs", 1), "argument --epochs: must be more than --warmup-epochs (1), got 1; give mo"),
    (("--task-type", "regression", "--class-balance"), "Class balance is only applicable for"),
    (("--message-hidden-dim", 16, 16), "Single-component data only accepts one"),
    (("--tracking-metric", "rmse"), "Tracking metric must be one of mse,val_loss. Got rmse"),
    # targets that DiffPool cannot predict
    (("--atom-target-columns", "y"), "argument --atom-target-columns: atom and bond targets cann"),
    (("--bond-target-columns", "y"), "argument --bond-target-columns: atom and bond targets cann"),
    (("--mol-target-columns", "y"), "argument --mol-target-columns: belongs to models that pr"),
    (("--constraints-path", "c.csv"), "argument --constraints-path: atom and bond targets cannot"),
    # columns
    (
        ("-s", "SMILES"),
        "argument --smiles-columns: '{data}' has no column 'SMILES'; its columns ar",
    ),
    (
        ("--target-columns", "gap"),
        "argument --target-columns: '{data}' has no column 'gap'; its co",
    ),
    (("--weight-column", "w"), "argument --weight-column: '{data}' has no column 'w'; its columns"),
    (("--splits-column", "split"), "argument --splits-column: '{data}' has no column 'split'; its"),
    # devices
    (("--devices", "banana"), "argument --devices: must be auto or how many processes to train"),
    (("--devices", 0), "argument --devices: must be auto or how many processes to train in, at"),
    (("--accelerator", "abacus"), "argument --accelerator: must be one of auto, cpu, cuda"),
    pytest.param(
        ("--accelerator", "gpu"),
        "argument --accelerator: 'gpu' needs a GPU, and torch finds none; use 'cpu' or 'auto'",
        marks=NO_GPU,
    ),
    pytest.param(
        ("--accelerator", "auto", "--precision", "16-mixed"),
        "argument --precision: '16-mixed' needs a GPU; use 'bf16-mixed' or '32-true'",
        marks=NO_GPU,
    ),
]


@pytest.mark.parametrize(("words", "message"), OPTIONS)
def test_wrong_options_have_code_2(refused, data, words, message):
    assert refused(data, *words, code=2).startswith(message.format(data=data))


def test_a_terminated_training_is_no_success(data, tmp_path, capsys, monkeypatch):
    def terminated(*_, **__):
        raise SIGTERMException

    monkeypatch.setattr(pl.Trainer, "fit", terminated)
    assert train(data, tmp_path / "out") == 1
    assert "stopped by SIGTERM; --resume goes on with it" in capsys.readouterr().err


def test_an_interrupted_training_says_how_to_go_on(data, tmp_path, capsys, monkeypatch):
    def interrupted(*_, **__):
        raise KeyboardInterrupt

    # where lightning runs the epochs, so that its own answer is part of the test
    monkeypatch.setattr(pl.Trainer, "_run_stage", interrupted)
    assert train(data, tmp_path / "out") == 1
    assert "interrupted; --resume goes on with it" in capsys.readouterr().err


def test_an_interruption_before_the_training_is_one_line(data, tmp_path, capsys, monkeypatch):
    def interrupted(*_, **__):
        raise KeyboardInterrupt

    monkeypatch.setattr("tritonpool.cli.train.read_splits", interrupted)
    assert train(data, tmp_path / "out") == 1
    assert capsys.readouterr().err.endswith("tritonpool train: error: interrupted\n")


def test_data_path_is_needed(tmp_path, capsys):
    assert tritonpool("train", "-o", tmp_path / "out") == 2
    assert "argument --data-path: is needed for training" in capsys.readouterr().err


def test_something_else_than_a_model(refused, tmp_path, data):
    (tmp_path / "model.pt").write_bytes(b"no model")
    message = refused(data, "--from-foundation", tmp_path / "model.pt", code=1)
    assert message.startswith(f"'{tmp_path / 'model.pt'}' is not a model that chemprop can load")


def test_train_size_larger_than_the_training_part(refused, data):
    message = refused(data, "--train-size", 33, code=1)
    assert message.startswith("argument --train-size: must be at most 32, the size of the training")


def test_training_part_smaller_than_a_batch_of_batch_norm(refused, data):
    message = refused(data, "--batch-norm", "--batch-size", 33, code=1)
    assert message.startswith("argument --batch-norm: drops an incomplete last batch, so the")


@pytest.mark.parametrize(
    ("backend", "message"),
    [
        ("cuda", "unknown backend 'cuda' in TRITONPOOL_BACKEND; expected one of auto, triton"),
        pytest.param(
            "triton",
            "backend 'triton' was requested (by TRITONPOOL_BACKEND) but cannot run: the tensors",
            marks=NO_GPU,
        ),
    ],
)
def test_backend_that_cannot_run(refused, data, monkeypatch, backend, message):
    monkeypatch.setenv("TRITONPOOL_BACKEND", backend)
    monkeypatch.setenv("TRITON_INTERPRET", "0")
    assert refused(data, code=2).startswith(message)


def test_output_folder_that_cannot_be_written(tmp_path, data, capsys, monkeypatch):
    assert train(data, data / "out") == 1
    message = f"argument --output-dir: '{data / 'out'}' cannot be made, because '{data}' is not a f"
    assert message in capsys.readouterr().err
    # a superuser may write anywhere, so the answer of the system is replaced
    monkeypatch.setattr(os, "access", lambda path, mode: str(path) != str(tmp_path))
    assert train(data, tmp_path / "new" / "out") == 1
    message = f"argument --output-dir: '{tmp_path / 'new/out'}' cannot be written; '{tmp_path}' is"
    assert message in capsys.readouterr().err
    assert not (tmp_path / "new").exists()


def test_output_folder_that_turns_out_unwritable(tmp_path, data, capsys, monkeypatch):
    def full(*_, **__):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("tritonpool.cli.train.save_config", full)
    assert train(data, tmp_path / "out") == 1
    line = capsys.readouterr().err.splitlines()[-1]
    assert line.endswith(f"cannot write to '{tmp_path / 'out'}': No space left on device")


def test_output_folder_with_another_training(tmp_path, data, capsys):
    checkpoint = tmp_path / "out" / "model_0" / "checkpoints" / "last.ckpt"
    checkpoint.parent.mkdir(parents=True)
    checkpoint.touch()
    assert train(data, tmp_path / "out") == 2
    assert "already holds a training (model_0/checkpoints/last.ckpt)" in capsys.readouterr().err
    assert sorted(p.name for p in (tmp_path / "out").iterdir()) == ["model_0"]


def test_output_folder_above_another_training(tmp_path, data, capsys):
    (tmp_path / "out" / "b1" / "model_0").mkdir(parents=True)
    (tmp_path / "out" / "b1" / "model_0" / "best.pt").touch()
    assert train(data, tmp_path / "out") == 0
    (tmp_path / "new" / "replicate_1" / "model_0").mkdir(parents=True)
    (tmp_path / "new" / "replicate_1" / "model_0" / "best.pt").touch()
    assert train(data, tmp_path / "new") == 2
    assert "already holds a training (replicate_1/model_0/best.pt)" in capsys.readouterr().err


def test_pooling_options_with_a_model_that_has_its_own(refused, data, tmp_path):
    assert train(data, tmp_path / "first") == 0
    best = tmp_path / "first" / "model_0" / "best.pt"
    for option in ("--checkpoint", "--from-foundation"):
        message = refused(data, option, best, "--diffpool-ratio", 0.5, code=2)
        expected = f"argument --diffpool-ratio: not allowed with {option} {best}, which keeps the"
        assert message.startswith(expected)


def test_an_error_nobody_foresaw_has_a_traceback_with_v_only(data, tmp_path, monkeypatch, capsys):
    def broken(*_):
        raise ArithmeticError("two and two is five")

    monkeypatch.setattr(f"tritonpool.cli.train.{make_model.__name__}", broken)
    assert train(data, tmp_path / "out") == 1
    captured = capsys.readouterr().err
    assert "Traceback" not in captured
    line = "tritonpool train: error: ArithmeticError: two and two is five (-v shows the traceback)"
    assert captured.splitlines()[-1] == line
    assert train(data, tmp_path / "out", "-v") == 1
    captured = capsys.readouterr().err
    assert re.search(r"Traceback .*ArithmeticError: two and two is five\n", captured, re.DOTALL)
    assert not (tmp_path / "out").exists()


def test_a_config_file_that_is_not_there(refused, data):
    message = refused(data, "--config-path", "no.toml", code=1)
    assert message.startswith("Unable to open config file: no.toml")
