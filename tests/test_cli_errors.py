"""Bad input gives one sentence, the right exit code, and no output folder."""

import os
import re

import numpy as np
import pytest
import torch
from cli_tools import SHORT, SMALL, train, tritonpool, write_table
from lightning import pytorch as pl
from lightning.pytorch.utilities.exceptions import SIGTERMException

from tritonpool.cli.fit import make_model
from tritonpool.cli.splits import check_splits

NO_GPU = pytest.mark.skipif(torch.cuda.is_available(), reason="needs a machine without a GPU")


@pytest.fixture
def data(tmp_path):
    return write_table(tmp_path / "data.csv")


@pytest.fixture
def refused(tmp_path, capfd):
    """Run a training that must fail, and return its message."""

    def run(data, *words, code, small=SMALL + SHORT) -> str:
        out = tmp_path / "out"
        assert train(data, out, *words, small=small) == code
        assert not out.exists()
        captured = capfd.readouterr().err
        assert "Traceback" not in captured
        line = captured.strip().splitlines()[-1]
        assert line.startswith("tritonpool train: error: ")
        return line.removeprefix("tritonpool train: error: ")

    yield run


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
    (("--devices", "banana"), "argument --devices: must be auto or how many of this machine's"),
    (("--devices", 0), "argument --devices: must be auto or how many of this machine's cpu dev"),
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


FILES = {
    "empty": ("", "argument --data-path: '{data}' is empty"),
    "header only": ("smiles,y\n", "argument --data-path: '{data}' has no rows under its header"),
    "no target": ("smiles\nCC\nCCC\n", "'{data}' has no column besides the SMILES to learn"),
    "bad SMILES": (
        "smiles,y\nCC,1\nCCC,2\nC(C,3\nCCCC,4\n",
        "'{data}', row 3 below the header: the SMILES 'C(C' in column 'smiles' cannot be read by",
    ),
    "missing SMILES": (
        "smiles,y\nCC,1\n,2\nCCC,3\nCCCC,4\n",
        "'{data}', row 2 below the header: the SMILES in column 'smiles' is missing",
    ),
    "text as target": (
        "smiles,y\nCC,1\nCCC,high\nCCCC,3\n",
        "'{data}', row 2 below the header: the value 'high' in column 'y' is not a finite number",
    ),
    "infinite target": (
        "smiles,y\nCC,1\nCCC,2\nCCCC,inf\n",
        "'{data}', row 3 below the header: the value 'inf' in column 'y' is not a finite number",
    ),
    "only gaps as targets": ("smiles,y\nCC,\nCCC,\n", "'{data}' has no value in column 'y'"),
    "one target without values": (
        "smiles,y,z\nCC,1,\nCCC,2,\n",
        "'{data}' has no value in column 'z'",
    ),
    "numbers as SMILES": (
        "smiles,y\n1,1\n2,2\n3,3\n",
        "'{data}', row 1 below the header: the SMILES 1 in column 'smiles' is a number, not a text",
    ),
    "decimal commas": (
        "smiles,y\nCC,0,5\nCCC,1,5\n",
        "'{data}', line 2: there are 3 fields, but 2 columns; commas separate fields, and decim",
    ),
    "blank lines": (
        "smiles,y\n\nCC,1\n\nC(C,2\n",
        "'{data}', row 2 below the header, blank lines not counted: the SMILES 'C(C' in column",
    ),
    "two rows": (
        "smiles,y\nCC,1\nCCC,2\n",
        "'{data}' has 2 rows, too few to be split by --split-sizes 0.8 0.1 0.1: Provided",
    ),
    "semicolons": (
        "smiles;y\nCC;1\nCCC;2\n",
        "'{data}' has no column besides the SMILES to learn; columns must be separated by commas, "
        "not by semicolons",
    ),
}


@pytest.mark.parametrize("case", FILES)
def test_wrong_files_have_code_1(refused, tmp_path, case):
    text, message = FILES[case]
    data = tmp_path / "data.csv"
    data.write_text(text)
    assert refused(data, code=1).startswith(message.format(data=data))


def test_a_metric_that_would_fail_on_the_validation_part(tmp_path, capsys):
    data, sizes = write_table(tmp_path / "data.csv", 40), ("--split-sizes", 0.9, 0.03, 0.07)
    assert train(data, tmp_path / "out", *sizes, "--metrics", "rmse", "r2") == 1
    message = "the validation part of split 0 has one value only, but r2 needs at least 2; see "
    assert message in capsys.readouterr().err and not (tmp_path / "out").exists()
    assert train(data, tmp_path / "out", *sizes, "--metrics", "rmse") == 0


