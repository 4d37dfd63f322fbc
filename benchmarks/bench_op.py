"""The op and the layer for pytest-benchmark (``make bench``): checked before they are timed."""

import pytest
import torch

from benchmarks.checks import check_against_reference, check_peers
from benchmarks.inputs import Inputs, make_inputs
from benchmarks.limits import PHASES, limit
from benchmarks.peers import OURS, PEERS, SLOW_PEERS, backward, both, tritonpool_layer
from tritonpool.bench.memory import peak_memory, saved_bytes

# one thing at a time away from 64 molecules, ratio 0.5, float32 and chemprop's 14 bond features
SIZES = {
    "1 molecule": {"number": 1},
    "16 molecules": {"number": 16},
    "256 molecules": {"number": 256},
    "1024 molecules": {"number": 1024},
    "4096 molecules": {"number": 4096},
    "ratio 0.1": {"ratio": 0.1},
    "ratio 0.25": {"ratio": 0.25},
    "ratio 1.0": {"ratio": 1.0},
    "300 bond features": {"bond_features": 300},
    "bfloat16": {"dtype": torch.bfloat16},
    "bfloat16, 300 bond features": {"dtype": torch.bfloat16, "bond_features": 300},
}
ALL = {**PEERS, **SLOW_PEERS}


@pytest.fixture(scope="module", params=[0.25, 0.5], ids=lambda ratio: f"ratio={ratio}")
def inputs(request):
    made = make_inputs(64, request.param)
    check_against_reference(made)
    check_peers(made, ALL)
    return made


def measure(benchmark, run, inputs: Inputs, phase: str, row: str, **more: object) -> None:
    """Time one phase of a candidate, and note the peak of its memory."""
    if phase == "backward":
        benchmark.pedantic(backward, setup=lambda: ((run(inputs),), {}), rounds=30, warmup_rounds=3)
    else:
        benchmark(*((run, inputs) if phase == "forward" else (both, run, inputs)))
    outputs = run(inputs) if phase == "backward" else None
    function = {
        "forward": lambda: run(inputs),
        "backward": lambda: backward(outputs),
        "both": lambda: both(run, inputs),
    }[phase]
    benchmark.extra_info.update(row=row, phase=phase, peak_bytes=peak_memory(function, "cpu"))
    benchmark.extra_info.update(more)
    if phase == "forward":
        benchmark.extra_info["saved_bytes"] = sum(saved_bytes(function).values())


def limits(inputs: Inputs, peer, phase: str) -> dict[str, object]:
    found = limit(inputs, peer, phase)
    return {"limit": found.seconds, "bound": found.bound}


@pytest.mark.parametrize("phase", PHASES)
@pytest.mark.parametrize("name", ALL)
def test_peers(benchmark, inputs, name, phase):
    benchmark.group = f"coarsen + losses, {phase}, {inputs}, ratio {inputs.ratio}"
    measure(benchmark, ALL[name], inputs, phase, name, **limits(inputs, ALL[name], phase))


@pytest.mark.parametrize("sizes", SIZES)
def test_sizes(benchmark, sizes):
    made = make_inputs(**SIZES[sizes])
    check_against_reference(made)
    benchmark.group = "coarsen + losses, both, by size"
    measure(benchmark, OURS, made, "both", sizes, **limits(made, OURS, "both"))


@pytest.mark.parametrize("phase", PHASES)
def test_layer(benchmark, inputs, phase):
    benchmark.group = f"the layer, {phase}, {inputs}, ratio {inputs.ratio}"
    measure(benchmark, tritonpool_layer, inputs, phase, "the layer")
