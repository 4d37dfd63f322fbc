"""Statistics of models that were trained on the same random splits."""

from __future__ import annotations

import math
import statistics
from collections.abc import Sequence
from dataclasses import dataclass

from scipy import stats

__all__ = ["Comparison", "Effect", "compare", "effect", "ratio"]


@dataclass(frozen=True)
class Comparison:
    """A model against the reference, over splits.

    Attributes
    ----------
    mean, sd : float
        of the model's test error
    difference : float
        mean over splits of its error minus that of the reference
    half_width : float
        of the 95 % interval of the difference, corrected for splits that share data
        (Nadeau and Bengio, Machine Learning 2003, 52, 239); NaN for one split

    All are NaN where an error is.
    """

    mean: float
    sd: float
    difference: float
    half_width: float


def compare(errors: Sequence[float], reference: Sequence[float], test_share: float) -> Comparison:
    """Compare the errors of a model with those of the reference on the same splits.

    Parameters
    ----------
    errors, reference : Sequence[float]
        one for each split, in the same order
    test_share : float
        size of the test part over that of the training part
    """
    pairs = zip(errors, reference, strict=True)
    differences = [own - other for own, other in pairs]
    n = len(differences)
    if not all(map(math.isfinite, differences)):
        return Comparison(*[math.nan] * 4)
    if n < 2:
        return Comparison(errors[0], math.nan, differences[0], math.nan)
    spread = statistics.stdev(differences) * math.sqrt(1 / n + test_share)
    return Comparison(
        statistics.mean(errors),
        statistics.stdev(errors),
        statistics.mean(differences),
        float(stats.t.ppf(0.975, n - 1)) * spread,
    )


def ratio(
    errors: Sequence[float], reference: Sequence[float], test_share: float
) -> tuple[float, float, float]:
    """The geometric mean over the splits of a model's error over that of the reference, and the
    ends of its interval, made from the logarithms as `compare` makes it."""
    logs = [[math.log(value) for value in values] for values in (errors, reference)]
    found = compare(*logs, test_share)
    ends = (found.difference - found.half_width, found.difference + found.half_width)
    return math.exp(found.difference), math.exp(ends[0]), math.exp(ends[1])


@dataclass(frozen=True)
class Effect:
    """How much better a setting is than another on the same splits.

    Attributes
    ----------
    change, low, high : float
        mean change of the metric and the ends of its 95 % interval: relative to the other setting
        if ``relative``, else in units of the metric
    relative : bool
        whether the metric is an error, which has a zero
    better, splits : int
        on how many splits the setting is better, and how many there are
    higher_is_better : bool
        of the metric
    """

    change: float
    low: float
    high: float
    relative: bool
    better: int
    splits: int
    higher_is_better: bool

    @property
    def sure(self) -> bool:
        """Whether the interval leaves out no difference; never for one split."""
        return self.low > 0 or self.high < 0

    @property
    def gain(self) -> bool:
        """Whether the mean change is for the better."""
        return self.change > 0 if self.higher_is_better else self.change < 0


def effect(
    values: Sequence[float],
    reference: Sequence[float],
    test_share: float,
    *,
    higher_is_better: bool,
) -> Effect:
    """The change of a metric from ``reference`` to ``values``, one for each split."""
    relative = not higher_is_better and min(*values, *reference) > 0
    if relative:
        change, low, high = (x - 1 for x in ratio(values, reference, test_share))
    else:
        found = compare(values, reference, test_share)
        change = found.difference
        low, high = change - found.half_width, change + found.half_width
    pairs = zip(values, reference, strict=True)
    better = sum((own > other) if higher_is_better else (own < other) for own, other in pairs)
    return Effect(change, low, high, relative, better, len(values), higher_is_better)
