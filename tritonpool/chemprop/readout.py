"""From node states to one row for each molecule."""

from __future__ import annotations

import torch
from chemprop.nn import Aggregation
from torch import Tensor

from tritonpool.plan import Plan
from tritonpool.segments import graph_sum

__all__ = ["GraphReadout", "aggregate"]


def aggregate(H: Tensor, plan: Plan, how: str, norm: float) -> Tensor:
    """Aggregate node states ``V x D`` to ``G x D``; a graph without nodes gets a row of zeros.

    Parameters
    ----------
    H : Tensor
        the node states
    plan : Plan
        the plan of their graph
    how : str
        ``"mean"``, ``"sum"`` or ``"norm"``: the sum divided by ``norm``
    norm : float
        the constant for ``"norm"``
    """
    total = graph_sum(H, plan, mean=how == "mean")
    return total / norm if how == "norm" else total


class GraphReadout(Aggregation):
    """The aggregation of a DiffPool model: nothing, because the message passing already returns
    one row for each molecule."""

    def forward(self, H: Tensor, batch: Tensor) -> Tensor:
        """Return ``H``, of shape ``G x D``.

        Parameters
        ----------
        H : Tensor
            the result of a DiffPool message passing
        batch : Tensor
            the molecule of each atom, ``V``

        Raises
        ------
        ValueError
            if ``H`` has fewer rows than there are molecules with atoms; looked at on the CPU only,
            as it would make the host wait for a GPU
        """
        if batch.device.type == "cpu" and not torch.compiler.is_compiling() and batch.numel():
            graphs = int(batch[-1]) + 1
            if len(H) < graphs:
                raise ValueError(
                    f"H must have a row for each of the {graphs} molecules, but has shape "
                    f"{tuple(H.shape)}"
                )
        return H
