"""DiffPool of torch-geometric-pool (tgp), with the assignment given; only where it is installed."""

from __future__ import annotations

from functools import cache

from tgp.poolers import DiffPool
from torch import Tensor, nn
from torch_geometric.utils import to_dense_batch

from benchmarks.inputs import Inputs, leaves

__all__ = ["tgp_batched", "tgp_unbatched"]


class _Given(nn.Module):
    """In place of the network that scores nodes: scores made beforehand."""

    def forward(self, x: Tensor) -> Tensor:
        return self.scores


@cache
def _pooler(in_channels: int, clusters: int, batched: bool) -> DiffPool:
    plain = {"remove_self_loops": False, "degree_norm": False, "adj_transpose": False}
    pooler = DiffPool(in_channels, clusters, batched=batched, **plain)
    pooler.selector.mlp = _Given()
    return pooler


def _tgp(inputs: Inputs, batched: bool) -> dict[str, Tensor]:
    S, x, _ = leaves(inputs, False)
    K = int(inputs.clusters.max())
    pooler = _pooler(x.shape[1], K, batched)
    scores = S[:, :K].clamp(min=1e-30).log()
    pooler.selector.mlp.scores = to_dense_batch(scores, inputs.batch)[0] if batched else scores
    out = pooler(x=x, adj=inputs.edge_index, batch=inputs.batch)
    return {
        "X'": out.x,
        "W": out.edge_index,
        "link": out.loss["link_loss"],
        "entropy": out.loss["entropy_loss"],
    }


def tgp_batched(inputs: Inputs) -> dict[str, Tensor]:
    """With its padding; no bond features are pooled."""
    return _tgp(inputs, True)


def tgp_unbatched(inputs: Inputs) -> dict[str, Tensor]:
    """Without padding, one graph after another; no bond features are pooled."""
    return _tgp(inputs, False)
