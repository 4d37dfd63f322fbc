"""The op for pytest-benchmark (``make bench``): every row is checked before it is timed."""

import pytest

from benchmarks.inputs import make_inputs
from benchmarks.peers import PEERS, SLOW_PEERS, tritonpool_layer, tritonpool_op
from benchmarks.ratios import check

# one thing at a time away from 64 molecules, ratio 0.5 and chemprop's 14 bond features
SIZES = {
    "1 molecule": {"number": 1},
    "512 molecules": {"number": 512},
    "4096 molecules": {"number": 4096},
    "ratio 0.1": {"ratio": 0.1},
    "ratio 1.0": {"ratio": 1.0},
    "300 bond features": {"bond_features": 300},
}
ALL = {**PEERS, **SLOW_PEERS}


@pytest.fixture(scope="module", params=[0.25, 0.5], ids=lambda ratio: f"ratio={ratio}")
def inputs(request):
    made = make_inputs(64, request.param)
    check(made, ALL)
    return made


@pytest.mark.parametrize("name", ALL)
def test_forward_and_backward(benchmark, inputs, name):
    benchmark.group = f"coarsen + losses, forward + backward, {inputs}, ratio {inputs.ratio}"
    benchmark(ALL[name], inputs)


@pytest.mark.parametrize("sizes", SIZES)
def test_sizes(benchmark, sizes):
    made = make_inputs(**SIZES[sizes])
    benchmark.group = "coarsen + losses, forward + backward, by size"
    benchmark(tritonpool_op, made)


def test_layer(benchmark, inputs):
    benchmark.group = f"the layer, forward + backward, {inputs}, ratio {inputs.ratio}"
    benchmark(tritonpool_layer, inputs)
