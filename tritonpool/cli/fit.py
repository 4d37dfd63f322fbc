"""Train the models of one replicate: chemprop's ``train_model`` with our model, precision and
resumption."""

from __future__ import annotations

import argparse
import logging
import os
import shutil
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from pickle import UnpicklingError

import numpy as np
import torch
from chemprop.conf import LIGHTNING_26_COMPAT_ARGS
from chemprop.models import MPNN, save_model
from chemprop.nn import MetricRegistry
from lightning import pytorch as pl
from lightning.pytorch.callbacks import Callback, EarlyStopping
from lightning.pytorch.loggers import CSVLogger, Logger, TensorBoardLogger
from lightning.pytorch.strategies import DDPStrategy
from lightning.pytorch.utilities.exceptions import SIGTERMException

from tritonpool.cli.callbacks import Checkpoints, Generators, History, SameData
from tritonpool.cli.errors import InputError, Interrupted
from tritonpool.cli.evaluate import (
    evaluate,
    evaluate_ensemble,
    is_evaluated,
    read_predictions,
)
from tritonpool.cli.loaders import Prepared, model_paths
from tritonpool.cli.models import make_model

__all__ = ["Fitted", "fit_replicate", "is_finished", "monitored", "trainer_options"]

logger = logging.getLogger(__name__)


@dataclass
class Fitted:
    """A trained model's folder, what ``--tracking-metric`` was at the best of its epochs and the
    checkpoint of that, what each epoch took and gave, and for the test part each metric as a mean
    over targets, and what is predicted; empty and ``None`` without one."""

    folder: Path
    best: float
    checkpoint: Path
    seconds: list[float]
    metrics: list[dict[str, float]]
    test: dict[str, float]
    predicted: np.ndarray | None = field(repr=False)


def is_finished(args: argparse.Namespace, folder: Path) -> bool:
    """Whether all models of a replicate, of which best.pt is written last, and what they reach
    together are there."""
    size = ensemble_size(args)
    models = all((folder / f"model_{i}" / "best.pt").exists() for i in range(size))
    return models and is_evaluated(folder, size)


def ensemble_size(args: argparse.Namespace) -> int:
    """Number of models: with ``--checkpoint`` that of the files it names."""
    return len(model_paths(args)) or args.ensemble_size


def trainer_options(args: argparse.Namespace) -> dict[str, object]:
    """Those options of lightning's ``Trainer`` that decide what a training step does."""
    return {
        "accelerator": args.accelerator,
        "max_epochs": args.epochs,
        "gradient_clip_val": args.grad_clip,
        "deterministic": args.pytorch_seed is not None,
        "precision": args.precision,
    }


@contextmanager
def no_filling() -> Iterator[None]:
    """Within this context torch's deterministic mode does not fill new memory, which costs time in
    every step; nothing here reads memory that it has not written, as the tests check."""
    settings = torch.utils.deterministic
    before = settings.fill_uninitialized_memory
    settings.fill_uninitialized_memory = False
    try:
        yield
    finally:
        settings.fill_uninitialized_memory = before


def fit_replicate(
    args: argparse.Namespace,
    data: Prepared,
    folder: Path,
    *,
    progress: bool = True,
    callbacks: Sequence[Callback] = (),
) -> list[Fitted]:
    """Train the models of one replicate, and skip those that a resumed training has finished.

    Parameters
    ----------
    args
        Checked options.
    data
        Datasets and loaders.
    folder
        Where the folders of the models go.
    progress
        Whether progress bars may be shown.
    callbacks
        More of lightning's callbacks.

    Returns
    -------
    list of Fitted
        One entry for each model that was trained now.
    """
    size = ensemble_size(args)
    if size != args.ensemble_size:
        logger.warning("the ensemble has %d models, as many as --checkpoint names", size)
    folders = [folder / f"model_{i}" for i in range(size)]
    finished = [args.resume and (model_folder / "best.pt").exists() for model_folder in folders]
    ensemble = size > 1 and data.test_loader is not None
    predicted = {
        model_folder: read_predictions(args, data.test_loader, model_folder)
        for model_folder, done in zip(folders, finished, strict=True)
        if ensemble and done
    }
    fitted, same = [], SameData(data.digest())
    for i, model_folder in enumerate(folders):
        generators = Generators(data.train_loader.sampler)
        if finished[i]:
            logger.info("'%s' is finished already", model_folder)
            # the next model goes on with the sampler where this one left it
            if not all(finished[i:]) or _last(model_folder).exists():
                last = _read(_last(model_folder))["callbacks"]
                if same.state_key in last:
                    same.load_state_dict(last[same.state_key])
                generators.restore_sampler(last[generators.state_key])
            continue
        model_folder.mkdir(exist_ok=True, parents=True)
        torch.manual_seed(torch.seed() if args.pytorch_seed is None else args.pytorch_seed + i)
        model = make_model(args, data, i)
        logger.info(model)
        kept = [same, generators, *callbacks]
        fitted.append(_fit(args, data, model, model_folder, kept, progress))
        predicted[model_folder] = fitted[-1].predicted
    if ensemble:
        every = [predicted[model_folder] for model_folder in folders]
        evaluate_ensemble(args, data.test_loader, every, folder)
    if args.remove_checkpoints:
        # only now, because a resumed training needs those of the finished models too
        for checkpoints in (model_folder / "checkpoints" for model_folder in folders):
            if checkpoints.exists():
                shutil.rmtree(checkpoints)
    return fitted


