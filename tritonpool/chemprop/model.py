"""chemprop's models, training with the auxiliary losses of DiffPool in the open."""

from __future__ import annotations

from typing import Any

import torch
from chemprop.data import MulticomponentTrainingBatch, TrainingBatch
from chemprop.models import MPNN, MulticomponentMPNN
from chemprop.nn import (
    AttentiveAggregation,
    MeanAggregation,
    NormAggregation,
    SumAggregation,
)
from torch import Tensor

from tritonpool.chemprop.auxiliary import exposed
from tritonpool.chemprop.message_passing import DiffPoolMixin

__all__ = ["DiffPoolMPNN", "DiffPoolMulticomponentMPNN"]

OF_ATOMS = MeanAggregation, SumAggregation, NormAggregation, AttentiveAggregation


class _LossesMixin:
    """Add the losses of every DiffPool block to the objective and log them."""

    def __init__(self, message_passing, *args: object, **kwargs: object):
        super().__init__(message_passing, *args, **kwargs)
        if isinstance(self.agg, OF_ATOMS):
            raise ValueError(
                f"agg must be GraphReadout(), but is {type(self.agg).__name__}: a DiffPool message "
                f"passing returns a row for each molecule already (see its argument aggregation)"
            )
        blocks = getattr(message_passing, "blocks", [message_passing])
        for block in blocks:
            if not isinstance(block, DiffPoolMixin):
                raise ValueError(
                    "message_passing must be made of DiffPoolBondMessagePassing or "
                    f"DiffPoolAtomMessagePassing, but holds {type(block).__name__}"
                )
        self._sums: Tensor | None = None  # of this epoch's losses times molecules
        self._seen = 0  # molecules in this epoch

    def configure_optimizers(self) -> dict[str, Any]:
        """chemprop's, with all parameters updated by one kernel, where torch has such a one.

        Switched on in the finished optimizer, which does not unscale gradients itself then, as
        lightning wants it for clipping in fp16.
        """
        found = super().configure_optimizers()
        if all(p.device.type in ("cpu", "cuda") for p in self.parameters()):
            for group in found["optimizer"].param_groups:
                group["fused"] = True
        return found

    def training_step(
        self, batch: TrainingBatch | MulticomponentTrainingBatch, batch_idx: int
    ) -> Tensor:
        # modules() names a block that several components share once
        blocks = [m for m in self.message_passing.modules() if isinstance(m, DiffPoolMixin)]
        with exposed(blocks):
            loss = super().training_step(batch, batch_idx)
            found = [(block, block.pop_aux()) for block in blocks]
        found = [(block, *losses) for block, losses in found if losses is not None]
        if found:
            size = self.get_batch_size(batch)
            if self._sums is None:
                self._sums = torch.zeros(2, dtype=torch.float32, device=loss.device)
            self._seen += size
            for block, link, entropy in found:
                loss = loss + block.weigh(link, entropy)
                self._sums.add_(torch.stack([link, entropy]).detach(), alpha=size)
        return loss

    def on_train_epoch_start(self) -> None:
        super().on_train_epoch_start()
        self._sums, self._seen = None, 0

    def on_train_batch_end(self, outputs: object, batch: object, batch_idx: int) -> None:
        super().on_train_batch_end(outputs, batch, batch_idx)
        if self.trainer.is_last_batch:
            self._log_losses()

    def on_train_epoch_end(self) -> None:
        super().on_train_epoch_end()
        self._log_losses()  # of an epoch that ended before its last batch

    def _log_losses(self) -> None:
        """Log the means over the molecules of this epoch. Once, because that takes lightning longer
        than computing them; and with the last batch, so that callbacks find them."""
        if self._sums is not None:
            for name, total in zip(("train_link", "train_entropy"), self._sums, strict=True):
                self.log(
                    name,
                    total / self._seen,
                    on_step=False,
                    on_epoch=True,
                    batch_size=self._seen,
                    sync_dist=True,
                )
        self._sums, self._seen = None, 0


class DiffPoolMPNN(_LossesMixin, MPNN):
    """chemprop's ``MPNN`` for a DiffPool message passing.

    Training adds the auxiliary losses to the objective and logs them as ``train_link`` and
    ``train_entropy``, each a sum over levels; ``train_loss`` and ``val_loss`` stay comparable with
    those of other chemprop models. Takes the arguments of ``MPNN``, and its files can be loaded by
    either class. A plain ``MPNN`` trains with the same gradients and logs neither.

    Raises
    ------
    ValueError
        if ``message_passing`` is not one of ours, or ``agg`` adds up atoms
    """


class DiffPoolMulticomponentMPNN(_LossesMixin, MulticomponentMPNN):
    """chemprop's ``MulticomponentMPNN`` for DiffPool message passings; the losses are sums over
    components too. See :class:`~tritonpool.chemprop.DiffPoolMPNN`."""
