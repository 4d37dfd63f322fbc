"""Times whole training steps as lightning runs them: loading, forward, backward and optimizer."""

from __future__ import annotations

import time
from collections.abc import Iterable

import numpy as np
import torch
from lightning import pytorch as pl
from lightning.pytorch.callbacks import Callback

from tritonpool.bench.memory import peak_memory

__all__ = ["graph_sizes", "step_memory", "step_seconds"]

WARM_UP = 2
MEMORY_STEPS = 3


class _Clock(Callback):
    """Seconds from the end of the warm-up to the end of the last step."""

    def __init__(self) -> None:
        self.start = self.end = 0.0

    def on_train_batch_end(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, *_: object
    ) -> None:
        if trainer.global_step in (WARM_UP, trainer.max_steps):
            if pl_module.device.type == "cuda":
                torch.cuda.synchronize(pl_module.device)
            now = time.perf_counter()
            if trainer.global_step == WARM_UP:
                self.start = now
            self.end = now


def _fit(
    model: pl.LightningModule, loader: Iterable, steps: int, options: dict, *callbacks: Callback
) -> None:
    trainer = pl.Trainer(
        max_steps=steps,
        limit_val_batches=0,
        callbacks=list(callbacks),
        logger=False,
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
        **options,
    )
    trainer.fit(model, loader)


def step_seconds(model: pl.LightningModule, loader: Iterable, steps: int, options: dict) -> float:
    """Mean seconds of ``steps`` training steps, after two that warm up.

    Parameters
    ----------
    model
        what to train; its weights change
    loader
        training batches, from which as many epochs are taken as the steps need
    steps
        how many steps to time
    options
        more options of lightning's ``Trainer``

    Returns
    -------
    float
        seconds per step
    """
    clock = _Clock()
    _fit(model, loader, WARM_UP + steps, options, clock)
    return (clock.end - clock.start) / steps


def step_memory(model: pl.LightningModule, loader: Iterable, options: dict, device: str) -> int:
    """The most bytes that parameters, gradients, optimizer, batch and activations take together,
    over three training steps.

    Parameters
    ----------
    model, loader, options
        as for :func:`step_seconds`
    device
        what lightning trains on, ``"cuda"`` or ``"cpu"``

    Returns
    -------
    int
        bytes
    """
    peak = peak_memory(lambda: _fit(model, loader, MEMORY_STEPS, options), device)
    if device == "cuda":
        return peak  # lightning moved the parameters there meanwhile
    return peak + sum(p.numel() * p.element_size() for p in model.parameters())


def graph_sizes(loader: Iterable) -> tuple[np.ndarray, np.ndarray]:
    """Number of atoms and of directed bonds of every graph that a loader yields; the components of
    a multicomponent molecule count one by one."""
    atoms, bonds = [], []
    for batch in loader:
        for bmg in getattr(batch, "bmgs", None) or [batch.bmg]:
            counts = torch.bincount(bmg.batch, minlength=len(bmg))
            atoms.append(counts)
            bonds.append(torch.bincount(bmg.batch[bmg.edge_index[0]], minlength=len(bmg)))
    return torch.cat(atoms).numpy(), torch.cat(bonds).numpy()
