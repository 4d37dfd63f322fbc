"""The op for pytest-benchmark (``make bench``): every row is checked before it is timed."""

import pytest
import torch

from benchmarks.inputs import make_inputs
from benchmarks.peers import PEERS
from benchmarks.ratios import check


@pytest.fixture(scope="module", params=[0.25, 0.5], ids=lambda ratio: f"ratio={ratio}")
def inputs(request):
    made = make_inputs(64, request.param)
    check(made)
    return made


@pytest.mark.parametrize("name", PEERS)
def test_forward_and_backward(benchmark, inputs, name):
    benchmark.group = f"coarsen + losses, forward + backward, {inputs}"
    benchmark.extra_info.update(torch=torch.__version__, threads=torch.get_num_threads())
    benchmark(PEERS[name], inputs)