def test_what_is_advised_for_few_rows_works(refused, tmp_path):
    data = write_table(tmp_path / "data.csv", 9)
    message = refused(data, code=1)
    assert message.endswith("; give at least 10 rows, or --split-sizes 1 0 0 to train on all")
    assert train(data, tmp_path / "all", "--split-sizes", 1, 0, 0) == 0
    assert train(write_table(tmp_path / "ten.csv", 10), tmp_path / "ten") == 0
    data.write_text("smiles,y\n" + "CC,1\n" * 20)  # a single scaffold
    message = refused(data, "--split", "scaffold_balanced", code=1)
    assert message.endswith("; give more rows, or --split-sizes 1 0 0 to train on all")


def test_columns_that_tabs_separate(refused, data):
    data.write_text(data.read_text().replace(",", "\t"))
    message = refused(data, "-s", "smiles", code=2)
    assert message == (
        f"argument --smiles-columns: '{data}' has no column 'smiles'; its columns are "
        f"'smiles\\ty'; columns must be separated by commas, not by tabs"
    )


def test_a_file_in_latin_1(refused, data):
    data.write_bytes(data.read_bytes().replace(b",y", b",\xe9nergie"))
    message = refused(data, code=1)
    assert message.startswith(f"argument --data-path: '{data}' cannot be read as UTF-8 (")
    assert message.endswith("; save it as UTF-8")


@pytest.mark.parametrize(
    ("words", "remedy"),
    [
        (
            ("-s", "smiles"),
            "; name the targets by --target-columns, or leave the column out by --ignore-columns",
        ),
        (("--target-columns", "y", "id"), ""),
        ((), "; if the column holds SMILES, name it by --smiles-columns"),
    ],
)
def test_columns_that_nobody_named(refused, tmp_path, words, remedy):
    first = "smiles,id" if words else "id,smiles"
    data, value = tmp_path / "data.csv", "P0" if words else "CC"
    rows = [f"CC,P{i},{i}" if words else f"P{i},CC,{i}" for i in range(20)]
    data.write_text("\n".join([f"{first},y", *rows]) + "\n")
    assert refused(data, *words, code=1) == (
        f"'{data}', row 1 below the header: the value '{value}' in column '{first.split(',')[1]}' "
        f"is not a finite number{remedy}"
    )


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (
            ("--descriptors-columns", "d"),
            "descriptors-columns: 'd' would be learned, too, as there is no --target-columns; name "
            "the targets by it",
        ),
        (
            ("--descriptors-columns", "d", "--target-columns", "y", "d"),
            "descriptors-columns: 'd' is in --target-columns, too, so the model would be given "
            "what it should predict",
        ),
        (
            ("--weight-column", "d", "--target-columns", "y", "d"),
            "weight-column: 'd' is in --target-columns, too",
        ),
        (
            ("--splits-column", "d", "--target-columns", "d"),
            "splits-column: 'd' is in --target-columns, too",
        ),
        (
            ("--ignore-columns", "y", "--target-columns", "y"),
            "ignore-columns: 'y' is in --target-columns, too",
        ),
        (("--target-columns", "y", "y"), "target-columns: names 'y' twice"),
    ],
)
def test_columns_in_two_roles(refused, tmp_path, words, message):
    data = write_table(tmp_path / "data.csv", y=lambda row, _: row, d=lambda row, _: row % 3)
    assert refused(data, "-s", "smiles", *words, code=2) == f"argument --{message}"


@pytest.mark.parametrize(
    ("task", "labels", "message"),
    [
        (
            "classification",
            "0 1 2",
            "row 3 below the header: the value '2' in column 'y' is no class",
        ),
        ("classification-dirichlet", "0 0.5", "row 2 below the header: the value '0.5' in column"),
        (
            "multiclass",
            "0 2 3",
            "no class; --task-type multiclass needs a whole number from 0 to 2",
        ),
        ("multiclass", "0 -1", "row 2 below the header: the value '-1' in column 'y' is no class"),
    ],
)
def test_labels_that_are_no_classes(refused, tmp_path, task, labels, message):
    data = tmp_path / "data.csv"
    data.write_text("smiles,y\n" + "".join(f"CC,{label}\n" for label in labels.split()))
    small = [word for word in SMALL + SHORT if word not in ("--task-type", "regression")]
    assert message in refused(data, "--task-type", task, code=1, small=small)


