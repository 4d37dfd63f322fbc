"""Sums over edges and nodes and the messages of a D-MPNN: their formulas, on every backend."""

import pytest
import torch
from batches import BACKENDS, EDGES, LARGE, REV, make_sample, relative_rms, small_graph
from chemprop.data import build_dataloader
from molecules import MOLECULES, dataset
from torch import Tensor

from tritonpool import Graph, kernels, reference, sparse, use_backend
from tritonpool.kernels.launch import recording
from tritonpool.plan import Plan
from tritonpool.segments import (
    edge_messages,
    edge_shares,
    graph_sum,
    group_sum,
    neighbour_sum,
    node_sum,
    source_rows,
)

pytestmark = pytest.mark.usefixtures("kernels_on_gpu")

LEAST = 0.3  # some nodes are reached by less; not exact in any precision
TOLERANCE = {torch.float64: 1e-12, torch.float32: 1e-5, torch.bfloat16: 1e-2, torch.float16: 2e-3}
OPS = ("messages", "nodes", "neighbours", "graphs", "means", "shares", "sources")


@pytest.fixture(params=["reference", *BACKENDS])
def backend(request):
    with use_backend(request.param):
        yield request.param


def reverses(plan: Plan) -> Tensor:
    """Pairs of edges there and back; loops are their own, and some edges are left over."""
    ends = list(zip(plan.src.tolist(), plan.dst.tolist(), strict=True))
    rev, waiting = [-1] * len(ends), {}
    for e, (u, v) in enumerate(ends):
        if u == v:
            rev[e] = e
        elif waiting.get((v, u)):
            other = waiting[v, u].pop()
            rev[e], rev[other] = other, e
        else:
            waiting.setdefault((u, v), []).append(e)
    return torch.tensor(rev, dtype=torch.int64)


def large(dtype: torch.dtype, D: int, sizes: dict = LARGE):
    """Edges, nodes and weights of a batch whose nodes have up to a dozen edges, and its plan."""
    sample = make_sample(**sizes, K=20, D=D, shuffle=False).to(dtype)
    plan = sample.graph.grouped_plan
    H = torch.randn(plan.num_edges, D, dtype=torch.float64).to(dtype)
    return H, sample.graph.x, sample.graph.edge_weight, plan


def run(op: str, H: Tensor, X: Tensor, w: Tensor | None, plan: Plan, rev: Tensor):
    """The result of an op, and the inputs it depends on."""
    if op == "messages":
        return edge_messages(H, w, rev, plan), (H, w)
    if op == "nodes":
        return node_sum(H, w, plan), (H, w)
    if op == "neighbours":
        return neighbour_sum(X, w, plan), (X, w)
    if op == "shares":
        return edge_shares(w, plan, LEAST), (w,)
    if op == "sources":
        return source_rows(X, plan), (X,)
    return graph_sum(X, plan, mean=op == "means"), (X,)


def slopes(found: Tensor) -> Tensor:
    """Numbers of both signs; the first rows of a batch get those that they get alone."""
    return torch.arange(found.numel(), dtype=torch.float64).sin().view(found.shape).to(found.dtype)


def with_gradients(op: str, leaves: list, plan: Plan, rev: Tensor) -> list[Tensor]:
    leaves = [None if t is None else t.detach().requires_grad_() for t in leaves]
    found, inputs = run(op, *leaves, plan, rev)
    inputs = [t for t in inputs if t is not None]
    return [found.detach(), *torch.autograd.grad(found, inputs, slopes(found))]


OF_EDGES = "messages", "nodes", "neighbours"
CASES = [(op, dtype, 5) for op in OPS for dtype in TOLERANCE]
CASES += [(op, torch.float32, 132) for op in OF_EDGES] + [("means", torch.float64, 132)]


