"""The record of a search: what its trials share, and what was tried."""

from __future__ import annotations

import argparse
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import optuna
from optuna.storages.journal import JournalFileBackend, JournalFileOpenLock
from optuna.trial import TrialState

from tritonpool.cli.data import Splits
from tritonpool.cli.errors import InputError, UsageError
from tritonpool.cli.parser import Parser, without_logging
from tritonpool.cli.search_space import words
from tritonpool.cli.train import TrainSubcommand, training_parser

__all__ = ["Search", "Tried", "calls", "check_study", "mark_study", "trained", "tried"]

STUDY = "study.journal"


@dataclass
class Search:
    """What all trials share.

    Attributes
    ----------
    folder : Path
        where they are kept
    args : argparse.Namespace
        the options of ``tritonpool hpopt``
    shared : list of str
        those that are options of ``tritonpool train``
    names : list of str
        the parameters that are searched
    splits : Splits
        the data
    monitor, mode : str
        what decides, and whether ``min`` or ``max`` of it is best, once that is known
    exhausted : bool
        whether nothing new was found to try
    """

    folder: Path
    args: argparse.Namespace
    shared: list[str]
    names: list[str]
    splits: Splits
    monitor: str = ""
    mode: str = ""
    exhausted: bool = False

    def options(self, values: Mapping[str, Any]) -> tuple[argparse.Namespace, Parser]:
        """The options of a trial, checked as those of ``tritonpool train``, and what read them."""
        parser = training_parser("tritonpool hpopt")
        args = without_logging(parser.parse_args([*self.shared, *words(values, self.args)]))
        args.given_diffpool = []  # what the options for all say need not fit every trial
        TrainSubcommand.check(args)
        args.output_dir = None  # which is not that of a later training
        return args, parser

    def study(self, seed: int | None = None) -> optuna.Study:
        """The record of all trials, which is made at first.

        Parameters
        ----------
        seed
            Of the next choice.
        """
        optuna.logging.set_verbosity(optuna.logging.WARNING)
        path = str(self.folder / STUDY)
        # unlike the default, this lock needs no symbolic links, which Windows may forbid
        backend = JournalFileBackend(path, lock_obj=JournalFileOpenLock(path))
        if self.args.search_algorithm == "random":
            sampler: optuna.samplers.BaseSampler = optuna.samplers.RandomSampler(seed)
        else:
            # half of a short search by chance, as in chemprop; ten are Optuna's own number
            by_chance = min(10, max(1, self.args.num_samples // 2))
            sampler = optuna.samplers.TPESampler(seed=seed, n_startup_trials=by_chance)
        pruner: optuna.pruners.BasePruner = optuna.pruners.NopPruner()
        if self.stops_early:
            pruner = optuna.pruners.SuccessiveHalvingPruner(
                min_resource=min(self.args.grace_period, self.args.epochs),
                reduction_factor=self.args.reduction_factor,
            )
        try:
            return optuna.create_study(
                storage=optuna.storages.JournalStorage(backend),
                study_name="tritonpool",
                direction="minimize" if self.mode == "min" else "maximize",
                sampler=sampler,
                pruner=pruner,
                load_if_exists=True,
            )
        except (ValueError, KeyError) as error:
            raise InputError(
                f"{path!r} cannot be read, so the search cannot go on; name another folder"
            ) from error

    @property
    def stops_early(self) -> bool:
        """Are trials ended that begin worse than others?"""
        return self.args.trial_scheduler == "AsyncHyperBand"


@dataclass(frozen=True)
class Tried:
    """A trial that has ended.

    Attributes
    ----------
    folder : str
        its name in the folder of the search
    state : str
        ``complete``, ``pruned`` or ``fail``
    value : float | None
        what ``--tracking-metric`` was at the best epoch, as a mean over the splits; None unless it
        is complete
    values : dict
        the parameters that were searched
    options : str
        those of ``tritonpool train`` that set them
    seconds : float
        spent on it, without those of calls that were killed
    error : str
        why it failed
    """

    folder: str
    state: str
    value: float | None
    values: dict[str, Any]
    options: str
    seconds: float
    error: str


def tried(search: Search) -> list[Tried]:
    """All trials that have ended, in their order."""
    return [
        Tried(
            folder=trial.user_attrs["folder"],
            state=trial.state.name.lower(),
            # Optuna gives a trial that was stopped the value of its last epoch
            value=trial.value if trial.state == TrialState.COMPLETE else None,
            values=trial.params,
            options=trial.user_attrs["options"],
            seconds=trial.user_attrs.get("seconds", 0.0),
            error=trial.user_attrs.get("error", ""),
        )
        for trial in trained(search.study())
        if trial.state.is_finished()
    ]


def trained(study: optuna.Study) -> list[optuna.trial.FrozenTrial]:
    """The trials that are trained; others only repeat one, or were never begun."""
    return [trial for trial in study.trials if "folder" in trial.user_attrs]


def check_study(search: Search) -> None:
    """Are the parameters, the number of splits and the folders those of an earlier call? What a
    call that was killed did not finish writing is cut off.

    Raises
    ------
    UsageError
        If parameters or splits are others, because then their trials cannot be compared.
    InputError
        If what is there cannot be read, or the record of the trials in the folder is lost.
    """
    path, known = search.folder / STUDY, set()
    if path.is_file():
        whole = path.read_bytes()
        if not whole.endswith(b"\n"):
            path.write_bytes(whole[: whole.rfind(b"\n") + 1])
        study = search.study()
        for name, now in _compared(search).items():
            if study.user_attrs.get(name, now) != now:
                raise UsageError(
                    f"argument --hpopt-save-dir: the search in {str(search.folder)!r} was begun "
                    f"with {name} {study.user_attrs[name]}, not {now}; name another folder"
                )
        known = {trial.user_attrs["folder"] for trial in trained(study)}
    lost = sorted(path.name for path in search.folder.glob("trial_*") if path.name not in known)
    if lost:
        raise InputError(
            f"{str(path)!r} does not know of {lost[0]!r}, so the search cannot go on; name another "
            f"folder"
        )


def mark_study(search: Search) -> None:
    """Write what a later call must share."""
    study = search.study()
    for name, value in _compared(search).items():
        study.set_user_attr(name, value)


def _compared(search: Search) -> dict[str, object]:
    return {"parameters": " ".join(search.names), "splits": len(search.splits.train)}


def calls(
    search: Search, number: int
) -> Iterator[tuple[int, tuple[Search, int | None, int | None]]]:
    """What `run_trial` is called with: until there are ``number`` trials, first those that an
    earlier call left unfinished."""
    study, left = search.study(), []
    for trial in study.trials:
        if trial.state == TrialState.RUNNING and "folder" in trial.user_attrs:
            left.append(trial.number)
        elif trial.state == TrialState.RUNNING:  # killed before it was begun
            study.tell(trial.number, state=TrialState.FAIL)
    for i in range(len(tried(search)), number):
        if search.exhausted:
            return
        seed = search.args.search_seed
        if seed is not None:  # every trial, which may be in a process of its own, needs another
            seed = int(np.random.SeedSequence([seed, i]).generate_state(1)[0])
        yield i, (search, seed, left.pop(0) if left else None)
