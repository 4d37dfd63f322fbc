"""Times of a case over times of a yardstick, taken in turn."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable

__all__ = ["Tracker"]


class Tracker:
    """Runs the yardstick before each round of a case, and makes ratios of both.

    Both run right after an untimed call of themselves, because what ran before leaves its mark on
    the heap and the caches. The rounds fall into blocks; a block's ratio is that of its medians,
    and the spread over blocks says how far to trust their median.

    Parameters
    ----------
    case, fixed : Callable[[], object]
        what is tracked, and the yardstick
    blocks, rounds : int
        how many blocks of how many rounds
    """

    def __init__(
        self,
        case: Callable[[], object],
        fixed: Callable[[], object],
        blocks: int = 7,
        rounds: int = 12,
    ):
        self.case, self.fixed = case, fixed
        self.blocks, self.rounds = blocks, rounds
        self.yard: list[float] = []

    @property
    def total(self) -> int:
        return self.blocks * self.rounds

    def before_round(self) -> None:
        """Time the yardstick once, and warm the case up."""
        self.fixed()
        start = time.perf_counter()
        self.fixed()
        self.yard.append(time.perf_counter() - start)
        self.case()

    def run(self) -> list[float]:
        """Every round in turn; pytest-benchmark does this itself."""
        times = []
        for _ in range(self.total):
            self.before_round()
            start = time.perf_counter()
            self.case()
            times.append(time.perf_counter() - start)
        return times

    def ratios(self, times: list[float]) -> list[float]:
        """The ratio of each block, from the case's times in the order they were taken."""
        yard, n = self.yard[-self.total :], self.rounds
        return [
            statistics.median(times[i : i + n]) / statistics.median(yard[i : i + n])
            for i in range(0, self.total, n)
        ]

    def summary(self, times: list[float]) -> dict[str, float]:
        """``ratio``, the median over blocks, and ``spread``, their range without both extremes."""
        ratios = sorted(self.ratios(times))
        return {
            "ratio": statistics.median(ratios),
            "spread": ratios[-2] - ratios[1] if len(ratios) > 3 else ratios[-1] - ratios[0],
        }