@pytest.mark.parametrize(("op", "dtype", "D"), CASES)
@pytest.mark.parametrize("name", BACKENDS)
def test_equals_the_plain_loops(name: str, op: str, dtype: torch.dtype, D: int):
    """Over several blocks of features and of edges, the last of both not full."""
    H, X, w, plan = large(dtype, D)
    rev, into = reverses(plan), plan.in_ptr.diff()
    assert into.max() > 8 and into.min() == 0 and (rev < 0).any() and (rev >= 0).any()
    total = torch.zeros(plan.num_nodes).double().index_add(0, plan.dst, w.double())
    assert 0 < total[total > 0].min() < LEAST < total.max()
    for weights in (w, None) if op in ("messages", "nodes") else (w,):
        leaves = [H, X, weights]
        exact = [None if t is None else t.double() for t in leaves]
        with use_backend("reference"):
            expected = with_gradients(op, exact, plan, rev)
        with use_backend(name):
            found = with_gradients(op, leaves, plan, rev)
        assert len(found) == len(expected)
        for a, b in zip(found, expected, strict=True):
            assert a.dtype == dtype and a.shape == b.shape
            assert b.norm() > 0 and relative_rms(a, b) < TOLERANCE[dtype]


@pytest.mark.parametrize("op", OPS)
@pytest.mark.parametrize("name", BACKENDS)
def test_neither_runs_nor_batch_mates_change_a_bit(name: str, op: str):
    small = {"nodes": [5, 0, 7], "edges": [30, 0, 20], "clusters": [2, 1, 3]}
    H, X, w, plan = large(torch.float32, 132, {key: 2 * values for key, values in small.items()})
    rev = reverses(plan)
    E, V, G = plan.num_edges // 2, plan.num_nodes // 2, plan.num_graphs // 2
    alone = Graph(X[:V], torch.stack([plan.src[:E], plan.dst[:E]]), None, None, plan.batch[:V], G)
    with use_backend(name):
        first, second = (with_gradients(op, [H, X, w], plan, rev) for _ in range(2))
        assert all(torch.equal(a, b) for a, b in zip(first, second, strict=True))
        own = with_gradients(op, [H[:E], X[:V], w[:E]], alone.plan, rev[:E])
    for a, b in zip(own, first, strict=True):
        assert torch.equal(a, b[: len(a)])


@pytest.mark.parametrize("sizes", [([], []), ([0, 0], [0, 0]), ([3, 0], [0, 0]), ([1], [1])])
@pytest.mark.parametrize("op", OPS)
def test_nothing_there(backend: str, op: str, sizes: tuple):
    nodes, edges = sizes
    given = {"nodes": nodes, "edges": edges, "clusters": [1] * len(nodes)}
    H, X, w, plan = large(torch.float32, 3, given)
    found = with_gradients(op, [H, X, w], plan, reverses(plan))
    assert all(t.isfinite().all() for t in found)
    if op in ("graphs", "means") and nodes:
        assert not found[0][[n == 0 for n in nodes]].any()


def test_where_the_sum_is_the_least_divisor(backend: str):
    """There the gradient is that of a quotient, as with the maximum of the formula."""
    plan = Graph(torch.zeros(3, 1), torch.tensor([[0, 1], [2, 2]])).plan
    w = torch.full((2,), LEAST / 2, dtype=torch.float64, requires_grad=True)
    found = edge_shares(w, plan, LEAST)
    torch.testing.assert_close(found, torch.full_like(found, 0.5), rtol=0, atol=1e-15)
    (grad,) = torch.autograd.grad(found[0], w)
    half = 0.5 / LEAST
    torch.testing.assert_close(grad, torch.tensor([half, -half], dtype=grad.dtype))


def test_a_weight_that_is_no_number_is_seen_by_its_neighbours(backend: str):
    """On a card, too, where the larger of NaN and a number is the number."""
    plan = Graph(torch.zeros(4, 1), torch.tensor([[0, 1, 2, 0], [3, 3, 3, 1]])).plan
    w = torch.tensor([torch.nan, 0.5, 0.25, 0.5], requires_grad=True)
    found = edge_shares(w, plan, LEAST)
    (grad,) = torch.autograd.grad(found[1] + found[3], w)
    assert found[:3].isnan().all() and found[3] == 1
    assert grad[:3].isnan().all() and grad[3] == 0


def test_numbers_of_rows_that_half_precision_cannot_hold(backend: str):
    rows = 2049
    X = torch.ones(rows, 1, dtype=torch.float16, requires_grad=True)
    plan = Graph(torch.zeros(rows, 1), torch.zeros(2, 0, dtype=torch.int64)).plan
    found = graph_sum(X, plan, mean=True)
    (grad,) = torch.autograd.grad(found, X, torch.full_like(found, 512))
    assert found.item() == 1
    assert torch.equal(grad, torch.full((rows, 1), 512 / rows, dtype=torch.float16))


