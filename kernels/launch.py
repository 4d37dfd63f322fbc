"""How every kernel is launched, and how launches are listed without a GPU."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from contextvars import ContextVar
from dataclasses import dataclass
from functools import cache
from typing import Any

import torch
import triton
from torch import Tensor

from .tiles import Tile

__all__ = ["Launch", "even_rows", "forked", "launch", "ready", "recording", "target_of"]

INTERPRETER = "interpret"

_recorder: ContextVar[tuple[str, list[Launch]] | None] = ContextVar("recorder", default=None)


@dataclass(frozen=True)
class Launch:
    """One kernel launch that was listed instead of run."""

    kernel: Any  # the jitted function
    arguments: dict[str, Any]  # by name: tensors, integers and constants
    options: dict[str, Any]  # num_warps and the like


@contextmanager
def recording(target: str) -> Iterator[list[Launch]]:
    """List the launches of the enclosed calls, as they would be on ``target``, and run none."""
    calls: list[Launch] = []
    token = _recorder.set((target, calls))
    try:
        yield calls
    finally:
        _recorder.reset(token)


def target_of(tensor: Tensor) -> str:
    """What kernels for this tensor are compiled for: ``"sm_90"``, ``"gfx942"``, or
    ``"interpret"`` for a tensor on the CPU."""
    if (recorder := _recorder.get()) is not None:
        return recorder[0]
    if not tensor.is_cuda:
        return INTERPRETER
    return _card(tensor.device)


@cache
def _card(device: torch.device) -> str:
    if torch.version.hip is not None:
        return torch.cuda.get_device_properties(device).gcnArchName.split(":")[0]
    major, minor = torch.cuda.get_device_capability(device)
    return f"sm_{major}{minor}"


def ready(tensor: Tensor | None) -> Tensor | None:
    """The tensor contiguous and starting at a multiple of 16 bytes, as the kernels assume."""
    if tensor is None:
        return None
    tensor = tensor.contiguous()
    return tensor if tensor.data_ptr() % 16 == 0 else tensor.clone()


def even_rows(K: int, D: int) -> dict[str, bool]:
    """Which rows of ``S`` and of features can be loaded several numbers at once."""
    return {"EVEN_K": K % 16 == 0, "EVEN_D": D % 4 == 0}


@contextmanager
def forked(tensor: Tensor) -> Iterator[Callable[[], AbstractContextManager]]:
    """Give a context whose launches may run beside the others of this one.

    They do while a CUDA graph is captured: what does not wait for each other becomes branches of
    it, at no cost to the host. What runs, and hence every result, is the same.
    """
    if not _captured(tensor):
        yield nullcontext
        return
    main, side = torch.cuda.current_stream(tensor.device), _side_stream(tensor.device)
    side.wait_stream(main)
    try:
        yield lambda: torch.cuda.stream(side)
    finally:
        main.wait_stream(side)


def _captured(tensor: Tensor) -> bool:
    if not tensor.is_cuda:
        return False
    with torch.cuda.device(tensor.device):
        return torch.cuda.is_current_stream_capturing()


@cache
def _side_stream(device: torch.device) -> torch.cuda.Stream:
    return torch.cuda.Stream(device)


_builds: dict[tuple, Any] = {}
_kinds_of: dict[int, tuple[list[str], list[str], frozenset[str]]] = {}


def _kinds(kernel: Any) -> tuple[list[str], list[str], frozenset[str]]:
    """The names of a kernel's constants, of its other arguments, and of those pointers among them
    whose alignment is of no interest. Kept by identity: Triton's hash of a kernel takes longer."""
    if (known := _kinds_of.get(id(kernel))) is None:
        constants = [p.name for p in kernel.params if p.is_constexpr]
        rest = [p.name for p in kernel.params if not p.is_constexpr]
        loose = frozenset(p.name for p in kernel.params if p.do_not_specialize_on_alignment)
        known = _kinds_of[id(kernel)] = constants, rest, loose
    return known


def _options(tile: Tile) -> dict[str, Any]:
    limit = {"maxnreg": tile.registers} if tile.registers else {}
    return {"num_warps": tile.warps, "num_stages": 1, "enable_fp_fusion": True, **limit}


def launch(kernel: Any, grid: tuple[int, ...], tile: Tile, **arguments: Any) -> None:
    """Start ``kernel`` on the device of its tensors; a grid without programs starts nothing.

    Builds for aligned pointers and 32-bit numbers, which is nearly all there is, are found by a key
    of our own, in less time than Triton takes to look at every argument.
    """
    given = {**tile.blocks, "PRECISION": tile.precision, **arguments}
    if (recorder := _recorder.get()) is not None:
        if unknown := arguments.keys() - set(kernel.arg_names):
            raise TypeError(f"{kernel.__name__} takes no {', '.join(sorted(unknown))}")
        named = {name: given[name] for name in kernel.arg_names}
        recorder[1].append(Launch(kernel, named, _options(tile)))
        return
    if 0 in grid:
        return
    values = [given[name] for name in kernel.arg_names]
    if not isinstance(kernel, triton.JITFunction):  # interpreted
        kernel[grid](*values, **_options(tile))
        return
    constants, rest, loose = _kinds(kernel)
    key = [id(kernel), tile.warps, tile.registers, *(given[name] for name in constants)]
    addresses = numbers = 0
    for name in rest:
        value = given[name]
        if type(value) is int:
            numbers |= value
            continue
        key.append(value.dtype)
        if name not in loose:
            addresses |= value.data_ptr()
        device = value.device
        if torch.version.hip is not None:  # Triton asks this about tensors on AMD's cards
            numbers |= value.untyped_storage().size()
    usual = addresses % 16 == 0 and numbers < 2**31
    key = (*key, device)
    with _current(device):
        if usual and (build := _builds.get(key)) is not None:
            build[(*grid, 1, 1)[:3]](*values)
            return
        build = kernel[grid](*values, **_options(tile))
        if usual:
            _builds[key] = build


def _current(device: torch.device) -> AbstractContextManager:
    """A context in which ``device`` is the current one, not entered where it is already."""
    if device.type == "cuda" and device.index != torch.cuda.current_device():
        return torch.cuda.device(device)
    return nullcontext()
