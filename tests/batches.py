"""Random batches of graphs for property tests, drawn so that hypothesis can shrink them."""

from dataclasses import dataclass, replace

import torch
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from torch import Tensor

import tritonpool
from tritonpool.losses import assignment_losses

BACKENDS = ("sparse", "triton")
EXAMPLES = {"reference": 20, "sparse": 200, "triton": 30}

# Several cluster-pair blocks in both directions, three edge tiles and a ragged tail for the tiles
# that the kernels use, beside graphs that fill a fraction of one.
LARGE = {"nodes": [23, 0, 3, 30, 1], "edges": [70, 0, 4, 200, 0], "clusters": [18, 1, 2, 20, 1]}

# Two graphs; an edge without reverse (1 -> 2), a self-loop (3 -> 3), a node without edges (4)
EDGES = torch.tensor([[0, 1, 1, 3, 3, 5], [1, 0, 2, 3, 5, 3]])
REV = torch.tensor([1, 0, -1, 3, 5, 4])
BATCH = torch.tensor([0, 0, 0, 1, 1, 1])


def small_graph(dtype: torch.dtype = torch.float64) -> tritonpool.Graph:
    """These edges with random features and weights."""
    x = torch.randn(6, 4, dtype=dtype)
    return tritonpool.Graph(
        x, EDGES, torch.randn(6, 3, dtype=dtype), torch.rand(6, dtype=dtype) + 0.1, BATCH, 2
    )


def examples(backend: str):
    """Hypothesis settings for one backend: the interpreter is too slow for many examples."""
    return settings(
        max_examples=EXAMPLES[backend],
        suppress_health_check=[HealthCheck.too_slow, HealthCheck.data_too_large],
    )


@dataclass
class Sample:
    """A batch with an assignment."""

    graph: tritonpool.Graph
    S: Tensor
    clusters: Tensor

    def to(self, dtype: torch.dtype) -> "Sample":
        g = self.graph
        graph = tritonpool.Graph(
            g.x.to(dtype),
            g.edge_index,
            None if g.edge_attr is None else g.edge_attr.to(dtype),
            None if g.edge_weight is None else g.edge_weight.to(dtype),
            g.batch,
            g.num_graphs,
        )
        return replace(self, graph=graph, S=self.S.to(dtype))

    def coarsen(self, backend: str, **kwargs) -> tritonpool.Graph:
        return tritonpool.coarsen(self.graph, self.S, self.clusters, backend=backend, **kwargs)


def make_sample(
    nodes: list[int],
    edges: list[int],
    clusters: list[int],
    K: int,
    D: int = 3,
    C: int | None = 2,
    weights: bool = True,
    hard: bool = False,
    shuffle: bool = True,
    seed: int = 0,
) -> Sample:
    """Build a float64 batch from the sizes of its graphs: directed edges with self-loops and
    parallel edges, in any order."""
    gen = torch.Generator().manual_seed(seed)

    def randn(*shape):
        return torch.randn(*shape, generator=gen, dtype=torch.float64)

    n = torch.tensor(nodes, dtype=torch.int64)
    m = torch.where(n > 0, torch.tensor(edges, dtype=torch.int64), 0)
    c = torch.where(n > 0, torch.tensor(clusters, dtype=torch.int64), 0)
    batch = torch.repeat_interleave(torch.arange(len(n)), n)
    first = torch.repeat_interleave(n.cumsum(0) - n, m)
    size = torch.repeat_interleave(n, m)
    E, V = int(m.sum()), int(n.sum())
    ends = torch.rand(2, E, generator=gen, dtype=torch.float64) * size
    edge_index = first + ends.long()
    if shuffle:
        edge_index = edge_index[:, torch.randperm(E, generator=gen)]
    weight = None
    if weights:
        weight = torch.rand(E, generator=gen, dtype=torch.float64) + 0.1
        weight[torch.rand(E, generator=gen) < 0.1] = 0
    beyond = torch.arange(K) >= c[batch][:, None]
    S = randn(V, K).masked_fill(beyond, -torch.inf).softmax(1)
    if hard:
        S = torch.zeros_like(S).scatter_(1, S.argmax(1, keepdim=True), 1)
    graph = tritonpool.Graph(
        randn(V, D), edge_index, None if C is None else randn(E, C), weight, batch, len(n)
    )
    return Sample(graph, S, c)