def test_lists_that_are_columns_of_a_matrix(backend: str):
    H, graph = torch.randn(6, 3).double(), small_graph()
    column = torch.stack([REV, REV], 1)[:, 1]
    assert not column.is_contiguous()
    expected = edge_messages(H, None, REV, graph.plan)
    assert torch.equal(edge_messages(H, None, column, graph.plan), expected)
    order, of = torch.arange(6), torch.tensor([0, 0, 0, 1, 1, 1])
    ptr = torch.tensor([[0, 0], [3, 0], [6, 0]])
    found = group_sum(H, None, ptr[:, 0], torch.stack([order, order], 1)[:, 0], of)
    torch.testing.assert_close(found, torch.stack([H[:3].sum(0), H[3:].sum(0)]))


def test_too_few_rows_are_refused(backend: str):
    """A kernel would read and write beyond their end."""
    graph, H = small_graph(), torch.randn(6, 3).double()
    plan, X, w = graph.plan, graph.x, graph.edge_weight
    for call, words in (
        (lambda: edge_messages(H[:3], w, REV, plan), r"H .* 6 edges, .* \(3, 3\)"),
        (lambda: edge_messages(H, w[:5], REV, plan), r"w .* 6 edges, .* \(5,\)"),
        (lambda: edge_messages(H, w, REV[:5], plan), r"rev .* 6 edges"),
        (lambda: node_sum(H[:3], w[:3], plan), r"H .* 6 edges"),
        (lambda: node_sum(H, w[:3], plan), r"weight .* 6 rows"),
        (lambda: neighbour_sum(X[:5], w, plan), r"X .* 6 nodes"),
        (lambda: neighbour_sum(X, w[:5], plan), r"w .* 6 edges"),
        (lambda: graph_sum(X[:5], plan), r"X .* 6 nodes"),
        (lambda: edge_shares(w[:5], plan, LEAST), r"w .* 6 edges"),
        (lambda: source_rows(X[:5], plan), r"X .* 6 nodes"),
        (lambda: group_sum(H, None, plan.in_ptr, REV[:5], plan.dst), r"order .* 6 rows"),
        (lambda: group_sum(H, None, plan.in_ptr, REV, plan.dst[:5]), r"of .* 6 rows"),
    ):
        with pytest.raises(ValueError, match=words):
            call()


def test_other_shapes_and_integers_are_refused(backend: str):
    """A kernel would take several rows of features for one, and integers would be cut off."""
    graph, H = small_graph(), torch.randn(6, 3).double()
    plan, X, w = graph.plan, graph.x, graph.edge_weight
    heads, each = H[:, None].expand(6, 2, 3), w[:, None].expand(6, 3)
    whole = torch.ones(6, 3, dtype=torch.int64)
    for call, words in (
        (lambda: node_sum(heads, w, plan), r"H .* matrix .* float64 and shape \(6, 2, 3\)"),
        (lambda: node_sum(H, each, plan), r"weight .* vector .* shape \(6, 3\)"),
        (lambda: node_sum(whole, w, plan), r"H .* floating-point .* int64"),
        (lambda: edge_messages(heads, None, REV, plan), r"H .* \(6, 2, 3\)"),
        (lambda: edge_messages(H, each, REV, plan), r"w .* \(6, 3\)"),
        (lambda: edge_messages(H, w, REV[:, None], plan), r"rev .* integer vector .* \(6, 1\)"),
        (lambda: neighbour_sum(heads, w, plan), r"X .* \(6, 2, 3\)"),
        (lambda: neighbour_sum(X, each, plan), r"w .* \(6, 3\)"),
        (lambda: graph_sum(X[:, 0], plan), r"X .* \(6,\)"),
        (lambda: graph_sum(whole, plan, mean=True), r"X .* floating-point .* int64"),
        (lambda: edge_shares(each, plan, LEAST), r"w .* \(6, 3\)"),
        (lambda: source_rows(heads, plan), r"X .* \(6, 2, 3\)"),
        (lambda: group_sum(heads, None, plan.in_ptr, REV, plan.dst), r"rows .* \(6, 2, 3\)"),
    ):
        with pytest.raises(ValueError, match=words):
            call()


