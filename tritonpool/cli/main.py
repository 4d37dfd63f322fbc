"""The command ``tritonpool``: finds the sub-command, reads its options, reports its errors."""

from __future__ import annotations

import argparse
import importlib
import logging
import os
import sys
import traceback
import warnings
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Any

from tritonpool.cli.errors import InputError, UsageError
from tritonpool.cli.parser import Parser, logging_options, without_logging

__all__ = ["COMMANDS", "main"]

LEVELS = {-2: logging.ERROR, -1: logging.WARNING, 0: logging.INFO, 1: logging.DEBUG}

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class Command:
    """A sub-command: ``module[:class]`` that offers ``add_args``, and the function that runs it.

    The module is imported only when the command is used, because chemprop alone takes seconds.
    """

    place: str
    run: str
    help: str

    def load(self) -> Any:
        """Import the module or class."""
        module, _, name = self.place.partition(":")
        loaded = importlib.import_module(module)
        return getattr(loaded, name) if name else loaded


COMMANDS = {
    "train": Command(
        "tritonpool.cli.train:TrainSubcommand",
        "func",
        "train D-MPNN + DiffPool: all options of `chemprop train`, and --diffpool-*",
    ),
    "predict": Command(
        "tritonpool.cli.predict:PredictSubcommand",
        "func",
        "predict with trained models (chemprop's own command)",
    ),
    "fingerprint": Command(
        "tritonpool.cli.predict:FingerprintSubcommand",
        "func",
        "write learned representations (chemprop's own command)",
    ),
    "clusters": Command(
        "tritonpool.cli.clusters", "run", "show which atoms a trained model puts together"
    ),
    "bench": Command(
        "tritonpool.cli.bench:BenchSubcommand",
        "func",
        "measure time and memory of batch sizes and ratios on one's own data",
    ),
    "compare": Command(
        "tritonpool.cli.compare:CompareSubcommand",
        "func",
        "train several settings on the same splits of one's own data, and say which is best",
    ),
    "hpopt": Command(
        "tritonpool.cli.hpopt:HpoptSubcommand",
        "func",
        "search the settings that predict best on one's own data (with Optuna)",
    ),
    "demo-data": Command(
        "tritonpool.cli.demo_data", "run", "write conjugated oligomers with computed gaps"
    ),
    "demo": Command(
        "tritonpool.cli.demo", "run", "train with and without DiffPool on such oligomers"
    ),
    "info": Command(
        "tritonpool.cli.info", "run", "show versions, devices and which backend each gets"
    ),
}


def main(argv: Sequence[str] | None = None) -> int:
    """Run ``tritonpool`` with these words and return the exit code.

    Parameters
    ----------
    argv
        The words after ``tritonpool``; by default those of the process.

    Returns
    -------
    int
        0 if all went well, 2 for a wrong command line, 1 for any other error.

    Raises
    ------
    SystemExit
        From argparse: code 0 after ``--help``, code 2 for a wrong option.
    """
    argv = list(sys.argv[1:] if argv is None else argv)
    if not argv or argv[0] not in COMMANDS:
        _overview().parse_args(argv)
    mode, words = argv[0], argv[1:]
    prog = f"tritonpool {mode}"
    verbose = "-v" in words
    try:
        command = COMMANDS[mode].load()
        parser = Parser(
            prog=prog,
            description=COMMANDS[mode].help,
            parents=[logging_options(_log_folder())],
        )
        command.add_args(parser)
        args = command.parse(words) if hasattr(command, "parse") else parser.parse_args(words)
        logfile, verbose, quiet = args.logfile, args.v, args.q
        args = without_logging(args)
        if verbose and quiet:
            raise UsageError("argument -q: not allowed with argument -v")
        _start_log(mode, logfile, LEVELS.get(1 if verbose else -quiet, logging.ERROR))
        logger.debug("running %s with %s", prog, vars(args))
        with warnings.catch_warnings():
            if quiet > 1:
                warnings.simplefilter("ignore")
            getattr(command, COMMANDS[mode].run)(args)
    except KeyboardInterrupt:
        print(f"{prog}: error: interrupted", file=sys.stderr)
        return 1
    except BrokenPipeError:  # whoever reads the output has seen enough, such as `head`
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())  # for what is not out yet
        return 1
    except Exception as error:
        return _report(error, prog, verbose)
    return 0


def _overview() -> argparse.ArgumentParser:
    """The parser of ``tritonpool`` itself, which knows the names of the commands only."""
    from tritonpool import __version__

    parser = Parser(
        prog="tritonpool",
        description="DiffPool with bond features for molecules and polymers.",
        epilog="`tritonpool COMMAND --help` lists the options of a command.",
    )
    parser.add_argument("--version", action="version", version=f"tritonpool {__version__}")
    commands = parser.add_subparsers(title="commands", metavar="COMMAND", required=True)
    for name, command in COMMANDS.items():
        commands.add_parser(name, help=command.help)
    return parser


def _log_folder() -> Path:
    # chemprop's own variable and default, known without the seconds that importing chemprop takes
    return Path(os.environ.get("CHEMPROP_LOG_DIR", "chemprop_logs"))


def _start_log(mode: str, logfile: str | None, level: int) -> None:
    """Send the log where chemprop sends it: to standard error, or to a file."""
    handler: logging.Handler = logging.StreamHandler(sys.stderr)
    if logfile is not None:
        default = _log_folder() / mode / f"{datetime.now():%Y-%m-%dT%H-%M-%S}.log"
        path = default if logfile == "default" else Path(logfile)
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            handler = logging.FileHandler(path)
        except OSError as error:
            raise InputError(
                f"argument --logfile: cannot write to {str(path)!r}: {error.strerror}; name "
                f"another file"
            ) from error
    logging.basicConfig(
        handlers=[handler],
        format="%(asctime)s - %(levelname)s:%(name)s - %(message)s",
        level=level,
        datefmt="%Y-%m-%dT%H:%M:%S",
        force=True,
    )
    for name in ("lightning.pytorch", "lightning.fabric"):  # which hold on to levels of their own
        logging.getLogger(name).setLevel(max(level, logging.INFO))


def _report(error: Exception, prog: str, verbose: bool) -> int:
    """Print an error as one line, with ``-v`` after its traceback, and return the exit code."""
    usage = isinstance(error, UsageError | argparse.ArgumentError)
    if verbose and not usage:
        traceback.print_exception(error)
    message = " ".join(str(error).split())
    if not (usage or isinstance(error, InputError | OSError)):
        more = "" if verbose else " (-v shows the traceback)"
        message = f"{type(error).__name__}: {message}{more}"
    print(f"{prog}: error: {message}", file=sys.stderr)
    return 2 if usage else 1


if __name__ == "__main__":
    sys.exit(main())
