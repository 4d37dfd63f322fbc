"""Compile every kernel variant for every target, without a GPU, and count what it needs.

``python -m benchmarks.resources`` prints a row for each build and exits with 1 if one spills
registers or wants more shared memory than its target has. The variants are not written down
here: the launchers are called on small batches and their launches listed instead of run.
"""

from __future__ import annotations

import argparse
import contextlib
import csv
import io
import itertools
import multiprocessing
import os
import re
import sys
import tempfile
from collections.abc import Iterable, Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

__all__ = [
    "Build",
    "Resources",
    "builds",
    "call_all",
    "changes",
    "compile_build",
    "compiled",
    "faults",
    "main",
    "write",
]

# An sm_80 tile also serves 8.6, 8.9 and 12.0, which have less shared memory than the A100.
SHARED_LIMIT = {"sm_80": 99 << 10, "sm_90": 227 << 10, "sm_100": 227 << 10, "gfx942": 64 << 10}

_TYPES = {
    torch.float32: "*fp32",
    torch.float64: "*fp64",
    torch.float16: "*fp16",
    torch.bfloat16: "*bf16",
    torch.int64: "*i64",
    torch.int32: "*i32",
}
_SHORT = {torch.float32: "fp32", torch.float64: "fp64", torch.float16: "fp16"}
_SHORT[torch.bfloat16] = "bf16"


@dataclass(frozen=True)
class Build:
    """One kernel to compile: hashable and the same for launches that share a binary."""

    kernel: Any
    target: str
    signature: tuple[tuple[str, str], ...]
    constants: tuple[tuple[str, Any], ...]
    options: tuple[tuple[str, Any], ...]

    @property
    def name(self) -> str:
        return self.kernel.__name__.removesuffix("_kernel")

    @property
    def variant(self) -> str:
        """The dtypes of the tensors, then the tile, then what is switched on."""
        given = dict(self.signature)
        values = dict(self.constants)
        wanted = ("S_ptr", "X_ptr", "H_ptr", "F_ptr", "w_ptr")
        words = [f"{n[0]}={given[n][1:]}" for n in wanted if n in given]
        words.append(f"acc={values['ACC']}")
        words.append(
            "x".join(f"{n}{values[n]}" for n in values if re.fullmatch("B[A-Z]|PART|UNIT", n))
        )
        words += [n.lower() for n, v in values.items() if v is True]
        return " ".join(words + [f"w{dict(self.options)['num_warps']}"])


@dataclass(frozen=True)
class Resources:
    """What one build needs."""

    kernel: str
    variant: str
    target: str
    registers: int
    spills: int  # bytes stored and loaded; on AMD vector registers
    shared: int  # bytes


def _cases() -> Iterator[tuple]:
    """Dtypes of S and of the rest, K, C, D, and whether there are edge weights: one of each kind
    that the launchers tell apart; of mixed dtypes those that autocast makes, and float64 with
    half precision, which no product may be fed from."""
    own = [(t, t) for t in (torch.float32, torch.float64, torch.bfloat16, torch.float16)]
    mixed = [(torch.float32, t) for t in (torch.bfloat16, torch.float16)]
    mixed += [(torch.float64, torch.bfloat16), (torch.bfloat16, torch.float64)]
    # 14 fits a block of 16 with the total weight, 20 one of 64; 64 and 300 fill blocks, and 70
    # also does, but its rows cannot be loaded four numbers at a time; nor can those of D = 37.
    # Rows of 13 can only be loaded one by one, and from 128 on blocks are larger
    for types, K, C, weighted in [
        *itertools.product(own, (16, 20), (0, 14, 20, 64, 70), (False, True)),
        *itertools.product(mixed, (16,), (14,), (False, True)),
        *itertools.product(own, (16,), (13, 300), (False, True)),
    ]:
        yield *types, K, C, 37 if C == 70 else 300, weighted


