"""The regression tracking (``make bench-compare``): each case over a fixed yardstick."""

import pytest

from benchmarks.inputs import make_inputs
from benchmarks.peers import both, tritonpool_layer, tritonpool_op, tritonpool_task_only
from benchmarks.tracking import Tracker
from benchmarks.yardstick import yardstick

# what runs, on which inputs, and how often the yardstick repeats itself to come near that time
CASES = {
    "op, ratio 0.25": (tritonpool_op, {"ratio": 0.25}, 3),
    "op, ratio 0.5": (tritonpool_op, {"ratio": 0.5}, 6),
    "op without gradient of F, ratio 0.5": (tritonpool_task_only, {"ratio": 0.5}, 6),
    "op, 256 molecules, ratio 0.1": (tritonpool_op, {"number": 256, "ratio": 0.1}, 2),
    "op, 100 bond features, ratio 0.25": (tritonpool_op, {"bond_features": 100, "ratio": 0.25}, 15),
    "layer, ratio 0.25": (tritonpool_layer, {"ratio": 0.25}, 6),
}


@pytest.mark.parametrize("name", CASES)
def test_ratio_to_the_yardstick(benchmark, name):
    run, sizes, repeats = CASES[name]
    inputs = make_inputs(source="oligomers", **sizes)
    S = inputs.S[:, :8].contiguous()
    tracker = Tracker(
        lambda: both(run, inputs), lambda: yardstick(inputs.x, inputs.edge_index, S, repeats)
    )
    benchmark.pedantic(
        tracker.case, setup=tracker.before_round, rounds=tracker.total, warmup_rounds=3
    )
    benchmark.extra_info.update(case=name, **tracker.summary(benchmark.stats.stats.data))
