"""An argument parser that reports a mistake in one line instead of the whole usage."""

from __future__ import annotations

import argparse
import json
from pathlib import Path
from typing import NoReturn

from configargparse import (
    ArgumentParser,
    ConfigFileParserException,
    DefaultConfigFileParser,
)

__all__ = ["Parser", "logging_options", "read_config"]


class _ConfigFile(DefaultConfigFileParser):
    """chemprop's format of config.toml; what has a comma in it is quoted, so that it is read again
    as it was."""

    def serialize(self, items: dict[str, object]) -> str:
        def text(value: object) -> object:
            parts = isinstance(value, list) and any("," in str(part) for part in value)
            return json.dumps([str(part) for part in value]) if parts else value

        return super().serialize({key: text(value) for key, value in items.items()})


class Parser(ArgumentParser):
    """Parser whose errors are one line on standard error, with exit code 2, or 1 where a
    configuration file cannot be opened.

    It is configargparse's, as chemprop's is, so that ``--config-path`` works.
    """

    def __init__(self, *args: object, **kwargs: object):
        super().__init__(*args, config_file_parser_class=_ConfigFile, **kwargs)

    def error(self, message: str) -> NoReturn:
        """Print one line and leave."""
        code = 1 if message.startswith("Unable to open config file") else 2
        self.exit(code, f"{self.prog}: error: {message}\n")


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


def read_config(path: Path) -> dict[str, object]:
    """The settings in a config.toml, texts or lists of texts under the names of options; none if it
    cannot be read."""
    try:
        with path.open() as file:
            return dict(_ConfigFile().parse(file))
    except (OSError, ValueError, ConfigFileParserException):
        return {}
