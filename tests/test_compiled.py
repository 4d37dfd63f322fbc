"""``torch.compile``: one graph for all batches, with the results of eager code."""

import copy
import gc
import pickle
import threading

import pytest
import torch
from batches import make_sample, relative_rms
from torch._dynamo.testing import CompileCounterWithBackend
from torch.export import Dim
from torch.utils.checkpoint import checkpoint

import tritonpool
from tritonpool import DiffPool, Graph, entropy_loss, library, lift, link_loss, planning, sums
from tritonpool.coarse_plan import CoarsePlan
from tritonpool.handles import find
from tritonpool.losses import assignment_losses
from tritonpool.segments import graph_sum

pytestmark = pytest.mark.filterwarnings("ignore:Dynamo detected a call")


@pytest.fixture(autouse=True)
def fresh():
    torch._dynamo.reset()
    yield
    torch._dynamo.reset()


def sample(seed=0, **kwargs):
    """Three graphs with mixed, parallel and self edges; one has no edges."""
    given = make_sample([5, 1, 4 + seed], [9, 0, 7], [3, 1, 2], K=3, seed=seed, **kwargs)
    return given.to(torch.float32)


def test_what_asks_the_host_for_its_batch_is_left_out_of_cuda_graphs():
    names = [n.split("::")[1] for n in torch._C._dispatch_get_all_op_names() if "tritonpool::" in n]
    assert {"plan", "coarse_plan", "coarsen", "coarsen_backward", "joined_pairs"} <= {*names}
    for name in set(names) - {"gather_sum", "sampled_products"}:  # tensors are all they need
        assert torch.Tag.cudagraph_unsafe in getattr(torch.ops.tritonpool, name).default.tags, name


def pooled(graph, S, clusters, backend):
    coarse = tritonpool.coarsen(graph, S, clusters, backend=backend)
    losses = link_loss(graph, S, clusters, backend=backend) + entropy_loss(graph, S, clusters)
    return coarse, losses, lift(coarse.x, graph, S, clusters, backend=backend)


def outcome(function, given, backend):
    """All results and gradients of a function like :func:`pooled`."""
    g, S = given.graph, given.S.clone().requires_grad_()
    inputs = [t if t is None else t.clone().requires_grad_() for t in (g.x, g.edge_attr)]
    weight = None if g.edge_weight is None else g.edge_weight.clone().requires_grad_()
    graph = Graph(inputs[0], g.edge_index, inputs[1], weight, g.batch, g.num_graphs)
    coarse, losses, lifted = function(graph, S, given.clusters, backend)
    total = coarse.x.square().sum() + coarse.edge_weight.square().sum() + losses
    total = total + lifted.square().sum()
    if coarse.edge_attr is not None:
        total = total + coarse.edge_attr.square().sum()
    total.backward()
    leaves = [t for t in (S, *inputs, weight) if t is not None]
    results = [coarse.x, coarse.edge_weight, coarse.edge_attr, coarse.edge_index, lifted, losses]
    return [t.detach() for t in results if t is not None] + [t.grad for t in leaves]


@pytest.mark.parametrize("backend", ["reference", "sparse", "triton"])
@pytest.mark.parametrize("weights", [True, False])
def test_op_and_losses_are_one_graph_with_the_same_results(backend, weights):
    counter = CompileCounterWithBackend("aot_eager")
    compiled = torch.compile(pooled, fullgraph=True, backend=counter)
    for seed in range(4):
        given = sample(seed, weights=weights)
        expected = outcome(pooled, given, backend)
        found = outcome(compiled, given, backend)
        assert len(found) == len(expected)
        for a, b in zip(found, expected, strict=True):
            assert a.dtype == b.dtype
            torch.testing.assert_close(a, b)
    assert counter.frame_count <= 2  # once for these sizes, once for all


