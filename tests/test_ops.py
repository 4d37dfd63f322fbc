"""The public op: arguments, dtypes, autocast, memory; and the sparse backend's own backward."""

import pytest
import torch
from batches import BACKENDS, everything, make_sample, relative_rms
from torch.utils.checkpoint import checkpoint

import tritonpool
from tritonpool import Graph, coarsen, lift, sparse
from tritonpool.bench.memory import saved_bytes
from tritonpool.losses import assignment_losses

pytestmark = pytest.mark.usefixtures("kernels_on_gpu")


def test_ethane_by_hand():
    """Two carbons, one bond: the simplest numbers one can check on paper."""
    graph = Graph(
        torch.tensor([[1.0], [3.0]]),
        torch.tensor([[0, 1], [1, 0]]),
        torch.tensor([[10.0], [10.0]]),
    )
    S = torch.tensor([[0.75, 0.25], [0.5, 0.5]])
    coarse = coarsen(graph, S, drop_self_loops=False)
    assert coarse.x.tolist() == [[2.25], [1.75]]
    assert coarse.edge_index.tolist() == [[0, 0, 1, 1], [0, 1, 0, 1]]
    assert coarse.edge_weight.tolist() == [0.75, 0.5, 0.5, 0.25]
    assert coarse.edge_attr[:, 0].tolist() == pytest.approx([10.0] * 4)
    assert coarse.batch.tolist() == [0, 0] and coarse.num_graphs == 1
    assert lift(coarse.x, graph, S).tolist() == [[2.125], [2.0]]


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("drop", [True, False])
@pytest.mark.parametrize("weights", [True, False])
def test_gradcheck(backend, drop, weights):
    sample = make_sample([2, 0, 3], [3, 0, 5], [2, 1, 2], K=2, D=1, C=2, weights=weights)
    g = sample.graph
    if weights:  # the gradient jumps where a pair loses its last weight
        g = g.replace(edge_weight=g.edge_weight.clamp(min=0.2))
    free = (sample.S > 0).double()

    def outputs(S, x, F, w=None):
        graph = Graph(x, g.edge_index, F, w, g.batch, g.num_graphs)
        S = S * free
        out = coarsen(graph, S, sample.clusters, drop_self_loops=drop, backend=backend)
        losses = assignment_losses(graph, S, sample.clusters, backend=backend)
        back = lift(out.x, graph, S, sample.clusters, backend=backend)
        return out.x, out.edge_weight, out.edge_attr, back, *losses

    leaves = [sample.S, g.x, g.edge_attr] + ([g.edge_weight] if weights else [])
    leaves = [t.clone().requires_grad_() for t in leaves]
    keep = leaves[0].detach().clone()
    leaves[0] = (keep + (1 - free)).requires_grad_()  # perturbing masked entries must not leave 0
    # the interpreter is slow, so there the Jacobians are compared along random directions only
    fast = backend == "triton"
    assert torch.autograd.gradcheck(outputs, leaves, atol=1e-6, rtol=1e-5, fast_mode=fast)


@pytest.mark.parametrize("of", ["x", "edge_weight", "edge_attr", "lift", "link", "entropy"])
def test_no_second_derivative_is_made_up(of):
    """Each first gradient depends on S, so its own gradient would be wrong if that were lost."""
    sample = make_sample([3, 4], [4, 6], [2, 3], K=3, D=2, C=2)
    g, S = sample.graph, sample.S.clone().requires_grad_()
    X = g.x.clone().requires_grad_()
    coarse = coarsen(g.replace(x=X), S, sample.clusters)
    link, entropy = assignment_losses(g, S, sample.clusters)
    back = lift(coarse.x.detach().requires_grad_(), g, S, sample.clusters)
    found = {"lift": back, "link": link, "entropy": entropy}.get(of)
    found = getattr(coarse, of) if found is None else found
    (grad,) = torch.autograd.grad((found**3).sum(), S, create_graph=True)
    with pytest.raises(RuntimeError, match="first derivatives only"):
        ((S**2).sum() + (grad**2).sum()).backward()
    # what does not depend on the gradients goes through
    (grad,) = torch.autograd.grad(coarsen(g, S, sample.clusters).x.sum(), S, create_graph=True)
    other = torch.ones((), requires_grad=True, dtype=grad.dtype)
    assert torch.autograd.grad(other * grad.sum(), other)[0] == grad.sum()


