"""The auxiliary losses: conventions of PyG and tgp, cancellation, independence of padding."""

import pytest
import torch
from batches import BACKENDS, make_sample, samples
from hypothesis import given

from tritonpool import Graph, entropy_loss, link_loss, losses
from tritonpool.autograd import Losses
from tritonpool.planning import coarse_plan

pytestmark = pytest.mark.usefixtures("kernels_on_gpu")
on_backends = pytest.mark.parametrize("backend", BACKENDS)


@on_backends
@pytest.mark.parametrize("seed", range(3))
def test_pyg_convention_equals_dense_diff_pool(backend, seed):
    nn = pytest.importorskip("torch_geometric.nn")
    utils = pytest.importorskip("torch_geometric.utils")
    sample = make_sample([5, 3, 7], [8, 4, 12], [3, 3, 3], K=3, seed=seed, shuffle=False)
    g = sample.graph
    x, mask = utils.to_dense_batch(g.x, g.batch)
    logits, _ = utils.to_dense_batch(sample.S.log(), g.batch)
    adj = utils.to_dense_adj(g.edge_index, g.batch, g.edge_weight)
    _, _, link, entropy = nn.dense_diff_pool(x, adj, logits, mask)
    for loss, expected in ((link_loss, link), (entropy_loss, entropy)):
        found = loss(g, sample.S, convention="pyg", backend=backend)
        torch.testing.assert_close(found, expected, rtol=1e-10, atol=1e-12)


@on_backends
def test_tgp_convention_divides_by_real_entries(backend):
    sample = make_sample([5, 3, 7], [8, 4, 12], [3, 3, 3], K=3)
    g, S = sample.graph, sample.S
    A = torch.zeros(15, 15).double()
    A.index_put_(tuple(g.edge_index), g.edge_weight, accumulate=True)
    own = g.batch[:, None] == g.batch
    expected = ((A - S @ S.T) * own).norm() / (5**2 + 3**2 + 7**2)
    found = link_loss(g, S, convention="tgp", backend=backend)
    torch.testing.assert_close(found, expected)
    entropy = -(S * S.log()).sum() / 15
    torch.testing.assert_close(entropy_loss(g, S, convention="tgp", backend=backend), entropy)


@on_backends
@pytest.mark.parametrize("edges", [[(0, 1), (1, 0), (1, 2), (2, 1)], [(0, 1), (1, 2), (2, 0)]])
def test_link_loss_without_weights_equals_the_dense_formula(backend, edges):
    """Of an undirected graph and of a directed one, with its gradient."""
    graph = Graph(torch.zeros(3, 1, dtype=torch.float64), torch.tensor(edges).T)
    assert graph.plan.undirected == (len(edges) == 4)
    A = torch.zeros(3, 3, dtype=torch.float64)
    A[tuple(graph.edge_index)] = 1
    gen = torch.Generator().manual_seed(0)
    S = torch.rand(3, 2, generator=gen, dtype=torch.float64).requires_grad_()
    expected = (A - S @ S.T).norm() / 3
    found = link_loss(graph, S, backend=backend)
    torch.testing.assert_close(found, expected)
    grads = (torch.autograd.grad(loss, S)[0] for loss in (found, expected))
    torch.testing.assert_close(*grads)


def cliques(*sizes, noise=0.0, dtype=torch.float64):
    """Graphs made of complete blocks with self-loops, and the S that explains them exactly."""
    n = sum(sizes)
    block = torch.repeat_interleave(torch.arange(len(sizes)), torch.tensor(sizes))
    edge_index = (block[:, None] == block).nonzero().T
    S = torch.nn.functional.one_hot(block).to(dtype)
    S = (1 - noise) * S + noise / len(sizes)
    return Graph(torch.zeros(n, 1, dtype=dtype), edge_index), S


@on_backends
@pytest.mark.parametrize("dtype", [torch.float64, torch.float32])
def test_at_the_optimum_loss_and_gradient_are_zero(backend, dtype):
    graph, S = cliques(3, 2, dtype=dtype)
    S.requires_grad_()
    loss = link_loss(graph, S, backend=backend)
    assert loss.item() == 0
    loss.backward()
    assert torch.equal(S.grad, torch.zeros_like(S))


