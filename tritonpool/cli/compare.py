"""``tritonpool compare``: which settings predict best on one's own data."""

from __future__ import annotations

import argparse
import shlex
from collections.abc import Sequence
from pathlib import Path
from tempfile import TemporaryDirectory

from chemprop.nn import MetricRegistry

from tritonpool.cli.checks import (
    check_new_models,
    check_writable,
    model_with_own_pooling,
    on_one_device,
    output_folder,
)
from tritonpool.cli.compared import Setting, begin, read_for_each, train_all
from tritonpool.cli.data import read_splits
from tritonpool.cli.errors import UsageError
from tritonpool.cli.info import collect
from tritonpool.cli.options import (
    flag,
    from_file,
    given_options,
    set_on_purpose,
    tell_of_aggregation,
)
from tritonpool.cli.parser import attributes_in_config, without_logging, words_without
from tritonpool.cli.quiet import only_progress
from tritonpool.cli.splits import draws_splits
from tritonpool.cli.train import TrainSubcommand, training_parser
from tritonpool.compare.report import Study, text, write

__all__ = ["CompareSubcommand", "learns"]

REFERENCE, POOLED = "dmpnn", "diffpool"
SETTINGS = {
    REFERENCE: "--diffpool-levels 0",
    POOLED: "",
    "one-cluster": "--diffpool-max-clusters 1",
    "rings": "--diffpool-assignment rings",
}
METRICS = ["rmse", "mae", "r2"]  # of regression
SPLITS = 5

# what all settings must share, or what is said elsewhere
SHARED = (
    *("data_path", "output_dir", "config_path", "resume", "checkpoint", "model_frzn"),
    *("smiles_columns", "reaction_columns", "target_columns", "ignore_columns", "no_header_row"),
    *("weight_column", "splits_column", "splits_file", "split", "split_sizes", "train_size"),
    *("split_key_molecule", "num_replicates", "data_seed", "task_type", "metrics"),
    *("ensemble_size", "logfile", "v", "q"),
)


def _own(text: str) -> tuple[str, str]:
    """``NAME=OPTIONS``."""
    name, equals, options = text.partition("=")
    folder = name.isprintable() and name.strip() == name and not set(name) & set("/\\|")
    # beside the folder are results.md and its like
    if not (equals and folder and name.strip(".") and not name.startswith("results.")):
        raise argparse.ArgumentTypeError(
            f"must be a name, =, and options of `tritonpool train`, such as "
            f"'sharp=--diffpool-temperature 0.2', got {text!r}"
        )
    return name, options


def _add_group(parser: argparse.ArgumentParser) -> argparse.ArgumentParser:
    group = parser.add_argument_group(
        "compare args",
        "All options of `tritonpool train` hold for every setting. Each is trained on the same "
        f"--num-replicates splits (default here: {SPLITS}). Tables, picture and models are written "
        "to --output-dir (default: comparison); trainings that are there already are not repeated, "
        "so more splits or settings can be added later.",
    )
    group.add_argument(
        "--settings",
        nargs="+",
        choices=list(SETTINGS),
        default=list(SETTINGS),
        help=f"what to compare; the first is what others are compared with: {REFERENCE} is "
        f"chemprop's D-MPNN, {POOLED} the model that the other options say, one-cluster and rings "
        f"are controls whose clusters are not learned (default: {' '.join(SETTINGS)})",
    )
    group.add_argument(
        "--setting",
        type=_own,
        action="append",
        default=[],
        metavar="NAME=OPTIONS",
        help="another setting and the options that make it, such as "
        "'sharp=--diffpool-temperature 0.2'; may be given several times",
    )
    group.add_argument(
        "--jobs",
        type=int,
        default=1,
        metavar="N",
        help="how many trainings at a time, each in a process of its own; on a GPU several small "
        "models share it (default: 1)",
    )
    return parser


