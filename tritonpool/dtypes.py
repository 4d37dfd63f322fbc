"""Which precision a result is accumulated and returned in."""

from __future__ import annotations

import torch
from torch import Tensor

__all__ = ["accumulate_in", "weight_dtype"]


def accumulate_in(*tensors: Tensor | None) -> torch.dtype:
    """float64 if any input is float64, else float32."""
    double = any(t is not None and t.dtype == torch.float64 for t in tensors)
    return torch.float64 if double else torch.float32


def weight_dtype(S: Tensor, w: Tensor | None) -> torch.dtype:
    """The dtype of coarse edge weights and of losses: that of ``S`` and ``w``, but never half."""
    return accumulate_in(S, w)
