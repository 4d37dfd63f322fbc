"""``tritonpool bench`` measures the grid and writes what it says."""

import json

import pytest
from cli_tools import SHORT, tritonpool, write_table

NARROW = ("--message-hidden-dim", "16", "--ffn-hidden-dim", "16")


def bench(data, out, *words) -> int:
    return tritonpool("bench", "-i", data, "-o", out, *NARROW, *SHORT, *words)


def test_bench_measures_every_setting(tmp_path, capsys):
    out = tmp_path / "out"
    data = write_table(tmp_path / "data.csv", 50)
    # 5 steps are more than the 2 epochs of --epochs have
    grid = ("--batch-sizes", 4, 16, 64, "--ratios", 0.5, 0.1, "--sample", 30, "--steps", 5)
    assert bench(data, out, *grid, "--max-slowdown", 100) == 0
    assert sorted(path.name for path in out.iterdir()) == [
        "results.json",
        "results.md",
        "results.png",
    ]
    found = json.loads((out / "results.json").read_text())
    assert found["data"]["training_molecules"] == 40
    assert found["data"]["measured_molecules"] == 30
    assert sum(part["count"] for part in found["data"]["histogram"]) == 30
    settings = {(row["batch_size"], row["ratio"]): row for row in found["settings"]}
    # 64 is more than there are
    assert set(settings) == {(size, ratio) for size in (4, 16) for ratio in (None, 0.1, 0.5)}
    for (size, _), row in settings.items():
        assert 0 < row["step_seconds"] < 60 and row["spread_seconds"] >= 0
        assert row["epoch_seconds"] == pytest.approx(row["step_seconds"] * -(-40 // size))
    for ratio in (None, 0.1, 0.5):
        assert settings[16, ratio]["memory_bytes"] > settings[4, ratio]["memory_bytes"] > 10_000
    best = found["recommended"]
    assert best["ratio"] == 0.5 and settings[best["batch_size"], 0.5] == best
    printed = capsys.readouterr().out
    assert (out / "results.md").read_text() in printed
    assert f"--batch-size {best['batch_size']} --diffpool-ratio 0.5" in printed
    assert "the largest ratio within --max-slowdown 100" in printed


def test_a_limit_that_nothing_keeps_is_not_said_to_decide(tmp_path, capsys):
    data = write_table(tmp_path / "data.csv", 20)
    grid = ("--batch-sizes", 4, "--ratios", 0.5, "--steps", 1)
    assert bench(data, tmp_path / "out", *grid, "--max-slowdown", 0.01) == 0
    assert "since none is within --max-slowdown 0.01" in capsys.readouterr().out


@pytest.mark.parametrize(
    "words, code, message",
    [
        (("--resume",), 2, "argument --resume: not allowed here, models are new"),
        (("--checkpoint", "x.pt"), 2, "argument --checkpoint: not allowed here, models are new"),
        (("--diffpool-assignment", "rings"), 2, "argument --diffpool-assignment: rings has no rat"),
        (("--diffpool-ratio", 0.5), 2, "argument --diffpool-ratio: give --ratios instead"),
        (("--batch-size", 16), 2, "argument --batch-size: give --batch-sizes instead"),
        (("--batch-size", 64), 2, "argument --batch-size: give --batch-sizes instead"),  # default
        (("--diffpool-levels", 0), 2, "argument --diffpool-levels: must be at least 1; D-MPNN"),
        (("--ratios", 0), 2, "argument --ratios: must be above 0 and at most 1, got '0'"),
        (("--batch-sizes", 0), 2, "argument --batch-sizes: must be a whole number at least 1"),
        (("--max-slowdown", -1), 2, "argument --max-slowdown: must be a number of 0 or more"),
        (("--batch-sizes", 500), 1, "argument --batch-sizes: the smallest is 500, but only 32"),
        (("--target-columns", "z"), 2, "argument --target-columns: "),
    ],
)
def test_bad_options_are_named(tmp_path, capsys, words, code, message):
    data = write_table(tmp_path / "data.csv")
    assert bench(data, tmp_path / "out", *words) == code
    captured = capsys.readouterr().err
    assert "Traceback" not in captured and f"tritonpool bench: error: {message}" in captured


def test_an_output_folder_that_cannot_be_made_is_named(tmp_path, capsys):
    data = write_table(tmp_path / "data.csv")
    (tmp_path / "file").write_text("")
    assert bench(data, tmp_path / "file" / "out") == 1
    line = capsys.readouterr().err.splitlines()[-1]
    assert "argument --output-dir: " in line and line.endswith("is not a folder")


def test_data_must_be_named(capsys):
    assert tritonpool("bench") == 2
    assert "argument --data-path: is needed" in capsys.readouterr().err
