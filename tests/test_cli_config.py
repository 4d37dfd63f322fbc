"""config.toml: what it holds can be used again, with other choices on the command line."""

import json
from pathlib import Path

import pytest
from chemprop.models import MPNN
from cli_tools import train, tritonpool, write_table

from tritonpool.chemprop.message_passing import DiffPoolMixin
from tritonpool.cli.parser import read_config


@pytest.fixture(scope="module")
def trained(tmp_path_factory) -> Path:
    out = tmp_path_factory.mktemp("trained") / "out"
    assert train(write_table(out.parent / "data.csv"), out, "--diffpool-gate") == 0
    return out


def again(trained: Path, out: Path, *words: object) -> int:
    return tritonpool("train", "--config-path", trained / "config.toml", "-o", out, *words)


def settings(out: Path) -> dict:
    return MPNN.load_from_file(out / "model_0" / "best.pt").message_passing.hparams


def test_the_command_line_may_choose_plain_d_mpnn(trained, tmp_path):
    assert again(trained, tmp_path / "out", "--diffpool-levels", 0) == 0
    assert not issubclass(settings(tmp_path / "out")["cls"], DiffPoolMixin)


def test_the_command_line_may_choose_clusters_that_are_not_learned(trained, tmp_path):
    assert again(trained, tmp_path / "out", "--diffpool-assignment", "rings") == 0
    found = settings(tmp_path / "out")
    assert found["assignment"] == "rings"
    # not written down for the learned ones, whose default is another
    assert (settings(trained)["max_clusters"], found["max_clusters"]) == (8, 32)


def test_the_most_clusters_of_each_level_are_written_down(trained, tmp_path):
    out, repeated = tmp_path / "out", tmp_path / "repeated"
    words = ("--diffpool-levels", 2, "--diffpool-max-clusters", 4, 1)
    assert again(trained, out, *words) == again(out, repeated) == 0
    assert settings(out)["max_clusters"] == settings(repeated)["max_clusters"] == (4, 1)
    assert again(out, tmp_path / "one", "--diffpool-max-clusters", 3) == 0
    assert settings(tmp_path / "one")["max_clusters"] == 3
    assert again(out, tmp_path / "other", "--diffpool-levels", 1) == 0  # with its own default
    assert settings(tmp_path / "other")["max_clusters"] == 8


def test_the_command_line_may_choose_a_readout_without_gate(trained, tmp_path):
    assert settings(trained)["gate"]
    assert again(trained, tmp_path / "out", "--diffpool-readout", "last") == 0
    assert not settings(tmp_path / "out")["gate"]


@pytest.mark.parametrize(
    "words",
    [
        ("--diffpool-levels", 0),
        ("--diffpool-assignment", "rings"),
        ("--diffpool-readout", "last"),
        ("--from-foundation",),
    ],
)
def test_what_the_command_line_chose_can_be_repeated_and_resumed(trained, tmp_path, words):
    out, repeated = tmp_path / "out", tmp_path / "repeated"
    words += (trained / "model_0" / "best.pt",) if len(words) == 1 else ()
    assert again(trained, out, *words) == 0
    assert again(out, repeated) == 0
    assert str(settings(out)) == str(settings(repeated))  # modules differ
    (out / "model_0" / "best.pt").unlink()
    assert tritonpool("train", "--resume", "-o", out) == 0


@pytest.mark.parametrize("option", ["--checkpoint", "--from-foundation"])
def test_the_command_line_may_name_a_model(trained, tmp_path, option):
    assert again(trained, tmp_path / "out", option, trained / "model_0" / "best.pt") == 0
    assert settings(tmp_path / "out")["gate"]


def test_a_new_file_says_what_was_done(trained, tmp_path):
    splits = [{"train": "0-29", "val": "30-34", "test": "35-39"}] * 2
    (tmp_path / "s.json").write_text(json.dumps(splits))
    out = tmp_path / "out"
    assert again(trained, out, "--splits-file", tmp_path / "s.json") == 0
    old, new = (read_config(path / "config.toml") for path in (trained, out))
    assert (old["num-replicates"], new["num-replicates"]) == ("1", "2")
    same = set(old) - {"num-replicates", "output-dir"}
    assert {name: new[name] for name in same} == {name: old[name] for name in same}


