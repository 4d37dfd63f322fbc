"""How long the op takes against what one would use instead: ``python -m benchmarks.ratios``.

All candidates run in turn within one process, so that a slow moment of the machine hits them
alike; the ratio of medians is what to quote. Each is checked against our result first.
"""

from __future__ import annotations

import argparse
import statistics
import time

import torch

from benchmarks.checks import check_against_reference, check_peers
from benchmarks.inputs import Inputs, make_inputs
from benchmarks.peers import PEERS, both, fork_loop, loop_share

__all__ = ["main", "measure"]


def measure(inputs: Inputs, rounds: int) -> dict[str, float]:
    """Median milliseconds of forward and backward of every candidate, run in turn."""
    times: dict[str, list[float]] = {name: [] for name in PEERS}
    for i in range(rounds + 5):
        for name, run in PEERS.items():
            both(run, inputs)  # what ran before leaves its mark on the heap and the caches
            start = time.perf_counter()
            both(run, inputs)
            if i >= 5:  # the first rounds warm up
                times[name].append(1e3 * (time.perf_counter() - start))
    return {name: statistics.median(values) for name, values in times.items()}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("-n", type=int, default=64, help="molecules in the batch")
    parser.add_argument("--ratio", type=float, nargs="+", default=[0.25, 0.5])
    parser.add_argument("--rounds", type=int, default=100)
    args = parser.parse_args()
    for ratio in args.ratio:
        inputs = make_inputs(args.n, ratio)
        check_against_reference(inputs)
        check_peers(inputs)
        medians = measure(inputs, args.rounds)
        start = time.perf_counter()
        both(fork_loop, inputs)
        loop = 1e3 * (time.perf_counter() - start) * loop_share(inputs)
        medians["the loop, 2 molecules extrapolated"] = loop
        own = medians["tritonpool"]
        print(f"\n{inputs}, ratio {ratio}, {torch.get_num_threads()} threads, {torch.__version__}")
        print(f"{'forward + backward':40} {'ms':>10} {'tritonpool / it':>16}")
        for name, value in medians.items():
            print(f"{name:40} {value:10.2f} {own / value:16.4f}")


if __name__ == "__main__":
    main()
