"""What was measured for each batch size and ratio, and which of them to take."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

__all__ = ["BATCH_GAIN", "Row", "recommend"]

# a larger batch means fewer updates in an epoch, so it has to earn this much of the time
BATCH_GAIN = 0.1


@dataclass
class Row:
    """One setting and what it costs.

    Attributes
    ----------
    batch_size : int
        molecules in a batch
    ratio : float | None
        ratio of the first level; ``None`` is chemprop's D-MPNN without pooling
    step_seconds, spread_seconds : float | None
        a training step: the median over blocks, and their range; ``None`` if it does not fit into
        the memory
    epoch_seconds : float | None
        all steps of an epoch, without validation
    memory_bytes : int | None
        the most that the tensors of a training step take, with gradients and optimizer
    """

    batch_size: int
    ratio: float | None
    step_seconds: float | None = None
    spread_seconds: float | None = None
    epoch_seconds: float | None = None
    memory_bytes: int | None = None


def slowdown(row: Row, rows: Sequence[Row]) -> float | None:
    """Time over that of the plain D-MPNN with batches of the same size, if both were measured."""
    for other in rows:
        if other.ratio is None and other.batch_size == row.batch_size:
            if row.step_seconds and other.step_seconds:
                return row.step_seconds / other.step_seconds
    return None


def recommend(rows: Sequence[Row], max_slowdown: float) -> Row | None:
    """The setting to begin with.

    The largest ratio whose shortest epoch takes at most ``max_slowdown`` times the shortest of the
    plain D-MPNN, or the ratio with the shortest epoch if none does; and with it the smallest batch
    whose epoch takes at most 10 % longer than the shortest, because smaller batches mean more
    updates. Time alone decides; the test error is for the user to compare.

    Returns
    -------
    Row | None
        ``None`` if no setting with pooling could be measured
    """
    ran = [row for row in rows if row.epoch_seconds is not None]
    pooled = [row for row in ran if row.ratio is not None]
    if not pooled:
        return None

    def shortest(ratio: float | None) -> float:
        return min((row.epoch_seconds for row in ran if row.ratio == ratio), default=float("inf"))

    ratios = sorted({row.ratio for row in pooled})
    limit = max_slowdown * shortest(None)
    affordable = [ratio for ratio in ratios if shortest(ratio) <= limit]
    ratio = affordable[-1] if affordable else min(ratios, key=shortest)
    enough = (1 + BATCH_GAIN) * shortest(ratio)
    fast = [row for row in pooled if row.ratio == ratio and row.epoch_seconds <= enough]
    return min(fast, key=lambda row: row.batch_size)
