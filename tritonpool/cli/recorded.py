"""What the config.toml of a training says about the models beside it, where that could mislead."""

from __future__ import annotations

import argparse
import logging
from collections.abc import Iterable
from pathlib import Path

from tritonpool.cli.options import flag
from tritonpool.cli.parser import read_config

__all__ = ["warn_of_differences"]

# options that decide what a model is shown, which it takes without a word, with the defaults of
# those that have one; other kinds of atom features are not as many
SHOWN = {
    "keep_h": "",
    "add_h": "",
    "ignore_stereo": "",
    "reorder_atoms": "",
    "molecule_featurizers": "",
    "rxn_mode": "REAC_DIFF",
}

logger = logging.getLogger(__name__)


def warn_of_differences(
    models: Iterable[Path], args: argparse.Namespace, omitted: tuple[str, ...] = ()
) -> None:
    """Warn where molecules are shown to models otherwise than in their training, or their columns
    in another order, and where models of an ensemble are missing.

    Parameters
    ----------
    models
        The files of the models, as `trained_models` finds them.
    args
        Options of a command that applies them.
    omitted
        Options that make no difference to that command.
    """
    folders: dict[Path, int] = {}
    for path in models:
        folder = _training(path)
        if folder is not None:
            folders[folder] = folders.get(folder, 0) + 1
    for folder, found in folders.items():
        settings = read_config(folder / "config.toml")
        for name, default in SHOWN.items() if settings else ():
            if name in omitted or (name == "rxn_mode" and not args.reaction_columns):
                continue
            was = _words(settings.get(name.replace("_", "-"), default))
            now = _words(getattr(args, name))
            if was != now:
                logger.warning(
                    "the models in '%s' were trained %s, but are applied %s: the results may be "
                    "wrong",
                    *(folder, _with(name, was), _with(name, now)),
                )
        for name in ("smiles_columns", "reaction_columns"):
            was, now = settings.get(name.replace("_", "-"), []), getattr(args, name) or []
            if isinstance(was, list) and was != now and sorted(was) == sorted(now):
                logger.warning(
                    "the models in '%s' were trained with %s %s, but are applied to them in "
                    "another order: the results may be wrong",
                    *(folder, flag(name), " ".join(was)),
                )
        wanted = _number(settings, "ensemble-size") * _number(settings, "num-replicates")
        whole = any(folder.samefile(given) for given in args.model_paths)
        if whole and found < wanted:
            logger.warning(
                "'%s' holds %d of the %d models that its config.toml asks for; "
                "`tritonpool train --resume` makes the others",
                *(folder, found, wanted),
            )


def _training(model: Path) -> Path | None:
    """The folder of the training that wrote a file, if it still lies where it was written:
    ``[replicate_0/]model_0/[checkpoints/]...``."""
    folder = model.absolute().parent
    for name in ("checkpoints", "model_*", "replicate_*"):
        if folder.match(name):
            folder = folder.parent
        elif name == "model_*":
            return None
    return folder if (folder / "config.toml").is_file() else None


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
