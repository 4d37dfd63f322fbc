"""How the kernels read their inputs.

Offsets within a graph are 32-bit and added up before the pointer is: an address for each number
takes two registers, and the compiler would keep that of each row, too.
"""

from __future__ import annotations

import triton
import triton.language as tl

from .precision import convert

__all__ = [
    "columns_written",
    "load_bounds",
    "load_ends",
    "load_features",
    "load_rows",
    "load_segment",
    "load_slots",
    "load_tile",
    "load_weights",
]


@triton.jit
def load_tile(ptr, row, rows, column, columns):
    """Some rows and columns of a matrix, zero beyond its last row and column."""
    mask = (row < rows)[:, None] & (column < columns)[None, :]
    return tl.load(ptr + (row[:, None] * columns + column[None, :]), mask, 0.0)


@triton.jit
def load_rows(S_ptr, i, p, K, EVEN_K: tl.constexpr, ACC: tl.constexpr):
    """``S[i, p]`` for broadcastable ``i`` and ``p``. Columns beyond a graph's clusters are zero,
    so only the end of a row needs a mask."""
    if EVEN_K:
        return convert(tl.load(S_ptr + i * K + p), ACC)
    return convert(tl.load(S_ptr + i * K + p, (p < K) & (i >= 0), 0.0), ACC)


@triton.jit
def load_ends(src_ptr, dst_ptr, e, first):
    """The ends of the edges ``e`` within their graph; where it has no edges, ``e`` is -1."""
    u = tl.load(src_ptr + e, e >= 0, first) - first
    v = tl.load(dst_ptr + e, e >= 0, first) - first
    return u.to(tl.int32), v.to(tl.int32)


@triton.jit
def load_weights(w_ptr, e, valid, HAS_W: tl.constexpr, ACC: tl.constexpr):
    """The weight of each edge, 0 for the padding of the last tile."""
    if HAS_W:
        return convert(tl.load(w_ptr + e, valid, 0.0), ACC)
    return valid.to(ACC)


@triton.jit
def columns_written(c):
    """How many columns of the rows that go from edges to nodes are used: the clusters, rounded up
    for wide loads and stores; those in excess are zero."""
    return (c + 3) // 4 * 4


@triton.jit
def load_bounds(ptr, v, there):
    """Where each node's edges start and end."""
    return tl.load(ptr + v, there, 0), tl.load(ptr + v + 1, there, 0)


@triton.jit
def load_slots(ptr, start, s, there, LISTED: tl.constexpr):
    """Entries of an index list, 0 beyond the end of the segment; without a list the places."""
    if LISTED:
        return tl.load(ptr + start + s, there, 0)
    return start + s


@triton.jit
def load_features(X_ptr, k, there, d, D, ACC: tl.constexpr):
    """Rows ``k`` and columns ``d`` of ``X``, zero where there is no row."""
    mask = there[:, None] & (d < D)[None, :]
    return convert(tl.load(X_ptr + k[:, None] * D + d[None, :], mask, 0.0), ACC)


@triton.jit
def load_segment(ptr_ptr, i):
    """Where a segment starts and how long it is."""
    start = tl.load(ptr_ptr + i)
    return start, (tl.load(ptr_ptr + i + 1) - start).to(tl.int32)