@st.composite
def samples(draw, max_graphs=3, max_nodes=5, max_edges=8, max_clusters=4, **fixed) -> Sample:
    """Batches with empty graphs, single nodes, edgeless graphs, one cluster, and so on."""
    G = draw(st.integers(0, max_graphs))
    K = draw(st.integers(1, max_clusters))

    def sizes(low, high):
        return draw(st.lists(st.integers(low, high), min_size=G, max_size=G))

    options = {
        "C": draw(st.sampled_from([None, 0, 1, 3])),
        "weights": draw(st.booleans()),
        "hard": draw(st.booleans()),
        "shuffle": draw(st.booleans()),
        **fixed,
    }
    return make_sample(
        sizes(0, max_nodes),
        sizes(0, max_edges),
        sizes(1, K),
        K,
        D=draw(st.integers(1, 4)),
        seed=draw(st.integers(0, 2**16)),
        **options,
    )


def _with_tritonpool(graph, S, c, drop_self_loops, eps, backend) -> dict[str, Tensor]:
    coarse = tritonpool.coarsen(
        graph, S, c, drop_self_loops=drop_self_loops, eps=eps, backend=backend
    )
    link, entropy = assignment_losses(graph, S, c, backend=backend)
    return {
        "X'": coarse.x,
        "W": coarse.edge_weight,
        "F'": coarse.edge_attr,
        "lift": tritonpool.lift(coarse.x, graph, S, c, backend=backend),
        "link": link,
        "entropy": entropy,
    }


def _with_einsum(graph, S, c, drop_self_loops, eps, backend) -> dict[str, Tensor]:
    """The same from the formulas, dense and graph by graph: fast enough for larger graphs than
    the reference loops, and written independently of them."""
    X, F, (src, dst) = graph.x, graph.edge_attr, graph.edge_index
    w = torch.ones_like(S[src, 0]) if graph.edge_weight is None else graph.edge_weight
    rows = {"X'": [], "W": [], "F'": [], "lift": []}
    link, entropy = S.new_zeros(()), S.new_zeros(())
    for g in range(graph.num_graphs):
        own, k = graph.batch == g, int(c[g])
        e = own[src]
        s = S[own, :k]
        rows["X'"].append(s.T @ X[own])
        rows["lift"].append(s @ rows["X'"][-1])
        keep = ~torch.eye(k, dtype=torch.bool) if drop_self_loops else torch.ones(k, k) > 0
        share = torch.einsum("e,ep,eq->epq", w[e], S[src[e], :k], S[dst[e], :k])
        W = share.sum(0)[keep]
        rows["W"].append(W)
        if F is not None:
            N = torch.einsum("epq,ec->pqc", share, F[e])[keep]
            rows["F'"].append(
                torch.where(W[:, None] > eps, N, N.detach())
                / torch.where(W > eps, W, eps).clamp(min=eps)[:, None]
            )
        n = int(own.sum())
        if n:
            first = int(own.nonzero()[0])
            A = S.new_zeros(n, n).index_put((src[e] - first, dst[e] - first), w[e], True)
            residual = (A - s @ s.T).norm()
            link = link + residual / n
            entropy = entropy - torch.where(s > 0, s * torch.where(s > 0, s, 1).log(), 0).sum() / n
    out = {name: torch.cat(values) for name, values in rows.items() if values}
    G = max(1, graph.num_graphs)
    return {**out, "link": link / G, "entropy": entropy / G}


def everything(
    sample: Sample, backend: str, drop_self_loops: bool = True, eps: float = 1e-8
) -> dict[str, Tensor]:
    """All outputs of the op, of lift and of the losses, and all gradients of a random
    combination of them, by name; ``backend="einsum"`` takes the dense formulas instead."""
    g = sample.graph
    leaves = {"S": sample.S, "x": g.x, "edge_attr": g.edge_attr, "edge_weight": g.edge_weight}
    leaves = {k: v.detach().clone().requires_grad_() for k, v in leaves.items() if v is not None}
    graph = tritonpool.Graph(
        leaves["x"],
        g.edge_index,
        leaves.get("edge_attr"),
        leaves.get("edge_weight"),
        g.batch,
        g.num_graphs,
    )
    S, c = leaves["S"], sample.clusters
    compute = _with_einsum if backend == "einsum" else _with_tritonpool
    out = compute(graph, S, c, drop_self_loops, eps, backend)
    out = {name: value for name, value in out.items() if value is not None}
    gen = torch.Generator().manual_seed(1)
    loss = sum(
        (
            value * torch.randn(value.shape, generator=gen, dtype=torch.float64).to(value.device)
        ).sum()
        for value in out.values()
    )
    grads = torch.autograd.grad(loss, list(leaves.values()))
    out.update({f"d{name}": grad for name, grad in zip(leaves, grads, strict=True)})
    return {name: value.detach() for name, value in out.items()}


def relative_rms(value: Tensor, expected: Tensor) -> float:
    """Root mean square error relative to the root mean square of what is expected."""
    value, expected = value.double(), expected.double()
    error = (value - expected).square().mean().sqrt()
    return float(error / expected.square().mean().sqrt().clamp(min=1e-30)) if value.numel() else 0.0
