"""Models that pooling with a learned assignment has to beat, each made from another model.

Controls replace the assignment of a DiffPool model by one that cannot learn a hierarchy: a gain
that one of these reaches as well is no gain of learned clusters. Baselines give a plain D-MPNN
another readout: pooling adds up atoms, which brings in the size of a molecule, and a mean lacks it.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

import torch
from chemprop.models import MPNN
from chemprop.nn import Aggregation, AttentiveAggregation, MeanAggregation, NormAggregation
from torch import Tensor, nn

from tritonpool import DiffPool, Graph
from tritonpool.chemprop.assignment import AssignmentPool
from tritonpool.chemprop.message_passing import DiffPoolMixin

__all__ = ["CONTROLS"]

# of the fixed scores: a softmax of normal scores of this size is neither uniform nor hard
SCALE = 3.0
MOST_ATOMS = 4096


class _FixedRandom(DiffPool):
    """Scores drawn once for every place in a molecule's list of atoms: nothing to learn, and equal
    atoms at different places are told apart."""

    def __init__(self, *sizes: object, **settings: object):
        super().__init__(*sizes, **settings)
        self.register_buffer("table", SCALE * torch.randn(MOST_ATOMS, self.max_clusters))

    def scores(self, graph: Graph) -> Tensor:
        place = torch.arange(graph.num_nodes, device=graph.x.device)
        place = place - graph.plan.node_ptr[graph.plan.batch]
        return self.table[place % len(self.table)].to(graph.x.dtype)


class _Shuffled(AssignmentPool):
    """The learned scores, handed to the atoms of the molecule at random in every step."""

    def scores(self, graph: Graph) -> Tensor:
        scores = super().scores(graph)
        key = torch.rand(graph.num_nodes, device=scores.device, dtype=torch.float64)
        return scores[torch.argsort(key + graph.plan.batch)]


def _blocks(model: MPNN) -> list[DiffPoolMixin]:
    return [m for m in model.message_passing.modules() if isinstance(m, DiffPoolMixin)]


def _with_pools(model: MPNN, cls: type[DiffPool], learns: bool = True) -> MPNN:
    """The model with pools of another class, which keep their assignment network if they learn."""
    for block in _blocks(model):
        block.pools = nn.ModuleList(
            cls(
                pool.in_channels,
                pool.max_clusters,
                pool.ratio,
                assignment=pool.assignment if learns else nn.Identity(),
                drop_self_loops=pool.drop_self_loops,
                top_k=pool.top_k,
                **({"temperature": pool.temperature, "prior": pool.prior} if learns else {}),
            )
            for pool in block.pools
        )
    return model


def _frozen_head(model: MPNN) -> MPNN:
    """The assignment network keeps its first weights; only the encoder below it learns."""
    for block in _blocks(model):
        block.pools.requires_grad_(False)
    return model


class _NoBondFeatures(AssignmentPool):
    """Pools zeros instead of the bond features; their weights stay."""

    def forward(self, graph: Graph, *args: object, **kwargs: object):
        return super().forward(
            graph.replace(edge_attr=torch.zeros_like(graph.edge_attr)), *args, **kwargs
        )


class _MeanAndSum(Aggregation):
    """Both, side by side; the sum is divided as ``norm`` does."""

    def __init__(self):
        super().__init__()
        self.parts = nn.ModuleList([MeanAggregation(), NormAggregation()])

    def forward(self, H: Tensor, batch: Tensor) -> Tensor:
        return torch.cat([part(H, batch) for part in self.parts], 1)


def _with_readout(model: MPNN, readout: Aggregation, width: int) -> MPNN:
    """A plain model with another readout, and a new predictor of that width."""
    old = model.predictor
    settings = {k: v for k, v in old.hparams.items() if k not in ("cls", "input_dim")}
    predictor = type(old)(input_dim=width, **settings)
    return MPNN(model.message_passing, readout, predictor, batch_norm=False)


def _mean_and_sum(model: MPNN) -> MPNN:
    return _with_readout(model, _MeanAndSum(), 2 * model.message_passing.output_dim)


def _attentive(model: MPNN) -> MPNN:
    width = model.message_passing.output_dim
    return _with_readout(model, AttentiveAggregation(output_size=width), width)


CONTROLS: dict[str, Callable[[MPNN], MPNN]] = {
    "fixed random": partial(_with_pools, cls=_FixedRandom, learns=False),
    "frozen head": _frozen_head,
    "shuffled": partial(_with_pools, cls=_Shuffled),
    "no bond features": partial(_with_pools, cls=_NoBondFeatures),
    "mean and sum": _mean_and_sum,
    "attentive": _attentive,
}
