"""The yardstick of the regression tracking. Never change what it computes: every ratio kept in
``benchmarks/results`` is a time over the time of this function.

It is made of the same kinds of work as the op (integer arrays on the host, gathers, sums over
edges, sparse and dense products, many small calls), so that a slow moment of the machine slows both
alike, and of nothing from this project.
"""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

__all__ = ["yardstick"]


def _integers(edge_index: Tensor, nodes: int) -> tuple[Tensor, Tensor]:
    """The edges sorted by target, and where each node's begin."""
    target = edge_index[1].numpy()
    order = target.argsort(kind="stable")
    ptr = np.zeros(nodes + 1, dtype=np.int64)
    np.cumsum(np.bincount(target, minlength=nodes), out=ptr[1:])
    return torch.from_numpy(order), torch.from_numpy(ptr)


def yardstick(x: Tensor, edge_index: Tensor, S: Tensor, rounds: int) -> Tensor:
    """``rounds`` times a fixed sequence of calls: ``V x D``, ``2 x E`` and ``V x K`` in."""
    V = len(x)
    found = x
    for _ in range(rounds):
        order, ptr = _integers(edge_index, V)
        source = edge_index[0].index_select(0, order)
        weight = (S.index_select(0, source) * S.index_select(0, edge_index[1])).sum(1)
        summed = torch.embedding_bag(
            found, source, ptr, mode=0, per_sample_weights=weight, include_last_offset=True
        )[0]
        matrix = torch.sparse_csr_tensor(ptr, source, weight, (V, V), check_invariants=False)
        near = matrix @ S
        wide = (near[:, :, None] * S[:, None, :8]).transpose(1, 2).flatten(1)
        gram = S.t() @ summed
        shares = torch.where(S > 0, S, 1).log_().mul_(S).sum(1)
        for _ in range(12):
            shares = shares.sub(shares.mean()).index_select(0, edge_index[0])[:V]
        found = (S @ gram).add_(wide.sum(1, keepdim=True)).mul_(0.01).add_(shares[:, None])
    return found
