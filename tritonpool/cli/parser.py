"""An argument parser that reports a mistake in one line instead of the whole usage."""

from __future__ import annotations

import argparse
import json
from collections.abc import Callable, Sequence
from contextlib import redirect_stdout
from io import StringIO
from pathlib import Path
from typing import NoReturn

from configargparse import (
    ArgumentParser,
    ConfigFileParserException,
    DefaultConfigFileParser,
)

__all__ = [
    "Parser",
    "attributes_in_config",
    "logging_options",
    "read_config",
    "without_logging",
    "words_without",
]


class _ConfigFile(DefaultConfigFileParser):
    """chemprop's format of config.toml; what would not be read again as it was, such as names with
    a comma or the name ``true`` in a list, is quoted."""

    def serialize(self, items: dict[str, object]) -> str:
        texts = {key: self._quoted(value) for key, value in items.items()}
        return super().serialize(texts)

    def _quoted(self, value: object) -> object:
        (again,) = self.parse(StringIO(super().serialize({"key": value}))).values()
        if _texts(again) == (texts := _texts(value)):
            return value
        if isinstance(texts, str):
            return f'"{texts}"'
        # what follows these in a list is a comment to the format, in quotes too
        return json.dumps(texts).replace("#", r"\u0023").replace(";", r"\u003b")


def _texts(value: object) -> str | list[str]:
    """A value, or each value of a list, as text."""
    return [str(part) for part in value] if isinstance(value, list) else str(value)


class Parser(ArgumentParser):
    """Parser whose errors are one line on standard error, with exit code 2, or 1 where a
    configuration file cannot be opened.

    It is configargparse's, as chemprop's is, so that ``--config-path`` works.
    """

    def __init__(self, *args: object, **kwargs: object):
        super().__init__(*args, config_file_parser_class=_ConfigFile, **kwargs)
        self._parsed: dict[str, object] = {}

    def error(self, message: str) -> NoReturn:
        """Print one line and leave."""
        code = 1 if message.startswith("Unable to open config file") else 2
        self.exit(code, f"{self.prog}: error: {message}\n")

    def parse_known_args(
        self, *args: object, **kwargs: object
    ) -> tuple[argparse.Namespace, list[str]]:
        """Parse, and remember the values as configargparse remembers where they come from."""
        found, rest = super().parse_known_args(*args, **kwargs)
        self._parsed = dict(vars(found))
        return found, rest

    def get_items_for_config_file_output(
        self, source_to_settings: dict, parsed_namespace: argparse.Namespace
    ) -> dict:
        """What a new file holds: the options as they are now, where configargparse would repeat
        what stood in the file that was read."""
        items = super().get_items_for_config_file_output(source_to_settings, parsed_namespace)
        files = [
            settings
            for source, settings in source_to_settings.items()
            if source.startswith("config_file")
        ]
        for key, (action, _) in (item for settings in files for item in settings.items()):
            value = None if action is None else getattr(parsed_namespace, action.dest, None)
            if value is None or value is False:
                items.pop(key, None)
            elif str(value) != str(self._parsed[action.dest]):  # else as it was written there
                items[key] = value
        return items

    def write_config_file(self, *args: object, **kwargs: object) -> None:
        """Write a configuration file, without the line on standard output that no ``-q`` stops."""
        with redirect_stdout(StringIO()):
            super().write_config_file(*args, **kwargs)


def logging_options(folder: str) -> argparse.ArgumentParser:
    """The options on logging that every command has.

    Parameters
    ----------
    folder
        Where log files go if ``--logfile`` has no value.
    """
    options = argparse.ArgumentParser(add_help=False)
    options.add_argument(
        "--logfile",
        "--log",
        nargs="?",
        const="default",
        help=f"write the log to this file (without a value: to {folder}/COMMAND/TIME.log)",
    )
    options.add_argument("-v", action="store_true", help="log more, and show tracebacks of errors")
    options.add_argument(
        "-q",
        action="count",
        default=0,
        help="log warnings and errors only, or with -qq errors only and no progress of a training",
    )
    return options


def without_logging(args: argparse.Namespace) -> argparse.Namespace:
    """The same options but for those on logging, which are no settings of a model."""
    for name in ("logfile", "v", "q"):
        delattr(args, name)
    return args


def read_config(path: Path) -> dict[str, object]:
    """The settings in a config.toml, texts or lists of texts under the names of options; none if it
    cannot be read."""
    try:
        with path.open() as file:
            return dict(_ConfigFile().parse(file))
    except (OSError, ValueError, ConfigFileParserException):
        return {}


def words_without(
    add_group: Callable[[argparse.ArgumentParser], argparse.ArgumentParser], words: Sequence[str]
) -> list[str]:
    """The words but for the options that a function adds to a parser, and those on logging."""
    parser = add_group(Parser(add_help=False, parents=[logging_options("")]))
    return parser.parse_known_args(words)[1]


def attributes_in_config(path: Path | None) -> set[str]:
    """The attributes that a config.toml sets, also where the command line overrules it."""
    return {name.replace("-", "_") for name in (read_config(path) if path else ())}
