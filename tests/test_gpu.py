"""On a real GPU, tensors there from beginning to end. The laws run there, too (on_gpu.py)."""

import copy

import pytest
import torch
from batches import BACKENDS, LARGE, Sample, everything, make_sample, relative_rms
from chemprop.nn import RegressionFFN
from molecules import POLYMERS, batch_of

import tritonpool
from tritonpool import TopK
from tritonpool.chemprop import (
    DiffPoolAtomMessagePassing,
    DiffPoolBondMessagePassing,
    DiffPoolMPNN,
    GraphReadout,
)
from tritonpool.chemprop.collate import PlannedMolGraph
from tritonpool.kernels.launch import forked
from tritonpool.losses import assignment_losses

pytestmark = pytest.mark.gpu


def on_gpu(sample: Sample) -> Sample:
    return Sample(sample.graph.to("cuda"), sample.S.cuda(), sample.clusters)


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("C", [None, 5, 20])
def test_equals_the_dense_formulas(backend, C):
    sample = make_sample(**LARGE, K=20, D=40, C=C)
    expected = everything(sample, "einsum")
    for dtype, tolerance in ((torch.float64, 1e-11), (torch.float32, 1e-5)):
        found = everything(on_gpu(sample.to(dtype)), backend)
        assert found.keys() == expected.keys()
        for name, value in found.items():
            assert value.is_cuda and value.dtype == dtype
            assert relative_rms(value.cpu(), expected[name]) < tolerance, name


@pytest.mark.parametrize("backend", BACKENDS)
def test_two_runs_agree_bitwise(backend):
    sample = on_gpu(make_sample(**LARGE, K=20, D=40, C=14).to(torch.float32))
    first, second = everything(sample, backend), everything(sample, backend)
    assert all(torch.equal(first[name], second[name]) for name in first)


def step(graph, S, clusters):
    """Forward and backward of the op with its losses: the gradients."""
    coarse = tritonpool.coarsen(graph, S, clusters)
    losses = assignment_losses(graph, S, clusters)
    outputs = [coarse.x, coarse.edge_weight, coarse.edge_attr, *losses]
    given = [torch.ones_like(t) for t in outputs]
    return torch.autograd.grad(outputs, [S, graph.x, graph.edge_attr], given)


def leaves(sample: Sample):
    g = sample.graph
    S, x, F = (t.detach().clone().requires_grad_() for t in (sample.S, g.x, g.edge_attr))
    return tritonpool.Graph(x, g.edge_index, F, g.edge_weight, g.batch, g.num_graphs), S


def test_a_cuda_graph_gives_what_a_call_gives_also_for_new_numbers():
    sample = on_gpu(make_sample(**LARGE, K=20, D=40, C=14).to(torch.float32))
    graph, S = leaves(sample)
    stream = torch.cuda.Stream()
    stream.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(stream):
        step(graph, S, sample.clusters)
    torch.cuda.current_stream().wait_stream(stream)
    captured = torch.cuda.CUDAGraph()
    with torch.cuda.graph(captured):
        found = step(graph, S, sample.clusters)
    with torch.no_grad():
        graph.x.mul_(2)
        S.copy_(sample.S**2)
    captured.replay()
    for value, expected in zip(found, step(graph, S, sample.clusters), strict=True):
        assert torch.equal(value, expected)


def test_a_batch_that_comes_back_is_there_before_it_is_read():
    bmg = PlannedMolGraph(batch_of(POLYMERS).bmg)
    there = copy.copy(bmg)
    there.to("cuda")
    torch.cuda._sleep(1 << 28)  # the copies wait for this
    there.to("cpu")
    assert torch.equal(there.V, bmg.V) and torch.equal(there.edge_index, bmg.edge_index)
    assert torch.equal(there.plan.in_edge, bmg.plan.in_edge)


def test_a_plan_is_not_moved_while_a_cuda_graph_is_captured():
    sample = on_gpu(make_sample(**LARGE, K=20, D=40, C=14).to(torch.float32))
    graph, S = leaves(sample)
    assert graph.plan.num_edges  # made here, so that the coarse one alone is missing
    with (
        pytest.raises(RuntimeError, match="once before capturing"),
        torch.cuda.graph(torch.cuda.CUDAGraph(), capture_error_mode="thread_local"),
    ):
        torch.zeros(1, device="cuda")
        step(graph, S, sample.clusters)


def test_kernels_become_branches_only_while_a_cuda_graph_is_captured():
    tensor = torch.zeros(1, device="cuda")

    def on_another_stream() -> bool:
        main = torch.cuda.current_stream()
        with forked(tensor) as beside, beside():
            return torch.cuda.current_stream() != main

    assert not on_another_stream()
    with torch.cuda.graph(torch.cuda.CUDAGraph()):
        tensor.add_(1)
        assert on_another_stream()