def test_a_mean_is_the_sum_over_the_number(backend: str):
    X, plan = torch.randn(6, 3, dtype=torch.float64), small_graph().plan
    expected = torch.stack([X[:3].mean(0), X[3:].mean(0)])
    torch.testing.assert_close(graph_sum(X, plan, mean=True), expected, rtol=0, atol=1e-14)


def test_only_the_gradient_that_is_asked_for(backend: str):
    """Either of two gradients alone is the one of both."""
    graph = small_graph()
    H, X, w = torch.randn(6, 3).double(), graph.x, graph.edge_weight
    for op in ("messages", "nodes", "neighbours"):
        both = with_gradients(op, [H, X, w], graph.plan, REV)[1:]
        for asked in (0, 1):
            leaves = [t.detach().clone() for t in (H, X, w)]
            chosen = leaves[2] if asked else leaves[1 if op == "neighbours" else 0]
            chosen.requires_grad_()
            found, _ = run(op, *leaves, graph.plan, REV)
            (grad,) = torch.autograd.grad(found, chosen, slopes(found))
            torch.testing.assert_close(grad, both[asked])


@pytest.mark.parametrize(("D", "before"), [(4, 4), (4, 2), (5, 5)])
def test_gradients_of_concatenated_states(backend: str, D: int, before: int):
    """They come as columns of a wider matrix, whose rows can be loaded four numbers at a time, or
    only start at multiples of 16 bytes, or not even that."""
    graph = small_graph()
    H = torch.randn(6, D, dtype=torch.float64, requires_grad=True)
    slope, strides = torch.randn(6, before + D).double(), []

    def gradient(sums: Tensor) -> Tensor:
        sums.register_hook(lambda grad: strides.append(grad.stride(0)))
        wide = torch.cat([sums.new_ones(6, before), sums], 1)
        return torch.autograd.grad((wide * slope).sum(), H)[0]

    found = gradient(node_sum(H, graph.edge_weight, graph.plan))
    by_hand = torch.zeros(6, D).double().index_add(0, EDGES[1], graph.edge_weight[:, None] * H)
    torch.testing.assert_close(found, gradient(by_hand))
    assert strides == [before + D] * 2


def test_all_backends_offer_the_same_functions():
    assert sorted(kernels.__all__) == sorted(sparse.__all__) == sorted(reference.__all__)


def test_the_chosen_backend_runs_forward_and_backward(monkeypatch):
    """Kernels only when they are asked for, and in the backward of what they made."""
    graph = small_graph(torch.float32)
    H = torch.randn(6, 4, requires_grad=True)
    with recording("sm_90") as calls:
        edge_messages(H, None, REV, graph.plan).sum().backward()
        assert not calls
        monkeypatch.setenv("TRITONPOOL_BACKEND", "triton")
        found = edge_messages(H, None, REV, graph.plan)
        monkeypatch.delenv("TRITONPOOL_BACKEND")
        found.sum().backward()
    assert [c.kernel.__name__ for c in calls] == ["messages_kernel", "messages_grad_kernel"]


def messages_by_hand(H: Tensor, w: Tensor) -> Tensor:
    rows = []
    for e in range(6):
        into = [k for k in range(6) if EDGES[1, k] == EDGES[0, e]]
        m = sum((w[k] * H[k] for k in into), torch.zeros_like(H[0]))
        rows.append(m - w[REV[e]] * H[REV[e]] if REV[e] >= 0 else m)
    return torch.stack(rows)


def test_edge_messages_are_the_formula(backend: str):
    H, graph = torch.randn(6, 5, dtype=torch.float64), small_graph()
    found = edge_messages(H, graph.edge_weight, REV, graph.plan)
    torch.testing.assert_close(found, messages_by_hand(H, graph.edge_weight), rtol=0, atol=1e-14)
    loop = found[3]  # the loop is its own reverse, so only the other edge into node 3 is left
    torch.testing.assert_close(loop, graph.edge_weight[5] * H[5], rtol=0, atol=1e-14)


