"""What one would use instead, each from the same inputs to the same gradients.

Every peer makes the graph structure it needs from the inputs, runs forward, and returns the outputs
by name, so that they can be checked against each other before they are timed. :func:`backward` runs
backward of their sum.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import cache
from importlib.util import find_spec

import torch
from torch import Tensor
from torch_geometric.nn import dense_diff_pool
from torch_geometric.utils import to_dense_adj, to_dense_batch

from benchmarks.inputs import Inputs, leaves
from tritonpool import DiffPool, Graph, coarsen
from tritonpool.losses import assignment_losses

__all__ = [
    "OURS",
    "PEERS",
    "SLOW_PEERS",
    "Outputs",
    "Peer",
    "backward",
    "both",
    "fork_loop",
    "loop_share",
    "tritonpool_layer",
    "tritonpool_op",
    "tritonpool_task_only",
]

Outputs = dict[str, Tensor]


@dataclass(frozen=True)
class Peer:
    """A candidate, and which part of the work it does.

    Attributes
    ----------
    forward : Callable[[Inputs], Outputs]
        what it runs
    nodes : bool
        whether nodes are pooled, and the losses computed
    bonds : bool
        whether bond features are pooled
    bond_gradient : bool
        whether the bond features get a gradient
    """

    forward: Callable[[Inputs], Outputs]
    nodes: bool = True
    bonds: bool = True
    bond_gradient: bool = True

    def __call__(self, inputs: Inputs) -> Outputs:
        return self.forward(inputs)


def backward(outputs: Outputs) -> None:
    """Gradients of the sum of all outputs."""
    sum(value.sum() for value in outputs.values()).backward()


def both(peer: Callable[[Inputs], Outputs], inputs: Inputs) -> None:
    """Forward and backward."""
    backward(peer(inputs))


def _ours(inputs: Inputs, edges: bool) -> Outputs:
    S, x, F = leaves(inputs, edges)
    graph = Graph(x, inputs.edge_index, F, None, inputs.batch, inputs.num_graphs)
    coarse = coarsen(graph, S, inputs.clusters)
    link, entropy = assignment_losses(graph, S, inputs.clusters)
    return {
        "X'": coarse.x,
        "W": coarse.edge_weight,
        "F'": coarse.edge_attr,
        "link": link,
        "entropy": entropy,
    }


def tritonpool_op(inputs: Inputs) -> Outputs:
    """coarsen and both losses, plan included; gradients of S, X and F."""
    return _ours(inputs, True)


def tritonpool_task_only(inputs: Inputs) -> Outputs:
    """The same without the gradient of F, as at the first level of a model."""
    return _ours(inputs, False)


@cache
def _layer(in_channels: int, max_clusters: int, ratio: float) -> DiffPool:
    return DiffPool(in_channels, max_clusters, ratio)


def tritonpool_layer(inputs: Inputs) -> Outputs:
    """The layer: assignment network, softmax, op and losses; gradients of its weights, x and F."""
    _, x, F = leaves(inputs, True)
    graph = Graph(x, inputs.edge_index, F, None, inputs.batch, inputs.num_graphs)
    layer = _layer(x.shape[1], inputs.S.shape[1], inputs.ratio)
    layer.zero_grad()
    coarse, _, losses = layer(graph)
    return {"X'": coarse.x, "W": coarse.edge_weight, "F'": coarse.edge_attr, **losses}


def _padded(inputs: Inputs, edges: bool) -> tuple[Tensor | None, ...]:
    """Nodes, adjacency, scores, mask and perhaps bond features as PyG wants them."""
    S, x, F = leaves(inputs, edges)
    K = int(inputs.clusters.max())
    # dense_diff_pool takes scores; a softmax of log S gives S back
    scores, mask = to_dense_batch(S[:, :K].clamp(min=1e-30).log(), inputs.batch)
    dense_x, _ = to_dense_batch(x, inputs.batch)
    adj = to_dense_adj(inputs.edge_index, inputs.batch).to(x.dtype)
    dense_F = to_dense_adj(inputs.edge_index, inputs.batch, F) if edges else None
    return dense_x, adj, scores, mask, dense_F


def _dense(
    x: Tensor, adj: Tensor, scores: Tensor, mask: Tensor, F: Tensor | None
) -> tuple[Tensor, ...]:
    Xc, W, link, entropy = dense_diff_pool(x, adj, scores, mask)
    if F is None:
        return Xc, W, link, entropy
    S = scores.softmax(-1) * mask[..., None]
    N = torch.einsum("bip,bijc,bjq->bpqc", S, F, S)
    return Xc, W, link, entropy, N / W.clamp(min=1e-8)[..., None]


@cache
def _compiled() -> Callable:
    # the sizes of the padded batch change from batch to batch; fixed ones would compile each anew
    return torch.compile(_dense, dynamic=True)


NAMES = "X'", "W", "link", "entropy", "F'"


def pyg(inputs: Inputs) -> Outputs:
    """PyG's ``dense_diff_pool`` with its padding; no bond features are pooled."""
    return dict(zip(NAMES, _dense(*_padded(inputs, False)), strict=False))


