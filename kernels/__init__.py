"""Triton kernels; installed as ``tritonpool.kernels``.

The same six functions as :mod:`tritonpool.reference` and :mod:`tritonpool.sparse`.
"""

from .backward import coarsen_bwd, lift_bwd
from .coarsen import coarsen_fwd
from .losses import losses_fwd
from .losses_grad import losses_bwd
from .pool import lift_fwd

__all__ = [
    "coarsen_bwd",
    "coarsen_fwd",
    "lift_bwd",
    "lift_fwd",
    "losses_bwd",
    "losses_fwd",
]
