"""How long the op takes against what one would use instead: ``python -m benchmarks.ratios``.

All candidates run in turn within one process, so that a slow moment of the machine hits them
alike; the ratio of medians is what to quote. Each is checked against our result first.
"""

from __future__ import annotations

import argparse
import statistics
import time

import torch

from benchmarks.inputs import Inputs, make_inputs
from benchmarks.peers import PEERS, fork_loop, loop_share

__all__ = ["check", "main", "measure"]


def check(inputs: Inputs) -> None:
    """Raise if the candidates disagree about what they compute."""
    own, dense = PEERS["tritonpool"](inputs), PEERS["PyG + einsum for bond features"](inputs)
    clusters = inputs.clusters
    K = int(clusters.max())
    used = torch.arange(K) < clusters[:, None]
    pairs = used[:, :, None] & used[:, None, :] & ~torch.eye(K, dtype=torch.bool)
    torch.testing.assert_close(own["X'"], dense["X'"][used], rtol=1e-4, atol=1e-4)
    torch.testing.assert_close(own["W"], dense["W"][pairs], rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(own["F'"], dense["F'"][pairs], rtol=1e-3, atol=1e-4)
    loop = fork_loop(inputs, 1)["F'"]
    torch.testing.assert_close(own["F'"][: len(loop)], loop, rtol=1e-3, atol=1e-4)


def measure(inputs: Inputs, rounds: int) -> dict[str, float]:
    """Median milliseconds of forward and backward of every candidate, run in turn."""
    times: dict[str, list[float]] = {name: [] for name in PEERS}
    for i in range(rounds + 5):
        for name, run in PEERS.items():
            start = time.perf_counter()
            run(inputs)
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
        check(inputs)
        medians = measure(inputs, args.rounds)
        start = time.perf_counter()
        fork_loop(inputs)
        loop = 1e3 * (time.perf_counter() - start) * loop_share(inputs)
        medians["the loop, 2 molecules extrapolated"] = loop
        own = medians["tritonpool"]
        print(f"\n{inputs}, ratio {ratio}, {torch.get_num_threads()} threads, {torch.__version__}")
        print(f"{'forward + backward':40} {'ms':>10} {'tritonpool / it':>16}")
        for name, value in medians.items():
            print(f"{name:40} {value:10.2f} {own / value:16.4f}")


if __name__ == "__main__":
    main()
