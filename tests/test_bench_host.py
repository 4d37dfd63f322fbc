"""Launching, with a driver that starts nothing; in processes of their own, because here kernels
are interpreted."""

import os
import re
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch
from chemprop.models import MPNN
from chemprop.nn import BondMessagePassing, MeanAggregation, RegressionFFN

from benchmarks import epoch

ROOT = Path(__file__).parents[1]
UNWANTED = "TRITON_INTERPRET", "TRITONPOOL_DATA"

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="Triton exists for Linux only")


def run(*command: str) -> str:
    environment = {k: v for k, v in os.environ.items() if k not in UNWANTED}
    done = subprocess.run(
        [sys.executable, *command], cwd=ROOT, env=environment, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


def test_a_step_is_listed_and_timed():
    words = run("-m", "benchmarks.host", "--blocks", "1", "--rounds", "2")
    found = re.fullmatch(
        r"ratio 0.25: (\d+) calls of torch, (\d+) kernels, [\d.]+ ms, D-MPNN [\d.]+ ms: [\d.]+x "
        r"\(spread [\d.]+\)\n",
        words,
    )
    calls, kernels = map(int, found.groups())
    assert kernels == 29 and 200 < calls < 400


# Each launch three times: perhaps built by Triton, found by our key, and found by Triton's own; the
# builds of the launches before stay.
BUILDS = """
import itertools
import torch
from benchmarks.host import on_the_host_only
from tritonpool import Graph
with on_the_host_only() as idle:
    from tritonpool.kernels import launch, messages, segments
    plan = Graph(torch.randn(3, 1), torch.tensor([[0, 1, 1, 2], [1, 0, 2, 1]])).plan
    every = set()
    dtypes = torch.float32, torch.float64, torch.bfloat16
    for dtype, D, weighted in itertools.product(dtypes, (4, 5), (False, True)):
        H = torch.zeros(4, D, dtype=dtype)
        w = torch.zeros(4, dtype=dtype) if weighted else None
        for run in (
            lambda: messages.messages_fwd(H, w, plan.in_edge, plan),
            lambda: segments.segments_bwd(H[:3], H, w, plan.in_ptr, plan.in_edge, plan.dst, False,
                                          (True, weighted)),
        ):
            idle.started.clear()
            run()
            run()
            kept = dict(launch._builds)
            launch._builds.clear()
            run()
            launch._builds.update(kept)
            (build,) = set(idle.started)
            assert len(idle.started) == 3
            every.add(build)
    assert len(every) == 24, len(every)

    # what a key of ours does not tell apart is left to Triton
    H = torch.zeros(5, 4)
    common = dict(ptr_ptr=plan.in_ptr, index_ptr=plan.in_ptr, order_ptr=plan.in_ptr, X_ptr=H[:4],
                  G_ptr=H[:3], dX_ptr=H[:4], dw_ptr=H, HAS_W=True, LISTED=True, MEAN=False,
                  NEED_X=True, NEED_W=False, G_row=4)
    grid, more = segments.arguments_of("segment_spread", H, torch.float32, 3)
    aligned, moved = torch.zeros(5)[:4], torch.zeros(5)[1:]
    found = []
    for E, w in ((4, aligned), (2**31, aligned), (4, moved), (4, aligned)):
        idle.started.clear()
        for _ in range(2):
            launch.launch(segments.segment_spread_kernel, grid, w_ptr=w, E=E, **common, **more)
        assert len(set(idle.started)) == 1
        found.append(idle.started[0])
    assert found[0] == found[3] and len(set(found)) == 3
"""


def test_a_launch_finds_the_build_that_triton_would():
    run("-c", BUILDS)


def test_epochs_of_both_commands_are_timed():
    words = run("-m", "benchmarks.epoch", "--host", "-n", "40", "--epochs", "3", "--rounds", "1",
                "--", "--diffpool-levels", "4")  # fmt: skip
    found = re.fullmatch(
        r"40 oligomers: ([\d.]+) s per epoch, chemprop ([\d.]+) s: ([\d.]+)x "
        r"\([\d.]+ to [\d.]+\)\n",
        words,
    )
    assert min(map(float, found.groups())) > 0


def test_epochs_are_compared_round_by_round(monkeypatch, capsys):
    given = []
    times = iter([[2.0, 2.0], [3.0, 5.0], [1.0, 1.0], [6.0, 6.0], [4.0, 4.0], [6.0, 6.0]])

    def seconds(train):
        given.append((train.func, train.args[0]))
        return next(times)

    monkeypatch.delenv("TRITONPOOL_DATA", raising=False)
    monkeypatch.setattr(epoch, "seconds", seconds)
    epoch.main(["-n", "40", "--rounds", "3", "--", "--diffpool-levels", "4"])
    assert capsys.readouterr().out == (
        "40 oligomers: 6.000 s per epoch, chemprop 2.000 s: 2.00x (1.50 to 6.00)\n"
    )
    assert [train for train, _ in given] == [epoch.stock, epoch.ours] * 3
    for train, words in given:
        assert ("--diffpool-levels" in words) == (train is epoch.ours)
    assert len({words[-1] for _, words in given}) == 6  # a folder each


def test_the_first_epoch_is_left_out(monkeypatch: pytest.MonkeyPatch):
    clock = iter([1.0, 11.0, 13.0, 16.0])
    monkeypatch.setattr(time, "perf_counter", lambda: next(clock))
    torch.manual_seed(0)
    model = MPNN(BondMessagePassing(), MeanAggregation(), RegressionFFN())

    def train() -> None:
        for _ in range(3):
            model.on_train_epoch_start()
        model.on_train_end()

    assert epoch.seconds(train) == [2.0, 3.0]
