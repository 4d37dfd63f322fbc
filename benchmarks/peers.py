"""What one would use instead, each from the same inputs to the same gradients.

Every peer is a function of ``Inputs`` that makes the graph structure it needs, runs forward and
backward of a fixed sum of its outputs, and returns the outputs by name, so that they can be
checked against each other before they are timed.
"""

from __future__ import annotations

from functools import cache

import torch
from torch import Tensor
from torch_geometric.nn import dense_diff_pool
from torch_geometric.utils import to_dense_adj, to_dense_batch

from benchmarks.inputs import Inputs
from tritonpool import DiffPool, Graph, coarsen
from tritonpool.losses import assignment_losses

__all__ = [
    "PEERS",
    "SLOW_PEERS",
    "fork_loop",
    "loop_share",
    "pair_products",
    "pyg",
    "pyg_einsum",
    "sparse_loop",
    "tritonpool_layer",
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
    graph = Graph(x, inputs.edge_index, F, None, inputs.batch, inputs.num_graphs)
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


@cache
def _layer(in_channels: int, max_clusters: int, ratio: float) -> DiffPool:
    return DiffPool(in_channels, max_clusters, ratio)


def tritonpool_layer(inputs: Inputs) -> dict[str, Tensor]:
    """The layer: assignment network, softmax, op and losses; gradients of its weights, x and F."""
    _, x, F = _leaves(inputs, True)
    graph = Graph(x, inputs.edge_index, F, None, inputs.batch, inputs.num_graphs)
    layer = _layer(x.shape[1], inputs.S.shape[1], inputs.ratio)
    layer.zero_grad()
    coarse, _, losses = layer(graph)
    return _finish({"X'": coarse.x, "W": coarse.edge_weight, "F'": coarse.edge_attr, **losses})


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


def pair_products(inputs: Inputs) -> dict[str, Tensor]:
    """All products of an edge and a pair of clusters at once, summed by ``index_add``; nodes are
    not pooled."""
    S, _, F = _leaves(inputs, True)
    K = int(inputs.clusters.max())
    src, dst = inputs.edge_index
    share = S[:, :K][src][:, :, None] * S[:, :K][dst][:, None, :]
    cell = torch.arange(K * K) + inputs.batch[src][:, None] * (K * K)
    products = (share[..., None] * F[:, None, None, :]).view(-1, F.shape[1])
    cells = inputs.num_graphs * K * K
    N = F.new_zeros(cells, F.shape[1]).index_add(0, cell.view(-1), products)
    W = F.new_zeros(cells).index_add(0, cell.view(-1), share.flatten())
    shape = inputs.num_graphs, K, K
    return _finish({"W": W.view(shape), "F'": (N / W.clamp(min=1e-8)[:, None]).view(*shape, -1)})


def sparse_loop(inputs: Inputs) -> dict[str, Tensor]:
    """One graph after another with ``torch.sparse.mm``; no bond features are pooled."""
    S, x, _ = _leaves(inputs, False)
    sizes = torch.bincount(inputs.batch, minlength=inputs.num_graphs).tolist()
    edges = torch.bincount(inputs.batch[inputs.edge_index[0]], minlength=inputs.num_graphs).tolist()
    Xc, W, first, start = [], [], 0, 0
    for n, count, c in zip(sizes, edges, inputs.clusters.tolist(), strict=True):
        share = S[first : first + n, :c]
        ends = inputs.edge_index[:, start : start + count] - first
        A = torch.sparse_coo_tensor(ends, torch.ones(count), (n, n), check_invariants=False)
        Xc.append(share.t() @ x[first : first + n])
        W.append((share.t() @ torch.sparse.mm(A, share))[~torch.eye(c, dtype=torch.bool)])
        first, start = first + n, start + count
    return _finish({"X'": torch.cat(Xc), "W": torch.cat(W)})


PEERS = {
    "tritonpool": tritonpool_op,
    "tritonpool, F without gradient": tritonpool_task_only,
    "PyG dense_diff_pool, no bond features": pyg,
    "PyG + einsum for bond features": pyg_einsum,
}

# what `make bench` adds: none of these is close
SLOW_PEERS = {
    "edge-pair products + index_add, bond features only": pair_products,
    "a loop over graphs with torch.sparse.mm, no bond features": sparse_loop,
}
