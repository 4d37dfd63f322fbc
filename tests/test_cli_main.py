"""``tritonpool`` itself, ``tritonpool info`` and the options that all commands share."""

import json
import logging
import subprocess
import sys

import pytest
import torch
from cli_tools import train, tritonpool, write_table

import tritonpool as package
from tritonpool.cli import info
from tritonpool.cli.main import COMMANDS


def test_help_lists_the_commands_and_version_is_that_of_the_package(capsys):
    assert tritonpool("--help") == 0
    shown = capsys.readouterr().out
    assert all(f"    {name}" in shown for name in COMMANDS)
    names = ["train", "predict", "fingerprint", "clusters", "bench", "compare", "hpopt"]
    assert list(COMMANDS) == [*names, "demo-data", "demo", "info"]
    assert tritonpool("--version") == 0
    assert capsys.readouterr().out == f"tritonpool {package.__version__}\n"


@pytest.mark.parametrize("name", COMMANDS)
def test_every_command_has_help(name, capsys):
    assert tritonpool(name, "--help") == 0
    assert f"usage: tritonpool {name}" in capsys.readouterr().out


def test_train_has_every_option_of_chemprop_and_ours(capsys):
    from chemprop.cli.main import construct_parser

    theirs = construct_parser()._subparsers._group_actions[0].choices["train"]
    tritonpool("train", "--help")
    shown = capsys.readouterr().out
    for action in theirs._actions:
        for option in action.option_strings:
            assert option in shown, option
    names = "ratio levels max-clusters assignment readout hidden-dim depth link-weight"
    for name in (*names.split(), "entropy-weight"):
        assert f"--diffpool-{name}" in shown, name
    assert all(option in shown for option in ("--train-size", "--precision", "--resume"))
    assert "--diffpool-top-k" in shown


@pytest.mark.parametrize("words", [(), ("frobnicate",), ("--frobnicate",)])
def test_wrong_command_has_one_line_and_code_2(words, capsys):
    assert tritonpool(*words) == 2
    captured = capsys.readouterr().err
    assert captured.startswith("tritonpool: error: ") and captured.count("\n") == 1


def test_overview_needs_no_chemprop():
    code = (
        "import sys; from tritonpool.cli.main import main\n"
        "try: main(['--help'])\n"
        "except SystemExit: pass\n"
        "print([m for m in ('chemprop', 'lightning', 'rdkit', 'pandas') if m in sys.modules])"
    )
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert result.stdout.splitlines()[-1] == "[]", result.stderr


def test_info_as_text(capsys, monkeypatch):
    monkeypatch.delenv("TRITONPOOL_BACKEND", raising=False)
    assert tritonpool("info") == 0
    shown = capsys.readouterr().out
    assert f"  torch       {torch.__version__}\n" in shown
    assert "TRITONPOOL_BACKEND is not set, which means auto" in shown
    assert "  cpu     " in shown and "backend: sparse" in shown


def test_info_as_json_follows_the_variable(capsys, monkeypatch):
    monkeypatch.setenv("TRITONPOOL_BACKEND", "reference")
    monkeypatch.setenv("TRITON_INTERPRET", "0")
    assert tritonpool("info", "--json") == 0
    found = json.loads(capsys.readouterr().out)
    assert found["versions"]["tritonpool"] == package.__version__
    assert set(info.PACKAGES) < set(found["versions"])
    assert found["variable"] == "reference"
    cpu = found["devices"][0]
    assert (cpu["device"], cpu["threads"]) == ("cpu", torch.get_num_threads())
    assert cpu["backend"] == "reference"
    assert cpu["reasons"][0] == "reference because TRITONPOOL_BACKEND asks for it"
    assert cpu["reasons"][1].startswith("not triton because ")
    assert len(found["devices"]) == 1 + torch.cuda.device_count()


@pytest.mark.parametrize(("name", "interpret"), [("cuda", "1"), ("triton", "0")])
def test_info_says_what_is_wrong_with_the_variable(monkeypatch, name, interpret):
    monkeypatch.setenv("TRITONPOOL_BACKEND", name)
    monkeypatch.setenv("TRITON_INTERPRET", interpret)
    cpu = info.collect()["devices"][0]
    assert cpu["backend"] is None
    assert "TRITONPOOL_BACKEND" in cpu["reasons"][0]


@pytest.mark.gpu
def test_info_shows_the_card(capsys):
    assert tritonpool("info", "--json") == 0
    card = json.loads(capsys.readouterr().out)["devices"][1]
    assert card["name"] == torch.cuda.get_device_name(0)
    assert card["backend"] in ("triton", "sparse")


def test_log_goes_to_a_file(tmp_path, monkeypatch):
    assert tritonpool("info", "--logfile", tmp_path / "logs" / "x.log", "-v") == 0
    assert "running tritonpool info" in (tmp_path / "logs" / "x.log").read_text()
    monkeypatch.setenv("CHEMPROP_LOG_DIR", str(tmp_path / "default"))
    assert tritonpool("info", "--logfile") == 0
    assert len(list((tmp_path / "default" / "info").glob("*.log"))) == 1


def test_a_log_that_cannot_be_written_is_named(tmp_path, capsys):
    (tmp_path / "file").touch()
    for path, reason in ((tmp_path, "Is a directory"), (tmp_path / "file" / "x", "File exists")):
        assert tritonpool("info", "--logfile", path) == 1
        line = f"argument --logfile: cannot write to '{path}': {reason}; name another file\n"
        assert capsys.readouterr().err == f"tritonpool info: error: {line}"


def test_a_reader_that_has_seen_enough_is_no_error_to_tell_of():
    command = [sys.executable, "-u", "-m", "tritonpool.cli.main", "info"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE) as process:
        process.stdout.close()
        assert process.stderr.read() == b""
    assert process.returncode == 1


@pytest.mark.parametrize(("words", "shown"), [((), "IW"), (("-q",), "W"), (("-qq",), "")])
def test_q_leaves_warnings_and_qq_errors(words, shown, capsys, monkeypatch):
    def speak(args):
        logging.info("I")
        logging.warning("W")

    monkeypatch.setattr(info, "run", speak)
    assert tritonpool("info", *words) == 0
    lines = capsys.readouterr().err.splitlines()
    assert "".join(line[-1] for line in lines) == shown


@pytest.mark.parametrize("quiet", [0, 1, 2])
def test_quiet_is_quiet(tmp_path, capfd, recwarn, quiet):
    data = write_table(tmp_path / "data.csv", 24)
    _, *rows = data.read_text().splitlines(keepends=True)
    data.write_text(data.read_text() + "".join(rows))  # repeated molecules are warned about
    words = ["-" + "q" * quiet] if quiet else []
    assert train(data, tmp_path / "m", *words) == 0
    captured = capfd.readouterr()
    shown = captured.out + captured.err
    assert ("the model learns 'y'" in shown) == (quiet == 0)
    assert ("config.toml" in shown) == (quiet == 0)
    assert quiet < 2 or not shown
    assert ("Loaded model weights from" in shown) == (quiet == 0)
    assert ("Trainable params" in shown) == (quiet == 0)
    assert ("WARNING" in shown) == (quiet < 2)
    assert ("Epoch" in shown) == (quiet < 2)
    assert bool(recwarn.list) == (quiet < 2)
