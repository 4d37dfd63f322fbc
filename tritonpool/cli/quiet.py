"""Hold back what lightning says, for commands that train many times."""

from __future__ import annotations

import logging
import warnings
from collections.abc import Iterator
from contextlib import contextmanager

__all__ = ["only_progress"]


@contextmanager
def only_progress() -> Iterator[None]:
    """Hold back what would bury the progress bars, unless ``-v`` asks for it."""
    loggers = [logging.getLogger(name) for name in (None, "lightning.pytorch")]
    levels = [each.level for each in loggers]
    if loggers[0].isEnabledFor(logging.DEBUG):
        yield
        return
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            for each in loggers:
                each.setLevel(logging.ERROR)
            yield
    finally:
        for each, level in zip(loggers, levels, strict=True):
            each.setLevel(level)
