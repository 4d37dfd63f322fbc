"""Every build of every kernel that the launchers can ask for, and Triton's compiler for them.

The variants are not written down here: the launchers are called on small batches and their
launches listed instead of run, so that neither a GPU nor a compiler is needed to list them.
"""

from __future__ import annotations

import hashlib
import itertools
import re
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

__all__ = ["Build", "builds", "call_all", "compiled", "key"]

_TYPES = {
    torch.float32: "*fp32",
    torch.float64: "*fp64",
    torch.float16: "*fp16",
    torch.bfloat16: "*bf16",
    torch.int64: "*i64",
    torch.int32: "*i32",
}


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


def _target(build: Build) -> Any:
    from triton.backends.compiler import GPUTarget

    if build.target.startswith("gfx"):
        return GPUTarget("hip", build.target, 64)
    return GPUTarget("cuda", int(build.target.removeprefix("sm_")), 32)


def key(build: Build) -> str:
    """What a binary depends on, as a short hash: the kernel's source and what it calls, types,
    constants, options, Triton's version and its assembler's."""
    import triton
    from triton.compiler.compiler import make_backend

    backend = make_backend(_target(build))
    parts = triton.__version__, backend.hash(), _source(build).hash(), build.options
    return hashlib.sha256(repr(parts).encode()).hexdigest()[:16]


def compiled(build: Build) -> Any:
    """Triton's compiled kernel for one variant."""
    import triton

    return triton.compile(_source(build), target=_target(build), options=dict(build.options))