def _fit(
    args: argparse.Namespace,
    data: Prepared,
    model: MPNN,
    folder: Path,
    kept: list[Callback],
    progress: bool,
) -> Fitted:
    """Train one model, predict the test part, and write best.pt."""
    history = History()
    best, others = _monitors(args, data, model, folder)
    last = _last(folder)
    resume = args.resume and last.exists()
    if resume:
        _read(last)  # lightning's own error would name no file
    trainer_logger = _logger(folder)
    trainer = pl.Trainer(
        logger=trainer_logger,
        enable_progress_bar=progress and logger.isEnabledFor(logging.WARNING),
        enable_model_summary=logger.isEnabledFor(logging.INFO),
        devices=args.devices,
        callbacks=[*kept, history, best, *others],
        **trainer_options(args),
        num_sanity_val_steps=0 if resume else None,
    )
    if resume:
        logger.info("going on from '%s'", last)
    try:
        with no_filling():
            trainer.fit(
                model,
                data.train_loader,
                data.val_loader,
                ckpt_path=last if resume else None,
                **LIGHTNING_26_COMPAT_ARGS,
            )
    except SIGTERMException as error:  # lightning would exit with code 0
        raise Interrupted("the training was stopped by SIGTERM") from error
    except SystemExit as error:  # lightning's answer to Ctrl-C
        raise Interrupted("the training was interrupted") from error
    best_path, test, predicted = best.best_model_path, {}, None
    if data.test_loader is not None:
        if isinstance(trainer.strategy, DDPStrategy):
            torch.distributed.destroy_process_group()
            trainer = pl.Trainer(
                logger=trainer_logger,
                accelerator=args.accelerator,
                devices=1,
                precision=args.precision,
            )
            model = type(model).load_from_checkpoint(best_path)
            rows = trainer.predict(model, data.test_loader, **LIGHTNING_26_COMPAT_ARGS)
        else:
            rows = trainer.predict(
                dataloaders=data.test_loader, ckpt_path=best_path, **LIGHTNING_26_COMPAT_ARGS
            )
        # NumPy has no bfloat16
        predictions = torch.concat(rows, 0).float()
        if model.predictor.n_targets > 1:
            predictions = predictions[..., 0]
        predicted = predictions.numpy()
        test = evaluate(args, data.test_loader, predicted, model.metrics[:-1], folder)
    model = type(model).load_from_checkpoint(best_path)
    partial = folder / f"best.{os.getpid()}.part"
    save_model(partial, model, args.target_columns)
    partial.replace(folder / "best.pt")
    logger.info("Best model saved to '%s'", folder / "best.pt")
    return Fitted(
        folder,
        float(best.best_model_score),
        Path(best_path).absolute(),
        history.seconds,
        history.metrics,
        test,
        predicted,
    )


def monitored(args: argparse.Namespace, data: Prepared, model: MPNN) -> tuple[str, str]:
    """The name under which ``--tracking-metric`` is logged, and whether ``min`` or ``max`` of it is
    best."""
    tracked = args.tracking_metric
    if data.val_loader is None:
        metric, monitor = type(model.criterion), "train_loss"
    elif tracked == "val_loss":
        metric, monitor = type(model.criterion), tracked
    else:
        metric, monitor = MetricRegistry[tracked], f"val/{tracked}"
    return monitor, "max" if metric.higher_is_better else "min"


def _monitors(
    args: argparse.Namespace, data: Prepared, model: MPNN, folder: Path
) -> tuple[Checkpoints, list[Callback]]:
    """The checkpoint of the best epoch, that of the last, and early stopping.

    All go by ``--tracking-metric``, and the files are named as chemprop names them.
    """
    monitor, mode = monitored(args, data, model)
    name = f"best-epoch={{epoch}}-{monitor.replace('/', '_')}={{{monitor}:.2f}}"
    best = Checkpoints(
        _last(folder).parent,
        name,
        monitor,
        mode=mode,
        auto_insert_metric_name=False,
        enable_version_counter=False,
    )
    # Lightning's own save_last writes only when there is a new best model; it runs after the other,
    # so that it holds the other's state
    last = Checkpoints(_last(folder).parent, _last(folder).stem, enable_version_counter=False)
    others: list[Callback] = [last]
    if args.epochs != -1:
        patience = args.epochs if args.patience is None else args.patience
        stopping = EarlyStopping(monitor, patience=patience, mode=mode, min_delta=args.min_delta)
        others.append(stopping)
    return best, others


def _logger(folder: Path) -> Logger:
    try:
        return TensorBoardLogger(folder, "trainer_logs", default_hp_metric=False)
    except ModuleNotFoundError:
        logger.info("tensorboard is not installed, so the metrics go to a CSV file")
        return CSVLogger(folder, "trainer_logs")


def _last(folder: Path) -> Path:
    return folder / "checkpoints" / "last.ckpt"


def _read(checkpoint: Path) -> dict:
    """What a checkpoint of a training that is resumed holds."""
    try:
        return torch.load(checkpoint, "cpu", weights_only=False)
    except (OSError, RuntimeError, EOFError, UnpicklingError) as error:
        raise InputError(
            f"argument --resume: {str(checkpoint)!r} cannot be read; without the folder "
            f"{checkpoint.parent.parent.name!r} that model is trained from the beginning"
        ) from error