def call_all(own: torch.dtype, rest: torch.dtype, K: int, C: int, D: int, weighted: bool) -> None:
    """Call all functions as autograd would, with each set of needed gradients."""
    from tritonpool import Graph, kernels
    from tritonpool.planning import coarse_plan

    def random(*shape: int, dtype: torch.dtype = rest) -> Tensor:
        return torch.rand(*shape, dtype=dtype)

    ends = torch.tensor([[0, 1, 1, 2], [1, 0, 2, 1]])
    plan = Graph(random(3, D), ends).plan
    coarse = coarse_plan(plan, torch.tensor([2]), True)
    S, X = random(3, K, dtype=own), random(3, D)
    F, w = random(4, C) if C else None, random(4) if weighted else None
    Xc, W, Fc = kernels.coarsen_fwd(S, X, F, w, plan, coarse, 1e-8)
    dFc = None if F is None else torch.rand_like(Fc)
    for dXc, need_w in itertools.product((None, Xc), {False, weighted}):
        needs = (True, True, F is not None, need_w)
        grads = (dXc, torch.rand_like(W), dFc)
        kernels.coarsen_bwd(*grads, S, X, F, w, W, Fc, plan, coarse, 1e-8, needs)
    kernels.lift_fwd(S, Xc, plan, coarse)
    kernels.lift_bwd(X, S, Xc, plan, coarse, (True, True))
    for means in (False, True):
        link, entropy, *kept = kernels.losses_fwd(S, w, plan, coarse, means)
        kernels.losses_bwd(link, entropy, S, w, plan, coarse, (True, weighted), *kept)
    kernels.softmax_bwd(S, kernels.softmax_fwd(S, plan, coarse))
    _call_segments(kernels, random(4, D), X, None if w is None else w.to(own), plan)


def _call_segments(kernels: Any, H: Tensor, X: Tensor, w: Tensor | None, plan: Any) -> None:
    """The sums of message passing, with each set of needed gradients."""
    rev, into, out = plan.out_edge, plan.in_edge, (plan.out_ptr, plan.out_dst, plan.out_edge)
    every = [(True, False)] if w is None else [(True, False), (False, True), (True, True)]
    kernels.messages_fwd(H, w, rev, plan)
    kernels.segments_fwd(H, w, plan.in_ptr, into, False)
    for mean in (False, True):
        kernels.segments_fwd(X, None, plan.node_ptr, None, mean)
        kernels.segments_bwd(
            X[:1], None, None, plan.node_ptr, None, plan.batch, mean, (True, False)
        )
    for needs in every:
        kernels.messages_bwd(H, H, w, rev, plan, needs)
        kernels.segments_bwd(X, H, w, plan.in_ptr, into, plan.dst, False, needs)
    if w is not None:
        edges = plan.in_ptr, plan.in_src, into
        kernels.neighbours_fwd(X, w, edges)
        kernels.neighbours_bwd(X, X, w, edges, out, (True, True))
        kernels.shares_fwd(w, *edges[::2], plan.dst, 0.01)
        kernels.shares_bwd(w, w, *edges[::2], plan.dst, 0.01)


def _as_build(call: Any, target: str) -> Build:
    signature, constants = [], []
    for parameter in call.kernel.params:
        value = call.arguments[parameter.name]
        if parameter.is_constexpr:
            constants.append((parameter.name, value))
            continue
        kind = _TYPES[value.dtype] if isinstance(value, Tensor) else "i32"
        signature.append((parameter.name, kind))
    options = tuple(call.options.items())
    return Build(call.kernel, target, tuple(signature), tuple(constants), options)


def builds(targets: tuple[str, ...]) -> list[Build]:
    """Every distinct build that the launchers can ask for."""
    from tritonpool.kernels.launch import recording

    found: dict[Build, None] = {}
    for target, case in itertools.product(targets, _cases()):
        with recording(target) as calls:
            call_all(*case)
        found.update((_as_build(call, target), None) for call in calls)
    return list(found)


def _source(build: Build) -> Any:
    """The kernel with the same facts about its arguments as at a launch: pointers to matrices are
    aligned to 16 bytes (``launch.ready``), and AMD's backend knows tensors below 2 GB."""
    from triton.compiler import ASTSource

    signature, attributes = {}, {}
    given = dict(build.signature)
    for i, parameter in enumerate(build.kernel.params):
        signature[parameter.name] = given.get(parameter.name, "constexpr")
        if signature[parameter.name].startswith("*"):
            facts = [] if parameter.do_not_specialize_on_alignment else [["tt.divisibility", 16]]
            if build.target.startswith("gfx"):
                facts.append(["tt.pointer_range", 32])
            attributes[(i,)] = facts
    return ASTSource(build.kernel, signature, dict(build.constants), attributes)


