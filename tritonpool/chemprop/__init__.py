"""DiffPool for chemprop: message passing that returns one row for each molecule.

The paths of these classes, ``tritonpool.chemprop.<name>``, are part of the file format of saved
models and never change.
"""

from tritonpool.chemprop.message_passing import (
    DiffPoolAtomMessagePassing,
    DiffPoolBondMessagePassing,
)
from tritonpool.chemprop.model import DiffPoolMPNN, DiffPoolMulticomponentMPNN
from tritonpool.chemprop.readout import GraphReadout

__all__ = [
    "DiffPoolAtomMessagePassing",
    "DiffPoolBondMessagePassing",
    "DiffPoolMPNN",
    "DiffPoolMulticomponentMPNN",
    "GraphReadout",
]

for _cls in map(globals().get, __all__):
    _cls.__module__ = __name__
del _cls
