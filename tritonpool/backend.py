"""Which implementation runs: Triton kernels, torch.sparse, or the reference loops.

Precedence: the ``backend=`` argument, :func:`use_backend`, the environment variable
``TRITONPOOL_BACKEND``, then ``auto``. It is read at every call and kept for that call's backward.
"""

from __future__ import annotations

import importlib.util
import os
from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from functools import cache
from types import ModuleType

import torch

__all__ = ["BACKENDS", "choose_backend", "load_backend", "use_backend", "why_not_triton"]

BACKENDS = ("auto", "triton", "sparse", "reference")
AMD_TARGETS = ("gfx942",)

_chosen: ContextVar[str | None] = ContextVar("tritonpool_backend", default=None)


def _known(name: str, where: str) -> str:
    if name not in BACKENDS:
        raise ValueError(
            f"unknown backend {name!r} in {where}; expected one of {', '.join(BACKENDS)}"
        )
    return name


@contextmanager
def use_backend(name: str) -> Iterator[None]:
    """Run the enclosed calls with one backend; it wins over ``TRITONPOOL_BACKEND``.

    Parameters
    ----------
    name : str
        ``"auto"``, ``"triton"``, ``"sparse"`` or ``"reference"``

    Raises
    ------
    ValueError
        if the name is unknown

    Notes
    -----
    It holds for calls in the thread that entered it. What ``torch.utils.checkpoint`` computes again
    is a call anew, made while the backward runs, on a GPU in a thread of autograd's: hand it a
    ``context_fn`` that enters this in both places, or set ``TRITONPOOL_BACKEND``.
    """
    token = _chosen.set(_known(name, "use_backend"))
    try:
        yield
    finally:
        _chosen.reset(token)


def _interpreting() -> bool:
    return os.environ.get("TRITON_INTERPRET", "0").lower() in ("1", "true", "on", "yes", "y")


def why_not_triton(device: torch.device | str) -> str | None:
    """A sentence that says why Triton cannot run on ``device``, or None if it can."""
    device = torch.device(device)
    if importlib.util.find_spec("triton") is None:
        return "the package triton is not installed (it exists for Linux only)"
    if device.type == "cpu":
        if _interpreting():
            return None
        return "the tensors are on the CPU, and TRITON_INTERPRET=1 is not set"
    if device.type != "cuda":
        return f"the tensors are on {device}, which has no Triton support here"
    return _why_not_card(device) if device.index is None else _why_not_this_card(device)


def _why_not_card(device: torch.device) -> str | None:
    if torch.version.hip is not None:
        arch = torch.cuda.get_device_properties(device).gcnArchName.split(":")[0]
        if arch in AMD_TARGETS:
            return None
        return f"the card is an AMD {arch}, and the kernels are made for {', '.join(AMD_TARGETS)}"
    major, minor = torch.cuda.get_device_capability(device)
    if major < 8:
        name = torch.cuda.get_device_name(device)
        return f"the {name} has compute capability {major}.{minor}, and the kernels need 8.0"
    return None


_why_not_this_card = cache(_why_not_card)  # cards stay what they are


def choose_backend(device: torch.device | str, backend: str | None = None) -> str:
    """The backend for tensors on ``device``: ``"triton"``, ``"sparse"`` or ``"reference"``.

    Parameters
    ----------
    device : torch.device | str
        where the tensors are
    backend : str | None, default=None
        an explicit wish; ``None`` means that of :func:`use_backend`, else of
        ``TRITONPOOL_BACKEND``, else ``"auto"``

    Raises
    ------
    ValueError
        if the name is unknown
    RuntimeError
        if Triton was asked for and cannot run
    """
    name, where = backend, "the argument backend"
    if name is None:
        name, where = _chosen.get(), "use_backend"
    if name is None:
        name, where = os.environ.get("TRITONPOOL_BACKEND") or "auto", "TRITONPOOL_BACKEND"
    _known(name, where)
    if name == "auto":
        # the interpreter is a debugging aid, never a default
        on_gpu = torch.device(device).type == "cuda"
        return "triton" if on_gpu and why_not_triton(device) is None else "sparse"
    if name == "triton" and (reason := why_not_triton(device)) is not None:
        raise RuntimeError(
            f"backend 'triton' was requested (by {where}) but cannot run: {reason}; "
            f"use 'auto' or 'sparse' instead"
        )
    return name


def load_backend(name: str) -> ModuleType:
    """The module that implements the backend; Triton is imported only here."""
    if name == "triton":
        from tritonpool import kernels as backend
    elif name == "sparse":
        from tritonpool import sparse as backend
    else:
        from tritonpool import reference as backend
    return backend
