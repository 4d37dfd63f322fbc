"""What was measured for each batch size and ratio, and which of them to take."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

__all__ = ["BATCH_GAIN", "Row", "affordable", "recommend", "slowdown"]

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


def affordable(rows: Sequence[Row], max_slowdown: float) -> list[float]:
    """The ratios whose shortest epoch takes at most ``max_slowdown`` times the shortest of the
    plain D-MPNN, in ascending order; all where the plain one could not be measured."""
    shortest = _shortest_epochs(rows)
    limit = max_slowdown * shortest.get(None, float("inf"))
    return sorted(ratio for ratio in shortest if ratio is not None and shortest[ratio] <= limit)


def recommend(rows: Sequence[Row], max_slowdown: float, usual: float) -> Row | None:
    """The setting to begin with.

    The ``usual`` ratio if it is :func:`affordable`, else the largest that is, or the ratio with the
    shortest epoch if none is; and with it the smallest batch whose epoch takes at most 10 % longer
    than the shortest, because smaller batches mean more updates. Time alone decides; the test error
    is for the user to compare.

    Returns
    -------
    Row | None
        ``None`` if no setting with pooling could be measured
    """
    pooled = [row for row in rows if row.ratio is not None and row.epoch_seconds is not None]
    if not pooled:
        return None
    shortest = _shortest_epochs(pooled)
    within = affordable(rows, max_slowdown)
    if within:
        ratio = usual if usual in within else within[-1]
    else:
        ratio = min(sorted(shortest), key=shortest.get)
    enough = (1 + BATCH_GAIN) * shortest[ratio]
    fast = [row for row in pooled if row.ratio == ratio and row.epoch_seconds <= enough]
    return min(fast, key=lambda row: row.batch_size)


def _shortest_epochs(rows: Sequence[Row]) -> dict[float | None, float]:
    """By ratio, for those that ran."""
    found: dict[float | None, float] = {}
    for row in rows:
        if row.epoch_seconds is not None:
            found[row.ratio] = min(row.epoch_seconds, found.get(row.ratio, float("inf")))
    return found