@on_backends
def test_rounding_at_an_inexact_optimum_counts_as_zero(backend):
    """A = S S^T up to rounding: the direction of what is left over is noise, not a gradient."""
    S = torch.rand(5, 3).double().softmax(1).requires_grad_()
    edge_index = torch.ones(5, 5).nonzero().T
    graph = Graph(torch.zeros(5, 1), edge_index, None, (S @ S.T).detach().flatten())
    loss = link_loss(graph, S, backend=backend)
    loss.backward()
    assert loss.item() == 0
    assert torch.equal(S.grad, torch.zeros_like(S))


@on_backends
@pytest.mark.parametrize("noise", [1e-1, 1e-3, 1e-4])
def test_near_the_optimum_nothing_cancels(backend, noise):
    """The expanded form loses all digits here in float32; the result must not."""
    graph, S = cliques(6, 5, 4, noise=noise, dtype=torch.float32)
    exact = S.double().requires_grad_()
    A = torch.zeros(15, 15).double()
    A[tuple(graph.edge_index)] = 1
    expected = (A - exact @ exact.T).norm() / 15
    expected.backward()
    S.requires_grad_()
    loss = link_loss(graph, S, backend=backend)
    loss.backward()
    assert loss.item() == pytest.approx(expected.item(), rel=1e-5)
    error = (S.grad - exact.grad).norm() / exact.grad.norm()
    assert float(error) < 1e-4


@on_backends
def test_losses_do_not_depend_on_batch_mates_or_empty_graphs(backend):
    sample = make_sample([5, 0, 3], [8, 0, 4], [3, 1, 2], K=3)
    g, S = sample.graph, sample.S
    for loss in (link_loss, entropy_loss):
        alone = []
        for i in (0, 2):
            rows = g.batch == i
            own = rows[g.edge_index[0]]
            first = int(rows.nonzero()[0])
            one = Graph(g.x[rows], g.edge_index[:, own] - first, None, g.edge_weight[own])
            alone.append(loss(one, S[rows], backend=backend))
        expected = (alone[0] + alone[1]) / 3  # the graph without nodes counts 0
        torch.testing.assert_close(loss(g, S, sample.clusters, backend=backend), expected)


@given(samples(weights=False))
def test_no_weights_means_one_each(sample):
    g = sample.graph
    ones = g.replace(edge_weight=torch.ones(g.num_edges).double())
    first = link_loss(g, sample.S, sample.clusters)
    torch.testing.assert_close(first, link_loss(ones, sample.S, sample.clusters))


def test_entropy_counts_nothing_for_zeros_and_log_k_for_uniform():
    graph = Graph(torch.zeros(2, 1), torch.zeros(2, 0, dtype=torch.int64))
    S = torch.tensor([[0.5, 0.5], [0.0, 1.0]], requires_grad=True)
    loss = entropy_loss(graph, S)
    loss.backward()
    assert loss.item() == pytest.approx(torch.log(torch.tensor(2.0)).item() / 2)
    assert torch.isfinite(S.grad).all() and float(S.grad[1, 0]) == 0


def test_unknown_convention():
    graph, S = cliques(2, 2)
    with pytest.raises(ValueError, match="unknown convention 'dgl'; expected one of mean, pyg, tg"):
        link_loss(graph, S, convention="dgl")