def kernels_of(run) -> list[str]:
    """The names of the kernels, copies and fills that a call starts."""
    with torch.profiler.profile(activities=[torch.profiler.ProfilerActivity.CUDA]) as profile:
        run()
        torch.cuda.synchronize()
    kind = torch.autograd.DeviceType.CUDA
    return [event.name for event in profile.events() if event.device_type == kind]


def test_launches_are_few_and_constant_in_the_number_of_graphs():
    found = []
    for copies in (1, 40):
        sizes = {name: values * copies for name, values in LARGE.items()}
        sample = on_gpu(
            make_sample(**sizes, K=20, D=40, C=14, weights=False, shuffle=False).to(torch.float32)
        )
        graph, S = leaves(sample)
        step(graph, S, sample.clusters)
        found.append(kernels_of(lambda g=graph, s=S, c=sample.clusters: step(g, s, c)))
    assert sorted(found[0]) == sorted(found[1])
    ours = [name for name in found[0] if name.endswith("_kernel")]
    assert len(ours) == 4 + 5, ours


def test_nothing_waits_for_the_gpu():
    sample = on_gpu(make_sample(**LARGE, K=20, D=40, C=14).to(torch.float32))
    graph, S = leaves(sample)
    step(graph, S, sample.clusters)
    torch.cuda.synchronize()
    torch.cuda.set_sync_debug_mode("error")
    try:
        step(graph, S, sample.clusters)
    finally:
        torch.cuda.set_sync_debug_mode("default")


def train(model: torch.nn.Module, bmg: PlannedMolGraph) -> list[torch.Tensor]:
    """A forward and a backward: the fingerprints and all gradients."""
    model.zero_grad()
    H = model.fingerprint(bmg)
    H.square().sum().backward()
    return [H.detach(), *(p.grad.clone() for p in model.message_passing.parameters())]


def test_few_shares_cost_one_copy_to_the_host(monkeypatch):
    sample = make_sample(**LARGE, K=20, D=40, C=14).to(torch.float32)
    top = [TopK(*sample.S.topk(2, 1), 20)]
    top.append(TopK(top[0].values.cuda(), top[0].index.cuda(), 20))
    expected = tritonpool.coarsen(sample.graph, top[0], sample.clusters)
    graph = sample.graph.to("cuda")
    found = tritonpool.coarsen(graph, top[1], sample.clusters)
    assert torch.equal(found.edge_index.cpu(), expected.edge_index)
    assert torch.equal(found.plan.in_edge.cpu(), expected.plan.in_edge)
    for name in ("x", "edge_weight", "edge_attr"):
        assert relative_rms(getattr(found, name).cpu(), getattr(expected, name)) < 1e-5, name
    taken, cpu, mode = [], torch.Tensor.cpu, torch.cuda.set_sync_debug_mode

    def copy(tensor):
        taken.append(tensor)
        mode("default")
        try:
            return cpu(tensor)
        finally:
            mode("error")

    monkeypatch.setattr(torch.Tensor, "cpu", copy)
    torch.cuda.synchronize()
    mode("error")
    try:
        tritonpool.coarsen(graph, top[1], sample.clusters)
    finally:
        mode("default")
    assert len(taken) == 1


@pytest.fixture
def without_torchs_care():
    """Otherwise torch replaces its atomics by something slower that gives the same twice."""
    torch.use_deterministic_algorithms(False)
    yield
    torch.use_deterministic_algorithms(True)


@pytest.mark.usefixtures("without_torchs_care")
@pytest.mark.parametrize("cls", [DiffPoolBondMessagePassing, DiffPoolAtomMessagePassing])
@pytest.mark.parametrize(
    "settings",
    [{}, {"top_k": 2}, {"coarse_encoder": "atom", "assignment": "gnn"}, {"assignment": "rings"}],
)
def test_a_model_gives_what_it_gives_on_the_cpu_and_twice_the_same(cls, settings):
    torch.manual_seed(0)
    mp = cls(d_h=40, ratio=0.5, max_clusters=32, **settings)
    model = DiffPoolMPNN(mp, GraphReadout(), RegressionFFN(input_dim=mp.output_dim))
    bmg = PlannedMolGraph(batch_of(POLYMERS).bmg)
    expected = train(model, bmg)
    bmg.to("cuda")
    model.cuda()
    first, second = train(model, bmg), train(model, bmg)
    for a, b, value in zip(first, second, expected, strict=True):
        assert a.is_cuda and torch.equal(a, b)
        assert relative_rms(a.cpu(), value) < 1e-4
