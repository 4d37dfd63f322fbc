"""What the config.toml of a training says about the models beside it, where that could mislead."""

from __future__ import annotations

import argparse
import logging
from collections.abc import Iterable
from pathlib import Path

from tritonpool.cli.options import flag
from tritonpool.cli.parser import read_config

__all__ = ["warn_of_differences"]

# options that decide what a model is shown, most of which it takes without a word
SHOWN = (
    *("keep_h", "add_h", "ignore_stereo", "reorder_atoms", "molecule_featurizers"),
    *("multi_hot_atom_featurizer_mode", "rxn_mode"),
)

logger = logging.getLogger(__name__)


def warn_of_differences(models: Iterable[Path], args: argparse.Namespace) -> None:
    """Warn where molecules are shown to models otherwise than in their training, and where models
    of an ensemble are missing.

    Parameters
    ----------
    models
        The files of the models, as `trained_models` finds them.
    args
        Options of a command that applies them.
    """
    folders: dict[Path, int] = {}
    for path in models:
        folder = next((each for each in path.parents[:4] if (each / "config.toml").is_file()), None)
        if folder is not None:
            folders[folder] = folders.get(folder, 0) + 1
    for folder, found in folders.items():
        config = folder / "config.toml"
        settings = read_config(config)
        for name in SHOWN if settings else ():
            if name == "rxn_mode" and not args.reaction_columns:
                continue
            was, now = _words(settings.get(name.replace("_", "-"))), _words(getattr(args, name))
            if was != now:
                logger.warning(
                    "the models in '%s' were trained %s, but are applied %s: predictions may be "
                    "wrong",
                    *(folder, _with(name, was), _with(name, now)),
                )
        wanted = _number(settings, "ensemble-size") * _number(settings, "num-replicates")
        whole = any(folder.samefile(given) for given in args.model_paths)
        if whole and found < wanted:
            logger.warning(
                "'%s' holds %d of the %d models that its config.toml asks for; "
                "`tritonpool train --resume` makes the others",
                *(folder, found, wanted),
            )


def _number(settings: dict[str, object], name: str) -> int:
    text = str(settings.get(name, 1))
    return int(text) if text.isdigit() else 1


def _words(value: object) -> str:
    """A value as text that compares: nothing for what is switched off or was not given."""
    if isinstance(value, list | tuple):
        return " ".join(map(_words, value))
    text = str(value).rpartition(".")[2].strip().upper()  # also of an enumeration's member
    return "" if value is None or text == "FALSE" else text


def _with(name: str, words: str) -> str:
    if not words:
        return f"without {flag(name)}"
    return f"with {flag(name)}" + ("" if words == "TRUE" else f" {words.lower()}")