@pytest.mark.parametrize("op", [coarsen, assignment_losses])
def test_gradients_of_a_checkpoint_may_be_part_of_a_graph(op):
    sample = make_sample([3, 4], [4, 6], [2, 3], K=3)
    S = sample.S.clone().requires_grad_()

    def total(S):
        found = op(sample.graph, S, sample.clusters)
        return found.edge_attr.sum() if isinstance(found, Graph) else sum(found)

    loss = checkpoint(total, S, use_reentrant=False)
    (grad,) = torch.autograd.grad(loss, S, create_graph=True)
    assert torch.equal(grad.detach(), torch.autograd.grad(total(S), S)[0])
    with pytest.raises(RuntimeError, match="first derivatives only"):
        grad.sum().backward()


GRAPH = make_sample([3, 2], [4, 2], [2, 1], K=2).graph
S = torch.tensor([[0.5, 0.5], [1, 0], [0, 1], [1, 0], [1, 0]]).double()
C = [2, 1]


def changed(i, p, value):
    other = S.clone()
    other[i, p] = value
    return other


@pytest.mark.parametrize(
    "arguments, message",
    [
        ({"S": S[0]}, r"S must be a floating-point V x K tensor, but is torch.float64 of shape"),
        ({"S": S.long()}, "S must be a floating-point V x K tensor, but is torch.int64"),
        ({"S": S.tolist()}, "S must be a floating-point V x K tensor, but is list"),
        ({"S": S.to_sparse()}, "S must be a dense tensor, but is torch.sparse_coo"),
        ({"S": S[:4]}, "S has 4 rows, but the graph has 5 nodes"),
        ({"clusters": [2]}, "clusters must hold one integer for each of the 2 graphs"),
        ({"clusters": [2.0, 1.0]}, "clusters must hold one integer .* torch.float32"),
        ({"clusters": [2, 3]}, r"clusters\[1\] is 3, but must be from 0 to K = 2"),
        ({"clusters": [-1, 1]}, r"clusters\[0\] is -1, but must be from 0 to K = 2"),
        ({"S": changed(1, 0, torch.nan)}, "S must not hold NaN, but row 1 does"),
        ({"S": changed(2, 1, -0.5)}, r"S must not be negative, but S\[2, 1\] is -0.5"),
        (
            {"S": changed(4, 1, 0.5)},
            r"S\[4, 1\] is 0.5, but node 4 belongs to graph 1, which has 1",
        ),
        ({"eps": 0.0}, "eps must be finite and at least 1.2e-38, but is 0.0"),
        ({"eps": float("inf")}, "eps must be finite and at least 1.2e-38, but is inf"),
        ({"eps": 1e-60}, "eps must be finite and at least 1.2e-38, but is 1e-60"),
        ({"backend": "cuda"}, "unknown backend 'cuda' in the argument backend; expected one of"),
        (
            {"graph": GRAPH.replace(edge_weight=-GRAPH.edge_weight)},
            r"edge_weight must be at least 0 and finite, but edge_weight\[\d\] is -",
        ),
    ],
)
def test_bad_arguments_are_named(arguments, message):
    arguments = {"graph": GRAPH, "S": S, "clusters": C, **arguments}
    with pytest.raises(ValueError, match=message):
        coarsen(**arguments)
    if not {"eps", "backend"} & arguments.keys():
        with pytest.raises(ValueError, match=message):
            arguments["graph"].validate(arguments["S"], arguments["clusters"])


def test_an_assignment_that_passed_is_looked_at_again_once_it_changes():
    share = S.clone()
    coarsen(GRAPH, share, C)
    with pytest.raises(ValueError, match="but node .* later columns must be 0"):
        coarsen(GRAPH, share, [1] * len(C))  # the same tensor, other clusters
    coarsen(GRAPH, share, C)
    share[0, 0] = -1.0
    with pytest.raises(ValueError, match=r"S must not be negative, but S\[0, 0\] is -1"):
        assignment_losses(GRAPH, share, C)
    with torch.inference_mode():
        frozen = S.clone()
        coarsen(GRAPH, frozen, C)
        frozen[0, 0] = -1.0
        with pytest.raises(ValueError, match="S must not be negative"):
            coarsen(GRAPH, frozen, C)


def test_lift_names_a_wrong_number_of_rows():
    with pytest.raises(ValueError, match="coarse_x must be .* each of the 3 clusters, but"):
        lift(torch.zeros(2, 4), GRAPH, S, C)


