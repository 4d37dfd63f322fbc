"""Data that cannot be used gives one sentence, the right exit code, and no output folder."""

import re

import numpy as np
import pytest
from cli_tools import SHORT, SMALL, train, write_table

from tritonpool.cli.splits import check_splits

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


@pytest.mark.parametrize(
    ("wrong", "rows"), [(3, "4, 6"), (14, "4, 6, 8, 10, 12, 14, 16, 18, 20, 22, ...")]
)
def test_all_rows_with_smiles_that_cannot_be_read_are_named(refused, tmp_path, wrong, rows):
    texts = ["CC,1\nC(C,2\n"] * wrong + ["CC,1\n"] * 20
    (tmp_path / "data.csv").write_text("smiles,y\n" + "".join(texts))
    message = refused(tmp_path / "data.csv", code=1)
    assert "row 2 below the header: the SMILES 'C(C' in column" in message
    assert message.endswith(f"; {wrong - 1} more cannot be used, in rows {rows}")


def test_a_metric_that_cannot_choose_an_epoch_is_named(tmp_path, capsys):
    data = write_table(tmp_path / "data.csv", y=lambda row, text: row % 2)
    file, out = tmp_path / "splits.json", tmp_path / "out"
    file.write_text('[{"train": "0-19", "val": [20, 22, 24], "test": "30-39"}]')
    words = ("-t", "classification", "--splits-file", file, "--metrics", "roc", "accuracy")
    assert train(data, out, *words, "--tracking-metric", "accuracy") == 0
    assert "both classes" not in capsys.readouterr().err
    assert train(data, tmp_path / "other", *words, "--tracking-metric", "roc") == 0
    message = "the validation part of split 0 does not have both classes, so --tracking-metric roc "
    assert f"{message}says nothing; see" in capsys.readouterr().err


def test_a_metric_that_would_fail_on_a_part(tmp_path, capsys):
    data, sizes = write_table(tmp_path / "data.csv", 40), ("--split-sizes", 0.9, 0.03, 0.07)
    assert train(data, tmp_path / "out", *sizes, "--metrics", "rmse", "r2") == 1
    message = "the validation part of split 0 has one value only, but r2 needs at least 2; see "
    assert message in capsys.readouterr().err and not (tmp_path / "out").exists()
    assert train(data, tmp_path / "out", *sizes, "--metrics", "rmse") == 0
    words = ("--split-sizes", 0.9, 0.075, 0.025, "--metrics", "r2")
    assert train(data, tmp_path / "test", *words) == 1
    message = "the test part of split 0 has 1 value(s) of 'y', but r2 needs at least 2; see "
    assert message in capsys.readouterr().err and not (tmp_path / "test").exists()
    assert train(data, tmp_path / "none", "--split-sizes", 0.9, 0.1, 0, "--metrics", "r2") == 0


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


def test_a_row_of_a_table_without_header(refused, tmp_path):
    (tmp_path / "data.csv").write_text("CC,1\nC(C,2\nCCC,3\n")
    message = refused(tmp_path / "data.csv", "--no-header-row", code=1)
    assert message.startswith(f"'{tmp_path / 'data.csv'}', row 2: the SMILES 'C(C' in column")
