"""Shares from scores, over the clusters that each graph has, on every backend."""

import pytest
import torch
from batches import BACKENDS

from tritonpool import Graph
from tritonpool.autograd import Softmax
from tritonpool.planning import coarse_plan
from tritonpool.softmax import masked_softmax

pytestmark = pytest.mark.usefixtures("kernels_on_gpu")
TOLERANCE = {torch.float64: 1e-12, torch.float32: 1e-5, torch.bfloat16: 1e-2, torch.float16: 2e-3}
NODES, COUNTS = (3, 0, 40, 1, 2), (2, 1, 20, 1, 20)


def plans(nodes=NODES, counts=COUNTS):
    batch = torch.repeat_interleave(torch.arange(len(nodes)), torch.tensor(nodes))
    x, no_edges = torch.zeros(len(batch), 1), torch.zeros(2, 0, dtype=torch.int64)
    plan = Graph(x, no_edges, batch=batch, num_graphs=len(nodes)).plan
    return plan, coarse_plan(plan, torch.tensor(counts), True)


def run(backend: str, logits: torch.Tensor, *given) -> tuple[torch.Tensor, torch.Tensor]:
    """The shares and the gradient of the scores, for a gradient of the shares without symmetry."""
    plan, coarse = given or plans()
    logits = logits.detach().requires_grad_()
    S = Softmax.apply(logits, plan, coarse, backend)
    dS = torch.arange(S.numel(), dtype=torch.float64).sin().view(S.shape).to(S.dtype)
    S.backward(dS)
    return S.detach(), logits.grad


@pytest.mark.parametrize("K", [20, 37])
@pytest.mark.parametrize("dtype", TOLERANCE)
@pytest.mark.parametrize("backend", ["reference", *BACKENDS])
def test_equals_torch_on_the_columns_of_each_graph(backend, dtype, K):
    logits = (3 * torch.randn(sum(NODES), K, dtype=torch.float64)).to(dtype)
    S, grad = run(backend, logits)
    assert S.dtype == grad.dtype == dtype
    plan, coarse = plans()
    counts = coarse.clusters[plan.batch]
    beyond = torch.arange(K) >= counts[:, None]
    assert not S[beyond].any() and not grad[beyond].any()
    exact = logits.double().requires_grad_()
    expected = masked_softmax(exact, counts)
    dS = torch.arange(S.numel(), dtype=torch.float64).sin().view(S.shape).to(dtype)
    expected.backward(dS.double())
    tolerance = {"rtol": 0, "atol": TOLERANCE[dtype]}
    torch.testing.assert_close(S.double(), expected.detach(), **tolerance)
    torch.testing.assert_close(grad.double(), exact.grad, **tolerance)


@pytest.mark.parametrize("backend", BACKENDS)
def test_neither_batch_mates_nor_unused_columns_change_a_bit(backend):
    logits = 3 * torch.randn(sum(NODES), 37)
    S, _ = run(backend, logits)
    alone, _ = run(backend, logits[3:43], *plans((40,), (20,)))
    assert torch.equal(alone, S[3:43])
    logits[:, 20:] = torch.inf
    assert torch.equal(run(backend, logits)[0], S)


@pytest.mark.parametrize("backend", BACKENDS)
def test_large_scores_and_scores_that_are_not_numbers(backend):
    logits = torch.tensor([[1e4, -1e4, 0.0], [-1e30, -1e30, 5.0], [torch.nan, 0, 0]])
    S, grad = run(backend, logits, *plans((3,), (2,)))
    assert S[:2].tolist() == [[1, 0, 0], [0.5, 0.5, 0]] and grad[:2].isfinite().all()
    assert S[2, :2].isnan().all()


@pytest.mark.parametrize("backend", BACKENDS)
def test_scores_that_lie_any_way(backend):
    logits = 3 * torch.randn(20, sum(NODES)).T
    given = run(backend, logits)
    for found, expected in zip(given, run(backend, logits.contiguous()), strict=True):
        assert torch.equal(found, expected)


@pytest.mark.parametrize("backend", ["reference", *BACKENDS])
def test_nothing_there(backend):
    S, grad = run(backend, torch.zeros(0, 4), *plans((0, 0), (1, 1)))
    assert S.shape == grad.shape == (0, 4)
