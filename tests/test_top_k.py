"""Assignments with a few shares for each node: the dense one's values, and only joined pairs."""

import pytest
import torch
from batches import BACKENDS, Sample, make_sample, samples
from hypothesis import given
from hypothesis import strategies as st
from torch._dynamo.testing import CompileCounterWithBackend

import tritonpool
from tritonpool import DiffPool, Graph, TopK, coarsen, entropy_loss, lift, link_loss
from tritonpool.top_k import best_only

pytestmark = pytest.mark.usefixtures("kernels_on_gpu")
on_backends = pytest.mark.parametrize("backend", ["reference", *BACKENDS])
SIZES = {"nodes": [5, 1, 9, 0, 4], "edges": [6, 0, 12, 0, 7], "clusters": [3, 1, 6, 0, 2]}


def few(sample: Sample, k: int) -> TopK:
    """The ``k`` largest shares of each node."""
    values, index = sample.S.topk(min(k, sample.S.shape[1]), 1)
    return TopK(values, index, sample.S.shape[1])


def joined(graph: Graph, S: torch.Tensor, clusters: torch.Tensor, drop: bool) -> set:
    """The pairs that an edge joins in one direction or the other, by loops."""
    first, found = clusters.cumsum(0) - clusters, set()
    weights = graph.edge_weight if graph.edge_weight is not None else graph.edge_index[0] >= 0
    for u, v in graph.edge_index.T[weights.bool()].tolist():
        start = int(first[graph.batch[u]])
        for p in S[u].nonzero()[:, 0].tolist():
            for q in S[v].nonzero()[:, 0].tolist():
                if p != q or not drop:
                    found |= {(start + p, start + q), (start + q, start + p)}
    return found


def results(sample: Sample, k: int, drop: bool, backend: str, dense: bool) -> list[torch.Tensor]:
    """Pooled nodes and pairs and the gradients of a sum over them; of the dense assignment's pairs
    those that are joined."""
    g, S = sample.graph, few(sample, k)
    leaves = [S.values, g.x, g.edge_attr, g.edge_weight]
    leaves = [None if t is None else t.clone().requires_grad_() for t in leaves]
    values, X, F, w = leaves
    graph = Graph(X, g.edge_index, F, w, g.batch, g.num_graphs)
    given = TopK(values, S.index, S.num_clusters)
    coarse = coarsen(
        graph,
        given.dense() if dense else given,
        sample.clusters,
        drop_self_loops=drop,
        backend=backend,
    )
    pairs = [tuple(pair) for pair in coarse.edge_index.T.tolist()]
    kept = sorted(joined(g, S.dense(), sample.clusters, drop))
    if dense:
        place = torch.tensor([pairs.index(pair) for pair in kept], dtype=torch.int64)
        out = [coarse.x, coarse.edge_weight[place]]
        out += [] if F is None else [coarse.edge_attr[place]]
    else:
        assert pairs == kept
        out = [coarse.x, coarse.edge_weight] + ([] if F is None else [coarse.edge_attr])
    gen = torch.Generator().manual_seed(3)
    total = sum((t * torch.randn(t.shape, generator=gen, dtype=t.dtype)).sum() for t in out)
    leaves = [t for t in leaves if t is not None]
    grads = torch.autograd.grad(total, leaves, allow_unused=True)
    return [*out, *(torch.zeros(0) if grad is None else grad for grad in grads)]


def check(sample: Sample, k: int, drop: bool, backend: str) -> None:
    found = results(sample, k, drop, backend, dense=False)
    for a, b in zip(found, results(sample, k, drop, backend, dense=True), strict=True):
        assert torch.equal(a, b)


@on_backends
@pytest.mark.parametrize("drop", [True, False])
@pytest.mark.parametrize("k", [1, 2, 6])
def test_only_joined_pairs_are_left_of_the_dense_result(backend, drop, k):
    for seed in range(2):
        check(make_sample(**SIZES, K=6, seed=seed), k, drop, backend)


@given(samples(), st.integers(1, 4), st.booleans())
def test_on_random_batches(sample, k, drop):
    check(sample, k, drop, "sparse")


def test_a_new_graph_would_get_the_same_plan():
    coarse = coarsen((sample := make_sample(**SIZES, K=6)).graph, few(sample, 2), sample.clusters)
    again = Graph(coarse.x, coarse.edge_index, None, None, coarse.batch, coarse.num_graphs).plan
    names = ("nodes", "edges", "node_ptr", "edge_ptr", "src", "dst", "out_ptr", "out_edge")
    for name in (*names, "in_ptr", "in_edge", "batch"):
        assert torch.equal(getattr(again, name), getattr(coarse.plan, name)), name
    assert (again.slots, again.undirected) == (coarse.plan.slots, coarse.plan.undirected)


