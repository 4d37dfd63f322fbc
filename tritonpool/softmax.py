"""A softmax over some columns, as torch computes it."""

from __future__ import annotations

import torch
from torch import Tensor

__all__ = ["masked_softmax"]


def masked_softmax(logits: Tensor, counts: Tensor) -> Tensor:
    """Softmax of every row over its first ``counts`` columns; the others become 0.

    Parameters
    ----------
    logits : Tensor
        a tensor of shape ``V x K``
    counts : Tensor
        an integer tensor of shape ``V`` with 1 to ``K`` columns for each row
    """
    beyond = torch.arange(logits.shape[1], device=logits.device) >= counts[:, None]
    return logits.masked_fill(beyond, -torch.inf).softmax(1)
