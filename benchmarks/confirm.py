"""Is a suspected case slower than the accepted code *on this machine*?

A ratio to the yardstick still depends a little on the machine (two of the same name differ by up to
20 %). Before a case counts as slower, the code that was accepted with the baseline is therefore
timed beside the present code, in turn.
"""

from __future__ import annotations

import io
import os
import statistics
import subprocess
import sys
import tarfile
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

from benchmarks.rows import Row, judge, read_run

__all__ = ["accepted_code", "confirm", "measure_known"]

ROOT = Path(__file__).parent.parent
TEST = "benchmarks/bench_track.py::test_ratio_to_the_yardstick"


def _git(*words: str) -> bytes:
    """What git prints; nothing where it fails or is not installed."""
    try:
        return subprocess.run(["git", "-C", str(ROOT), *words], capture_output=True).stdout
    except OSError:
        return b""


def _last_change(baseline: Path, *words: str) -> str:
    """The newest commit that changed ``baseline``, in the way that ``words`` tell git."""
    return _git("log", "-1", "--format=%H", *words, "--", str(baseline)).decode().strip()


@contextmanager
def accepted_code(baseline: Path, chip: str, threads: int) -> Iterator[Path | None]:
    """A folder with the tree of the commit that last changed the rows of this chip in ``baseline``,
    or those of any other, if it has none.

    None where git cannot tell: outside a clone, or in a shallow one, whose oldest commit seems to
    have changed every file.
    """
    if _git("rev-parse", "--is-shallow-repository").strip() != b"false":
        yield None
        return
    text = "".join(c if c.isalnum() or c == " " else f"[{c}]" for c in f"{chip},{threads},")
    commit = _last_change(baseline, f"-G{text}") or _last_change(baseline)
    archive = _git("archive", commit) if commit else b""
    if not archive:
        yield None
        return
    with tempfile.TemporaryDirectory() as folder:
        with tarfile.open(fileobj=io.BytesIO(archive)) as files:
            # Python knows filters from 3.11.4 on; the archive is git's, of this repository
            known = {"filter": "data"} if hasattr(tarfile, "data_filter") else {}
            files.extractall(folder, **known)
        yield Path(folder)


def _pytest(tree: Path, *words: str) -> str:
    """Run pytest on the benchmarks in ``tree``, with the code there and no other."""
    environment = {**os.environ, "PYTHONPATH": str(tree)}

    def python(*words: str) -> str:
        command = [sys.executable, *words]
        done = subprocess.run(command, cwd=tree, env=environment, capture_output=True, text=True)
        if done.returncode:
            raise RuntimeError(f"{' '.join(command)} failed in {tree}:\n{done.stdout}{done.stderr}")
        return done.stdout

    found = python("-c", "import tritonpool; print(tritonpool.__file__)").strip()
    if not Path(found).resolve().is_relative_to(tree.resolve()):
        raise RuntimeError(f"expected Python to import the code in {tree}, not {found}")
    options = ["-q", "-p", "no:cacheprovider", "--override-ini", "python_files=bench_*.py"]
    return python("-m", "pytest", *options, *words)


def collect(tree: Path) -> set[str]:
    """The node of every case that the code in ``tree`` tracks."""
    return set(_pytest(tree, "--collect-only", "benchmarks/bench_track.py").splitlines())


def known_cases(tree: Path, cases: list[str]) -> list[str]:
    """Those of ``cases`` that the code in ``tree`` tracks."""
    known = collect(tree)
    return [case for case in cases if f"{TEST}[{case}]" in known]


def measure(tree: Path, cases: list[str]) -> list[Row]:
    """One run of ``cases`` with the code in ``tree``."""
    with tempfile.TemporaryDirectory() as folder:
        output = Path(folder) / "run.json"
        nodes = [f"{TEST}[{case}]" for case in cases]
        _pytest(tree, "--benchmark-only", f"--benchmark-json={output}", *nodes)
        return read_run(output)


def measure_known(tree: Path, cases: list[str]) -> list[Row]:
    """One run of those ``cases`` that the code in ``tree`` has."""
    cases = known_cases(tree, cases)
    return measure(tree, cases) if cases else []


def pool(rows: list[Row]) -> Row:
    """Several runs as one: the median of their ratios, and how far these lie apart.

    The spread within a run is left out: it is that of single rounds, far wider than that of the
    medians compared here, and would hide a real loss of 40 %.
    """
    ratios = [row.ratio for row in rows]
    return replace(
        rows[0], ratio=statistics.median(ratios), spread=round(max(ratios) - min(ratios), 4)
    )


def confirm(
    cases: list[str], accepted: Path, present: Path = ROOT, turns: int = 3
) -> tuple[list[str], list[str]]:
    """Time the code in ``accepted`` and in ``present`` in turn, ``turns`` times each.

    Returns a line for each case, and the names of those that are slower. A case that the accepted
    code does not have cannot be slower than it.
    """
    asked, cases = cases, known_cases(accepted, cases)
    lines = [f"{case:40} not in the accepted code" for case in asked if case not in cases]
    if not cases:
        return lines, []
    old: dict[str, list[Row]] = {case: [] for case in cases}
    new: dict[str, list[Row]] = {case: [] for case in cases}
    for _ in range(turns):
        for code, runs in ((accepted, old), (present, new)):
            for row in measure(code, cases):
                runs[row.case].append(row)
    slower = []
    for case in cases:
        line, is_slower = judge(pool(new[case]), pool(old[case]), "accepted code")
        lines.append(line)
        slower += [case] * is_slower
    return lines, slower
