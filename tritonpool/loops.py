"""What the plain loops of the reference need: ranges of rows, and gradients of a loop."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor

import torch
from torch import Tensor

__all__ = ["gradients", "ranges"]


def ranges(ptr: Tensor) -> list[range]:
    """The rows of each graph or other segment, from a pointer that has one entry more."""
    bounds = ptr.tolist()
    return [range(a, b) for a, b in zip(bounds[:-1], bounds[1:], strict=True)]


def gradients(function, inputs, needs, given):
    """Differentiate ``function(*inputs)`` by running it again with autograd; in a thread of its
    own, because in that of a custom op (:mod:`tritonpool.library`) autograd records nothing."""
    with ThreadPoolExecutor(1) as thread:
        return thread.submit(_differentiate, function, inputs, needs, given).result()


def _differentiate(function, inputs, needs, given):
    with torch.enable_grad():
        leaves = [
            None if t is None else t.detach().requires_grad_(need)
            for t, need in zip(inputs, needs, strict=True)
        ]
        outputs = function(*leaves)
        outputs = outputs if isinstance(outputs, tuple) else (outputs,)
        pairs = [
            (out, grad)
            for out, grad in zip(outputs, given, strict=True)
            if out is not None and grad is not None and out.requires_grad
        ]
        wanted = [t for t in leaves if t is not None and t.requires_grad]
        if pairs:
            found = iter(
                torch.autograd.grad(
                    [out for out, _ in pairs],
                    wanted,
                    [grad for _, grad in pairs],
                    allow_unused=True,
                )
            )
        else:
            found = iter([None] * len(wanted))
    every = []
    for leaf in leaves:
        if leaf is None or not leaf.requires_grad:
            every.append(None)
        else:
            grad = next(found)
            every.append(torch.zeros_like(leaf) if grad is None else grad)
    return tuple(every)