@pytest.mark.parametrize("label", [0, 1])
def test_one_class_cannot_be_balanced(refused, tmp_path, label):
    data = write_table(tmp_path / "data.csv", y=lambda row, _: label)
    message = refused(data, "--task-type", "classification", "--class-balance", code=1)
    assert message.startswith(
        f"argument --class-balance: needs rows of both classes in the training part, but all 32 "
        f"are of class {label} and none of class {1 - label}"
    )


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("{", "cannot be read as JSON"),
        ("[]", "must be a list of objects with train, val, test"),
        ('[{"val": [0], "test": [1]}]', "have no 'train' in split 0"),
        ('[{"train": [0], "validation": [1]}]', "have 'validation' in split 0, but the parts are"),
        ('[{"train": [0], "val": [-1], "test": [2]}]', "name row -1 in 'val' of split 0, but the"),
        ('[{"train": "0-39", "val": [40], "test": [2]}]', "name row 40 in 'val' of split 0, but"),
        ('[{"train": "a", "val": [1], "test": [2]}]', "name row 'a' in 'train' of split 0"),
        ('[{"train": 3, "val": [1], "test": [2]}]', "name row 3 in 'train' of split 0"),
    ],
)
def test_wrong_splits(refused, data, tmp_path, text, message):
    (tmp_path / "splits.json").write_text(text)
    found = refused(data, "--splits-file", tmp_path / "splits.json", code=1)
    assert found.startswith(f"the splits in '{tmp_path / 'splits.json'}' {message}")


def test_rows_in_two_parts_are_warned_about(tmp_path, caplog):
    path = tmp_path / "splits.json"
    path.write_text(
        '[{"train": "0-5", "val": [6, 7]}, {"train": "0-5", "val": [6], "test": "4-6"}]'
    )
    check_splits(path, 8)
    assert [record.getMessage().split("splits.json' ")[1] for record in caplog.records] == [
        "have 2 rows in both 'train' and 'test' of split 1, the first is 4",
        "have 1 rows in both 'val' and 'test' of split 1, the first is 6",
    ]


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


def test_splits_by_other_names(refused, tmp_path):
    data = write_table(tmp_path / "data.csv", y=lambda row, _: row, part=lambda row, _: "a")
    words = ("--splits-column", "part", "--target-columns", "y")
    assert refused(data, *words, code=1) == (
        f"'{data}', row 1 below the header: the value 'a' in column 'part' is no part of a split; "
        f"see --splits-column, whose values must be train, val, test"
    )


def test_extra_fields_without_a_value_do_no_harm(tmp_path):
    data = write_table(tmp_path / "data.csv")
    head, *rows = data.read_text().splitlines()
    data.write_text("\n".join([head, *(f"{row}," for row in rows)]) + "\n")
    assert train(data, tmp_path / "out") == 0


@pytest.mark.parametrize(("weight", "what"), [("", "missing"), ("-1", "negative: -1")])
def test_weights_that_are_none(refused, tmp_path, weight, what):
    def weights(row, _):
        return weight if row == 4 else 1

    data = write_table(tmp_path / "data.csv", y=lambda row, _: row, w=weights)
    words = ("--weight-column", "w", "--target-columns", "y")
    message = refused(data, *words, code=1)
    assert message == f"'{data}', row 5 below the header: the weight in column 'w' is {what}"


@pytest.mark.parametrize("more", [-1, 1])
@pytest.mark.parametrize("option", ["descriptors", "atom-descriptors", "bond-features"])
def test_files_for_other_molecules(refused, data, tmp_path, option, more):
    rows, path = 40 + more, tmp_path / "given.npz"
    if option == "descriptors":
        np.savez(path, np.ones((rows, 2)))
    else:
        np.savez(path, *[np.ones((1, 2))] * rows)
    assert refused(data, f"--{option}-path", path, code=1) == (
        f"argument --{option}-path: '{path}' is for {rows} molecules, but the data has 40 rows"
    )


