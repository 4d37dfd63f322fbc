"""Hold back what lightning says, for commands that train many times."""

from __future__ import annotations

import logging
import warnings
from collections.abc import Iterator
from contextlib import contextmanager

__all__ = ["only_progress"]


@contextmanager
def only_progress() -> Iterator[None]:
    """Hold back what would bury the progress bars and our own warnings, unless ``-v`` asks for it.

    ``-qq`` stops these two as well.
    """
    root, ours = logging.getLogger(), logging.getLogger("tritonpool")
    if root.isEnabledFor(logging.DEBUG):
        yield
        return
    others = [root, logging.getLogger("lightning.pytorch")]
    levels = {logger: logger.level for logger in (*others, ours)}
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            ours.setLevel(max(logging.WARNING, root.level))
            for logger in others:
                logger.setLevel(logging.ERROR)
            yield
    finally:
        for logger, level in levels.items():
            logger.setLevel(level)
