"""Compile every kernel variant for every target, without a GPU, and count what it needs.

``python -m benchmarks.resources`` prints a row for each build and exits with 1 if one spills
registers or wants more shared memory than its target has.
"""

from __future__ import annotations

import argparse
import contextlib
import csv
import io
import multiprocessing
import os
import random
import re
import sys
import tempfile
from collections.abc import Iterable, Iterator
from dataclasses import asdict, dataclass
from pathlib import Path

import torch

from benchmarks.builds import Build, builds, compiled, key
from benchmarks.machine import commit

__all__ = ["Resources", "changes", "compile_build", "faults", "main", "read", "stale", "write"]

# An sm_80 tile also serves 8.6, 8.9 and 12.0, which have less shared memory than the A100.
SHARED_LIMIT = {"sm_80": 99 << 10, "sm_90": 227 << 10, "sm_100": 227 << 10, "gfx942": 64 << 10}


@dataclass(frozen=True)
class Resources:
    """What one build needs."""

    kernel: str
    variant: str
    target: str
    registers: int
    spills: int  # bytes stored and loaded; on AMD vector registers
    shared: int  # bytes
    key: str  # what the build was made from: benchmarks.builds.key


def _is_single(build: Build) -> bool:
    """Whether sums are formed in float32."""
    from tritonpool.kernels.precision import TRITON

    return dict(build.constants).get("ACC") == TRITON[torch.float32]


def _number(pattern: str, text: str) -> int:
    return sum(int(n) for n in re.findall(pattern, text))


def compile_build(build: Build) -> Resources:
    """Compile one variant and read its registers, spills and shared memory."""
    from triton import knobs

    log = io.StringIO()
    with knobs.nvidia.scope(), knobs.compilation.scope(), contextlib.redirect_stdout(log):
        knobs.compilation.always_compile = True  # a cached build says nothing
        knobs.nvidia.dump_ptxas_log = True
        kernel = compiled(build)
    if build.target.startswith("gfx"):
        text = kernel.asm["amdgcn"]
        registers = _number(r"\.vgpr_count:\s+(\d+)", text)
        spills = _number(r"\.vgpr_spill_count:\s+(\d+)", text)
    else:
        text = log.getvalue()
        registers = _number(r"Used (\d+) registers", text)
        spills = _number(r"(\d+) bytes spill (?:stores|loads)", text)
    shared = kernel.metadata.shared
    return Resources(build.name, build.variant, build.target, registers, spills, shared, key(build))


def faults(row: Resources) -> list[str]:
    """What is wrong with a build, in words."""
    found = []
    if row.spills:
        found.append(f"spills {row.spills}")
    if row.shared > SHARED_LIMIT[row.target]:
        found.append(f"wants {row.shared} bytes of {SHARED_LIMIT[row.target]} shared")
    if not row.registers:
        found.append("register count not found")
    return found


def compile_all(wanted: list[Build], jobs: int) -> Iterator[Resources]:
    """Compile in ``jobs`` processes; rows come in the order given."""
    global _wanted
    _wanted = wanted
    context = multiprocessing.get_context("fork")
    with tempfile.TemporaryDirectory() as cache:
        os.environ["TRITON_CACHE_DIR"] = cache
        with context.Pool(jobs) as pool:
            yield from pool.imap(_compile_number, range(len(wanted)), chunksize=4)


_wanted: list[Build] = []


def _compile_number(i: int) -> Resources:
    return compile_build(_wanted[i])


def write(path: Path, rows: list[Resources]) -> None:
    """Store the table as CSV."""
    with path.open("w", newline="") as file:
        writer = csv.DictWriter(file, list(asdict(rows[0])), lineterminator="\n")
        writer.writeheader()
        writer.writerows(asdict(row) for row in rows)


def read(path: Path) -> list[Resources]:
    """The table that ``write`` stored."""
    kinds = {"registers": int, "spills": int, "shared": int}
    with path.open(newline="") as file:
        rows = csv.DictReader(file)
        return [Resources(**{k: kinds.get(k, str)(v) for k, v in row.items()}) for row in rows]