def pyg_einsum(inputs: Inputs) -> Outputs:
    """The same, and bond features by an einsum over the padded adjacency."""
    return dict(zip(NAMES, _dense(*_padded(inputs, True)), strict=True))


def pyg_einsum_compiled(inputs: Inputs) -> Outputs:
    """The same, all but the padding compiled by ``torch.compile``."""
    return dict(zip(NAMES, _compiled()(*_padded(inputs, True)), strict=True))


def fork_loop(inputs: Inputs, graphs: int = 2) -> Outputs:
    """The loop over edges x clusters x clusters, on the first ``graphs`` graphs only: the time
    of a batch is this times the batch's share of inner iterations (:func:`loop_share`)."""
    S, _, F = leaves(inputs, True)
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
    return {"F'": torch.stack(outputs)}


def loop_share(inputs: Inputs, graphs: int = 2) -> float:
    """Inner iterations of the whole batch over those of its first ``graphs`` graphs."""
    edges = torch.bincount(inputs.batch[inputs.edge_index[0]], minlength=inputs.num_graphs)
    work = edges * inputs.clusters * (inputs.clusters - 1)
    return float(work.sum() / work[:graphs].sum())


def pair_products(inputs: Inputs) -> Outputs:
    """All products of an edge and a pair of clusters at once, summed by ``index_add``; nodes are
    not pooled."""
    S, _, F = leaves(inputs, True)
    K = int(inputs.clusters.max())
    src, dst = inputs.edge_index
    share = S[:, :K][src][:, :, None] * S[:, :K][dst][:, None, :]
    cell = torch.arange(K * K) + inputs.batch[src][:, None] * (K * K)
    products = (share[..., None] * F[:, None, None, :]).view(-1, F.shape[1])
    cells = inputs.num_graphs * K * K
    N = F.new_zeros(cells, F.shape[1]).index_add(0, cell.view(-1), products)
    W = F.new_zeros(cells).index_add(0, cell.view(-1), share.flatten())
    shape = inputs.num_graphs, K, K
    return {"W": W.view(shape), "F'": (N / W.clamp(min=1e-8)[:, None]).view(*shape, -1)}


def sparse_loop(inputs: Inputs) -> Outputs:
    """One graph after another with ``torch.sparse.mm``; no bond features are pooled."""
    S, x, _ = leaves(inputs, False)
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
    return {"X'": torch.cat(Xc), "W": torch.cat(W)}


OURS = Peer(tritonpool_op)
PEERS = {
    "tritonpool": OURS,
    "tritonpool, F without gradient": Peer(tritonpool_task_only, bond_gradient=False),
    "PyG dense_diff_pool, no bond features": Peer(pyg, bonds=False),
    "PyG + einsum for bond features": Peer(pyg_einsum),
}

# what `make bench` adds
SLOW_PEERS = {
    "PyG + einsum, compiled": Peer(pyg_einsum_compiled),
    "edge-pair products + index_add, bond features only": Peer(pair_products, nodes=False),
    "a loop over graphs with torch.sparse.mm, no bond features": Peer(sparse_loop, bonds=False),
}
if find_spec("tgp") and find_spec("torch_scatter"):
    from benchmarks.tgp_peers import tgp_batched, tgp_unbatched

    SLOW_PEERS |= {
        "tgp DiffPool, batched, no bond features": Peer(tgp_batched, bonds=False),
        "tgp DiffPool, unbatched, no bond features": Peer(tgp_unbatched, bonds=False),
    }
