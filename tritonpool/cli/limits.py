"""Are chemprop's numbers, which it does not look at, within their limits?"""

from __future__ import annotations

import argparse
import math
from collections.abc import Callable, Mapping, Sequence

from tritonpool.cli.errors import UsageError
from tritonpool.cli.options import flag
from tritonpool.cli.ranges import MOST_SEED, MOST_TORCH_SEED

__all__ = ["check_numbers", "check_numbers_of_training"]

# the least values of whole numbers, or of lists of them
LEAST = {
    0: ("num_workers",),
    1: ("batch_size", "dropout_sampling_size"),
}
LEAST_OF_TRAINING = {
    0: ("warmup_epochs", "patience", "ffn_num_layers"),
    1: ("ensemble_size", "num_replicates", "depth", "message_hidden_dim", "ffn_hidden_dim", "jobs"),
}

# what other numbers must be
Limit = tuple[str, Callable[[float], bool]]
POSITIVE: Limit = ("a number above 0", lambda value: 0 < value < math.inf)
BELOW_1: Limit = ("from 0 to below 1", lambda value: 0 <= value < 1)
LIMITS: Mapping[str, Limit] = {
    # a dropout of 0 leaves that of the training
    "uncertainty_dropout_p": BELOW_1,
    "conformal_alpha": ("from 0 to 1", lambda value: 0 <= value <= 1),
    "calibration_interval_percentile": ("from 0 to 100", lambda value: 0 <= value <= 100),
}
LIMITS_OF_TRAINING: Mapping[str, Limit] = {
    **dict.fromkeys(("init_lr", "max_lr", "final_lr", "aggregation_norm"), POSITIVE),
    "dropout": BELOW_1,
    "alpha": ("above 0 and below 1", lambda value: 0 < value < 1),
    "grad_clip": ("0 or more", lambda value: value >= 0),
}

# the largest seeds, and what numbers those that are counted up from the given one
SEEDS = {
    "data_seed": (MOST_SEED, "num_replicates"),
    "pytorch_seed": (MOST_TORCH_SEED, "ensemble_size"),
}


def check_numbers(args: argparse.Namespace) -> None:
    """Check the numbers that the commands for trained models have, as far as this one has them.

    Raises
    ------
    UsageError
        If one is out of its limits.
    """
    _check(args, LEAST, LIMITS)


def check_numbers_of_training(args: argparse.Namespace) -> None:
    """Check the numbers of ``train`` that do not depend on the data.

    Raises
    ------
    UsageError
        If one is out of its limits.
    """
    check_numbers(args)
    _check(args, LEAST_OF_TRAINING, LIMITS_OF_TRAINING)
    _check_seeds(args)
    # -1 means that there is no end
    if args.epochs != -1 and args.epochs <= args.warmup_epochs:
        raise UsageError(
            f"argument --epochs: must be more than --warmup-epochs ({args.warmup_epochs}), got "
            f"{args.epochs}; give more epochs or a shorter warm-up"
        )
    shares = args.split_sizes
    # written with two decimals, three thirds are 0.99
    if any(not 0 <= share <= 1 for share in shares) or abs(sum(shares) - 1) > 0.011:
        raise UsageError(
            "argument --split-sizes: must be shares from 0 to 1 that add up to 1, such as "
            "0.8 0.1 0.1, got " + " ".join(f"{share:g}" for share in shares)
        )
    weights = args.task_weights or [1]
    if not (all(0 <= weight < math.inf for weight in weights) and any(weights)):
        raise UsageError(
            "argument --task-weights: must be numbers of 0 or more, not all 0, got "
            + " ".join(f"{weight:g}" for weight in weights)
        )


def _check_seeds(args: argparse.Namespace) -> None:
    """Are the seeds, of the last replicate or model too, such as the generators take?"""
    for name, (most, count) in SEEDS.items():
        seed, last = getattr(args, name), most - getattr(args, count) + 1
        if seed is not None and not 0 <= seed <= last:
            raise UsageError(
                f"argument {flag(name)}: must be a whole number from 0 to {last}, got {seed}"
            )


def _check(
    args: argparse.Namespace,
    least: Mapping[int, Sequence[str]],
    limits: Mapping[str, Limit],
) -> None:
    checks = {
        name: (f"a whole number at least {number}", lambda value, number=number: value >= number)
        for number, names in least.items()
        for name in names
    }
    for name, (what, holds) in {**checks, **limits}.items():
        given = getattr(args, name, None)
        for value in given if isinstance(given, list) else [given]:
            if value is not None and not holds(value):
                raise UsageError(f"argument {flag(name)}: must be {what}, got {value:g}")
