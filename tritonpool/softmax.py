"""Which columns of a row are in use, and a softmax over these as torch computes it."""

from __future__ import annotations

import torch
from torch import Tensor

__all__ = ["masked_softmax", "only_used", "used_columns"]


def used_columns(counts: Tensor, columns: int) -> Tensor:
    """Which entries of a matrix of so many columns are among the first ``counts`` of their row."""
    return torch.arange(columns, device=counts.device) < counts[:, None]


def only_used(scores: Tensor, counts: Tensor) -> Tensor:
    """The first ``counts`` scores of every row; the others become minus infinity."""
    return scores.masked_fill(~used_columns(counts, scores.shape[1]), -torch.inf)


def masked_softmax(logits: Tensor, counts: Tensor) -> Tensor:
    """Softmax of every row over its first ``counts`` columns; the others become 0.

    Parameters
    ----------
    logits : Tensor
        a tensor of shape ``V x K``
    counts : Tensor
        an integer tensor of shape ``V`` with 1 to ``K`` columns for each row
    """
    return only_used(logits, counts).softmax(1)
