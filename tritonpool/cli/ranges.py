"""Readers of numbers for argparse, which names the option and repeats what was given."""

from __future__ import annotations

import argparse
import math
from collections.abc import Callable

__all__ = [
    "MOST_SEED",
    "MOST_TORCH_SEED",
    "fraction",
    "non_negative",
    "positive",
    "whole_number",
]

MOST_SEED = 2**32 - 1  # NumPy's and scikit-learn's generators take no more
MOST_TORCH_SEED = 2**64 - 1


def whole_number(least: int, most: int | None = None) -> Callable[[str], int]:
    """Reader of a whole number within limits."""
    limits = f"at least {least}" if most is None else f"from {least} to {most}"

    def read(text: str) -> int:
        try:
            number = int(text)
        except ValueError:
            number = None
        if number is None or number < least or (most is not None and number > most):
            raise argparse.ArgumentTypeError(f"must be a whole number {limits}, got {text!r}")
        return number

    return read


def fraction(text: str) -> float:
    """Read a number above 0 and at most 1."""
    number = _number(text)
    if not 0 < number <= 1:
        raise argparse.ArgumentTypeError(f"must be above 0 and at most 1, got {text!r}")
    return number


def non_negative(text: str) -> float:
    """Read a finite number that is 0 or more."""
    number = _number(text)
    if not (math.isfinite(number) and number >= 0):
        raise argparse.ArgumentTypeError(f"must be a number of 0 or more, got {text!r}")
    return number


def positive(text: str) -> float:
    """Read a finite number above 0."""
    number = _number(text)
    if not 0 < number < math.inf:
        raise argparse.ArgumentTypeError(f"must be a number above 0, got {text!r}")
    return number


def _number(text: str) -> float:
    try:
        return float(text)
    except ValueError:
        return math.nan