@pytest.mark.parametrize("backend", ["reference", "sparse", "triton"])
def test_losses_of_a_batch_without_graphs(backend):
    nothing = torch.zeros(0, dtype=torch.int64)
    graph = Graph(torch.zeros(0, 1), nothing.expand(2, 0), None, None, nothing, 0)
    assert graph.plan.num_graphs == 0
    compiled = torch.compile(
        lambda g, S: assignment_losses(g, S, backend=backend), fullgraph=True, backend="aot_eager"
    )
    assert [float(loss) for loss in compiled(graph, torch.zeros(0, 3))] == [0, 0]


def test_without_bond_features():
    compiled = torch.compile(pooled, fullgraph=True, backend="aot_eager")
    given = sample(C=None)
    expected = outcome(pooled, given, "sparse")
    for a, b in zip(outcome(compiled, given, "sparse"), expected, strict=True):
        torch.testing.assert_close(a, b)


@pytest.mark.parametrize("planned", [True, False])
def test_layer_is_one_graph_and_its_coarse_graph_can_be_used_outside(planned):
    layer = DiffPool(3, max_clusters=3, ratio=0.5)
    counter = CompileCounterWithBackend("aot_eager")
    compiled = torch.compile(layer, fullgraph=True, backend=counter)

    def results(pool, graph):
        layer.zero_grad()
        coarse, S, losses = pool(graph)
        again = tritonpool.coarsen(coarse, torch.full((coarse.num_nodes, 1), 0.5))
        total = again.x.square().sum() + coarse.edge_attr.sum() + sum(losses.values())
        total.backward()
        return [coarse.edge_index, S, total, *(p.grad.clone() for p in layer.parameters())]

    for seed in range(3):
        graph = sample(seed).graph
        expected = results(layer, graph.replace())
        if planned:
            assert graph.plan
        for a, b in zip(results(compiled, graph), expected, strict=True):
            torch.testing.assert_close(a, b)
    assert counter.frame_count <= 2


def test_the_plan_of_compiled_code_is_not_that_of_the_graph():
    layer = DiffPool(2, 2)
    counter = CompileCounterWithBackend("aot_eager")

    def twice(graph):
        first = graph.plan.out_ptr
        return first, graph.grouped_plan.dst, layer(graph)[0].x

    compiled = torch.compile(twice, fullgraph=True, backend=counter)
    for seed in range(3):
        graph = make_sample([3, 2 + seed], [4, 2], [2, 1], K=2, D=2, C=2, shuffle=False, seed=seed)
        graph = graph.to(torch.float32).graph
        found = compiled(graph)
        assert graph.grouped_plan is graph.plan and graph.plan.order is None
        data = graph.to_pyg().to_data_list()
        assert [part.num_nodes for part in data] == [3, 2 + seed]
        for a, b in zip(found, twice(graph.replace()), strict=True):
            torch.testing.assert_close(a, b)
    assert counter.frame_count <= 2


@pytest.mark.parametrize("planned", [True, False])
def test_checkpointing_and_graphs_that_come_again(planned):
    layer = DiffPool(3, max_clusters=3, ratio=0.5)
    counter = CompileCounterWithBackend("aot_eager")

    def pool(x, graph):
        coarse, _, losses = layer(graph.replace(x=x))
        return coarse.x.square().sum() + sum(losses.values())

    def outcome(function, graph):
        x = graph.x.clone().requires_grad_()
        total = function(x, graph)
        total.backward()
        return total.detach(), x.grad

    def checkpointed(x, graph):
        return checkpoint(pool, x, graph, use_reentrant=False)

    compiled = torch.compile(checkpointed, fullgraph=True, backend=counter)
    graph = sample().graph
    if planned:
        graph.plan  # noqa: B018
    for _ in range(3):
        for a, b in zip(outcome(compiled, graph), outcome(pool, graph.replace()), strict=True):
            torch.testing.assert_close(a, b)
    assert counter.frame_count == 1


