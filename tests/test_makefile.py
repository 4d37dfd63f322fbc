"""A machine that cannot set up the environment is told so in one sentence."""

import os
import shutil
import subprocess
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
OLD = 'case "$*" in *version_info*) exit 1;; -V) echo "Python 3.9.2";; esac'
NO_VENV = 'case "$*" in *ensurepip*) exit 1;; esac'


def make(folder: Path, *args: str) -> subprocess.CompletedProcess[str]:
    """Run make in a copy of what it needs, where nothing is set up yet."""
    for name in ("Makefile", "pyproject.toml", "constraints.txt"):
        shutil.copy(ROOT / name, folder)
    command = [shutil.which("make") or "make", *args]
    # `make test` around this test must not lend its own settings.
    inherited = ("MAKE", "MFLAGS", "PYTHON", "TORCH")
    env = {k: v for k, v in os.environ.items() if not k.startswith(inherited)}
    return subprocess.run(command, cwd=folder, env=env, capture_output=True, text=True)


@pytest.mark.parametrize(
    ("script", "sentence"),
    [
        (None, "No '{0}' found: install Python 3.11 or newer, or name one: make PYTHON=/path/"),
        (OLD, "Python 3.9.2 is too old: tritonpool needs 3.11 or newer; name one with make"),
        (NO_VENV, "'{0}' has no venv module: install it (on Debian and Ubuntu: apt install"),
    ],
    ids=["missing", "old", "no venv"],
)
def test_unfit_python(tmp_path: Path, script: str | None, sentence: str) -> None:
    stub = tmp_path / "a python"
    if script:
        stub.write_text(f"#!/bin/sh\n{script}\n")
        stub.chmod(0o755)
    run = make(tmp_path, "test", f"PYTHON={stub}")
    first, second = run.stderr.splitlines()
    assert run.returncode == 2
    assert first.startswith(sentence.format(stub))
    assert second.startswith("make: ***")
    assert not (tmp_path / ".venv").exists()


def test_unknown_torch_build(tmp_path: Path) -> None:
    run = make(tmp_path, "test", "TORCH=gpu")
    assert "TORCH is 'gpu', expected 'cpu' or nothing" in run.stderr


@pytest.mark.parametrize(
    ("argument", "expected"),
    [
        ("TORCH=cpu", '--index-url "https://download.pytorch.org/whl/cpu"'),
        ("TORCH_INDEX=https://example.org/simple", '--index-url "https://example.org/simple"'),
    ],
    ids=["cpu", "url"],
)
def test_other_torch_builds_come_from_their_index(
    tmp_path: Path, argument: str, expected: str
) -> None:
    lines = make(tmp_path, "--dry-run", "install", argument).stdout.splitlines()
    with_index = [line for line in lines if "--index-url" in line]
    assert len(with_index) == 1  # torch only; the rest comes from the usual index
    assert f"{expected} \"$(grep '^torch==' constraints.txt)\"" in with_index[0]


def test_help_is_the_default_and_lists_every_target(tmp_path: Path) -> None:
    run = make(tmp_path)
    assert run.returncode == 0, run.stderr
    listed = {line.split()[1] for line in run.stdout.splitlines() if line.startswith("make ")}
    phony = next(
        line for line in (ROOT / "Makefile").read_text().splitlines() if line.startswith(".PHONY:")
    )
    assert listed == set(phony.split()[1:])