@on_backends
def test_law_3_every_node_its_own_cluster_gives_the_graph_back(backend):
    ring = torch.tensor([[0, 1, 1, 2, 2, 0, 3, 4], [1, 0, 2, 1, 0, 2, 4, 3]])
    order = (ring[0] * 5 + ring[1]).argsort()
    batch = torch.tensor([0, 0, 0, 1, 1])
    graph = Graph(torch.randn(5, 3), ring[:, order], torch.randn(8, 2), torch.rand(8), batch)
    own = torch.tensor([0, 1, 2, 0, 1])[:, None]
    coarse = coarsen(graph, TopK(torch.ones(5, 1), own, 3), [3, 2], backend=backend)
    assert torch.equal(coarse.edge_index, graph.edge_index)  # the dense one has (0, 2) both ways
    torch.testing.assert_close(coarse.x, graph.x)
    torch.testing.assert_close(coarse.edge_weight, graph.edge_weight)
    torch.testing.assert_close(coarse.edge_attr, graph.edge_attr)


@on_backends
def test_lift_and_losses_are_those_of_the_dense_assignment(backend):
    sample = make_sample(**SIZES, K=6)
    graph, S, c = sample.graph, few(sample, 2), sample.clusters
    rows = torch.randn(int(c.sum()), 3, dtype=torch.float64)
    for function in (
        lambda S: lift(rows, graph, S, c, backend=backend),
        lambda S: link_loss(graph, S, c, backend=backend),
        lambda S: entropy_loss(graph, S, c, convention="pyg", backend=backend),
    ):
        assert torch.equal(function(S), function(S.dense()))


@pytest.mark.parametrize(
    "values, index, message",
    [
        (torch.rand(4), torch.zeros(4).long(), "values must be a floating-point V x k tensor"),
        (torch.ones(4, 2).long(), torch.zeros(4, 2).long(), "values must be a floating-point V"),
        (
            torch.rand(4, 2),
            torch.zeros(4, 1).long(),
            r"index must be an int64 tensor of shape \(4,",
        ),
        (torch.rand(4, 1), torch.zeros(4, 1), "index must be an int64 tensor"),
        (torch.rand(4, 1), None, "index must be a dense tensor, but is NoneType"),
        (
            torch.rand(4, 1).to_sparse(),
            None,
            "values must be a dense tensor, but is torch.sparse_coo",
        ),
        (
            torch.rand(4, 1),
            torch.full((4, 1), 3),
            "index holds cluster 3, but there are clusters 0",
        ),
        (torch.rand(4, 1), torch.full((4, 1), -1), "index holds cluster -1, but there are"),
        (torch.rand(4, 2), torch.ones(4, 2).long(), "index names a cluster twice for node 0"),
    ],
)
def test_what_does_not_fit_is_named(values, index, message):
    with pytest.raises(ValueError, match=message):
        TopK(values, index, 3)


@pytest.mark.parametrize("wrong", [2.0, "3", None, True, -1])
def test_the_number_of_clusters_is_checked(wrong):
    with pytest.raises(ValueError, match="num_clusters must be an int of at least 0, but is "):
        TopK(torch.rand(4, 1), torch.zeros(4, 1).long(), wrong)


def test_a_graph_that_was_pooled_in_inference_mode_can_be_trained_on():
    graph = Graph(torch.rand(5, 3), torch.tensor([[0, 1, 1, 2], [1, 0, 2, 1]]))
    with torch.inference_mode():
        coarse = coarsen(graph, TopK(*torch.rand(5, 4).topk(2, 1), 4))
    rows = torch.rand(coarse.num_nodes, 3, requires_grad=True)
    rows.index_select(0, coarse.edge_index[0]).sum().backward()
    assert rows.grad.sum() == 3 * coarse.num_edges


def test_a_share_beyond_the_clusters_of_a_graph_is_refused():
    graph = Graph(torch.rand(3, 1), torch.tensor([[0], [1]]), batch=torch.tensor([0, 0, 1]))
    with pytest.raises(ValueError, match="which has 1 clusters: later columns must be 0"):
        coarsen(graph, TopK(torch.ones(3, 1), torch.tensor([[0], [1], [0]]), 2), [1, 1])


def test_graph_validates_it():
    graph = Graph(torch.rand(2, 1), torch.tensor([[0], [1]]))
    S = TopK(torch.rand(2, 1), torch.tensor([[0], [1]]), 2)
    assert graph.validate(S) is graph
    with pytest.raises(ValueError, match="which has 1 clusters: later columns must be 0"):
        graph.validate(S, [1])
    S.index[0] = 2  # as on a GPU, where nothing looks
    with pytest.raises(ValueError, match="index holds cluster 2, but there are clusters 0 to 1"):
        graph.validate(S)


