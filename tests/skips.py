"""Lists the skipped tests; with ``TRITONPOOL_STRICT_SKIPS=1`` an unlisted skip fails the run."""

import os
from collections.abc import Iterator
from fnmatch import fnmatchcase
from pathlib import Path

import pytest

ALLOWED = Path(__file__).with_name("allowed_skips.txt")


def allowed_patterns(text: str) -> list[tuple[str, str]]:
    """Read lines of the form ``node id pattern | reason pattern``; ``#`` starts a comment line."""
    lines = (line.strip() for line in text.splitlines())
    pairs = (line.split("|", 1) for line in lines if line and not line.startswith("#"))
    return [(test.strip(), reason.strip()) for test, reason in pairs]


def is_allowed(nodeid: str, reason: str, patterns: list[tuple[str, str]]) -> bool:
    """Tell whether one line of the list covers this skip."""
    return any(fnmatchcase(nodeid, t) and fnmatchcase(reason, r) for t, r in patterns)


def skipped(config: pytest.Config) -> Iterator[tuple[str, str]]:
    """Yield node id and reason of each skipped test; also counts skipped modules."""
    reporter = config.pluginmanager.get_plugin("terminalreporter")
    for report in reporter.stats.get("skipped", []) if reporter else []:
        reason = report.longrepr[2] if isinstance(report.longrepr, tuple) else str(report.longrepr)
        yield report.nodeid, reason.removeprefix("Skipped: ")


def not_allowed(config: pytest.Config) -> list[tuple[str, str]]:
    """Return the skips that the committed list does not cover; empty unless checked for."""
    if os.environ.get("TRITONPOOL_STRICT_SKIPS") != "1":
        return []
    patterns = allowed_patterns(ALLOWED.read_text(encoding="utf-8"))
    return [pair for pair in skipped(config) if not is_allowed(*pair, patterns)]


def pytest_sessionfinish(session: pytest.Session) -> None:
    """Fail a run that would have passed but skipped something it should not."""
    on_worker = hasattr(session.config, "workerinput")
    if not on_worker and session.exitstatus == pytest.ExitCode.OK and not_allowed(session.config):
        session.exitstatus = pytest.ExitCode.TESTS_FAILED


def pytest_terminal_summary(
    terminalreporter: pytest.TerminalReporter, config: pytest.Config
) -> None:
    """Print every skipped test with its reason, then the ones that are not allowed."""
    pairs = sorted(skipped(config))
    if pairs:
        terminalreporter.section("skipped tests")
    for nodeid, reason in pairs:
        terminalreporter.write_line(f"{nodeid}: {reason}")
    for nodeid, reason in not_allowed(config):
        terminalreporter.write_line(f"NOT in tests/{ALLOWED.name}: {nodeid}: {reason}", red=True)
