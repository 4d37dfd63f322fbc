"""How long trainings will still take, in words."""

from __future__ import annotations

import time

__all__ = ["Remaining"]


class Remaining:
    """A clock that starts when it is made.

    Parameters
    ----------
    total
        How many trainings there are.
    """

    def __init__(self, total: int):
        self._total, self._start = total, time.perf_counter()

    def words(self, done: int) -> str:
        """`, about 5 min left` after ``done`` of them, and nothing after the last."""
        left = (time.perf_counter() - self._start) / done * (self._total - done)
        if not left:
            return ""
        return f", about {f'{left:.0f} s' if left < 90 else f'{left / 60:.0f} min'} left"
