"""Keys under which custom ops find Python objects.

``torch.compile`` passes tensors and numbers to a custom op, and a plan is neither. So every plan
has a key, a tensor with its number, that travels through a compiled graph in its place.
"""

from __future__ import annotations

import itertools
from weakref import WeakValueDictionary

import torch
from torch import Tensor
from torch.library import custom_op

__all__ = ["Keyed", "find", "host_op", "ticket"]

_objects: WeakValueDictionary[int, Keyed] = WeakValueDictionary()
_numbers = itertools.count()


class Keyed:
    """A dataclass with a field ``key``: a tensor that stands for the object in compiled graphs. It
    does not keep the object alive; a :func:`ticket`, which an op returns in its place, does."""

    key: Tensor | None

    def __post_init__(self) -> None:
        if self.key is None:
            self._register()

    def __getstate__(self) -> dict[str, object]:
        return {name: value for name, value in self.__dict__.items() if name != "key"}

    def __setstate__(self, state: dict[str, object]) -> None:
        """A copy, or an object from another process, has a key of its own."""
        self.__dict__.update(state)
        self._register()

    def _register(self) -> None:
        number = next(_numbers)
        _objects[number] = self
        self.key = torch.tensor([number], device="cpu")


def find(key: Tensor) -> Keyed:
    """The object of a key.

    Raises
    ------
    RuntimeError
        if it is gone
    """
    item = _objects.get(int(key))
    if item is None:
        raise RuntimeError(
            "the plan of a graph is gone: keep the graph until the compiled backward has run"
        )
    return item


def ticket(keys: Tensor, *items: object) -> Tensor:
    """A copy of ``keys`` that keeps the objects alive, also when saved for backward."""
    keys = keys.clone()
    keys.items_of_keys = items
    return keys


def host_op(name: str):
    """Make a custom op of a function that finds plans by their keys. It asks the host which batch
    it is for, so ``torch.compile`` must not replay it as a part of a CUDA graph."""
    return custom_op(name, mutates_args=(), tags=(torch.Tag.cudagraph_unsafe,))