def stale(wanted: list[Build], table: list[Resources], share: float, seed: str) -> list[Build]:
    """The builds to compile when ``table`` is trusted: those that it does not know in their
    present form, and a random ``share`` of the others, which keeps the table honest."""
    known = {row.key for row in table}
    chance = random.Random(seed)
    return [b for b in wanted if chance.random() < share or key(b) not in known]


def _needs(rows: Iterable[Resources]) -> dict[tuple[str, str, str], list[str]]:
    """What the builds of each name need; a few builds share a name."""
    found: dict[tuple[str, str, str], list[str]] = {}
    for row in rows:
        needs = f"{row.registers} registers, {row.spills} spilled, {row.shared} B shared"
        found.setdefault((row.kernel, row.variant, row.target), []).append(needs)
    return {name: sorted(needs) for name, needs in found.items()}


def changes(path: Path, rows: list[Resources]) -> list[str]:
    """Builds that the table at ``path`` has and ``rows`` lack, or the other way round, and those
    that need something else than they did."""
    known, now = _needs(read(path)), _needs(rows)
    found = [f"not in {path}: {' '.join(k)}" for k in sorted(now.keys() - known.keys())]
    found += [f"only in {path}: {' '.join(k)}" for k in sorted(known.keys() - now.keys())]
    for name in sorted(now.keys() & known.keys()):
        if now[name] != known[name]:
            before, after = "; ".join(known[name]), "; ".join(now[name])
            found.append(f"{' '.join(name)}: {after}, but in {path} {before}")
    return found


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.resources", description=__doc__)
    parser.add_argument("--target", action="append", help="compile for this target only")
    parser.add_argument("--kernel", default="", help="compile kernels with this in their name only")
    parser.add_argument("--one", action="store_true", help="only the fullest variant of a kernel")
    parser.add_argument("--write", type=Path, metavar="PATH", help="store the table as CSV")
    parser.add_argument("--check", type=Path, metavar="PATH", help="fail if it differs")
    parser.add_argument(
        "--recheck",
        type=float,
        default=1.0,
        metavar="SHARE",
        help="of the builds whose source, Triton and options are those of the table of --check or "
        "--write compile this random share, the same for each commit (default: 1, all)",
    )
    parser.add_argument("--jobs", type=int, default=min(os.cpu_count() or 1, 8))
    return parser


def _fullest(wanted: list[Build]) -> list[Build]:
    """One build of each kernel for each target: with the most switched on, in float32."""
    ranked = sorted(wanted, key=lambda b: (sum(v is True for _, v in b.constants), _is_single(b)))
    return list({(b.name, b.target): b for b in ranked}.values())


def _wrong(row: Resources) -> list[str]:
    return [f"{row.kernel} [{row.variant}] for {row.target}: {fault}" for fault in faults(row)]


def main(arguments: list[str] | None = None) -> int:
    """The command; returns its exit code."""
    args = _parser().parse_args(arguments)
    from tritonpool.kernels.tiles import TARGETS

    wanted = [b for b in builds(tuple(args.target or TARGETS)) if args.kernel in b.name]
    if args.one:
        wanted = _fullest(wanted)
    path = args.check or args.write
    table = read(path) if args.recheck < 1 and path and path.exists() else []
    chosen = stale(wanted, table, args.recheck, commit())
    found = {row.key: row for row in table}
    for row in compile_all(chosen, args.jobs):
        found[row.key] = row
        print(
            f"{row.target:7} {row.kernel:24} {row.registers:4} registers {row.spills:5} spilled "
            f"{row.shared:7} B shared  {row.variant}{'  <--' if faults(row) else ''}",
            flush=True,
        )
    rows = [found[key(build)] for build in wanted]
    bad = [line for row in rows for line in _wrong(row)]
    if args.write:
        write(args.write, rows)
    if args.check:
        bad += changes(args.check, rows)
    print(f"{len(rows)} builds, {len(chosen)} of them compiled now, {len(bad)} faults")
    print("\n".join(bad))
    return 1 if bad else 0


if __name__ == "__main__":
    os.environ.pop("TRITON_INTERPRET", None)  # an interpreted kernel cannot be compiled
    sys.exit(main())
