"""``tritonpool train``: ``chemprop train`` with DiffPool, sub-samples, precision and resumption."""

from __future__ import annotations

import argparse
import copy
import logging
from collections.abc import Sequence
from pathlib import Path
from tempfile import TemporaryDirectory

from chemprop.cli import train as chemprop_train
from chemprop.cli.common import process_common_args, validate_common_args
from chemprop.cli.train import (
    process_train_args,
    save_config,
    save_smiles_splits,
    validate_train_args,
)

from tritonpool.cli.checks import (
    check_components,
    check_options,
    check_output,
    model_with_own_pooling,
    output_folder,
)
from tritonpool.cli.data import Splits, read_splits
from tritonpool.cli.errors import InputError, UsageError
from tritonpool.cli.features import check_feature_files
from tritonpool.cli.fit import Fitted, fit_replicate, is_finished
from tritonpool.cli.loaders import prepare
from tritonpool.cli.models import make_model, try_out
from tritonpool.cli.options import (
    add_options,
    flag,
    from_file,
    given_options,
    resolve_settings,
    set_on_purpose,
    tell_of_aggregation,
)
from tritonpool.cli.parser import Parser, logging_options
from tritonpool.cli.scores import write_summary
from tritonpool.cli.splits import check_metrics, undecided
from tritonpool.cli.tables import check_endings, check_files, check_tables

__all__ = ["TrainSubcommand", "training_parser"]

# options that may differ when a training is resumed
FREE = (
    *("config_path", "resume", "output_dir", "data_path", "num_workers", "accelerator"),
    *("logfile", "v", "q"),
)

logger = logging.getLogger(__name__)


