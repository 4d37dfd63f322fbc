"""The whole training step (``make bench``), beside that of chemprop's D-MPNN."""

import pytest

from benchmarks.limits import product_seconds
from benchmarks.step import make_step
from tritonpool.bench.memory import peak_memory

STEPS = {
    "chemprop D-MPNN": (None, {}),
    "ratio 0.1": (0.1, {}),
    "ratio 0.25": (0.25, {}),
    "ratio 0.5": (0.5, {}),
    "ratio 0.25, 2 levels": (0.25, {"levels": 2}),
    "ratio 0.25, GNN assignment": (0.25, {"assignment": "gnn"}),
}


@pytest.mark.parametrize("name", STEPS)
def test_step(benchmark, name):
    ratio, settings = STEPS[name]
    step = make_step(ratio, **settings)
    benchmark.group = "training step, 64 molecules"
    benchmark.pedantic(step, rounds=15, warmup_rounds=3)
    benchmark.extra_info.update(
        row=name,
        phase="step",
        peak_bytes=peak_memory(step, "cpu"),
        limit=product_seconds(step),
        bound="operations",
    )
