"""Triton's interpreter, made fast enough for the many launches of these tests.

Two habits take most of its time. In each call of a device function, ``tl.sum`` and ``tl.zeros``
among them, it puts its functions into ``triton.language`` anew, although they stay there until the
launch ends: once for each launch and module is enough. And it computes each sum and product of
int32 a second time in int64, to see an overflow that no tensor of these tests is large enough for;
the address that came of it would be out of bounds, which ``memory_watch`` reports.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from typing import Any

import pytest
from triton.runtime import interpreter

__all__ = ["quick"]


@contextmanager
def quick() -> Iterator[None]:
    """Interpret the launches of the enclosed calls without that work."""
    patch_language, run = interpreter._patch_lang, interpreter.GridExecutor.__call__
    builder = interpreter.interpreter_builder
    done: set[int] = set()  # modules that the present launch has seen

    def patch_once(function: Any) -> Any:
        module = id(function.__globals__)
        if module in done:
            return None
        done.add(module)
        return patch_language(function)

    def launched(executor: Any, *args: Any, **options: Any) -> None:
        done.clear()
        run(executor, *args, **options)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(interpreter, "_patch_lang", patch_once)
        patch.setattr(interpreter.GridExecutor, "__call__", launched)
        patch.setattr(builder, "options", replace(builder.options, sanitize_overflow=False))
        yield
