"""The laws that every backend must keep, as properties of random batches.

On ``triton`` the kernels run in the interpreter unless there is a GPU. Law 11, which needs a whole
model, is in test_chemprop_*.py.
"""

import pytest
import torch
from batches import (
    BACKENDS,
    LARGE,
    Sample,
    everything,
    examples,
    make_sample,
    relative_rms,
    samples,
)
from hypothesis import given
from hypothesis import strategies as st

import tritonpool
from tritonpool import reference
from tritonpool.ops import in_plan_order
from tritonpool.planning import coarse_plan

pytestmark = pytest.mark.usefixtures("kernels_on_gpu")
on_backends = pytest.mark.parametrize("backend", BACKENDS)


def close(value, expected, tolerance=1e-12):
    assert value.shape == expected.shape
    scale = expected.abs().max() if expected.numel() else 0
    torch.testing.assert_close(value, expected, rtol=0, atol=float(tolerance * max(1, scale)))


def same(first: dict, second: dict, tolerance: float = 0.0) -> None:
    assert first.keys() == second.keys()
    for name in first:
        if tolerance:
            close(first[name], second[name], tolerance)
        else:
            assert torch.equal(first[name], second[name]), name


def dense(graph: tritonpool.Graph, values: torch.Tensor) -> torch.Tensor:
    """Edge values as an ``n x n`` tensor per pair of nodes, for graphs without parallel edges."""
    out = values.new_zeros(graph.num_nodes, graph.num_nodes, *values.shape[1:])
    out[graph.edge_index[0], graph.edge_index[1]] = values
    return out


def residuals(sample: Sample) -> torch.Tensor:
    """``||A - S S^T||^2`` of every graph, from the reference loops."""
    g = sample.graph
    w = in_plan_order(g.edge_weight, g)
    return reference.losses_fwd(sample.S, w, g.plan, coarse_plan(g.plan, sample.clusters, True))[0]


@on_backends
def test_law_1_equals_the_reference_in_float64(backend):
    @examples(backend)
    @given(samples(max_nodes=4, max_edges=6, max_clusters=3), st.booleans())
    def check(sample, drop):
        expected = everything(sample, "reference", drop)
        found = everything(sample, backend, drop)
        assert {k: v.dtype for k, v in found.items()} == {k: v.dtype for k, v in expected.items()}
        # dividing by W, and by a norm near 0, magnifies rounding in the gradients
        divisors = torch.cat([expected["W"], residuals(sample), torch.ones(1)])
        same(found, expected, 1e-12 / float(divisors[divisors > 1e-8].amin()))

    check()


def test_the_dense_formulas_of_these_tests_equal_the_reference():
    for seed in range(20):
        sample = make_sample([4, 3, 1], [6, 5, 2], [3, 2, 1], K=3, seed=seed)
        same(everything(sample, "einsum"), everything(sample, "reference"), 1e-11)


@on_backends
@pytest.mark.parametrize("C", [None, 5, 20])
@pytest.mark.parametrize("drop", [True, False])
def test_law_1_on_several_tiles(backend, C, drop):
    sample = make_sample(**LARGE, K=20, D=40, C=C)
    expected = everything(sample, "einsum", drop)
    same(everything(sample, backend, drop), expected, 1e-11)
    found = everything(sample.to(torch.float32), backend, drop)
    assert float(expected["W"].max()) > 0.1
    for name, value in found.items():
        assert value.dtype == torch.float32
        assert relative_rms(value, expected[name]) < 1e-5, name


@on_backends
@pytest.mark.parametrize("dtype, tolerance", [(torch.bfloat16, 2e-2), (torch.float16, 2e-3)])
def test_law_1_half_inputs_accumulate_in_float32(backend, dtype, tolerance):
    sample = make_sample([12, 9], [40, 20], [5, 3], K=6, D=8, C=5).to(dtype)
    expected = everything(sample.to(torch.float64), "reference")
    found = everything(sample, backend)
    for name in ("X'", "F'", "lift", "dS", "dx", "dedge_attr", "dedge_weight"):
        assert found[name].dtype == dtype, name
    for name in ("W", "link", "entropy"):  # not rounded to half at all
        assert found[name].dtype == torch.float32
        assert relative_rms(found[name], expected[name]) < 1e-5, name
    for name, value in found.items():
        assert relative_rms(value, expected[name]) < tolerance, name


