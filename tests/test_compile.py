"""Compilation without a GPU, in processes of its own: in this one the kernels are interpreted."""

import csv
import os
import subprocess
import sys
from importlib import metadata
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
KERNELS = 19
FEW_BYTES = 32  # stored and loaded again

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="Triton exists for Linux only")


def run(*command):
    environment = {k: v for k, v in os.environ.items() if k != "TRITON_INTERPRET"}
    return subprocess.run(
        [sys.executable, *command], cwd=ROOT, env=environment, capture_output=True, text=True
    )


@pytest.mark.parametrize("target", ["sm_90", "gfx942"])
def test_one_variant_of_every_kernel_compiles_without_spills(target, tmp_path):
    table = tmp_path / "table.csv"
    options = ["--target", target, "--one", "--write", str(table)]
    done = run("-m", "benchmarks.resources", *options)
    assert table.exists(), done.stdout + done.stderr
    with table.open(newline="") as file:
        rows = list(csv.DictReader(file))
    assert len(rows) == KERNELS == len({row["kernel"] for row in rows})
    assert all(int(row["registers"]) > 0 for row in rows)
    spilled = [row for row in rows if int(row["spills"])]
    faults = f"{KERNELS} builds, {KERNELS} of them compiled now, {len(spilled)} faults"
    assert faults in done.stdout, done.stdout
    assert done.returncode == bool(spilled)
    # the tiles were chosen with this one; others keep a few numbers of some kernels elsewhere
    pins = (ROOT / "constraints.txt").read_text().split()
    pinned = f"triton=={metadata.version('triton')}" in pins
    most = 0 if pinned else FEW_BYTES
    assert all(int(row["spills"]) <= most for row in spilled), spilled


BAD_TILE = """
import dataclasses
from benchmarks.builds import builds
from benchmarks.resources import compile_build, faults
wanted = next(b for b in builds(("sm_90",)) if b.name == "coarsen_bwd_assignment"
              and dict(b.constants)["HAS_F"] and not dict(b.constants)["WIDE"])
few = tuple((dict(wanted.options) | {"num_warps": 1}).items())
row = compile_build(dataclasses.replace(wanted, options=few))
print(row)
assert row.spills > 0 and any("spills" in fault for fault in faults(row))
row = dataclasses.replace(row, spills=0)
assert faults(row) == []
assert "shared" in faults(dataclasses.replace(row, shared=300_000))[0]
"""


def test_a_tile_with_too_few_threads_is_a_fault():
    done = run("-c", BAD_TILE)
    assert done.returncode == 0, done.stdout + done.stderr


NO_NUMBER = """
import re
from benchmarks.builds import builds, compiled
found = [b for b in builds(("sm_90",)) if b.name.startswith("shares")]
assert len({b.name for b in found}) == 2
for b in found:
    ptx = compiled(b).asm["ptx"]
    assert "div" in ptx and not re.search(r"\\bmax\\.f", ptx), b.name
"""


def test_no_maximum_passes_over_a_weight_that_is_no_number():
    """A GPU's maximum of NaN and a number is the number; the interpreter's is NaN."""
    done = run("-c", NO_NUMBER)
    assert done.returncode == 0, done.stdout + done.stderr


MISSING_BUILD = """
import dataclasses
import sys
from pathlib import Path
from benchmarks.resources import Resources, changes, write
rows = [Resources(kernel, "variant", "sm_90", 32, 0, 0, kernel) for kernel in ("pool", "lift")]
table = Path(sys.argv[1])
write(table, rows)
assert changes(table, rows) == []
assert changes(table, rows[:1]) == [f"only in {table}: lift variant sm_90"]
worse = [rows[0], dataclasses.replace(rows[1], registers=40, shared=8)]
assert changes(table, worse) == [
    "lift variant sm_90: 40 registers, 0 spilled, 8 B shared, but in "
    f"{table} 32 registers, 0 spilled, 0 B shared"
]
assert len(changes(table, rows + rows[:1])) == 1
write(table, rows[1:])
assert changes(table, rows) == [f"not in {table}: pool variant sm_90"]
"""


def test_the_check_sees_builds_that_come_go_or_change(tmp_path):
    done = run("-c", MISSING_BUILD, str(tmp_path / "table.csv"))
    assert done.returncode == 0, done.stdout + done.stderr


RECHECK = """
import contextlib
import csv
import io
import sys
from pathlib import Path
from benchmarks.resources import main

table = Path(sys.argv[1])

def compile_again(*words):
    printed = io.StringIO()
    with contextlib.redirect_stdout(printed):
        code = main(["--kernel", "shares_grad", "--target", "sm_90", *words])
    return code, printed.getvalue().strip().splitlines()

def store(*rows):
    with table.open("w", newline="") as file:
        csv.writer(file).writerows([header, *rows, *rest])

code, printed = compile_again("--write", str(table))
n = len(printed) - 1
assert code == 0 and n > 2 and printed[-1].startswith(f"{n} builds, {n} of them compiled"), printed
again = ("--check", str(table), "--recheck")
same = [f"{n} builds, 0 of them compiled now, 0 faults"]
assert compile_again(*again, "0") == (0, same)
with table.open(newline="") as file:
    header, first, second, *rest = csv.reader(file)
store([*first[:-1], "another"], second)  # as after a change of the source
printed = compile_again(*again, "0")[1]
assert printed[-1] == f"{n} builds, 1 of them compiled now, 0 faults", printed
store(first, [*second[:3], "1", *second[4:]])  # a wrong number: only compiling can tell
assert compile_again(*again, "0") == (0, same)
code, printed = compile_again(*again, "0.999999")
assert code == 1 and "1 registers, 0 spilled" in printed[-1], printed
"""


def test_a_recheck_compiles_what_the_table_does_not_know(tmp_path):
    done = run("-c", RECHECK, str(tmp_path / "table.csv"))
    assert done.returncode == 0, done.stdout + done.stderr


def test_the_committed_table_has_no_spills():
    with (ROOT / "benchmarks/results/resources.csv").open(newline="") as file:
        rows = list(csv.DictReader(file))
    assert {row["target"] for row in rows} == {"sm_80", "sm_90", "sm_100", "gfx942"}
    assert len({row["kernel"] for row in rows}) == KERNELS
    assert [row for row in rows if int(row["spills"])] == []
