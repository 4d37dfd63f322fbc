"""The trials of ``tritonpool hpopt``: Optuna chooses the settings, each is trained as ``tritonpool
train`` would train it, and an unfinished one is gone on with."""

from __future__ import annotations

import json
import logging
import math
import shlex
import shutil
import time
from pathlib import Path

import optuna
from chemprop.cli.train import save_smiles_splits
from lightning import pytorch as pl
from lightning.pytorch.callbacks import Callback
from optuna.trial import TrialState

from tritonpool.cli.earlier_calls import write_record
from tritonpool.cli.errors import InputError, Interrupted
from tritonpool.cli.fit import fit_replicate
from tritonpool.cli.loaders import prepare
from tritonpool.cli.search_space import distributions, words
from tritonpool.cli.study import Search, trained

__all__ = ["checkpoint_of", "forget_models", "run_trial"]

RESULT = "result.json"
REPEATS = 20  # before what is tried next is left to chance
DRAWS = 200  # before nothing new is left to try

logger = logging.getLogger(__name__)


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
    known = {trial.user_attrs["options"]: trial for trial in trained(study)}
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