@on_backends
def test_law_2_conservation(backend):
    @examples(backend)
    @given(samples(weights=True))
    def check(sample):
        g = sample.graph
        coarse = sample.coarsen(backend, drop_self_loops=False)
        close(coarse.x.sum(0), g.x.sum(0))
        close(coarse.edge_weight.sum(), g.edge_weight.sum())
        if g.edge_attr is not None:
            total = (coarse.edge_weight[:, None] * coarse.edge_attr).sum(0)
            F = g.edge_attr
            slack = sample.S.shape[1] ** 2 * 1e-8 * (float(F.abs().max()) if F.numel() else 0)
            close(total, (g.edge_weight[:, None] * F).sum(0), 1e-12 + g.num_graphs * slack)

    check()


@on_backends
def test_law_3_identity(backend):
    @examples(backend)
    @given(st.lists(st.integers(0, 5), max_size=3), st.integers(0, 999), st.booleans())
    def check(nodes, seed, loops):
        gen = torch.Generator().manual_seed(seed)
        first, pairs, batch = 0, [], []
        for g, n in enumerate(nodes):
            wanted = torch.rand(n, n, generator=gen) < 0.5
            if not loops:
                wanted.fill_diagonal_(False)
            pairs.append(wanted.nonzero().T + first)
            batch += [g] * n
            first += n
        edge_index = torch.cat([torch.zeros(2, 0, dtype=torch.int64), *pairs], 1)
        edge_index = edge_index[:, torch.randperm(edge_index.shape[1], generator=gen)]
        V, E = first, edge_index.shape[1]
        graph = tritonpool.Graph(
            torch.rand(V, 2, generator=gen).double(),
            edge_index,
            torch.rand(E, 3, generator=gen).double(),
            torch.rand(E, generator=gen).double() + 0.1,
            torch.tensor(batch, dtype=torch.int64),
            len(nodes),
        )
        K = max([1, *nodes])
        local = torch.arange(V) - graph.plan.node_ptr[graph.batch]
        S = torch.nn.functional.one_hot(local, K).double()
        coarse = tritonpool.coarsen(graph, S, nodes, drop_self_loops=not loops, backend=backend)
        assert torch.equal(coarse.batch, graph.batch)
        close(coarse.x, graph.x)
        close(dense(coarse, coarse.edge_weight), dense(graph, graph.edge_weight))
        close(dense(coarse, coarse.edge_attr), dense(graph, graph.edge_attr))
        assert int((coarse.edge_weight > 0).sum()) == E

    check()


@on_backends
def test_law_4_composition(backend):
    @examples(backend)
    @given(samples(C=3, hard=False), st.integers(1, 3), st.integers(0, 999))
    def check(sample, K2, seed):
        first = sample.coarsen(backend, drop_self_loops=False)
        gen = torch.Generator().manual_seed(seed)
        S2 = torch.randn(first.num_nodes, K2, generator=gen).double().softmax(1)
        counts = torch.where(sample.clusters > 0, K2, 0)
        twice = tritonpool.coarsen(first, S2, counts, drop_self_loops=False, backend=backend)
        S1 = sample.S
        product = S1.new_zeros(S1.shape[0], K2)
        for g in range(sample.graph.num_graphs):
            rows = sample.graph.batch == g
            product[rows] = S1[rows, : sample.clusters[g]] @ S2[first.batch == g]
        once = tritonpool.coarsen(
            sample.graph, product, counts, drop_self_loops=False, backend=backend
        )
        close(twice.x, once.x)
        close(twice.edge_weight, once.edge_weight)
        live = once.edge_weight > 1e-4
        close(twice.edge_attr[live], once.edge_attr[live], 1e-10)

    check()


