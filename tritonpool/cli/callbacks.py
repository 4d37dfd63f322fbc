"""Lightning callbacks of ``tritonpool train``: exact resumption, and what each epoch gave."""

from __future__ import annotations

import random
import time
from pathlib import Path
from typing import Any

import numpy as np
import torch
from lightning import pytorch as pl
from lightning.pytorch.callbacks import Callback, EarlyStopping, ModelCheckpoint
from torch.utils.data import Sampler

from tritonpool.cli.errors import InputError

__all__ = ["Checkpoints", "Generators", "History", "SameData"]


class Generators(Callback):
    """Keep the state of all random generators in the checkpoints, and put it back on resumption.

    The sampler of chemprop's loaders counts as one: it shuffles its own array again and again, so
    the order of an epoch depends on all epochs before.

    Parameters
    ----------
    sampler
        The sampler of the training loader.
    """

    def __init__(self, sampler: Sampler):
        self._sampler = sampler

    def state_dict(self) -> dict[str, Any]:
        """The states as they are now."""
        return {
            "torch": torch.get_rng_state(),
            "cuda": torch.cuda.get_rng_state_all() if torch.cuda.is_available() else [],
            "numpy": np.random.get_state(),
            "python": random.getstate(),
            "sampler": _sampler_state(self._sampler),
        }

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Put the states back.

        Lightning calls this before it makes the iterator of the next epoch, which draws a number
        and, with loader workers, fetches batches; so everything goes on as if nothing had happened.
        """
        torch.set_rng_state(state_dict["torch"].cpu())
        if len(state_dict["cuda"]) == torch.cuda.device_count():
            torch.cuda.set_rng_state_all([state.cpu() for state in state_dict["cuda"]])
        np.random.set_state(state_dict["numpy"])
        random.setstate(state_dict["python"])
        self.restore_sampler(state_dict)

    def on_train_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Stop at once if the patience had run out when the checkpoint was written."""
        for callback in trainer.callbacks:
            # a new training has waited for nothing yet, even if it has no patience at all
            if isinstance(callback, EarlyStopping) and (
                callback.wait_count >= max(1, callback.patience)
            ):
                trainer.should_stop = True

    def restore_sampler(self, state_dict: dict[str, Any]) -> None:
        """Put back the sampler only."""
        for name, value in state_dict["sampler"].items():
            if name == "rg":
                self._sampler.rg.bit_generator.state = value
            else:
                getattr(self._sampler, name)[:] = value


def _sampler_state(sampler: Sampler) -> dict[str, Any]:
    """State of chemprop's SeededSampler or ClassBalanceSampler."""
    arrays = {
        name: value.copy() for name, value in vars(sampler).items() if isinstance(value, np.ndarray)
    }
    return {"rg": sampler.rg.bit_generator.state, **arrays}


class SameData(Callback):
    """Keep a hash of the data in the checkpoints, and refuse to go on with other data: rows are
    known by their numbers, so those tested on could be some that were trained on.

    Parameters
    ----------
    digest
        The hash of the data as it is now.
    """

    def __init__(self, digest: str):
        self._digest = digest

    def state_dict(self) -> dict[str, Any]:
        """The hash."""
        return {"digest": self._digest}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Compare the hash of a checkpoint.

        Raises
        ------
        InputError
            If it is another.
        """
        if state_dict["digest"] != self._digest:
            raise InputError(
                "argument --resume: the SMILES or targets in the rows of splits.json are not those "
                "that the training was begun with"
            )


class Checkpoints(ModelCheckpoint):
    """Lightning's checkpoints, which here may be resumed from a folder that was moved."""

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Take the state of a checkpoint, with all paths in the folder as it is called now."""

        def here(path: str) -> str:
            return str(Path(self.dirpath, Path(path).name)) if path else path

        moved = {key: here(value) for key, value in state_dict.items() if key.endswith("_path")}
        moved["best_k_models"] = {here(k): v for k, v in state_dict["best_k_models"].items()}
        super().load_state_dict(state_dict | moved | {"dirpath": self.dirpath})


class History(Callback):
    """Seconds and validation metrics of every epoch.

    Attributes
    ----------
    seconds : list of float
        Wall time of each epoch with its validation.
    metrics : list of dict
        The logged metrics after each epoch, and its number as ``epoch``.
    """

    def __init__(self) -> None:
        self.seconds: list[float] = []
        self.metrics: list[dict[str, float]] = []
        self._start = 0.0

    def on_train_epoch_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Start the clock."""
        self._start = time.perf_counter()

    def on_train_epoch_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Read the clock and the metrics."""
        self.seconds.append(time.perf_counter() - self._start)
        values = {name: float(value) for name, value in trainer.callback_metrics.items()}
        self.metrics.append({"epoch": trainer.current_epoch, **values})
