"""``tritonpool hpopt``: search the settings that predict best on one's own data."""

from __future__ import annotations

import argparse
import importlib.util
from collections.abc import Sequence
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING

from tritonpool.cli.checks import check_new_models, check_writable, on_one_device
from tritonpool.cli.data import read_splits
from tritonpool.cli.errors import InputError, UsageError
from tritonpool.cli.options import from_file, given_options, set_on_purpose, tell_of_aggregation
from tritonpool.cli.parser import attributes_in_config, words_without
from tritonpool.cli.quiet import only_progress
from tritonpool.cli.ranges import MOST_SEED, whole_number
from tritonpool.cli.search_space import BUNDLES, PARAMETERS, option_of, searched
from tritonpool.cli.train import TrainSubcommand

if TYPE_CHECKING:
    from tritonpool.cli.study import Tried

__all__ = ["HpoptSubcommand"]

OWN = (
    *("search_parameter_keywords", "hpopt_save_dir", "num_samples", "jobs", "search_algorithm"),
    *("trial_scheduler", "grace_period", "reduction_factor", "search_seed"),
)


def _add_group(parser: argparse.ArgumentParser) -> argparse.ArgumentParser:
    group = parser.add_argument_group(
        "hpopt args",
        "All options of `tritonpool train` hold for every trial, but for what is searched. Trials "
        "are kept in --hpopt-save-dir: the same command goes on with a search that was "
        "interrupted, and with a larger --num-samples searches further. The test part is never "
        "looked at. Needs Optuna: pip install optuna.",
    )
    group.add_argument(
        "--search-parameter-keywords",
        nargs="+",
        choices=[*BUNDLES, *PARAMETERS],
        default=["basic", "diffpool"],
        metavar="KEYWORD",
        help="what to search: basic (depth and widths of D-MPNN and predictor, dropout), diffpool "
        "(ratio, most clusters, assignment and depth of the coarse graph), learning_rate, init_lr, "
        "final_lr, all, or single parameters: "
        f"{', '.join(PARAMETERS)} (default: basic diffpool)",
    )
    group.add_argument(
        "--hpopt-save-dir",
        type=Path,
        help="folder for what is found (default: tritonpool_hpopt/ and the name of the data)",
    )
    group.add_argument(
        "--num-samples",
        "--raytune-num-samples",
        type=whole_number(1),
        default=10,
        metavar="N",
        help="how many trials, those of earlier calls included (default: %(default)s)",
    )
    group.add_argument(
        "--jobs",
        "--raytune-max-concurrent-trials",
        type=whole_number(1),
        default=1,
        metavar="N",
        help="how many trials at a time, each in a process of its own (default: %(default)s)",
    )
    group.add_argument(
        "--search-algorithm",
        "--raytune-search-algorithm",
        choices=["optuna", "random"],
        default="optuna",
        help="optuna learns from earlier trials where to look (a tree-structured Parzen "
        "estimator), random does not (default: %(default)s)",
    )
    group.add_argument(
        "--trial-scheduler",
        "--raytune-trial-scheduler",
        choices=["FIFO", "AsyncHyperBand"],
        default="FIFO",
        help="FIFO trains every trial to its end, AsyncHyperBand stops those that others were "
        "ahead of after the same number of epochs (default: %(default)s)",
    )
    group.add_argument(
        "--grace-period",
        "--raytune-grace-period",
        type=whole_number(1),
        default=10,
        metavar="EPOCHS",
        help="epochs before AsyncHyperBand stops a trial (default: %(default)s)",
    )
    group.add_argument(
        "--reduction-factor",
        "--raytune-reduction-factor",
        type=whole_number(2),
        default=2,
        metavar="N",
        help="AsyncHyperBand keeps one of N (default: %(default)s)",
    )
    group.add_argument(
        "--search-seed",
        "--hyperopt-random-state-seed",
        type=whole_number(0, MOST_SEED),
        metavar="SEED",
        help="of the choice of parameters (default: by chance)",
    )
    return parser


class HpoptSubcommand(TrainSubcommand):
    """The options of ``train``, and those of the search."""

    @classmethod
    def add_args(cls, parser: argparse.ArgumentParser) -> argparse.ArgumentParser:
        """Add the options of ``train`` and those of the search."""
        return _add_group(super().add_args(parser))

    @classmethod
    def parse(cls, words: Sequence[str]) -> argparse.Namespace:
        """Read the options.

        Raises
        ------
        UsageError
            If an option of ``train`` is given that has no meaning here.
        """
        args = cls.parser.parse_args(words)
        filed = from_file(cls.parser)
        if attributes_in_config(args.config_path) & set(OWN):
            raise UsageError(
                "argument --config-path: cannot hold the options of the search, which belong on "
                "the command line"
            )
        check_new_models(args)
        if args.output_dir is not None and "output_dir" not in filed:
            raise UsageError("argument --output-dir: not allowed here; see --hpopt-save-dir")
        if args.ensemble_size > 1:
            raise UsageError(
                "argument --ensemble-size: not allowed here; with --num-replicates each trial is "
                "the mean of several splits"
            )
        if args.epochs < 1:
            raise UsageError("argument --epochs: must be at least 1 here, or no trial would end")
        if not on_one_device(args):
            raise UsageError(
                f"argument --devices: each trial takes one device, got {args.devices}; --jobs "
                f"trains several trials at a time"
            )
        names = [option_of(name) for name in PARAMETERS]
        given = set_on_purpose(cls.parser, words, names)
        args.given_diffpool = given_options(cls.parser, words)
        args.settled = given - filed  # a file holds all options, settled or not
        args.chosen = given
        args.shared = words_without(_add_group, words)
        return args

    @classmethod
    def func(cls, args: argparse.Namespace) -> list[Tried]:
        """Search; print what is found and write it.

        Returns
        -------
        list of Tried
            All trials that have ended, the best first.

        Raises
        ------
        UsageError
            If an option contradicts another, the machine, or trials that are there already.
        InputError
            If Optuna is missing, a file cannot be used, or no trial could be finished.
        """
        if importlib.util.find_spec("optuna") is None:
            raise InputError("a search needs Optuna, which is not installed: pip install optuna")
        from tritonpool.cli.search import begin, run, text
        from tritonpool.cli.study import Search

        cls.check(args)
        names = searched(args, args.settled)
        if "aggregation" not in names:
            tell_of_aggregation(args)
        folder = args.hpopt_save_dir or Path("tritonpool_hpopt") / args.data_path[0].stem
        check_writable(folder, "--hpopt-save-dir")
        try:
            with TemporaryDirectory(prefix="tritonpool-") as scratch:
                splits = read_splits(args, Path(scratch))
                search = Search(folder, args, args.shared, names, splits)
                with only_progress(), begin(search):
                    found = run(search)
        except KeyboardInterrupt as error:
            raise InputError(
                "the search was interrupted; the same command goes on with it"
            ) from error
        if found[0].value is None:
            errors = [row.error for row in found if row.error]
            why = f"the last error: {errors[-1]}" if errors else "all were stopped early"
            raise InputError(f"no trial could be finished; {why}")
        print(f"\n{text(found, search)}", end="")
        return found
