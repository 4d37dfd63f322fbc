"""Triton kernels; installed as ``tritonpool.kernels``.

The same six functions as :mod:`tritonpool.reference` and :mod:`tritonpool.sparse`.
"""

from .losses import losses_bwd, losses_fwd
from .ops import coarsen_bwd, coarsen_fwd
from .pool import lift_bwd, lift_fwd

__all__ = [
    "coarsen_bwd",
    "coarsen_fwd",
    "lift_bwd",
    "lift_fwd",
    "losses_bwd",
    "losses_fwd",
]
