"""Which backend runs, and what is said when it cannot."""

import importlib.util

import pytest
import torch
from batches import make_sample
from torch.utils.checkpoint import checkpoint

from tritonpool import backend as module
from tritonpool import coarsen, link_loss, use_backend
from tritonpool.backend import choose_backend, why_not_triton


@pytest.fixture(autouse=True)
def no_environment(monkeypatch):
    monkeypatch.delenv("TRITONPOOL_BACKEND", raising=False)
    monkeypatch.setenv("TRITON_INTERPRET", "0")


def test_precedence_argument_then_context_then_environment_then_auto(monkeypatch):
    assert choose_backend("cpu") == "sparse"
    monkeypatch.setenv("TRITONPOOL_BACKEND", "reference")
    assert choose_backend("cpu") == "reference"
    with use_backend("sparse"):
        assert choose_backend("cpu") == "sparse"
        with use_backend("auto"):
            assert choose_backend("cpu") == "sparse"
        assert choose_backend("cpu", "reference") == "reference"
    assert choose_backend("cpu") == "reference"
    monkeypatch.setenv("TRITONPOOL_BACKEND", "")
    assert choose_backend("cpu") == "sparse"


def test_unknown_names_list_the_known_ones(monkeypatch):
    known = "expected one of auto, triton, sparse, reference"
    with pytest.raises(ValueError, match=f"'cuda' in the argument backend; {known}"):
        choose_backend("cpu", "cuda")
    with pytest.raises(ValueError, match=f"'gpu' in use_backend; {known}"), use_backend("gpu"):
        pass
    monkeypatch.setenv("TRITONPOOL_BACKEND", "Triton")
    with pytest.raises(ValueError, match=f"'Triton' in TRITONPOOL_BACKEND; {known}"):
        choose_backend("cpu")


def test_triton_on_the_cpu_needs_the_interpreter(monkeypatch):
    with pytest.raises(RuntimeError, match="'triton' was requested .* on the CPU, and TRITON_INT"):
        choose_backend("cpu", "triton")
    monkeypatch.setenv("TRITON_INTERPRET", "1")
    assert choose_backend("cpu", "triton") == "triton"
    assert choose_backend("cpu") == "sparse"  # the interpreter is never a default


def test_triton_missing(monkeypatch):
    find = importlib.util.find_spec
    monkeypatch.setattr(
        importlib.util, "find_spec", lambda name: None if name == "triton" else find(name)
    )
    with pytest.raises(RuntimeError, match="cannot run: the package triton is not installed"):
        choose_backend("cuda", "triton")


@pytest.mark.parametrize(
    "capability, runs", [((7, 0), False), ((7, 5), False), ((8, 0), True), ((12, 0), True)]
)
def test_old_cards_get_the_sparse_backend(monkeypatch, capability, runs):
    monkeypatch.setattr(torch.version, "hip", None)
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda device: capability)
    monkeypatch.setattr(torch.cuda, "get_device_name", lambda device: "Tesla V100")
    assert choose_backend("cuda") == ("triton" if runs else "sparse")
    if not runs:
        with pytest.raises(RuntimeError, match=r"V100 has compute capability 7\.\d, and .* 8\.0"):
            choose_backend("cuda", "triton")


@pytest.mark.parametrize("arch, runs", [("gfx942:sramecc+:xnack-", True), ("gfx1100", False)])
def test_amd_cards(monkeypatch, arch, runs):
    properties = type("Properties", (), {"gcnArchName": arch})
    monkeypatch.setattr(torch.version, "hip", "6.4")
    monkeypatch.setattr(torch.cuda, "get_device_properties", lambda device: properties)
    assert (why_not_triton("cuda") is None) == runs
    assert choose_backend("cuda") == ("triton" if runs else "sparse")


def test_a_broken_kernel_is_loud(monkeypatch):
    """An error inside a backend is never turned into another backend."""
    calls = []

    def broken(name):
        calls.append(name)
        raise ArithmeticError("kernel")

    monkeypatch.setattr("tritonpool.autograd.load_backend", broken)
    sample = make_sample([3], [4], [2], K=2)
    with pytest.raises(ArithmeticError, match="kernel"):
        coarsen(sample.graph, sample.S, sample.clusters)
    assert calls == ["sparse"]


@pytest.fixture
def used(monkeypatch) -> list[str]:
    """The backends that forward and backward load, in order."""
    names = []
    original = module.load_backend
    monkeypatch.setattr(
        "tritonpool.autograd.load_backend", lambda name: names.append(name) or original(name)
    )
    return names


def test_backward_keeps_the_backend_of_its_forward(used):
    sample = make_sample([3], [4], [2], K=2)
    S = sample.S.requires_grad_()
    with use_backend("reference"):
        out = coarsen(sample.graph, S, sample.clusters)
    with use_backend("sparse"):
        out.x.sum().backward()
    assert used == ["reference", "reference"]


def test_a_checkpoint_can_be_told_its_backend(used):
    sample = make_sample([3], [4], [2], K=2)
    loss = checkpoint(
        lambda S: link_loss(sample.graph, S, sample.clusters),
        sample.S.requires_grad_(),
        use_reentrant=False,
        context_fn=lambda: (use_backend("reference"), use_backend("reference")),
    )
    loss.backward()
    assert used == ["reference"] * 3  # forward, forward again, backward
