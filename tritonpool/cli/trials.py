"""The trials of ``tritonpool hpopt``: Optuna chooses the settings, each is trained as ``tritonpool
train`` would train it, and an unfinished one is gone on with."""

from __future__ import annotations

import argparse
import json
import logging
import math
import shlex
import shutil
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import optuna
from lightning import pytorch as pl
from lightning.pytorch.callbacks import Callback
from optuna.storages.journal import JournalFileBackend, JournalFileOpenLock
from optuna.trial import TrialState

from tritonpool.cli.data import Splits, prepare
from tritonpool.cli.earlier_calls import write_record
from tritonpool.cli.errors import InputError, Interrupted, UsageError
from tritonpool.cli.fit import fit_replicate
from tritonpool.cli.parser import Parser
from tritonpool.cli.search_space import distributions, words
from tritonpool.cli.train import TrainSubcommand

__all__ = [
    "Search",
    "Tried",
    "calls",
    "check_study",
    "forget_models",
    "mark_study",
    "run_trial",
    "tried",
]

STUDY = "study.journal"
REPEATS = 20  # before what is tried next is left to chance
DRAWS = 200  # before nothing new is left to try

logger = logging.getLogger(__name__)


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
    one_device : bool
        whether each trial takes one device only, because there are several at a time
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
    one_device: bool = False
    exhausted: bool = False

    def options(self, values: Mapping[str, Any]) -> tuple[argparse.Namespace, Parser]:
        """The options of a trial, checked as those of ``tritonpool train``, and what read them."""
        parser = TrainSubcommand.add_args(Parser(prog="tritonpool hpopt"))
        args = parser.parse_args([*self.shared, *words(values, self.args)])
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
        return optuna.create_study(
            storage=optuna.storages.JournalStorage(backend),
            study_name="tritonpool",
            direction="minimize" if self.mode == "min" else "maximize",
            sampler=sampler,
            pruner=pruner,
            load_if_exists=True,
        )

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
        from its beginning to its end, without those before an interruption
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
    """All trials that have ended, in their order; those that were interrupted have not."""
    return [
        Tried(
            folder=trial.user_attrs["folder"],
            state=trial.state.name.lower(),
            # Optuna gives a trial that was stopped the value of its last epoch
            value=trial.value if trial.state == TrialState.COMPLETE else None,
            values=trial.params,
            options=trial.user_attrs["options"],
            seconds=trial.duration.total_seconds(),
            error=trial.user_attrs.get("error", ""),
        )
        for trial in search.study().trials
        if trial.state.is_finished() and _counts(trial)
    ]


def check_study(search: Search) -> None:
    """Are the parameters and the number of splits those of an earlier call?

    Raises
    ------
    UsageError
        If not, because then their trials cannot be compared.
    """
    if not (search.folder / STUDY).is_file():
        return
    known = search.study().user_attrs
    for name, now in _compared(search).items():
        if name in known and known[name] != now:
            raise UsageError(
                f"argument --hpopt-save-dir: the search in {str(search.folder)!r} was begun with "
                f"{name} {known[name]}, not {now}; name another folder"
            )


def mark_study(search: Search) -> None:
    """Write what a later call must share."""
    study = search.study()
    for name, value in _compared(search).items():
        study.set_user_attr(name, value)


def _compared(search: Search) -> dict[str, object]:
    return {"parameters": " ".join(search.names), "splits": len(search.splits.train)}


def calls(search: Search, number: int) -> Iterator[tuple[int, tuple[Search, int]]]:
    """What `run_trial` is called with: until there are ``number`` trials, first those that an
    earlier call left unfinished."""
    _take_up(search.study())
    for i in range(len(tried(search)), number):
        (seed,) = np.random.SeedSequence([search.args.search_seed, i]).generate_state(1)
        if search.exhausted:
            return
        yield i, (search, int(seed))


def _counts(trial: optuna.trial.FrozenTrial) -> bool:
    """Was it trained to an end of its own? One that was interrupted is given up for another with
    the same parameters, which goes on with it; one that repeats another is not trained."""
    interrupted = trial.state == TrialState.FAIL and "error" not in trial.user_attrs
    return not interrupted and "repeats" not in trial.user_attrs


def _take_up(study: optuna.Study) -> None:
    """Put the trials that an earlier call left unfinished at the head of the queue."""
    for trial in study.trials:
        if trial.state == TrialState.RUNNING:
            study.tell(trial.number, state=TrialState.FAIL)
            if trial.params:
                study.enqueue_trial(trial.params, user_attrs=trial.user_attrs)