class TrainSubcommand(chemprop_train.TrainSubcommand):
    """chemprop's sub-command with our options and models."""

    HELP = "Train D-MPNN with DiffPool."

    @classmethod
    def add_args(cls, parser: argparse.ArgumentParser) -> argparse.ArgumentParser:
        """Add chemprop's options and ours."""
        return add_options(super().add_args(parser))

    @classmethod
    def parse(cls, words: Sequence[str]) -> argparse.Namespace:
        """Read the options; with ``--resume`` those of config.toml too.

        Raises
        ------
        UsageError
            If the training cannot be resumed with these options.
        InputError
            If there is nothing to resume.
        """
        args = cls.parser.parse_args(words)
        if args.resume:
            words = cls._words_to_resume(args, words)
        given = given_options(cls.parser, words)
        found = set_on_purpose(cls.parser, words, ("aggregation",))
        # the parser remembers its latest call, and config.toml is written from that
        args = cls.parser.parse_args(words)
        args.given_diffpool, args.chosen = given, found
        return args

    @classmethod
    def _words_to_resume(cls, args: argparse.Namespace, words: Sequence[str]) -> list[str]:
        """The words with the config.toml of the training, which they must agree with."""
        if args.checkpoint is not None:
            raise UsageError(
                "argument --resume: not allowed with --checkpoint; a training goes on from its own "
                "checkpoints"
            )
        if args.output_dir is None:
            raise UsageError("argument --resume: needs --output-dir, the training to go on with")
        config = args.output_dir / "config.toml"
        if not config.is_file():
            raise InputError(
                f"argument --resume: {str(args.output_dir)!r} holds no config.toml, so there is no "
                f"training to go on with"
            )
        settings = ["--config-path", str(config)]
        words = [*words, *([] if args.config_path else settings)]
        was = vars(process_train_args(process_common_args(cls.parser.parse_args(settings))))
        if "precision" not in from_file(cls.parser):  # which is in all files of ours
            raise InputError(
                f"argument --resume: {str(config)!r} names no precision, so the training was begun "
                f"by `chemprop train`, whose checkpoints lack what is needed to go on with it"
            )
        now = vars(process_train_args(process_common_args(cls.parser.parse_args(words))))
        # the number of replicates is that of these
        free = {*FREE, "num_replicates"} if was["splits_file"] or was["splits_column"] else FREE
        for name, value in now.items():
            if name not in free and _plain(value) != _plain(was[name]):
                longer = "; to train a finished model further, give it as --checkpoint"
                more = longer if name == "epochs" else ""
                raise UsageError(
                    f"argument --resume: {flag(name)} is {_words(value)}, but the training in "
                    f"{str(args.output_dir)!r} was begun with {_words(was[name])}{more}"
                )
        return words

    @classmethod
    def func(cls, args: argparse.Namespace) -> list[Fitted]:
        """Check everything, then train.

        Returns
        -------
        list of Fitted
            One entry for each model that was trained.

        Raises
        ------
        UsageError
            If an option contradicts another or the machine.
        InputError
            If a file cannot be used.
        argparse.ArgumentError
            From chemprop's own checks.
        """
        cls.check(args)
        tell_of_aggregation(args)
        if not args.resume:
            check_output(args.output_dir)
        # a split that fails leaves nothing behind
        with TemporaryDirectory(prefix="tritonpool-") as scratch:
            return cls._train(args, Path(scratch))

    @classmethod
    def check(cls, args: argparse.Namespace) -> None:
        """Check the options and the tables they name, and complete the options in place."""
        if not args.data_path:
            raise UsageError("argument --data-path: is needed for training")
        process_common_args(args)
        check_options(args)
        check_endings(args.data_path, args)
        check_files(args.data_path, args)
        named = args.target_columns is not None
        try:
            validate_common_args(args)
            validate_train_args(process_train_args(args))
        except ValueError as error:
            raise UsageError(str(error)) from error
        check_tables(args, all_columns=not named)
        if not named:
            logger.info(
                "there is no --target-columns, so the model learns %s",
                ", ".join(map(repr, args.target_columns)),
            )
        if len(args.data_path) == 1:
            check_feature_files(args.data_path[0], args)
        check_components(args)
        resolve_settings(args, model_with_own_pooling(args))

    @classmethod
    def _train(cls, args: argparse.Namespace, scratch: Path) -> list[Fitted]:
        # building a model changes some options, and config.toml should hold those that were given
        given = copy.deepcopy(args)
        given.config_path = None  # all of its settings are in the new file
        record = args.output_dir / "splits.json"
        splits = read_splits(args, scratch, record if args.resume and record.is_file() else None)
        given.num_replicates = args.num_replicates  # as many as there are
        check_metrics(splits, args.metrics or (), args.target_columns)
        if found := undecided(splits, args.tracking_metric):
            logger.warning("%s", found)
        fitted = []
        for i, parts in enumerate(splits):
            folder = (
                args.output_dir / f"replicate_{i}" if args.num_replicates > 1 else args.output_dir
            )
            if args.resume and is_finished(args, folder):
                logger.info("'%s' is finished already", folder)
                continue
            data = prepare(args, *parts)
            if i == 0 and not args.resume:
                # what is wrong with the model shows before anything is written
                try_out(make_model(args, data, 0), data)
                cls._begin(given, splits)
            folder.mkdir(exist_ok=True, parents=True)
            if args.save_smiles_splits:
                save_smiles_splits(args, folder, data.train, data.val, data.test)
            fitted += fit_replicate(args, data, folder)
        write_summary(args.output_dir)
        return fitted

    @classmethod
    def _begin(cls, args: argparse.Namespace, splits: Splits) -> None:
        """Make the output folder with config.toml and splits.json."""
        with output_folder(args.output_dir):
            save_config(cls.parser, args, args.output_dir / "config.toml")
            logger.info("the settings are in '%s'", args.output_dir / "config.toml")
            splits.write(args.output_dir)


def training_parser(prog: str) -> Parser:
    """What reads the options of a training that another command starts."""
    return TrainSubcommand.add_args(Parser(prog=prog, parents=[logging_options("")]))


def _words(value: object) -> object:
    """A value as it stands on a command line."""
    return " ".join(map(str, value)) if isinstance(value, list) else value


def _plain(value: object) -> object:
    """A value as it compares: paths from the root, lists and dictionaries item by item."""
    if isinstance(value, Path):
        return str(value.absolute())
    if isinstance(value, list | tuple):
        return [_plain(item) for item in value]
    if isinstance(value, dict):
        return {key: _plain(item) for key, item in value.items()}
    return value
