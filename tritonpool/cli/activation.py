"""Can ``--activation`` be made with its arguments, and used between layers?"""

from __future__ import annotations

import argparse
import warnings
from collections.abc import Iterator

import torch
from chemprop.cli.train import _ACTIVATION_FUNCTIONS as FUNCTIONS
from chemprop.cli.utils import parse_activation

from tritonpool.cli.errors import UsageError

__all__ = ["check_activation"]

WIDTHS = ("message_hidden_dim", "ffn_hidden_dim", "diffpool_hidden_dim")


def check_activation(args: argparse.Namespace) -> None:
    """Apply the activation to states of the widths that the model has.

    Raises
    ------
    UsageError
        If it cannot be made, or does not return such states.
    """
    name, given = args.activation, args.activation_args
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # torch's own, which the training repeats
            function = parse_activation(FUNCTIONS[name], given)
            for width in _widths(args):
                state = torch.zeros(2, width)
                if function(state).shape != state.shape:
                    raise ValueError("it changes the number of values")
    except Exception as error:
        if given is None:
            raise UsageError(
                f"argument --activation: {name} does not work without arguments ({error}); name "
                f"another, or give --activation-args if it takes some"
            ) from error
        raise UsageError(
            f"argument --activation-args: {name} does not work with these ({error})"
        ) from error


def _widths(args: argparse.Namespace) -> Iterator[int]:
    for name in WIDTHS:
        given = getattr(args, name)
        yield from given if isinstance(given, list) else [given] if given is not None else []
