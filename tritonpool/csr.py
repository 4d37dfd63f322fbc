"""Sums over groups of rows as torch.sparse CSR products.

A CSR product adds up each group in a fixed order, where ``index_add`` on a GPU does not, so that
repeated runs agree bitwise.
"""

from __future__ import annotations

import warnings
from functools import cache

import torch
from torch import Tensor

__all__ = ["csr_matrix", "gather_sum", "segment_sum"]


@cache
def _hush() -> None:
    """Spend torch's one-time beta warning on CSR tensors, which users can do nothing about."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        zero = torch.zeros(2, dtype=torch.int64)
        torch.sparse_csr_tensor(zero, zero[:0], torch.zeros(0), (1, 1))


def csr_matrix(ptr: Tensor, column: Tensor, values: Tensor, columns: int) -> Tensor:
    """A sparse matrix of ``len(ptr) - 1`` rows; the caller vouches for the indices."""
    _hush()
    size = (ptr.numel() - 1, columns)
    return torch.sparse_csr_tensor(ptr, column, values, size, check_invariants=False)


def gather_sum(ptr: Tensor, index: Tensor, rows: Tensor) -> Tensor:
    """Sum ``rows[index[ptr[i]:ptr[i + 1]]]`` for every ``i``."""
    ones = rows.new_ones(index.numel())
    return csr_matrix(ptr, index, ones, rows.shape[0]) @ rows


def segment_sum(ptr: Tensor, values: Tensor) -> Tensor:
    """Sum the entries ``ptr[i]`` to ``ptr[i + 1]`` of a vector for every ``i``."""
    index = torch.arange(values.numel(), device=values.device)
    return gather_sum(ptr, index, values[:, None])[:, 0]