def run_trial(search: Search, seed: int, *, progress: bool = True) -> str | None:
    """Choose parameters, and train with them on every split.

    Parameters
    ----------
    search
        What all trials share.
    seed
        Of the choice.
    progress
        Whether progress bars may be shown.

    Returns
    -------
    str or None
        The name of the folder of the trial; None if nothing new was found to try.

    Raises
    ------
    InputError
        If it is interrupted; any other error is recorded, and the trial counts as failed.
    """
    study = search.study(seed)
    trial = _choose(search, study, seed)
    if trial is None:
        return None
    name = trial.user_attrs.get("folder", f"trial_{trial.number}")
    trial.set_user_attr("folder", name)
    try:
        value = _train(search, trial, search.folder / name, progress)
    except Interrupted as error:
        raise InputError(f"{error.how}; the same command goes on with it") from error
    except Exception as error:
        logger.debug("%s failed", name, exc_info=error)
        trial.set_user_attr("error", " ".join(f"{type(error).__name__}: {error}".split()))
        study.tell(trial, state=TrialState.FAIL)
        return name
    if value is None:
        study.tell(trial, state=TrialState.PRUNED)
    elif math.isfinite(value):
        study.tell(trial, value)
    else:
        trial.set_user_attr("error", f"{search.monitor} was never finite")
        study.tell(trial, state=TrialState.FAIL)
    return name


def _choose(search: Search, study: optuna.Study, seed: int) -> optuna.Trial | None:
    """The next trial: none whose options were tried before, as parameters without effect may make
    them. Optuna is told again what those gave."""
    known = {trial.user_attrs.get("options"): trial for trial in study.trials if _counts(trial)}
    for i in range(DRAWS):
        if i == REPEATS:
            study.sampler = optuna.samplers.RandomSampler(seed)
        trial = study.ask(distributions(search.names, search.args.epochs))
        options = shlex.join(words(trial.params, search.args))
        trial.set_user_attr("options", options)
        same = known.get(options)
        if same is None or "folder" in trial.user_attrs:
            return trial
        trial.set_user_attr("repeats", same.number)
        if same.state.is_finished():
            value = same.value if same.state == TrialState.COMPLETE else None
            study.tell(trial, value, state=same.state)
        else:
            study.tell(trial, state=TrialState.FAIL)
    return None


def _train(search: Search, trial: optuna.Trial, folder: Path, progress: bool) -> float | None:
    """The mean over the splits, or None if the trial was stopped early."""
    args, _ = search.options(trial.params)
    args.resume = True  # from the checkpoints, if there are any
    args.remove_checkpoints = False  # before it is known whether this trial is the best
    if search.one_device and args.devices == "auto":
        args.devices = "1"
    values, several = [], len(search.splits.train) > 1
    for i, (train, val, test) in enumerate(search.splits):
        place = folder / f"replicate_{i}" if several else folder
        result = place / "result.json"
        if result.is_file():
            values.append(json.loads(result.read_text())["value"])
            continue
        (place / "model_0" / "best.pt").unlink(missing_ok=True)  # its result was not written
        data = prepare(args, train, val, test)
        data.test_loader = None  # which the search never looks at
        watch = [Watch(search, trial)] if search.stops_early and i == 0 else []
        place.mkdir(parents=True, exist_ok=True)
        (fitted,) = fit_replicate(args, data, place, progress=progress, callbacks=watch)
        if watch and watch[0].stopped:
            return None
        write_record(result, {"value": fitted.best})
        values.append(fitted.best)
    return sum(values) / len(values)


class Watch(Callback):
    """Tell Optuna what each epoch gave, and stop a training that it gives up.

    Attributes
    ----------
    stopped : bool
        Whether it was given up.
    """

    def __init__(self, search: Search, trial: optuna.Trial):
        self._monitor, self._trial = search.monitor, trial
        self._told = set(trial.study.trials[trial.number].intermediate_values)
        self.stopped = False

    def on_train_epoch_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Report, and ask."""
        epoch = trainer.current_epoch + 1
        if epoch not in self._told:
            self._trial.report(float(trainer.callback_metrics[self._monitor]), epoch)
        # the last epoch is trained already
        if epoch < trainer.max_epochs and self._trial.should_prune():
            self.stopped = trainer.should_stop = True


def forget_models(folder: Path) -> None:
    """Remove the models of a trial and their checkpoints, which take much room."""
    for model in [*folder.glob("model_0"), *folder.glob("replicate_*/model_0")]:
        (model / "best.pt").unlink(missing_ok=True)
        shutil.rmtree(model / "checkpoints", ignore_errors=True)