def test_files_that_hold_no_arrays(refused, data, tmp_path):
    (tmp_path / "text.npz").write_text("1,2")
    np.save(tmp_path / "one.npy", np.ones((40, 2)))
    np.savez(tmp_path / "named.npz", features=np.ones((40, 2)))
    for name in ("text.npz", "one.npy"):
        message = refused(data, "--descriptors-path", tmp_path / name, code=1)
        assert message.endswith(f"'{tmp_path / name}' is no .npz file of numpy.savez")
    message = refused(data, "--descriptors-path", tmp_path / "named.npz", code=1)
    assert "'named.npz' has no array 'arr_0'" in message.replace(f"{tmp_path}/", "")


def test_limits_without_a_bounded_loss(refused, tmp_path):
    data = write_table(tmp_path / "data.csv", y=lambda row, _: f">{row}")
    assert refused(data, code=1).endswith("; limits need a model with a bounded --loss-function")


def test_wrong_reaction(refused, tmp_path):
    (tmp_path / "data.csv").write_text("rxn,y\nCC>>CO,1\nCC>CO,2\nCCC>>CO,3\n")
    message = refused(tmp_path / "data.csv", "-r", "rxn", code=1)
    assert (
        "row 2 below the header: the SMILES 'CC>CO' in column 'rxn' is not of the form" in message
    )


def test_wrong_smiles_is_found_with_lazy_molecules(refused, tmp_path):
    (tmp_path / "data.csv").write_text("smiles,y\nCC,1\nxyz,2\nCCC,3\n")
    message = refused(tmp_path / "data.csv", "--use-cuikmolmaker-featurization", code=1)
    assert "row 2 below the header: the SMILES 'xyz' in column 'smiles' cannot be read" in message


def test_missing_files(refused, tmp_path, data):
    missing = tmp_path / "missing.csv"
    message = refused(missing, code=1)
    assert message == f"argument --data-path: '{missing}' does not exist"
    message = refused(data, "--checkpoint", tmp_path / "no.pt", code=1)
    assert message == f"argument --checkpoint: '{tmp_path / 'no.pt'}' does not exist"
    message = refused(data, "--splits-file", tmp_path / "no.json", code=1)
    assert message == f"argument --splits-file: there is no file '{tmp_path / 'no.json'}'"
    assert refused(tmp_path, code=1).startswith(f"argument --data-path: cannot read '{tmp_path}'")


@pytest.mark.parametrize("name", ["data.tsv", "DATA.CSV", "data.csv.gz"])
def test_names_that_do_not_end_in_csv(refused, data, tmp_path, name):
    message = refused(data.rename(tmp_path / name), code=2)
    assert message == (
        f"argument --data-path: '{tmp_path / name}' must be a CSV file, whose name ends in .csv "
        f"(in lower case); convert or rename it"
    )


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


def test_an_infinite_descriptor_has_a_name(refused, tmp_path, monkeypatch):
    (tmp_path / "data.csv").write_text(
        "smiles,y\n"
        + "".join(f"{'C' * n}O,{n}\n" for n in range(1, 12))
        + "[*]C=Cc1ccc([*])n1CCCCCCCCCCCC,1\n"
    )
    words = ("--molecule-featurizers", "rdkit_2d")
    message = refused(tmp_path / "data.csv", *words, code=1)
    assert re.match("the descriptor '.*PartialCharge' of '.*' is infinite, or too", message)
    rows = np.ones((12, 3))
    rows[4, 2] = np.inf
    np.savez(tmp_path / "d.npz", rows)
    message = refused(tmp_path / "data.csv", "--descriptors-path", tmp_path / "d.npz", code=1)
    assert message.startswith("descriptor 2 (the first is 0) of 'CCCCCO' is infinite, or too large")
    rows[4, 2] = 1e39  # a number in float64 only, as some of RDKit's are for long chains
    np.savez(tmp_path / "d.npz", rows)
    assert "descriptor 2 " in refused(
        tmp_path / "data.csv", "--descriptors-path", tmp_path / "d.npz", code=1
    )


def test_a_config_file_that_is_not_there(refused, data):
    message = refused(data, "--config-path", "no.toml", code=1)
    assert message.startswith("Unable to open config file: no.toml")


def test_a_row_of_a_table_without_header(refused, tmp_path):
    (tmp_path / "data.csv").write_text("CC,1\nC(C,2\nCCC,3\n")
    message = refused(tmp_path / "data.csv", "--no-header-row", code=1)
    assert message.startswith(f"'{tmp_path / 'data.csv'}', row 2: the SMILES 'C(C' in column")
