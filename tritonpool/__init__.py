"""Differentiable graph pooling with bond features: DiffPool without padding, loops or n x n."""

from tritonpool.backend import use_backend
from tritonpool.diffpool import DiffPool
from tritonpool.graph import Graph
from tritonpool.losses import entropy_loss, link_loss
from tritonpool.ops import coarsen, lift
from tritonpool.top_k import TopK

__version__ = "0.1.0"

__all__ = [
    "DiffPool",
    "Graph",
    "TopK",
    "coarsen",
    "entropy_loss",
    "lift",
    "link_loss",
    "use_backend",
]