@pytest.mark.parametrize("backend", BACKENDS)
def test_lift_names_another_device_or_layout(backend):
    rows = torch.eye(3)
    with pytest.raises(ValueError, match="coarse_x is on meta, but the graph is on cpu"):
        lift(rows.to("meta"), GRAPH, S, C, backend=backend)
    with pytest.raises(ValueError, match="coarse_x must be a dense tensor, but is torch.sparse_c"):
        lift(rows.to_sparse(), GRAPH, S, C, backend=backend)


@pytest.mark.parametrize("clusters", [C, tuple(C), torch.tensor(C), torch.tensor(C).int()])
def test_clusters_may_be_any_sequence(clusters):
    assert coarsen(GRAPH, S, clusters).num_nodes == 3


def test_coarse_graph_knows_its_plan():
    coarse = coarsen(GRAPH, S, C)
    assert coarse._plan is not None
    coarse.validate()
    again = coarsen(coarse, torch.ones(3, 1).double())
    assert again.num_nodes == 2 and again.num_edges == 0


@pytest.mark.parametrize("backend", BACKENDS)
def test_autocast_does_not_lower_the_precision(backend):
    sample = make_sample([6, 5], [12, 9], [3, 2], K=3).to(torch.float32)
    expected = everything(sample, backend)
    with torch.autocast("cpu", torch.bfloat16):
        found = everything(sample, backend)
    for name, value in found.items():
        assert value.dtype == torch.float32
        assert relative_rms(value, expected[name]) < 1e-6, name


@pytest.mark.parametrize("backend", BACKENDS)
def test_mixed_dtypes_keep_their_own(backend):
    sample = make_sample([6, 5], [12, 9], [3, 2], K=3).to(torch.float32)
    g = sample.graph
    graph = Graph(
        g.x.bfloat16().requires_grad_(), g.edge_index, g.edge_attr.half(), None, g.batch, 2
    )
    S = sample.S.clone().requires_grad_()
    coarse = coarsen(graph, S, sample.clusters, backend=backend)
    assert coarse.x.dtype == torch.bfloat16
    assert coarse.edge_attr.dtype == torch.float16
    assert coarse.edge_weight.dtype == torch.float32
    (coarse.x.float().sum() + coarse.edge_attr.float().sum()).backward()
    assert S.grad.dtype == torch.float32 and graph.x.grad.dtype == torch.bfloat16


@pytest.mark.parametrize("backend", BACKENDS)
def test_unneeded_gradients_are_not_made(backend):
    sample = make_sample([6, 5], [12, 9], [3, 2], K=3)
    for wanted in ("S", "x", "edge_attr", "edge_weight"):
        g = sample.graph
        tensors = {"x": g.x, "edge_attr": g.edge_attr, "edge_weight": g.edge_weight, "S": sample.S}
        tensors = {k: v.clone().requires_grad_(k == wanted) for k, v in tensors.items()}
        S = tensors.pop("S")
        graph = g.replace(**tensors)
        coarse = coarsen(graph, S, sample.clusters, backend=backend)
        (coarse.x.sum() + coarse.edge_weight.square().sum() + coarse.edge_attr.sum()).backward()
        leaf = S if wanted == "S" else tensors[wanted]
        assert leaf.grad is not None and bool(leaf.grad.abs().sum() > 0)
        assert all(t.grad is None for t in (S, *tensors.values()) if t is not leaf)


@pytest.mark.parametrize("backend", BACKENDS)
def test_memory_saved_for_backward(backend):
    """Beyond inputs and outputs at most half of the inputs: nothing by the op; by the losses a few
    numbers for each graph, and on the sparse backend their gradients."""
    sample = make_sample([20, 15], [60, 40], [9, 7], K=9, D=30, C=14, shuffle=False)
    sample = sample.to(torch.float32)
    g = sample.graph
    S, x = sample.S.requires_grad_(), g.x.requires_grad_()
    graph = g.replace(x=x)
    held = {}

    def run():
        coarse = coarsen(graph, S, sample.clusters, backend=backend)
        losses = assignment_losses(graph, S, sample.clusters, backend=backend)
        held["outputs"] = [coarse.x, coarse.edge_weight, coarse.edge_attr, *losses]
        return held["outputs"]

    graph.plan  # noqa: B018
    saved = saved_bytes(run)
    known = [S, x, graph.edge_attr, graph.edge_weight, *held["outputs"]]
    known_storages = {t.untyped_storage().data_ptr() for t in known}
    extra = sum(size for pointer, size in saved.items() if pointer not in known_storages)
    floor = sum(t.nbytes for t in (S, x, graph.edge_attr, graph.edge_weight, g.edge_index))
    numbers = 64 * g.num_graphs
    assert numbers < 0.05 * floor
    slopes = (4 + 4) * S.numel() if backend == "sparse" else 0
    assert extra <= numbers + slopes < 0.5 * floor


