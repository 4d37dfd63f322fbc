"""``tritonpool demo-data``: write conjugated oligomers with computed gaps as a CSV file."""

from __future__ import annotations

import argparse
from pathlib import Path

from tritonpool.cli.errors import InputError
from tritonpool.cli.ranges import MOST_SEED, whole_number
from tritonpool.demo.sequences import DEFAULT_SIZES, SIZE_LIMITS


def add_args(parser: argparse.ArgumentParser) -> argparse.ArgumentParser:
    """Add the options of ``demo-data`` to its parser."""
    parser.add_argument(
        "-n",
        "--number",
        type=whole_number(1),
        default=2000,
        help="how many oligomers (default: %(default)s)",
    )
    parser.add_argument(
        "--seed",
        type=whole_number(0, MOST_SEED),
        default=0,
        help="the same seed gives the same file (default: %(default)s)",
    )
    parser.add_argument(
        "-o",
        "--output",
        type=Path,
        required=True,
        help="CSV file to write; replaced if it exists, and its folder is made if there is none",
    )
    parser.add_argument(
        "--min-atoms",
        type=whole_number(*SIZE_LIMITS),
        default=DEFAULT_SIZES[0],
        help="fewest heavy atoms of an oligomer (default: %(default)s)",
    )
    parser.add_argument(
        "--max-atoms",
        type=whole_number(*SIZE_LIMITS),
        default=DEFAULT_SIZES[1],
        help="most heavy atoms of an oligomer (default: %(default)s)",
    )
    # Only the parser can report a contradiction between two options the way it reports others.
    parser.set_defaults(usage_error=parser.error)
    return parser


def run(args: argparse.Namespace) -> None:
    """Write the file and say so on standard output.

    Parameters
    ----------
    args
        Options as read by a parser that went through `add_args`.

    Raises
    ------
    SystemExit
        With code 2 if ``--min-atoms`` is larger than ``--max-atoms``.
    InputError
        If there are not enough distinct oligomers, or the file cannot be written.
    """
    if args.min_atoms > args.max_atoms:
        args.usage_error(
            f"argument --min-atoms: must not be larger than --max-atoms ({args.max_atoms}), "
            f"got {args.min_atoms}"
        )
    # RDKit is not needed to show the help.
    from tritonpool.demo.oligomers import generate
    from tritonpool.demo.table import write_csv

    try:
        write_csv(generate(args.number, args.seed, args.min_atoms, args.max_atoms), args.output)
    except ValueError as error:
        raise InputError(str(error)) from error
    except OSError as error:
        raise InputError(f"argument --output: {error}") from error
    print(f"Wrote {args.number} oligomers to {args.output}.")