def test_backend_is_chosen_when_the_op_runs_and_kept_for_backward(monkeypatch):
    def pool(x, S, graph):
        return tritonpool.coarsen(graph.replace(x=x), S).x.square().sum()

    compiled = torch.compile(pool, fullgraph=True, backend="aot_eager")
    given = sample()
    S = given.S.requires_grad_()
    called = []
    for name in ("sparse", "reference"):
        module = tritonpool.backend.load_backend(name)
        for part in ("coarsen_fwd", "coarsen_bwd"):
            original = getattr(module, part)

            def spy(*args, original=original, label=(name, part)):
                called.append(label)
                return original(*args)

            monkeypatch.setattr(module, part, spy)
    given.graph.plan  # noqa: B018
    for name in ("sparse", "reference"):
        with tritonpool.use_backend(name):
            loss = compiled(given.graph.x, S, given.graph)
        loss.backward()
    expected = [(n, p) for n in ("sparse", "reference") for p in ("coarsen_fwd", "coarsen_bwd")]
    assert list(dict.fromkeys(called)) == expected
    monkeypatch.setenv("TRITONPOOL_BACKEND", "metal")
    with pytest.raises(ValueError, match="unknown backend 'metal' in TRITONPOOL_BACKEND"):
        compiled(given.graph.x, S, given.graph)


def test_values_are_checked_when_the_op_runs():
    compiled = torch.compile(tritonpool.coarsen, fullgraph=True, backend="aot_eager")
    given = sample()
    assert compiled(given.graph, given.S, given.clusters).num_graphs == 3
    with pytest.raises(ValueError, match="S must not be negative"):
        compiled(given.graph, given.S - 1, given.clusters)
    with pytest.raises(ValueError, match=r"clusters\[0\] is 4, but must be from 0 to K = 3"):
        compiled(given.graph, given.S, torch.tensor([4, 1, 2]))
    with pytest.raises(ValueError, match="clusters must be at least 0, but hold -1"):
        compiled(given.graph, given.S, torch.tensor([3, -1, 2]))
    wrong = given.graph.replace(edge_weight=given.graph.edge_weight - 9)
    with pytest.raises(ValueError, match="edge_weight must be at least 0"):
        compiled(wrong, given.S, given.clusters)


@pytest.mark.parametrize("name", ["x", "edge_attr", "edge_weight"])
def test_tensors_that_were_exchanged_must_fit(name):
    """Kernels would read beyond their end."""

    def both(graph, S):
        losses = link_loss(graph, S, backend="triton")
        return tritonpool.coarsen(graph, S, backend="triton"), losses

    graph, S = sample(shuffle=False).graph, torch.full((10, 3), 0.5)
    assert graph.plan.order is None
    setattr(graph, name, getattr(graph, name)[:5])
    compiled = torch.compile(both, fullgraph=True, backend="aot_eager")
    size, S = (10, S[:5]) if name == "x" else (16, S)
    with pytest.raises(ValueError, match=rf"(S|graph.{name}) must be of {size} rows, but has"):
        compiled(graph, S)


def test_backward_works_after_the_graph_is_gone():
    def pool(graph, S):
        return tritonpool.coarsen(graph, S).edge_attr.square().sum()

    given = sample()
    S = given.S.requires_grad_()
    pool(given.graph.replace(), S).backward()
    expected, S.grad = S.grad, None
    graph = given.graph.replace()
    assert graph.plan
    loss = torch.compile(pool, fullgraph=True, backend="aot_eager")(graph, S)
    del graph
    given.graph = None
    gc.collect()
    loss.backward()
    assert relative_rms(S.grad, expected) < 1e-6


def test_keys_name_one_plan_and_do_not_keep_it_alive():
    graph = sample().graph
    plan = graph.plan
    coarse = planning.coarse_plan(plan, torch.tensor([2, 1, 2]), True)
    assert find(plan.key) is plan and find(coarse.key) is coarse
    for twin in (copy.deepcopy(plan), pickle.loads(pickle.dumps(plan))):
        assert int(twin.key) != int(plan.key) and find(twin.key) is twin
    assert isinstance(find(copy.deepcopy(coarse).key), CoarsePlan)
    key = plan.key
    del plan, coarse, twin
    graph._plan = None
    gc.collect()
    with pytest.raises(RuntimeError, match="keep the graph until the compiled backward has run"):
        find(key)


