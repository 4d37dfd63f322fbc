"""What a model file says about its encoder, read before a model is made from it."""

from __future__ import annotations

from pathlib import Path
from typing import NamedTuple

import torch

from tritonpool.chemprop.message_passing import DiffPoolMixin
from tritonpool.cli.errors import InputError

__all__ = ["SavedEncoder", "saved_encoder"]


class SavedEncoder(NamedTuple):
    """The message passing in a model file."""

    pools: bool  # whether it has DiffPool levels, for one column at least
    components: int  # how many columns of molecules or reactions it is for


def saved_encoder(path: str | Path) -> SavedEncoder:
    """Read the settings of the message passing in a .pt or .ckpt file.

    Raises
    ------
    InputError
        If the file cannot be read as a model of chemprop.
    """
    try:
        settings = torch.load(path, "cpu", weights_only=False)["hyper_parameters"]
        settings = settings["message_passing"]
    except Exception as error:
        raise InputError(f"{str(path)!r} is not a model that chemprop can load: {error}") from error
    blocks = settings.get("blocks", [settings])
    pools = any(issubclass(block["cls"], DiffPoolMixin) for block in blocks)
    return SavedEncoder(pools, settings.get("n_components") or len(blocks))