def batch_of(graphs, dtype, weighted):
    """A batch of 0 to 3 nodes each, ``S`` and weights; those of two nodes have residual 0."""
    nodes = torch.arange(graphs) % 4
    batch = torch.repeat_interleave(nodes)
    first = nodes.cumsum(0) - nodes
    edges = [first[nodes == 3] + torch.tensor(ends)[:, None] for ends in ((0, 1), (1, 2))]
    loops = first[nodes == 2] + torch.tensor([[0], [0]])
    edge_index = torch.cat([*edges, loops, loops + 1], 1)
    gen = torch.Generator().manual_seed(0)
    S = torch.rand(len(batch), 2, generator=gen, dtype=dtype)
    S[nodes[batch] == 2] = torch.eye(2, dtype=dtype).repeat(int((nodes == 2).sum()), 1)
    w = torch.rand(edge_index.shape[1], generator=gen, dtype=dtype) if weighted else None
    if weighted:
        w[-2 * loops.shape[1] :] = 1
    order = batch[edge_index[0]].argsort(stable=True)
    plan = Graph(S, edge_index[:, order], None, None, batch, graphs).plan
    return S.requires_grad_(), w[order].requires_grad_() if weighted else None, plan, nodes


@pytest.mark.parametrize("backend", ["reference", *BACKENDS])
@pytest.mark.parametrize(
    ("graphs", "weighted", "dtype"),
    [
        *((1, False, t) for t in (torch.float32, torch.float64)),  # of no node at all
        *((7, w, t) for w in (True, False) for t in (torch.float32, torch.float64)),
        (260, True, torch.float32),  # in several blocks of graphs
    ],
)
def test_means_are_those_of_the_graphs_losses(backend, graphs, weighted, dtype):
    S, w, plan, nodes = batch_of(graphs, dtype, weighted)
    coarse = coarse_plan(plan, torch.full((graphs,), 2), True)
    inputs = [S] if w is None else [S, w]
    r2, entropy = Losses.apply(S, w, plan, coarse, False, backend)
    assert (r2[nodes == 2] == 0).all() and (r2[nodes == 3] > 0).all()
    share = 1 / (nodes.clamp(min=1) * graphs)
    link = (torch.where(r2 == 0, 1, r2).sqrt() * (r2 != 0) * share).sum().to(dtype)
    expected = link, (entropy * share).sum().to(dtype)
    means = Losses.apply(S, w, plan, coarse, True, backend)
    for mean, value in zip(means, expected, strict=True):
        assert mean.shape == () and mean.dtype == dtype
        torch.testing.assert_close(mean, value)
    found = torch.autograd.grad(means[0] * 3 - means[1], inputs)
    wanted = torch.autograd.grad(expected[0] * 3 - expected[1], inputs)
    for grad, value in zip(found, wanted, strict=True):
        torch.testing.assert_close(grad, value)
    if graphs > 1:
        assert found[0][nodes[plan.batch] == 3].abs().min() > 0


@pytest.mark.filterwarnings("ignore:overflow encountered:RuntimeWarning")  # in the interpreter
@pytest.mark.parametrize("backend", ["reference", *BACKENDS])
def test_a_residual_that_is_too_large_is_not_hidden(backend):
    edges = torch.tensor([[0], [1]])
    w = torch.tensor([1e200], dtype=torch.float64)
    graph = Graph(torch.zeros(2, 1, dtype=torch.float64), edges, None, w)
    S = torch.ones(2, 1, dtype=torch.float64)
    assert link_loss(graph, S, backend=backend) == torch.inf


@pytest.mark.parametrize("backend", ["reference", *BACKENDS])
def test_a_residual_that_is_not_a_number_is_not_hidden(backend):
    """A residual of 0 has gradient 0; one that is NaN must not look like it."""
    batch, loops = torch.arange(3), torch.tensor([[1, 2], [1, 2]])
    plan = Graph(torch.zeros(3, 1), loops, batch=batch).plan
    coarse = coarse_plan(plan, torch.ones(3, dtype=torch.int64), True)
    S = torch.tensor([[2**0.5], [1.0], [torch.nan]], requires_grad=True)
    link, _ = Losses.apply(S, None, plan, coarse, True, backend)
    assert link.isnan()
    (grad,) = torch.autograd.grad(link, S)
    assert grad[:2, 0].tolist() == [pytest.approx(2 * 2**0.5 / 3), 0.0] and grad[2].isnan()
    square = torch.tensor([4.0, 0.0, torch.nan])
    for convention in ("pyg", "tgp"):
        assert losses._link(square, plan, convention).isnan()
