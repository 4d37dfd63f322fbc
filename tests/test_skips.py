"""The list of allowed skips: its format, and that an unlisted skip fails a run."""

import subprocess
import sys
from pathlib import Path

import pytest
from skips import ALLOWED, allowed_patterns, is_allowed

TESTS = Path(__file__).parent


@pytest.mark.parametrize(
    ("reason", "expected"),
    [
        ("needs a CUDA or ROCm device", True),
        ("needs real data: TRITONPOOL_DATA is not set", True),
        ("broken today", False),
    ],
)
def test_committed_list(reason: str, expected: bool) -> None:
    patterns = allowed_patterns(ALLOWED.read_text(encoding="utf-8"))
    assert is_allowed("tests/test_ops.py::test_one[a]", reason, patterns) is expected


@pytest.mark.parametrize(
    ("strict", "reason", "code"),
    [
        ("1", "broken today", 1),
        ("0", "broken today", 0),
        ("1", "needs a CUDA or ROCm device", 0),
    ],
)
def test_run_fails_on_an_unlisted_skip(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, strict: str, reason: str, code: int
) -> None:
    folder = tmp_path / "tests"
    folder.mkdir()
    (tmp_path / "pytest.ini").write_text("[pytest]\n")
    hooks = "from skips import pytest_sessionfinish, pytest_terminal_summary\n"
    (folder / "conftest.py").write_text(hooks)
    skip = f"import pytest\n\ndef test_a():\n    pytest.skip({reason!r})\n"
    body = skip + "\ndef test_b():\n    pass\n"
    (folder / "test_it.py").write_text(body)
    monkeypatch.setenv("TRITONPOOL_STRICT_SKIPS", strict)
    monkeypatch.setenv("PYTHONPATH", str(TESTS))
    command = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", "tests"]
    run = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True)
    assert run.returncode == code, run.stdout + run.stderr
    assert f"tests/test_it.py::test_a: {reason}" in run.stdout
    assert ("NOT in tests/allowed_skips.txt" in run.stdout) is (code == 1)
