"""What one would use instead, each from the same inputs to the same gradients.

Every peer is a function of ``Inputs`` that makes the graph structure it needs, runs forward and
backward of a fixed sum of its outputs, and returns the outputs by name, so that they can be
checked against each other before they are timed.
"""

from __future__ import annotations

import torch
from torch import Tensor
from torch_geometric.nn import dense_diff_pool
from torch_geometric.utils import to_dense_adj, to_dense_batch

from benchmarks.inputs import Inputs
from tritonpool import coarsen
from tritonpool.losses import assignment_losses

__all__ = [
    "PEERS",
    "fork_loop",
    "loop_share",
    "pyg",
    "pyg_einsum",
    "tritonpool_op",
    "tritonpool_task_only",
]


def _leaves(inputs: Inputs, edges: bool) -> tuple[Tensor, Tensor, Tensor]:
    """New leaves for S, x and the bond features, which need a gradient only if ``edges``."""
    return (
        inputs.S.clone().requires_grad_(),
        inputs.x.clone().requires_grad_(),
        inputs.edge_attr.clone().requires_grad_(edges),
    )


def _finish(outputs: dict[str, Tensor]) -> dict[str, Tensor]:
    sum(value.sum() for value in outputs.values()).backward()
    return {name: value.detach() for name, value in outputs.items()}


def _ours(inputs: Inputs, edges: bool) -> dict[str, Tensor]:
    S, x, F = _leaves(inputs, edges)
    graph = inputs.graph().replace(x=x, edge_attr=F)
    coarse = coarsen(graph, S, inputs.clusters)
    link, entropy = assignment_losses(graph, S, inputs.clusters)
    return _finish(
        {
            "X'": coarse.x,
            "W": coarse.edge_weight,
            "F'": coarse.edge_attr,
            "link": link,
            "entropy": entropy,
        }
    )


def tritonpool_op(inputs: Inputs) -> dict[str, Tensor]:
    """coarsen and both losses, plan included; gradients of S, X and F."""
    return _ours(inputs, True)


def tritonpool_task_only(inputs: Inputs) -> dict[str, Tensor]:
    """The same without the gradient of F, as at the first level of a model."""
    return _ours(inputs, False)


def _pyg(inputs: Inputs, edges: bool) -> dict[str, Tensor]:
    S, x, F = _leaves(inputs, edges)
    K = int(inputs.clusters.max())
    # dense_diff_pool takes scores; a softmax of log S gives S back
    scores, mask = to_dense_batch(S[:, :K].clamp(min=1e-30).log(), inputs.batch)
    dense_x, _ = to_dense_batch(x, inputs.batch)
    adj = to_dense_adj(inputs.edge_index, inputs.batch)
    Xc, W, link, entropy = dense_diff_pool(dense_x, adj, scores, mask)
    outputs = {"X'": Xc, "W": W, "link": link, "entropy": entropy}
    if edges:
        dense_F = to_dense_adj(inputs.edge_index, inputs.batch, F)
        dense_S = scores.softmax(-1) * mask[..., None]
        N = torch.einsum("bip,bijc,bjq->bpqc", dense_S, dense_F, dense_S)
        outputs["F'"] = N / W.clamp(min=1e-8)[..., None]
    return _finish(outputs)


def pyg(inputs: Inputs) -> dict[str, Tensor]:
    """PyG's ``dense_diff_pool`` with its padding; no bond features are pooled."""
    return _pyg(inputs, False)


def pyg_einsum(inputs: Inputs) -> dict[str, Tensor]:
    """The same, and bond features by an einsum over the padded adjacency."""
    return _pyg(inputs, True)


def fork_loop(inputs: Inputs, graphs: int = 2) -> dict[str, Tensor]:
    """The loop over edges x clusters x clusters, on the first ``graphs`` graphs only: the time
    of a batch is this times the batch's share of inner iterations (:func:`loop_share`)."""
    S, _, F = _leaves(inputs, True)
    outputs = []
    for g in range(graphs):
        c = int(inputs.clusters[g])
        edges = (inputs.batch[inputs.edge_index[0]] == g).nonzero()[:, 0].tolist()
        ends = inputs.edge_index.T.tolist()
        for p in range(c):
            for q in range(c):
                if p == q:
                    continue
                total, N = S.new_zeros(()), F.new_zeros(F.shape[1])
                for e in edges:
                    share = S[ends[e][0], p] * S[ends[e][1], q]
                    total = total + share
                    N = N + share * F[e]
                outputs.append(N / total.clamp(min=1e-8))
    return _finish({"F'": torch.stack(outputs)})


def loop_share(inputs: Inputs, graphs: int = 2) -> float:
    """Inner iterations of the whole batch over those of its first ``graphs`` graphs."""
    edges = torch.bincount(inputs.batch[inputs.edge_index[0]], minlength=inputs.num_graphs)
    work = edges * inputs.clusters * (inputs.clusters - 1)
    return float(work.sum() / work[:graphs].sum())


PEERS = {
    "tritonpool": tritonpool_op,
    "tritonpool, F without gradient": tritonpool_task_only,
    "PyG dense_diff_pool, no bond features": pyg,
    "PyG + einsum for bond features": pyg_einsum,
}
