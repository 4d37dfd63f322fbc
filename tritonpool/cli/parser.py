"""An argument parser that reports a mistake in one line instead of the whole usage."""

from __future__ import annotations

import argparse
from typing import NoReturn

from configargparse import ArgumentParser

__all__ = ["Parser", "logging_options"]


class Parser(ArgumentParser):
    """Parser whose errors are one line on standard error, with exit code 2.

    It is configargparse's, as chemprop's is, so that ``--config-path`` works.
    """

    def error(self, message: str) -> NoReturn:
        """Print one line and leave with code 2."""
        self.exit(2, f"{self.prog}: error: {message}\n")


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
        help="log warnings and errors only, or with -qq errors only",
    )
    return options