@pytest.mark.parametrize("name", ["reference", "sparse"])  # many calls, slow where interpreted
def test_gradients_of_all_sums(name: str):
    graph = small_graph()
    plan, w = graph.plan, graph.edge_weight.requires_grad_()
    H = torch.randn(6, 2, dtype=torch.float64, requires_grad=True)
    with use_backend(name):
        assert torch.autograd.gradcheck(lambda h, v: edge_messages(h, v, REV, plan), (H, w))
        assert torch.autograd.gradcheck(lambda h, v: node_sum(h, v, plan), (H, w))
        assert torch.autograd.gradcheck(lambda h, v: neighbour_sum(h, v, plan), (H, w))
        assert torch.autograd.gradcheck(lambda h: graph_sum(h, plan), (H,))
        assert torch.autograd.gradcheck(lambda h: source_rows(h, plan), (H,))
        assert torch.autograd.gradcheck(lambda v: edge_shares(v, plan, LEAST), (w,))


@pytest.mark.parametrize("op", OPS)
def test_no_second_derivative_is_made_up(op: str):
    H, X, w, plan = large(torch.float64, 3)
    leaves = [t.clone().requires_grad_() for t in (H, X, w)]
    found, inputs = run(op, *leaves, plan, reverses(plan))
    grads = torch.autograd.grad((found**3).sum(), inputs, create_graph=True)
    for grad in grads:
        with pytest.raises(RuntimeError, match="first derivatives only"):
            torch.autograd.grad((grad**2).sum(), inputs[0], retain_graph=True)


@pytest.mark.parametrize("there", ["all", "some"])
def test_no_weights_are_weights_of_one(backend: str, there: str):
    """Of messages and sums, with their gradients; where a reverse may be missing and where not."""
    if there == "some":
        plan, rev = small_graph(torch.float64).plan, REV
    else:
        bmg = next(iter(build_dataloader(dataset(MOLECULES), shuffle=False))).bmg
        plan, rev = Graph.from_bmg(bmg).plan, bmg.rev_edge_index
    assert plan.undirected == (there == "all") == bool((rev >= 0).all())
    found = []
    for w in (None, torch.ones(len(rev), dtype=torch.float64)):
        gen = torch.Generator().manual_seed(0)
        H = torch.randn(len(rev), 3, generator=gen, dtype=torch.float64).requires_grad_()
        outputs = edge_messages(H, w, rev, plan), node_sum(H, w, plan)
        seeds = [torch.randn(o.shape, generator=gen, dtype=torch.float64) for o in outputs]
        found.append([*outputs, *torch.autograd.grad(outputs, H, seeds)])
    for a, b in zip(*found, strict=True):
        torch.testing.assert_close(a, b, rtol=1e-12, atol=1e-12)
    known = (rev >= 0)[:, None]
    into = torch.zeros(plan.num_nodes, 3).double().index_add(0, plan.dst, H)
    expected = into[plan.src] - torch.where(known, H[rev.clamp(min=0)], 0), into
    torch.testing.assert_close(found[0][:2], list(expected))
    torch.testing.assert_close(found[0][2], torch.autograd.grad(expected, H, seeds)[0])


def test_half_precision_keeps_its_dtype(backend: str):
    graph = small_graph(torch.float32)
    H = torch.randn(6, 4, dtype=torch.bfloat16, requires_grad=True)
    w = graph.edge_weight.requires_grad_()
    found = edge_messages(H, w, REV, graph.plan)
    assert found.dtype == torch.bfloat16
    expected = messages_by_hand(H.float(), w)
    # bfloat16 keeps eight bits, and the sums are rounded to it
    torch.testing.assert_close(found.float(), expected, rtol=1e-2, atol=1e-2)
    dH, dw = torch.autograd.grad(found.float().sum(), (H, w))
    assert dH.dtype == torch.bfloat16 and dw.dtype == torch.float32


@pytest.mark.parametrize("backend", ["sparse", "reference"])
def test_weights_of_many_parallel_loops_get_their_gradient(backend):
    weight = torch.ones(3, dtype=torch.float64, requires_grad=True)
    x = torch.tensor([[1.0, 2.0]], dtype=torch.float64)
    graph = Graph(x, torch.zeros(2, 3, dtype=torch.int64), None, weight)
    with use_backend(backend):
        total = neighbour_sum(graph.x, weight, graph.plan)
        (grad,) = torch.autograd.grad((total * torch.tensor([3.0, 5.0])).sum(), weight)
    assert torch.equal(total.detach(), 3 * x)
    assert torch.equal(grad, torch.full((3,), 13.0, dtype=torch.float64))
