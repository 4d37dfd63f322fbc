"""Weighted sums over groups of rows, and the sparse matrices behind them.

A product adds up each group in a fixed order, where ``index_add`` on a GPU does not, so that
repeated runs agree bitwise.
"""

from __future__ import annotations

import warnings
from functools import cache

import torch
from torch import Tensor
from torch.library import custom_op

__all__ = ["csr_matrix", "gather_sum", "sampled_products", "segment_sum"]


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
    return torch.sparse_csr_tensor(
        ptr, column, values, size, device=values.device, check_invariants=False
    )


def gather_sum(ptr: Tensor, index: Tensor, rows: Tensor, weight: Tensor | None = None) -> Tensor:
    """Sum ``weight[k] rows[index[k]]`` over ``k`` from ``ptr[i]`` to ``ptr[i + 1]``, for every
    ``i``; weights of 1 if there are none. Not differentiable.

    In float32 an embedding bag, on a CPU 2.4 to 3.1 times as fast as the CSR product; in float64
    a CSR product, 2.8 to 3.0 times as fast as the bag (``benchmarks/bench_sums.py``).
    """
    if torch.compiler.is_compiling():
        return _gather_sum(ptr, index, rows, weight)
    return _gather_sum_now(ptr, index, rows, weight)


def _gather_sum_now(ptr: Tensor, index: Tensor, rows: Tensor, weight: Tensor | None) -> Tensor:
    if not (index.numel() and rows.shape[1]):  # the bag refuses a table without entries
        return rows.new_zeros(ptr.numel() - 1, rows.shape[1])
    if rows.dtype == torch.float64:
        weight = rows.new_ones(index.numel()) if weight is None else weight
        return csr_matrix(ptr, index, weight, rows.shape[0]) @ rows
    # a table that requires a gradient gets a slower bag, which keeps more for a backward
    return torch.embedding_bag(
        rows.detach(), index, ptr, mode=0, per_sample_weights=weight, include_last_offset=True
    )[0]


def segment_sum(ptr: Tensor, rows: Tensor) -> Tensor:
    """Sum the rows ``ptr[i]`` to ``ptr[i + 1]`` for every ``i``."""
    return torch.segment_reduce(rows, "sum", offsets=ptr, axis=0, unsafe=True)


def sampled_products(
    ptr: Tensor, column: Tensor, rows: Tensor, columns: Tensor, plus: Tensor | None = None
) -> Tensor:
    """``<rows[i], columns[column[k]]>`` for every ``k`` from ``ptr[i]`` to ``ptr[i + 1]``, added to
    ``plus[k]`` if that is given."""
    if torch.compiler.is_compiling():
        return _sampled_products(ptr, column, rows, columns, plus)
    return _sampled_products_now(ptr, column, rows, columns, plus)


def _sampled_products_now(
    ptr: Tensor, column: Tensor, rows: Tensor, columns: Tensor, plus: Tensor | None
) -> Tensor:
    if column.numel() > len(rows) * len(columns):  # parallel edges: more than the pattern may hold
        row = torch.repeat_interleave(ptr.diff(), output_size=column.numel())
        found = (rows.index_select(0, row) * columns.index_select(0, column)).sum(1)
        return found if plus is None else found + plus
    start = rows.new_zeros(column.numel()) if plus is None else plus
    pattern = csr_matrix(ptr, column, start, len(columns))
    return torch.sparse.sampled_addmm(pattern, rows, columns.t()).values()


# Under torch.compile the sums are ops of their own: which of them is the right one depends on
# sizes that are unknown there, and sparse matrices cannot be traced. An op never asks whether code
# is being compiled, because another thread may be compiling while it runs.


@custom_op("tritonpool::gather_sum", mutates_args=())
def _gather_sum(ptr: Tensor, index: Tensor, rows: Tensor, weight: Tensor | None) -> Tensor:
    return _gather_sum_now(ptr, index, rows, weight)


@_gather_sum.register_fake
def _(ptr, index, rows, weight):
    return rows.new_empty(ptr.shape[0] - 1, rows.shape[1])


@custom_op("tritonpool::sampled_products", mutates_args=())
def _sampled_products(
    ptr: Tensor, column: Tensor, rows: Tensor, columns: Tensor, plus: Tensor | None
) -> Tensor:
    return _sampled_products_now(ptr, column, rows, columns, plus)


@_sampled_products.register_fake
def _(ptr, column, rows, columns, plus):
    return rows.new_empty(column.shape[0])