class CompareSubcommand(TrainSubcommand):
    """The options of ``train``, and the settings."""

    @classmethod
    def add_args(cls, parser: argparse.ArgumentParser) -> argparse.ArgumentParser:
        """Add the options of ``train`` and those of the comparison."""
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
        if attributes_in_config(args.config_path) & {"settings", "setting", "jobs"}:
            raise UsageError(
                "argument --config-path: cannot hold --settings, --setting and --jobs, which "
                "belong on the command line"
            )
        check_new_models(args)
        if args.ensemble_size > 1:
            raise UsageError(
                "argument --ensemble-size: not allowed here; more splits say more than more models "
                "of each, see --num-replicates"
            )
        if args.diffpool_levels == 0:
            raise UsageError(
                f"argument --diffpool-levels: must be at least 1; D-MPNN is the setting {REFERENCE}"
            )
        names = [*args.settings, *(name for name, _ in args.setting)]
        for name in names:
            if names.count(name) > 1 or (name in SETTINGS and name not in args.settings):
                raise UsageError(f"argument --setting: there is a setting {name!r} already")
        if len(names) < 2:
            raise UsageError("argument --settings: needs at least two settings to compare")
        args.given_diffpool = given_options(cls.parser, words)
        args.chosen = set_on_purpose(cls.parser, words, ("aggregation", "num_replicates"))
        # a training's file says 1, its default
        if "num_replicates" not in args.chosen or (
            "num_replicates" in filed and args.num_replicates == 1
        ):
            args.num_replicates = SPLITS if draws_splits(args) else 1
        if args.output_dir is None or "output_dir" in filed:  # the file's is that of its training
            args.output_dir = Path("comparison")
        if args.metrics is None and args.task_type.startswith("regression"):
            args.metrics = list(METRICS)
        args.shared = words_without(_add_group, words)
        return args

    @classmethod
    def func(cls, args: argparse.Namespace) -> Study:
        """Train every setting on every split; print and write tables, JSON and a picture.

        Returns
        -------
        Study
            What was measured.

        Raises
        ------
        UsageError
            If an option contradicts another, the machine, or trainings that are there already.
        InputError
            If a file cannot be used.
        """
        cls.check(args)
        tell_of_aggregation(args)
        if own := model_with_own_pooling(args):
            raise UsageError(f"argument --from-foundation: not allowed here; {own} pools already")
        if draws_splits(args) and len(args.data_path) == 1 and args.split_sizes[-1] == 0:
            raise UsageError("argument --split-sizes: needs a test part to compare on")
        check_writable(args.output_dir)
        with TemporaryDirectory(prefix="tritonpool-") as scratch:
            splits = read_splits(args, Path(scratch))  # which warns of molecules in two parts
            with only_progress():
                settings = [
                    _setting(name, own, args)
                    for name, own in [(n, SETTINGS[n]) for n in args.settings] + args.setting
                ]
                if args.jobs > 1:
                    _check_devices(settings)
                read_for_each(settings, args, splits)
                begin(settings)
                rows = train_all(settings, args.jobs)
        metric = settings[0].metric
        controls, learned = (
            tuple(s.name for s in settings if s.args.diffpool_levels and learns(s.args) is kind)
            for kind in (False, True)
        )
        study = Study(rows, controls, learned, metric, MetricRegistry[metric].higher_is_better)
        with output_folder(args.output_dir):
            options = {setting.name: setting.words for setting in settings}
            write(study, options, args.output_dir, machine=collect())
        print(f"\n{text(study, options)}", end="")
        print(f"Tables, JSON, picture and models are in {args.output_dir}.")
        return study


def _check_devices(settings: Sequence[Setting]) -> None:
    """Of trainings side by side each takes one device: those with more start this command again."""
    for setting in settings:
        if not on_one_device(setting.args):
            raise UsageError(
                f"argument --jobs: each of several trainings takes one device, but --devices is "
                f"{setting.args.devices}"
            )


def learns(args: argparse.Namespace) -> bool:
    """Does a model with levels learn clusters? Rings are given, and one cluster is no choice."""
    most = args.diffpool_max_clusters
    most = most if isinstance(most, list) else [most] * args.diffpool_levels
    return any(k != 1 for k in (most[1:] if args.diffpool_assignment == "rings" else most))


def _setting(name: str, own: str, base: argparse.Namespace) -> Setting:
    """The options of a setting: those for all and its own, checked as those of ``train``."""
    try:
        split = shlex.split(own)
    except ValueError as error:
        raise UsageError(f"argument --setting: {name}: {error} in {own!r}") from error
    parser = training_parser(f"tritonpool compare: setting {name!r}")
    try:
        found = set_on_purpose(parser, split, SHARED)
        for option in SHARED:
            if option in found:
                raise UsageError(f"{flag(option)} must be the same for all settings")
        # what the options for all say about pooling need not fit a setting without it
        given = given_options(parser, split)
        settled = ["--output-dir", str(base.output_dir / name)]
        settled += ["--num-replicates", str(base.num_replicates)]
        settled += ["--metrics", *base.metrics] if base.metrics else []
        args = without_logging(parser.parse_args([*base.shared, *split, *settled]))
        args.given_diffpool = given
        TrainSubcommand.check(args)
    except (UsageError, argparse.ArgumentError) as error:
        raise UsageError(f"setting {name!r}: {error}") from error
    return Setting(name, split, args, parser)