@pytest.mark.parametrize("backend", BACKENDS)
def test_the_layer_shares_nodes_among_their_best_clusters(backend):
    torch.manual_seed(0)
    graph = make_sample([8, 1, 12, 0], [16, 0, 30, 0], [1, 1, 1, 1], K=1, D=6).to(torch.float32)
    layer = DiffPool(6, max_clusters=6, ratio=0.5, top_k=2)
    plain = DiffPool(6, max_clusters=6, ratio=0.5)
    plain.load_state_dict(layer.state_dict())
    with tritonpool.use_backend(backend):
        coarse, S, losses = layer(graph.graph)
        complete, every, _ = plain(graph.graph)
    counts = layer.counts(graph.graph)
    assert counts.tolist() == [4, 1, 6, 0]
    assert ((S > 0).sum(1) == counts[graph.graph.batch].clamp(max=2)).all()
    torch.testing.assert_close(S.sum(1), torch.ones(21))
    # the two best keep their places and their ratio
    assert torch.equal(S.argmax(1), every.argmax(1))
    two = every.topk(2, 1).values
    torch.testing.assert_close(S.amax(1), two[:, 0] / two.sum(1))
    assert coarse.num_edges < complete.num_edges
    assert set(map(tuple, coarse.edge_index.T.tolist())) == joined(
        graph.graph, S.detach(), counts, True
    )
    (coarse.x.square().sum() + coarse.edge_attr.square().sum() + sum(losses.values())).backward()
    assert all(p.grad.isfinite().all() and p.grad.any() for p in layer.parameters())


def test_hard_clusters_are_joined_by_edges_too():
    graph = make_sample([8, 12], [16, 30], [1, 1], K=1, D=6).graph
    layer = DiffPool(6, max_clusters=6, ratio=0.5, top_k=3).double().eval()
    coarse, S, _ = layer(graph, hard=True)
    assert (S.amax(1) == 1).all()
    assert set(map(tuple, coarse.edge_index.T.tolist())) == joined(
        graph, S, layer.counts(graph), True
    )


def test_scores_beyond_the_clusters_of_a_graph_are_never_best():
    scores = torch.tensor([[1.0, 2.0, 9.0], [1.0, 2.0, 9.0]])
    inf = float("inf")
    found = best_only(scores, torch.tensor([2, 3]), 1)
    assert torch.equal(found, torch.tensor([[-inf, 2, -inf], [-inf, -inf, 9]]))
    assert best_only(scores, torch.tensor([2, 3]), 3) is scores


def test_equal_scores_do_not_add_clusters():
    layer = DiffPool(2, max_clusters=4, ratio=1, top_k=2)
    torch.nn.init.zeros_(layer.assignment[-1].weight)
    torch.nn.init.zeros_(layer.assignment[-1].bias)
    graph = Graph(torch.rand(5, 2), torch.tensor([[0, 1], [1, 2]]))
    assert torch.equal((layer(graph)[1] > 0).sum(1), torch.full((5,), 2))


def test_settings_of_the_layer():
    assert "top_k=2" in repr(DiffPool(5, 4, top_k=2))
    assert "top_k" not in repr(DiffPool(5, 4))
    for wrong in (1, 2.5, True):
        with pytest.raises(ValueError, match="top_k must be an int of at least 2, but is "):
            DiffPool(5, 4, top_k=wrong)


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.filterwarnings("ignore:Dynamo detected a call")
def test_compiled_code_is_one_graph_with_the_same_results(backend):
    torch._dynamo.reset()
    layer = DiffPool(3, max_clusters=4, ratio=0.5, top_k=2).double()
    counter = CompileCounterWithBackend("aot_eager")

    def forward(graph):
        coarse, S, losses = layer(graph)
        values, index = coarse.x.abs().topk(1, 1)
        upper = coarsen(coarse, TopK(values, index, 3), backend=backend)
        total = upper.x.square().sum() + upper.edge_attr.sum() + coarse.edge_weight.square().sum()
        return coarse.edge_index, upper.edge_index, S, total + sum(losses.values())

    compiled = torch.compile(forward, fullgraph=True, backend=counter)

    def outcome(function, graph):
        layer.zero_grad()
        with tritonpool.use_backend(backend):
            *found, total = function(graph)
            total.backward()
        return [*found, total.detach(), *(p.grad.clone() for p in layer.parameters())]

    for seed in range(3):
        graph = make_sample([6, 1, 7 + seed], [9, 0, 12], [3, 1, 2], K=3, seed=seed).graph
        for a, b in zip(outcome(compiled, graph), outcome(forward, graph), strict=True):
            torch.testing.assert_close(a, b)
    assert counter.frame_count <= 2
    torch._dynamo.reset()
