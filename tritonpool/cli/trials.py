"""The trials of ``tritonpool hpopt``: Optuna chooses the settings, each is trained as ``tritonpool
train`` would train it, and an unfinished one is gone on with."""

from __future__ import annotations

import argparse
import json
import logging
import math
import shlex
import shutil
import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import optuna
from chemprop.cli.train import save_smiles_splits
from lightning import pytorch as pl
from lightning.pytorch.callbacks import Callback
from optuna.storages.journal import JournalFileBackend, JournalFileOpenLock
from optuna.trial import TrialState

from tritonpool.cli.data import Splits, prepare
from tritonpool.cli.earlier_calls import write_record
from tritonpool.cli.errors import InputError, Interrupted, UsageError
from tritonpool.cli.fit import fit_replicate
from tritonpool.cli.parser import Parser, without_logging
from tritonpool.cli.search_space import distributions, words
from tritonpool.cli.train import TrainSubcommand, training_parser

__all__ = [
    "Search",
    "Tried",
    "calls",
    "check_study",
    "checkpoint_of",
    "forget_models",
    "mark_study",
    "run_trial",
    "tried",
]

STUDY = "study.journal"
RESULT = "result.json"
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
        for trial in _trained(search.study())
        if trial.state.is_finished()
    ]


def _trained(study: optuna.Study) -> list[optuna.trial.FrozenTrial]:
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
        known = {trial.user_attrs["folder"] for trial in _trained(study)}
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


def run_trial(
    search: Search, seed: int | None, number: int | None, *, progress: bool = True
) -> str | None:
    """Choose parameters, and train with them on every split.

    Parameters
    ----------
    search
        What all trials share.
    seed
        Of the choice; None for one by chance.
    number
        The trial to go on with; None for a new one.
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
    if number is None:
        trial = _choose(search, study, seed)
    else:
        trial = optuna.trial.Trial(study, study.trials[number]._trial_id)
    if trial is None:
        return None
    name, starts = trial.user_attrs["folder"], trial.user_attrs.get("starts", 0)
    folder = search.folder / name
    if starts > 1 and not [*folder.glob("**/last.ckpt"), *folder.glob("**/result.json")]:
        return _failed(study, trial, "it was killed twice in its first epoch, perhaps for memory")
    trial.set_user_attr("starts", starts + 1)
    start, before = time.perf_counter(), trial.user_attrs.get("seconds", 0.0)
    try:
        try:
            value = _train(search, trial, folder, progress)
        finally:
            trial.set_user_attr("seconds", before + time.perf_counter() - start)
    except (Interrupted, KeyboardInterrupt) as error:
        trial.set_user_attr("starts", starts)  # which says nothing about the trial
        how = getattr(error, "how", "the search was interrupted")
        raise InputError(f"{how}; the same command goes on with it") from error
    except Exception as error:
        logger.debug("%s failed", name, exc_info=error)
        return _failed(study, trial, " ".join(f"{type(error).__name__}: {error}".split()))
    if value is None:
        study.tell(trial, state=TrialState.PRUNED)
    elif math.isfinite(value):
        study.tell(trial, value)
    else:
        return _failed(study, trial, f"{search.monitor} was never finite")
    return name


def _failed(study: optuna.Study, trial: optuna.Trial, error: str) -> str:
    trial.set_user_attr("error", error)
    study.tell(trial, state=TrialState.FAIL)
    return trial.user_attrs["folder"]


def _choose(search: Search, study: optuna.Study, seed: int | None) -> optuna.Trial | None:
    """The next trial: none whose options were tried before, as parameters without effect may make
    them. Optuna is told again what those gave."""
    known = {trial.user_attrs["options"]: trial for trial in _trained(study)}
    for i in range(DRAWS):
        if i == REPEATS:
            study.sampler = optuna.samplers.RandomSampler(seed)
        trial = study.ask(distributions(search.names, search.args.epochs))
        options = shlex.join(words(trial.params, search.args))
        same = known.get(options)
        if same is None:
            trial.set_user_attr("options", options)
            trial.set_user_attr("folder", f"trial_{trial.number}")
            return trial
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
    if args.devices == "auto":  # a process for each of several would begin the search anew
        args.devices = "1"
    values, several = [], len(search.splits.train) > 1
    for i, (train, val, test) in enumerate(search.splits):
        place = folder / f"replicate_{i}" if several else folder
        result, model = place / RESULT, place / "model_0"
        if result.is_file():
            values.append(json.loads(result.read_text())["value"])
            continue
        (model / "best.pt").unlink(missing_ok=True)  # its result was not written
        if not (model / "checkpoints" / "last.ckpt").is_file():  # of an epoch that is trained again
            shutil.rmtree(model / "checkpoints", ignore_errors=True)
        data = prepare(args, train, val, test)
        place.mkdir(parents=True, exist_ok=True)
        if args.save_smiles_splits:
            save_smiles_splits(args, place, data.train, data.val, data.test)
        data.test_loader = None  # which the search never looks at
        watch = [Watch(search, trial)] if search.stops_early and i == 0 else []
        (fitted,) = fit_replicate(args, data, place, progress=progress, callbacks=watch)
        if watch and watch[0].stopped:
            return None
        if not math.isfinite(fitted.best):
            return fitted.best
        checkpoint = fitted.checkpoint.relative_to(place.absolute())
        write_record(result, {"value": fitted.best, "checkpoint": checkpoint.as_posix()})
        values.append(fitted.best)
    return sum(values) / len(values)


def checkpoint_of(folder: Path) -> Path:
    """The best checkpoint of a complete trial; of several splits, that of the first."""
    place = folder if (folder / RESULT).is_file() else folder / "replicate_0"
    return place / json.loads((place / RESULT).read_text())["checkpoint"]


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
        value = float(trainer.callback_metrics[self._monitor])
        if not math.isfinite(value):  # which is a failure, and no bad beginning
            return
        if epoch not in self._told:
            self._trial.report(value, epoch)
        # the last epoch is trained already
        if epoch < trainer.max_epochs and self._trial.should_prune():
            self.stopped = trainer.should_stop = True


def forget_models(folder: Path, *, checkpoints_only: bool = False) -> None:
    """Remove the checkpoints of a trial and, unless told otherwise, its models: they take much
    room."""
    for model in [*folder.glob("model_0"), *folder.glob("replicate_*/model_0")]:
        shutil.rmtree(model / "checkpoints", ignore_errors=True)
        if not checkpoints_only:
            (model / "best.pt").unlink(missing_ok=True)
