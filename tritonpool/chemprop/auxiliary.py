"""How the link and entropy losses of a DiffPool layer reach the optimiser."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING

from torch import Tensor
from torch.autograd import Function

if TYPE_CHECKING:
    from tritonpool.chemprop.message_passing import DiffPoolMixin

__all__ = ["AUX_MODES", "exposed", "inject"]

AUX_MODES = ("inject", "expose")


class _Inject(Function):
    """``H`` unchanged; backward sends 1 to the loss, as if it had been added to the objective."""

    @staticmethod
    def forward(ctx, H, loss):
        ctx.save_for_backward(loss)
        return H.view_as(H)

    @staticmethod
    def backward(ctx, grad):
        (loss,) = ctx.saved_tensors
        return grad, loss.new_ones(loss.shape)


def inject(H: Tensor, loss: Tensor) -> Tensor:
    """Tie ``loss`` to ``H``: whoever differentiates a function of ``H`` minimises ``loss`` too.

    The gradient of ``loss`` has weight 1 whatever the objective is multiplied by: the loss scaling
    of fp16 training (``GradScaler``) and gradient accumulation do not reach it.
    """
    return _Inject.apply(H, loss)


@contextmanager
def exposed(blocks: Iterable[DiffPoolMixin]) -> Iterator[None]:
    """Within this context the blocks keep their losses, for
    :meth:`~DiffPoolBondMessagePassing.pop_aux`, and do not inject them. Afterwards nothing is
    kept."""
    before = [(block, block.aux) for block in blocks]
    try:
        for block, _ in before:
            block.pop_aux()
            block.aux = "expose"
        yield
    finally:
        for block, aux in before:
            block.pop_aux()
            block.aux = aux