def test_ops_keep_the_rules_of_custom_ops():
    """Schema, fake results and registration, by torch's own checks."""
    given = sample()
    g, S = given.graph, given.S.requires_grad_()
    x, F = g.x.requires_grad_(), g.edge_attr.requires_grad_()
    w = g.edge_weight.requires_grad_()
    plan, clusters = g.plan, given.clusters
    coarse = planning.coarse_plan(plan, clusters, True)
    keys, sizes = (plan.key, coarse.key), (coarse.plan.num_nodes, coarse.plan.num_edges)
    check = torch.library.opcheck
    # the key that an op returns has another number in each call
    rules = ("test_schema", "test_autograd_registration", "test_faketensor")
    check(planning._plan, (g.edge_index, g.batch, g.num_nodes, 3, False), test_utils=rules)
    check(planning._coarse_plan, (plan.key, plan.src, clusters, True), test_utils=rules)
    check(library._coarsen, (S, x, F, w, *keys, *sizes, 1e-8, None))
    check(library._coarsen, (S, x, None, None, *keys, *sizes, 1e-8, None))
    turned = S.detach().t().contiguous().t().requires_grad_()
    check(library._coarsen, (turned, x, F, None, *keys, *sizes, 1e-8, None))
    check(library._losses, (S, w, *keys, 3, None))
    Xc = torch.randn(coarse.plan.num_nodes, 2, requires_grad=True)
    check(library._lift, (S, Xc, *keys, None))
    rows = torch.randn(plan.num_edges, 4)
    check(sums._gather_sum, (plan.in_ptr, plan.in_edge, rows, None))
    by_node = torch.randn(plan.num_nodes, 4)
    ends = plan.in_ptr, plan.in_src, by_node, by_node
    for plus in (None, torch.randn(plan.num_edges)):
        check(sums._sampled_products, (*ends, plus))


def test_eager_code_goes_on_while_another_thread_compiles():
    given, stop, failures = sample(), threading.Event(), []
    expected = outcome(pooled, given, "sparse")

    def work():
        while not stop.is_set():
            try:
                for a, b in zip(outcome(pooled, given, "sparse"), expected, strict=True):
                    torch.testing.assert_close(a, b)
            except Exception as error:
                failures.append(error)

    thread = threading.Thread(target=work)
    thread.start()
    try:
        compiled = torch.compile(pooled, fullgraph=True, backend="aot_eager")
        outcome(compiled, sample(1), "sparse")
    finally:
        stop.set()
        thread.join()
    assert not failures, failures[0]


@pytest.mark.slow
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_inductor_gives_the_same(dtype):
    compiled = torch.compile(pooled, fullgraph=True)
    for seed in range(3):
        given = sample(seed).to(dtype)
        expected = outcome(pooled, given, "sparse")
        for a, b in zip(outcome(compiled, given, "sparse"), expected, strict=True):
            torch.testing.assert_close(a, b)


@pytest.mark.parametrize("strict", [True, False])
@pytest.mark.parametrize("top_k", [None, 2])
def test_an_exported_program_takes_other_batches(strict, top_k):
    class Model(torch.nn.Module):
        def __init__(self):
            super().__init__()
            self.pool = DiffPool(3, max_clusters=3, ratio=0.5, top_k=top_k)

        def forward(self, *tensors):
            graph = Graph(*tensors, num_graphs=3)
            coarse, S, losses = self.pool(graph)
            lifted = lift(coarse.x, graph, S, self.pool.counts(graph))
            return graph_sum(coarse.x, coarse.plan), coarse.edge_attr, lifted, losses["link"]

    def tensors(seed):
        g = sample(seed).graph
        return g.x, g.edge_index, g.edge_attr, g.edge_weight, g.batch

    model, V, E = Model(), Dim("V"), Dim("E")
    sizes = {"tensors": ({0: V}, {1: E}, {0: E}, {0: E}, {0: V})}
    program = torch.export.export(model, tensors(0), dynamic_shapes=sizes, strict=strict).module()
    for seed in range(3):
        for a, b in zip(program(*tensors(seed)), model(*tensors(seed)), strict=True):
            torch.testing.assert_close(a, b)