def _is_single(build: Build) -> bool:
    """Whether sums are formed in float32."""
    from tritonpool.kernels.precision import TRITON

    return dict(build.constants).get("ACC") == TRITON[torch.float32]


def _number(pattern: str, text: str) -> int:
    return sum(int(n) for n in re.findall(pattern, text))


def compiled(build: Build) -> Any:
    """Triton's compiled kernel for one variant."""
    import triton
    from triton.backends.compiler import GPUTarget

    if build.target.startswith("gfx"):
        target = GPUTarget("hip", build.target, 64)
    else:
        target = GPUTarget("cuda", int(build.target.removeprefix("sm_")), 32)
    return triton.compile(_source(build), target=target, options=dict(build.options))


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
    return Resources(
        build.name, build.variant, build.target, registers, spills, kernel.metadata.shared
    )


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


def _needs(rows: Iterable[Resources]) -> dict[tuple[str, str, str], list[str]]:
    """What the builds of each name need; a few builds share a name."""
    found: dict[tuple[str, str, str], list[str]] = {}
    for row in rows:
        needs = f"{row.registers} registers, {row.spills} spilled, {row.shared} B shared"
        found.setdefault((row.kernel, row.variant, row.target), []).append(needs)
    return {key: sorted(needs) for key, needs in found.items()}


def changes(path: Path, rows: list[Resources]) -> list[str]:
    """Builds that the table at ``path`` has and ``rows`` lack, or the other way round, and those
    that need something else than they did."""
    with path.open(newline="") as file:
        kinds = {"registers": int, "spills": int, "shared": int}
        table = [{k: kinds.get(k, str)(v) for k, v in r.items()} for r in csv.DictReader(file)]
    known, now = _needs(Resources(**row) for row in table), _needs(rows)
    found = [f"not in {path}: {' '.join(k)}" for k in sorted(now.keys() - known.keys())]
    found += [f"only in {path}: {' '.join(k)}" for k in sorted(known.keys() - now.keys())]
    for key in sorted(now.keys() & known.keys()):
        if now[key] != known[key]:
            before, after = "; ".join(known[key]), "; ".join(now[key])
            found.append(f"{' '.join(key)}: {after}, but in {path} {before}")
    return found


def main(arguments: list[str] | None = None) -> int:
    """The command; returns its exit code."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.resources", description=__doc__)
    parser.add_argument("--target", action="append", help="compile for this target only")
    parser.add_argument("--kernel", default="", help="compile kernels with this in their name only")
    parser.add_argument("--one", action="store_true", help="only the fullest variant of a kernel")
    parser.add_argument("--write", type=Path, metavar="PATH", help="store the table as CSV")
    parser.add_argument("--check", type=Path, metavar="PATH", help="fail if it differs")
    parser.add_argument("--jobs", type=int, default=min(os.cpu_count() or 1, 8))
    args = parser.parse_args(arguments)
    from tritonpool.kernels.tiles import TARGETS

    wanted = [b for b in builds(tuple(args.target or TARGETS)) if args.kernel in b.name]
    if args.one:
        fullest = sorted(
            wanted, key=lambda b: (sum(v is True for _, v in b.constants), _is_single(b))
        )
        wanted = list({(b.name, b.target): b for b in fullest}.values())
    rows, bad = [], []
    for row in compile_all(wanted, args.jobs):
        rows.append(row)
        wrong = faults(row)
        bad += [f"{row.kernel} [{row.variant}] for {row.target}: {w}" for w in wrong]
        print(
            f"{row.target:7} {row.kernel:24} {row.registers:4} registers {row.spills:5} spilled "
            f"{row.shared:7} B shared  {row.variant}{'  <-- ' if wrong else ''}{', '.join(wrong)}",
            flush=True,
        )
    if args.write:
        write(args.write, rows)
    if args.check:
        bad += changes(args.check, rows)
    print(f"{len(rows)} builds, {len(bad)} faults")
    print("\n".join(bad))
    return 1 if bad else 0


if __name__ == "__main__":
    os.environ.pop("TRITON_INTERPRET", None)  # an interpreted kernel cannot be compiled
    sys.exit(main())