def test_wide_bond_features_are_chunked_without_a_trace(monkeypatch):
    sample = make_sample([9, 8], [30, 20], [4, 5], K=5, C=30)
    expected = everything(sample, "sparse")
    monkeypatch.setattr(sparse, "CHUNK_ELEMENTS", 17 * 17 * 5)
    chunks = []
    original = sparse._chunks
    monkeypatch.setattr(sparse, "_chunks", lambda *a: chunks.append([*original(*a)]) or chunks[-1])
    found = everything(sample, "sparse")
    assert [part.stop for part in chunks[0]] == [16, 32]
    for name, value in found.items():
        torch.testing.assert_close(value, expected[name], rtol=1e-12, atol=1e-12)
    monkeypatch.setattr(sparse, "CHUNK_ELEMENTS", 1)
    everything(sample, "sparse")
    assert [part.stop for part in chunks[-1]] == [8, 16, 24, 32]


def test_nodes_with_many_edges():
    """Beyond eight edges out of it a node has several groups of slots (here 9 and 17); 12 lead into
    one node."""
    sample = make_sample([14, 20], [0, 0], [3, 4], K=4, C=3, shuffle=False)
    ends = [(i, 0) for i in range(1, 13)] + [(2, i) for i in range(5, 14)]
    ends += [(14, i) for i in range(15, 32)] + [(20, 20), (20, 21)]
    edges = torch.tensor(ends).T
    gen = torch.Generator().manual_seed(0)
    F = torch.randn(len(ends), 3, generator=gen, dtype=torch.float64)
    w = torch.rand(len(ends), generator=gen, dtype=torch.float64)
    sample.graph = Graph(sample.graph.x, edges, F, w, sample.graph.batch, 2)
    plan = sample.graph.plan
    assert plan.slots == (8, 34 + 1 + 2)
    expected = everything(sample, "reference")
    for name, value in everything(sample, "sparse").items():
        torch.testing.assert_close(value, expected[name], rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("drop", [True, False])
@pytest.mark.parametrize("alike", [True, False])
def test_backward_of_undirected_edges(monkeypatch, alike, drop):
    """Where each edge has the features and the weight of its reverse and they need no gradient,
    the backward does not make the intermediate again. With a parallel bond and a self-loop."""
    bonds = torch.tensor([(0, 1), (1, 2), (2, 0), (2, 3), (2, 3), (4, 4), (4, 5), (6, 5)])
    gen = torch.Generator().manual_seed(0)
    F = torch.randn(len(bonds), 3, generator=gen, dtype=torch.float64).repeat(2, 1)
    w = torch.rand(len(bonds), generator=gen, dtype=torch.float64).repeat(2)
    if not alike:
        F[-1] += 1
    sample = make_sample([4, 3], [0, 0], [3, 2], K=4, C=3, shuffle=False)
    old = sample.graph
    graph = Graph(old.x, torch.cat([bonds, bonds.flip(1)]).T, F, w, old.batch, 2)
    assert graph.plan.undirected
    made = []
    neighbourhoods = sparse._neighbourhoods
    monkeypatch.setattr(
        sparse, "_neighbourhoods", lambda *args: made.append(1) or neighbourhoods(*args)
    )

    def gradient(backend):
        S = sample.S.clone().requires_grad_()
        coarse = coarsen(graph, S, sample.clusters, drop_self_loops=drop, backend=backend)
        weight = torch.linspace(-1, 1, coarse.num_edges, dtype=torch.float64)  # not symmetric
        loss = (coarse.edge_attr.sin() * weight[:, None]).sum() + (
            coarse.edge_weight * weight
        ).sum()
        return torch.autograd.grad(loss, S)[0]

    torch.testing.assert_close(gradient("sparse"), gradient("reference"), rtol=1e-12, atol=1e-12)
    assert len(made) == (1 if alike else 2)


def test_nothing_is_warned_about(recwarn):
    everything(make_sample([3], [4], [2], K=2), "sparse")
    assert not [w for w in recwarn if "tritonpool" in str(w.filename)]


def test_public_names():
    functions = {"coarsen", "entropy_loss", "lift", "link_loss", "use_backend"}
    assert set(tritonpool.__all__) == functions | {"DiffPool", "Graph", "TopK"}


@pytest.mark.parametrize("backend", BACKENDS)
def test_memory_may_lie_any_way(backend):
    sample = make_sample([9, 8], [30, 20], [4, 5], K=5).to(torch.float64)
    graph, clusters = sample.graph, sample.clusters
    Xc = torch.randn(9, 3, dtype=torch.float64)

    def outcome(lay):
        S, x, F, y = (lay(t).requires_grad_() for t in (sample.S, graph.x, graph.edge_attr, Xc))
        given = graph.replace(x=x, edge_attr=F)
        coarse = coarsen(given, S, clusters, backend=backend)
        back = lift(y, given, S, clusters, backend=backend)
        losses = assignment_losses(given, S, clusters, backend=backend)
        # sums send expanded gradients, whose entries share their memory
        total = coarse.x.sum() + coarse.edge_attr.sum() + back.pow(2).sum() + sum(losses)
        return torch.autograd.grad(total, (S, x, F, y))

    expected = outcome(lambda t: t.clone())
    for lay in (lambda t: t.t().contiguous().t(), lambda t: torch.cat([t, t], 1)[:, : t.shape[1]]):
        for found, right in zip(outcome(lay), expected, strict=True):
            torch.testing.assert_close(found, right)


@pytest.fixture
def two_threads():
    """What some kernels of torch do differently."""
    before = torch.get_num_threads()
    torch.set_num_threads(2)
    yield
    torch.set_num_threads(before)


@pytest.mark.usefixtures("two_threads")
@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_no_clusters_and_no_features(backend, dtype):
    graph = make_sample([3, 2], [4, 2], [2, 1], K=2).to(dtype).graph
    none = coarsen(graph, torch.zeros(5, 2, dtype=dtype), [0, 0], backend=backend)
    assert none.x.shape == (0, 3) and none.edge_attr.shape == (0, 2)
    S = torch.full((5, 1), 1.0, dtype=dtype, requires_grad=True)
    narrow = coarsen(graph.replace(x=graph.x[:, :0]), S, backend=backend)
    assert narrow.x.shape == (2, 0)
    narrow.edge_weight.sum().backward()
    assert S.grad.isfinite().all()


@pytest.mark.parametrize(
    "arguments, message",
    [
        ((None, S), "graph must be a tritonpool.Graph, but is NoneType"),
        ((GRAPH, S, "21"), "clusters must hold one integer for each of the 2 graphs, but is '21'"),
        ((GRAPH, S, [2, [1]]), r"clusters must hold one integer for each .* but is \[2, \[1\]\]"),
        ((GRAPH, S, [2**70, 1]), "clusters must hold one integer for each of the 2 graphs"),
    ],
)
def test_other_things_than_tensors_are_named(arguments, message):
    with pytest.raises(ValueError, match=message):
        coarsen(*arguments)
    with pytest.raises(ValueError, match="coarse_x must be a tensor, but is list"):
        lift([1.0], GRAPH, S, C)


def test_a_backward_without_any_gradient_is_none():
    class Silent(torch.autograd.Function):
        @staticmethod
        def forward(ctx, value):
            return value.clone()

        @staticmethod
        def backward(ctx, grad):
            return None

    S = torch.rand(3, 2, requires_grad=True)
    coarse = coarsen(Graph(torch.randn(3, 2), torch.zeros(2, 0, dtype=torch.int64)), S)
    (Silent.apply(coarse.x).sum() + S.sum()).backward()
    assert torch.equal(S.grad, torch.ones(3, 2))


def test_counts_may_be_changed_after_the_call():
    graph = Graph(torch.randn(4, 2), torch.tensor([[0, 1, 2], [1, 2, 3]]))
    S = torch.rand(4, 3).softmax(1)
    counts = torch.tensor([3])
    expected = tritonpool.coarsen(graph, S, counts)
    counts[0] = 2
    found = tritonpool.coarsen(graph, S, torch.tensor([3]))
    assert torch.equal(found.x, expected.x) and found.num_nodes == 3
