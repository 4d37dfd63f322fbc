"""Why sums over groups of rows take two paths (:func:`tritonpool.sums.gather_sum`), and none of
them is torch's grouped product."""

import pytest
import torch

from benchmarks.inputs import make_inputs
from tritonpool.patterns import assignment_pattern
from tritonpool.planning import coarse_plan
from tritonpool.sums import csr_matrix


def bag(ptr, index, rows, weight):
    return torch.embedding_bag(
        rows, index, ptr, mode=0, per_sample_weights=weight, include_last_offset=True
    )[0]


def csr(ptr, index, rows, weight):
    return csr_matrix(ptr, index, weight, len(rows)) @ rows


@pytest.mark.parametrize("function", [bag, csr], ids=["embedding bag", "CSR product"])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64], ids=str)
@pytest.mark.parametrize("way", ["S^T rows", "S rows"])
def test_sums(benchmark, way, dtype, function):
    inputs = make_inputs(64, 0.5)
    plan = inputs.graph().plan
    at = assignment_pattern(plan, coarse_plan(plan, inputs.clusters, True))
    ptr, index = (at.t_ptr, at.t_node) if way == "S^T rows" else (at.ptr, at.cluster)
    generator = torch.Generator().manual_seed(0)
    rows = torch.randn(int(index.max()) + 1, 300, dtype=dtype, generator=generator)
    weight = torch.rand(len(index), dtype=dtype, generator=generator)
    torch.testing.assert_close(bag(ptr, index, rows, weight), csr(ptr, index, rows, weight))
    benchmark.group = f"{way}, {len(index)} entries x 300 columns, {dtype}"
    benchmark(function, ptr, index, rows, weight)


def test_grouped_product(benchmark):
    """S^T X of float32 as one grouped product, which needs S with all its columns."""
    inputs = make_inputs(64, 0.5)
    ends = inputs.graph().plan.node_ptr[1:].int()
    S, X = inputs.S, inputs.x
    found = torch.nn.functional.grouped_mm(S.t(), X, offs=ends)
    for g, part in enumerate(found):
        own = inputs.batch == g
        torch.testing.assert_close(part, S[own].t() @ X[own], rtol=1e-4, atol=1e-4)
    benchmark.group = "S^T rows as a grouped product, torch.float32"
    benchmark(torch.nn.functional.grouped_mm, S.t(), X, offs=ends)
