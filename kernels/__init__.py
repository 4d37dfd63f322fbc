"""Triton kernels; installed as ``tritonpool.kernels``.

The same functions as :mod:`tritonpool.reference` and :mod:`tritonpool.sparse`.
"""

from .backward import coarsen_bwd, lift_bwd
from .coarsen import coarsen_fwd
from .losses import losses_fwd
from .losses_grad import losses_bwd
from .messages import messages_bwd, messages_fwd
from .pool import lift_fwd
from .segments import (
    neighbours_bwd,
    neighbours_fwd,
    segments_bwd,
    segments_fwd,
)
from .shares import shares_bwd, shares_fwd
from .softmax import softmax_bwd, softmax_fwd

__all__ = [
    "coarsen_bwd",
    "coarsen_fwd",
    "lift_bwd",
    "lift_fwd",
    "losses_bwd",
    "losses_fwd",
    "messages_bwd",
    "messages_fwd",
    "neighbours_bwd",
    "neighbours_fwd",
    "segments_bwd",
    "segments_fwd",
    "shares_bwd",
    "shares_fwd",
    "softmax_bwd",
    "softmax_fwd",
]
