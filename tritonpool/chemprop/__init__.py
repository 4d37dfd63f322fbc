"""DiffPool for chemprop: message passing that returns one row for each molecule.

The paths of these classes, ``tritonpool.chemprop.<name>``, are part of the file format of saved
models and never change.
"""

from tritonpool.chemprop.collate import build_dataloader
from tritonpool.chemprop.convert import to_diffpool
from tritonpool.chemprop.message_passing import (
    DiffPoolAtomMessagePassing,
    DiffPoolBondMessagePassing,
)
from tritonpool.chemprop.model import DiffPoolMPNN, DiffPoolMulticomponentMPNN
from tritonpool.chemprop.readout import GraphReadout
from tritonpool.chemprop.settings import DiffPoolSettings

__all__ = [
    "DiffPoolAtomMessagePassing",
    "DiffPoolBondMessagePassing",
    "DiffPoolMPNN",
    "DiffPoolMulticomponentMPNN",
    "DiffPoolSettings",
    "GraphReadout",
    "build_dataloader",
    "to_diffpool",
]

# those that files name
for _cls in (
    DiffPoolAtomMessagePassing,
    DiffPoolBondMessagePassing,
    DiffPoolMPNN,
    DiffPoolMulticomponentMPNN,
    GraphReadout,
):
    _cls.__module__ = __name__
del _cls
