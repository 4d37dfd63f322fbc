"""What compute-sanitizer looks for on a card, looked for in interpreted kernels.

While ``watching`` is entered, each launch reports reads and writes outside the tensor that their
pointer came from, and two accesses to one number, one of them a write, of which nothing says which
comes first: by two programs, by two lanes of one store, or by one program without a barrier
between. Numbers that nobody wrote are NaN in all tests (``conftest.py``) and show up in results.

The address of each argument carries its place in the list of arguments in its highest byte, and
pointer arithmetic carries it along to the access.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any, NamedTuple

import numpy as np
import pytest
import torch
from triton.runtime import interpreter

__all__ = ["MemoryFault", "watching"]

SHIFT, ADDRESS = np.uint64(56), np.uint64((1 << 56) - 1)
READS, WRITES, ADDS = "reads", "writes", "adds to"


class MemoryFault(AssertionError):
    """An access that compute-sanitizer would report."""


class _Argument(NamedTuple):
    name: str
    first: int  # address
    bytes: int


class _Access(NamedTuple):
    """One load, store or atomic operation of one program."""

    verb: str
    argument: _Argument
    program: tuple[int, int, int]
    phase: int  # how many barriers and atomic operations of the program came before
    informed: bool  # whether an atomic operation of the program came before


class _Launch:
    """The accesses of one launch."""

    def __init__(self, kernel: str, names: list[str]) -> None:
        self.kernel = kernel
        self.names = iter(names)
        self.arguments: list[_Argument] = []
        self.faults: list[str] = []
        self.accesses: list[_Access] = []
        self.addresses: list[np.ndarray] = []
        self.phase: dict[tuple, int] = {}
        self.released: dict[tuple, int] = {}  # the phase of a program's last atomic operation

    def tagged(self, tensor: torch.Tensor, name: str) -> int:
        """The address of an argument, with its place among the arguments."""
        extent = sum((n - 1) * step for n, step in zip(tensor.shape, tensor.stride(), strict=True))
        size = (extent + 1) * tensor.element_size() if tensor.numel() else 0
        self.arguments.append(_Argument(name, tensor.data_ptr(), size))
        return tensor.data_ptr() | len(self.arguments) << int(SHIFT)

    def access(
        self, verb: str, tagged: np.ndarray, mask: np.ndarray, size: int, program: tuple
    ) -> np.ndarray:
        """Note an access of ``size`` bytes for each lane; the lanes that are within the tensor."""
        inside = mask.astype(bool)
        lanes = tagged[inside]
        if lanes.size:
            place = int(lanes[0] >> SHIFT)  # all lanes have their pointers from one argument
            argument = self.arguments[place - 1]
            offset = lanes - np.uint64(argument.first | place << int(SHIFT))  # huge if negative
            last = argument.bytes - size
            wrong = offset > np.uint64(last) if last >= 0 else np.ones_like(lanes, dtype=bool)
            if wrong.any():
                at = int(offset[wrong].view(np.int64)[0]) // size
                held = argument.bytes // size
                self.faults.append(
                    f"program {program} {verb} {argument.name}[{at}], which holds {held}"
                )
                inside[inside] = ~wrong
            informed, phase = program in self.released, self.phase.get(program, 0)
            self.accesses.append(_Access(verb, argument, program, phase, informed))
            self.addresses.append(lanes[~wrong] & ADDRESS)
        if verb == ADDS:
            self.released[program] = self.phase.get(program, 0)
            self.barrier(program)
        return inside

    def barrier(self, program: tuple) -> None:
        self.phase[program] = self.phase.get(program, 0) + 1

    def _ordered(self, a: _Access, b: _Access) -> bool:
        """Whether ``a``, which came first here, comes first on a card, too. An atomic operation
        hands on what was written before the last barrier, and is one for what comes after."""
        if READS == a.verb == b.verb or ADDS == a.verb == b.verb:
            return True
        if a.program == b.program:
            return a.phase < b.phase
        return self.released.get(a.program, 0) > a.phase and b.informed

    def races(self) -> None:
        """Report the first pair of accesses that nothing orders."""
        if not self.addresses:
            return
        address = np.concatenate(self.addresses)
        own = np.repeat(np.arange(len(self.accesses)), [a.size for a in self.addresses])
        writes = np.array([a.verb != READS for a in self.accesses])[own]
        written = np.unique(address[writes])
        if not written.size:
            return
        place = np.searchsorted(written, address).clip(max=written.size - 1)
        among = written[place] == address  # the accesses of what is written at all
        count = np.bincount(place[among], minlength=written.size)
        shared = np.flatnonzero(among & (count[place] > 1))
        shared = shared[np.argsort(place[shared], kind="stable")]
        for _, group in itertools.groupby(shared, key=lambda i: place[i]):
            seen = [self.accesses[own[i]] for i in group]
            for a, b in itertools.combinations(seen, 2):
                if not self._ordered(a, b):
                    self.faults.append(
                        f"program {a.program} {a.verb} and program {b.program} {b.verb} the same "
                        f"number of {a.argument.name}"
                    )
                    return

    def finish(self) -> None:
        self.races()
        if self.faults:
            raise MemoryFault(f"{self.kernel}: " + "; ".join(self.faults[:5]))


@contextmanager
def watching() -> Iterator[list[str]]:
    """Check the launches of the enclosed calls; their kernels, in order."""
    kernels: list[str] = []
    running: list[_Launch] = []
    builder = interpreter.InterpreterBuilder
    convert, run = interpreter._implicit_cvt, interpreter.GridExecutor.__call__
    load, store, add = (
        getattr(builder, f"create_{name}") for name in ("masked_load", "masked_store", "atomic_rmw")
    )

    def launched(executor: Any, *args: Any, **options: Any) -> None:
        names = [name for name in executor.arg_names if name not in executor.constexprs]
        kernels.append(executor.fn.__name__)
        running.append(_Launch(kernels[-1], names))
        try:
            run(executor, *args, **options)
            running[-1].finish()
        finally:
            running.pop()

    def converted(value: Any) -> Any:
        made, name = convert(value), next(running[-1].names)
        if hasattr(value, "data_ptr"):
            made.handle.data = np.array([running[-1].tagged(value, name)], np.uint64)
        return made

    def untagged(own: Any, verb: str, pointers: Any, mask: Any) -> tuple[Any, Any]:
        size = pointers.get_element_ty().primitive_bitwidth // 8
        inside = running[-1].access(verb, pointers.data, mask.data, size, own.grid_idx)
        handle = interpreter.TensorHandle
        return handle(pointers.data & ADDRESS, pointers.dtype), handle(inside, mask.dtype)

    def masked_load(own: Any, pointers: Any, mask: Any, *rest: Any) -> Any:
        return load(own, *untagged(own, READS, pointers, mask), *rest)

    def masked_store(own: Any, pointers: Any, value: Any, mask: Any, *rest: Any) -> Any:
        pointers, mask = untagged(own, WRITES, pointers, mask)
        return store(own, pointers, value, mask, *rest)

    def atomic(own: Any, operation: Any, pointers: Any, value: Any, mask: Any, *rest: Any) -> Any:
        pointers, mask = untagged(own, ADDS, pointers, mask)
        return add(own, operation, pointers, value, mask, *rest)

    def barrier(own: Any) -> None:
        running[-1].barrier(own.grid_idx)

    made: dict[str, Callable] = {
        "create_masked_load": masked_load,
        "create_masked_store": masked_store,
        "create_atomic_rmw": atomic,
        "create_barrier": barrier,
    }
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(interpreter, "_implicit_cvt", converted)
        patch.setattr(interpreter.GridExecutor, "__call__", launched)
        for name, function in made.items():
            patch.setattr(builder, name, function)
        yield kernels