@on_backends
def test_law_5_hard_assignment_gives_means(backend):
    pyg = pytest.importorskip("torch_geometric.utils")

    @examples(backend)
    @given(samples(C=3, hard=True, weights=False))
    def check(sample):
        g = sample.graph
        coarse = sample.coarsen(backend)
        first = coarse.plan.node_ptr[g.batch]
        cluster = first + sample.S.argmax(1)
        ends, values = pyg.remove_self_loops(cluster[g.edge_index], g.edge_attr)
        # not pool_edge, which takes edges for the same if there are more clusters than nodes
        index, mean = pyg.coalesce(ends, values, coarse.num_nodes, reduce="mean")
        expected = mean.new_zeros(coarse.num_nodes, coarse.num_nodes, 3)
        expected[index[0], index[1]] = mean
        close(dense(coarse, coarse.edge_attr), expected)
        assert int((coarse.edge_weight > 0).sum()) == index.shape[1]

    check()


def part(sample: Sample, g: int) -> Sample:
    """One graph of the batch alone."""
    graph, rows = sample.graph, sample.graph.batch == g
    own = rows[graph.edge_index[0]]
    first = int(rows.nonzero()[0]) if rows.any() else 0
    alone = tritonpool.Graph(
        graph.x[rows],
        graph.edge_index[:, own] - first,
        None if graph.edge_attr is None else graph.edge_attr[own],
        None if graph.edge_weight is None else graph.edge_weight[own],
        None,
        1,
    )
    return Sample(alone, sample.S[rows], sample.clusters[g : g + 1])


def pieces(sample: Sample, backend: str, g: int | None) -> dict:
    """Outputs and gradients of one graph, in the batch (``g``) or alone (``None``)."""
    graph = sample.graph
    S, x = sample.S.clone().requires_grad_(), graph.x.clone().requires_grad_()
    F = graph.edge_attr.clone().requires_grad_()
    own = tritonpool.Graph(x, graph.edge_index, F, graph.edge_weight, graph.batch, graph.num_graphs)
    coarse = tritonpool.coarsen(own, S, sample.clusters, backend=backend)
    loss = coarse.x.square().sum() + coarse.edge_attr.sin().sum() + coarse.edge_weight.cos().sum()
    dS, dx, dF = torch.autograd.grad(loss, (S, x, F))
    out = {"x": coarse.x, "w": coarse.edge_weight, "f": coarse.edge_attr}
    out = {k: v.detach() for k, v in out.items()} | {"dS": dS, "dx": dx, "dF": dF}
    if g is None:
        return out
    nodes, clusters = graph.batch == g, coarse.batch == g
    pairs, edges = clusters[coarse.edge_index[0]], nodes[graph.edge_index[0]]
    masks = {"x": clusters, "w": pairs, "f": pairs, "dS": nodes, "dx": nodes, "dF": edges}
    return {name: value[masks[name]] for name, value in out.items()}


@on_backends
def test_law_6_independent_of_batch_mates(backend):
    @examples(backend)
    @given(samples(C=3), st.data())
    def check(sample, data):
        if sample.graph.num_graphs == 0:
            return
        sample = sample.to(torch.float32)
        g = data.draw(st.integers(0, sample.graph.num_graphs - 1))
        together, alone = pieces(sample, backend, g), pieces(part(sample, g), backend, None)
        same(together, alone, 0.0 if backend == "triton" else 1e-5)

    check()


def test_law_6_bitwise_on_several_tiles():
    sample = make_sample(**LARGE, K=20, D=40, C=5).to(torch.float32)
    for g in (0, 3):
        same(pieces(sample, "triton", g), pieces(part(sample, g), "triton", None))