def test_what_the_command_line_itself_says_twice_is_refused(trained, tmp_path, capsys):
    words = ("--diffpool-levels", 0, "--diffpool-ratio", 0.5)
    assert again(trained, tmp_path / "out", *words) == 2
    assert "argument --diffpool-ratio: not allowed with --diffpool-levels 0" in (
        capsys.readouterr().err
    )


def test_a_file_that_contradicts_itself_is_refused(trained, tmp_path, capsys):
    text = (trained / "config.toml").read_text()
    (tmp_path / "config.toml").write_text(
        text.replace("diffpool-levels = 1", "diffpool-levels = 0")
    )
    assert again(tmp_path, tmp_path / "out") == 2
    assert "not allowed with --diffpool-levels 0" in capsys.readouterr().err


def test_bench_takes_its_grid_instead(trained, tmp_path):
    words = ("--config-path", trained / "config.toml", "--batch-sizes", 8, "--ratios", 0.5)
    assert tritonpool("bench", *words, "-o", tmp_path / "out", "--steps", 1) == 0
    assert "|     8 | ratio 0.5 |" in (tmp_path / "out" / "results.md").read_text()


def test_bench_leaves_the_folder_of_the_training_alone(trained, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    before = sorted(trained.iterdir())
    words = ("--config-path", trained / "config.toml", "--batch-sizes", 8, "--ratios", 0.5)
    assert tritonpool("bench", *words, "--steps", 1) == 0
    assert sorted(trained.iterdir()) == before
    assert (tmp_path / "bench" / "results.md").exists()


@pytest.mark.parametrize(
    "name", ["true", "false", "null", "NaN", "1.50", "2020-01-01", "gap #2", "gap ; eV", '"gap"']
)
def test_names_that_look_like_something_else(tmp_path, name):
    data, out = write_table(tmp_path / "data.csv", **{name: lambda row, _: row}), tmp_path / "out"
    assert train(data, out, "-s", "smiles", "--target-columns", name) == 0
    assert read_config(out / "config.toml")["target-columns"] == [name]
    (out / "model_0" / "best.pt").unlink()
    assert train(data, out, "--resume", small=()) == 0


def test_a_single_name_that_looks_like_a_comment(tmp_path):
    columns = {"y": lambda row, _: row, "w #1": lambda row, _: 1}
    data, out = write_table(tmp_path / "data.csv", **columns), tmp_path / "out"
    assert train(data, out, "--target-columns", "y", "--weight-column", "w #1") == 0
    assert read_config(out / "config.toml")["weight-column"] == "w #1"
    assert again(out, tmp_path / "again") == 0


def test_what_is_quoted_is_read_again_from_any_file(tmp_path):
    data, out = write_table(tmp_path / "data.csv", true=lambda row, _: row), tmp_path / "out"
    assert train(data, out, "-s", "smiles", "--target-columns", "true") == 0
    assert again(out, tmp_path / "again") == again(tmp_path / "again", tmp_path / "third") == 0
    texts = [(folder / "config.toml").read_text() for folder in (out, tmp_path / "third")]
    assert all('target-columns = ["true"]\n' in text for text in texts)
    assert "split-sizes = [0.8, 0.1, 0.1]\n" in texts[1]  # as chemprop writes it


def test_commas_in_names(tmp_path):
    table = write_table(tmp_path / "data.csv").read_text().replace("smiles,y", 'smiles,"E, gap"')
    data = tmp_path / "a, b.csv"
    data.write_text(table)
    words = ("--target-columns", "E, gap", "-s", "smiles")
    out = tmp_path / "out"
    assert train(data, out, *words) == 0
    (out / "model_0" / "best.pt").unlink()
    assert train(data, out, "--resume", small=()) == 0
    assert (out / "model_0" / "best.pt").exists()
    assert again(out, tmp_path / "again") == 0
