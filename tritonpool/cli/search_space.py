"""What ``tritonpool hpopt`` can search: the parameters of ``chemprop hpopt`` for targets of
molecules in its ranges, and those of DiffPool."""

from __future__ import annotations

import argparse
from collections.abc import Callable, Iterable, Mapping
from typing import Any

from chemprop.nn import AggregationRegistry
from chemprop.nn.utils import Activation

from tritonpool.cli.checks import model_with_own_pooling
from tritonpool.cli.errors import UsageError
from tritonpool.cli.options import DIFFPOOL_FIELDS, flag, without_effect

__all__ = ["BUNDLES", "PARAMETERS", "distributions", "option_of", "searched", "words"]

WARMUP = 6  # epochs, at least, to search those of the warm-up, as in chemprop


def _whole(least: int, most: int, step: int = 1) -> Callable:
    return lambda d, epochs: d.IntDistribution(least, most, step=step)


def _real(least: float, most: float, step: float | None = None) -> Callable:
    """A number in steps, or of any order of magnitude."""
    return lambda d, epochs: d.FloatDistribution(least, most, step=step, log=step is None)


def _one_of(*values: str | float) -> Callable:
    return lambda d, epochs: d.CategoricalDistribution(values)


# each makes a distribution of ``optuna.distributions``, which is imported only when it is needed
LEARNING_RATE = {
    "max_lr": _real(1e-4, 1e-2),
    "init_lr_ratio": _real(1e-2, 1),
    "final_lr_ratio": _real(1e-2, 1),
    "warmup_epochs": lambda d, epochs: d.IntDistribution(1, epochs // 2),
}
BASIC = {
    "depth": _whole(2, 6),
    "ffn_num_layers": _whole(1, 2),
    "dropout": _real(0, 0.4, 0.05),
    "ffn_hidden_dim": _whole(300, 2400, 100),
    "message_hidden_dim": _whole(300, 2400, 100),
}
DIFFPOOL = {
    "diffpool_ratio": _one_of(0.05, 0.1, 0.25, 0.5),
    "diffpool_max_clusters": _one_of(1, 2, 4, 8, 16, 32),
    "diffpool_assignment": _one_of("mlp", "gnn", "rings"),
    "diffpool_depth": _whole(1, 6),
}
OTHERS = {
    "activation": _one_of(*Activation.keys()),
    "aggregation": _one_of(*AggregationRegistry.keys()),
    "aggregation_norm": _whole(1, 200),
    "batch_size": _one_of(16, 32, 64, 128, 256),
    "diffpool_levels": _whole(0, 2),
    "diffpool_readout": _one_of("concat", "last"),
    "diffpool_positions": _one_of(0, 8),
    "diffpool_encoder": _one_of("bond", "atom"),
    "diffpool_normalize": _one_of("weights", "both", "none"),
    "diffpool_hidden_dim": _whole(100, 600, 100),
    "diffpool_link_weight": _real(1e-3, 1),
    "diffpool_entropy_weight": _real(1e-4, 0.1),
}
PARAMETERS = BASIC | LEARNING_RATE | DIFFPOOL | OTHERS

# chemprop's keywords for several, and ours
BUNDLES = {
    "basic": tuple(BASIC),
    "diffpool": tuple(DIFFPOOL),
    "learning_rate": tuple(LEARNING_RATE),
    "all": tuple(PARAMETERS),
    "init_lr": ("init_lr_ratio",),
    "final_lr": ("final_lr_ratio",),
}

# of an encoder that --from-foundation brings along
OF_ENCODER = (
    "activation",
    "dropout",
    "depth",
    "aggregation",
    "aggregation_norm",
    "message_hidden_dim",
)


def option_of(name: str) -> str:
    """The attribute of the option that a parameter sets."""
    return name.removesuffix("_ratio") if name in LEARNING_RATE else name


def searched(args: argparse.Namespace, chosen: Iterable[str]) -> list[str]:
    """The parameters that the keywords stand for.

    Of those that come with a keyword for several, the ones are left out that the other options
    settle or leave without effect.

    Parameters
    ----------
    args
        Checked options.
    chosen
        The attributes that were set on the command line.

    Returns
    -------
    list of str
        At least one, in the order of `PARAMETERS`.

    Raises
    ------
    UsageError
        If a parameter that was named itself cannot be searched, or none is left.
    """
    keywords = set(args.search_parameter_keywords)
    wanted = keywords & set(PARAMETERS)
    wanted |= {name for keyword in keywords & set(BUNDLES) for name in BUNDLES[keyword]}
    out = {
        name: f"{flag(option_of(name))} is given"
        for name in PARAMETERS
        if option_of(name) in set(chosen)
    }
    if args.from_foundation is not None:
        out |= dict.fromkeys(OF_ENCODER, "--from-foundation brings its own")
    if own := model_with_own_pooling(args):
        pooling = ("diffpool_levels", *DIFFPOOL_FIELDS)
        out |= dict.fromkeys(pooling, f"{own} keeps the pooling it was saved with")
    elif args.diffpool_levels == 0 and "diffpool_levels" not in wanted - out.keys():
        out |= dict.fromkeys(DIFFPOOL_FIELDS, "--diffpool-levels 0 trains without DiffPool")
    elif not {"diffpool_levels", "diffpool_assignment"} & (wanted - out.keys()):
        idle = without_effect(args.diffpool_levels, args.diffpool_assignment)
        out |= dict.fromkeys(idle, "--diffpool-assignment rings has no scores for atoms")
    if "ffn_hidden_dim" not in wanted - out.keys() and len(set(args.ffn_hidden_dim)) > 1:
        out["ffn_num_layers"] = "--ffn-hidden-dim names the width of each layer"
    if args.epochs < WARMUP:
        out["warmup_epochs"] = f"that needs --epochs {WARMUP} or more"
    for name in PARAMETERS:
        if name in keywords & out.keys():
            raise UsageError(
                f"argument --search-parameter-keywords: {name} cannot be searched, because "
                f"{out[name]}"
            )
    names = [name for name in PARAMETERS if name in wanted and name not in out]
    if not names:
        raise UsageError(
            f"argument --search-parameter-keywords: with {' '.join(args.search_parameter_keywords)}"
            f" nothing is left to search; the other options settle all of it"
        )
    return names


def distributions(names: Iterable[str], epochs: int) -> dict[str, Any]:
    """The ranges as Optuna wants them."""
    import optuna.distributions

    return {name: PARAMETERS[name](optuna.distributions, epochs) for name in names}


def words(values: Mapping[str, Any], args: argparse.Namespace) -> list[str]:
    """The options of ``tritonpool train`` that set parameters to values.

    Parameters
    ----------
    values
        The parameters that are searched.
    args
        The options for all trainings.
    """
    values = dict(values)
    levels = values.get("diffpool_levels", args.diffpool_levels)
    idle = without_effect(levels, values.get("diffpool_assignment", args.diffpool_assignment))
    if values.get("aggregation", args.aggregation) != "norm":
        idle += ("aggregation_norm",)
    highest = values.get("max_lr", args.max_lr)
    found = []
    if "ffn_num_layers" in values and "ffn_hidden_dim" not in values:
        # a file of an earlier training has it once for each of its layers
        found += ["--ffn-hidden-dim", str(args.ffn_hidden_dim[0])]
    for name, value in values.items():
        if name in idle:
            continue
        if option_of(name) != name:  # the learning rates are shares of the highest
            value = value * highest
        found += [flag(option_of(name)), f"{value:.6g}" if isinstance(value, float) else str(value)]
    return found