@on_backends
def test_law_6_and_7_independent_of_order(backend):
    """Permuting edges permutes nothing in the result; permuting nodes within graphs permutes the
    gradient; permuting clusters permutes coarse nodes and pairs."""

    @examples(backend)
    @given(samples(C=3), st.integers(0, 999))
    def check(sample, seed):
        gen = torch.Generator().manual_seed(seed)
        g = sample.graph
        first = everything(sample, backend, drop_self_loops=False)
        edges = torch.randperm(g.num_edges, generator=gen)
        nodes = torch.argsort(g.batch + torch.rand(g.num_nodes, generator=gen) / 2)
        place = torch.argsort(nodes)
        K = sample.S.shape[1]
        columns = torch.stack(
            [
                torch.cat([torch.randperm(int(c), generator=gen), torch.arange(int(c), K)])
                for c in sample.clusters
            ]
            or [torch.arange(K)]
        )
        S = sample.S.gather(1, columns[g.batch])
        other = Sample(
            tritonpool.Graph(
                g.x[nodes],
                place[g.edge_index[:, edges]],
                g.edge_attr[edges],
                None if g.edge_weight is None else g.edge_weight[edges],
                g.batch,
                g.num_graphs,
            ),
            S[nodes],
            sample.clusters,
        )
        found = other.coarsen(backend, drop_self_loops=False)
        own = torch.arange(found.num_nodes) - found.plan.node_ptr[found.batch]
        old = found.plan.node_ptr[found.batch] + columns[found.batch, own]
        close(found.x, first["X'"][old])
        back = sample.coarsen(backend, drop_self_loops=False)
        close(dense(found, found.edge_weight), dense(back, back.edge_weight)[old][:, old])
        close(dense(found, found.edge_attr), dense(back, back.edge_attr)[old][:, old], 1e-10)

    check()


@on_backends
def test_law_8_symmetric_input_gives_symmetric_output(backend):
    @examples(backend)
    @given(samples(C=3))
    def check(sample):
        g = sample.graph
        both = tritonpool.Graph(
            g.x,
            torch.cat([g.edge_index, g.edge_index.flip(0)], 1),
            torch.cat([g.edge_attr, g.edge_attr]),
            None if g.edge_weight is None else torch.cat([g.edge_weight, g.edge_weight]),
            g.batch,
            g.num_graphs,
        )
        coarse = tritonpool.coarsen(both, sample.S, sample.clusters, backend=backend)
        F, W = dense(coarse, coarse.edge_attr), dense(coarse, coarse.edge_weight)
        close(F, F.transpose(0, 1), 1e-10)
        close(W, W.T)

    check()


@pytest.mark.parametrize("backend", ["reference", *BACKENDS])
@pytest.mark.parametrize(
    "sizes",
    [
        ([], [], []),
        ([0], [0], [1]),
        ([1], [0], [1]),
        ([1], [2], [1]),
        ([0, 3, 0], [0, 4, 0], [1, 2, 1]),
        ([4, 2], [6, 0], [2, 2]),
        ([3, 5], [9, 9], [1, 1]),
    ],
    ids=["no graph", "no atom", "one atom", "self-loop", "gaps", "last edgeless", "one cluster"],
)
@pytest.mark.parametrize("hard", [False, True])
@pytest.mark.parametrize("dtype", [torch.float64, torch.float16])
def test_law_9_corner_cases_are_right_and_finite(backend, sizes, hard, dtype):
    sample = make_sample(*sizes, K=3, hard=hard, weights=False).to(dtype)
    expected = everything(sample.to(torch.float64), "reference")
    found = everything(sample, backend)
    for name, value in found.items():
        assert torch.isfinite(value).all(), name
        close(value.double(), expected[name], 1e-12 if dtype == torch.float64 else 4e-3)


@on_backends
def test_law_10_bitwise_repeatable(backend):
    sample = make_sample(**LARGE, K=20, D=40, C=5).to(torch.float32)
    same(everything(sample, backend), everything(sample, backend))


@pytest.mark.parametrize("backend", ["reference", *BACKENDS])
def test_no_gradient_through_features_of_unsupported_pairs(backend):
    """W <= eps: the value is N / eps and the gradient is 0, not 1 / eps times something."""
    sample = make_sample([3, 4], [3, 6], [2, 3], K=3)
    graph = sample.graph.replace(edge_weight=sample.graph.edge_weight * 1e-10)
    found = everything(Sample(graph, sample.S, sample.clusters), backend, eps=1e-8)
    full = sample.coarsen(backend)
    W = full.edge_weight * 1e-10
    assert float(W.max()) < 1e-8
    close(found["F'"], full.edge_attr * (W / 1e-8)[:, None])
    assert torch.equal(found["dedge_attr"], torch.zeros_like(found["dedge_attr"]))
    assert float(found["dS"].abs().max()) < 1e3
