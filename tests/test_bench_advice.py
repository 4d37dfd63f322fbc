"""The parts of ``tritonpool bench``: advice, histogram, memory."""

import numpy as np
import pytest
import torch

from tritonpool.bench.advice import Row, affordable, recommend, slowdown
from tritonpool.bench.memory import peak_memory
from tritonpool.bench.report import draw, histogram, markdown


def row(batch_size: int, ratio: float | None, epoch: float | None) -> Row:
    """A setting whose epoch of 100 steps takes that long; None does not fit."""
    if epoch is None:
        return Row(batch_size, ratio)
    return Row(batch_size, ratio, epoch / 100, 0.0, epoch, 2**20)


PLAIN = [row(16, None, 12.0), row(64, None, 10.0)]
POOLED = [
    row(16, 0.1, 10.9),
    row(64, 0.1, 10.0),
    row(16, 0.25, 15.5),
    row(64, 0.25, 14.0),
    row(16, 0.5, 30.0),
    row(64, 0.5, 20.0),
]


@pytest.mark.parametrize(
    "limit, usual, batch_size, ratio",
    [
        (1.0, 0.25, 16, 0.1),  # 10.9 is within 10 % of 10
        (1.5, 0.25, 64, 0.25),  # 15.5 is not within 10 % of 14
        (2.0, 0.25, 64, 0.25),  # a larger one would be affordable too
        (2.0, 0.3, 64, 0.5),  # the usual one was not measured
        (0.5, 0.25, 16, 0.1),  # none is that fast: the fastest
    ],
)
def test_the_usual_or_largest_affordable_ratio_and_the_smallest_good_batch(
    limit, usual, batch_size, ratio
):
    best = recommend(PLAIN + POOLED, limit, usual)
    assert (best.batch_size, best.ratio) == (batch_size, ratio)


def test_what_does_not_fit_is_not_recommended():
    rows = [*PLAIN, row(16, 0.25, 14.0), row(64, 0.25, None)]
    assert recommend(rows, 1.5, 0.25) is rows[2]
    assert recommend([*PLAIN, row(16, 0.25, None)], 1.5, 0.25) is None
    assert recommend([row(16, None, None), row(16, 0.25, 14.0)], 1.5, 0.25).ratio == 0.25


def test_affordable_ratios():
    assert affordable(PLAIN + POOLED, 1.5) == [0.1, 0.25]
    assert affordable(PLAIN + POOLED, 0.5) == []
    assert affordable([row(16, None, None), *POOLED], 0.5) == [0.1, 0.25, 0.5]


def test_slowdown_compares_batches_of_one_size():
    rows = PLAIN + POOLED
    assert slowdown(rows[2], rows) == pytest.approx(10.9 / 12)
    assert slowdown(row(32, 0.1, 1.0), rows) is None
    assert slowdown(row(16, 0.1, None), rows) is None


@pytest.mark.parametrize("sizes", [[7], [3, 4], range(1, 11), range(1, 12), [0, 1000], [5] * 9])
def test_histogram_counts_every_graph_once(sizes):
    bins = histogram(list(sizes))
    assert len(bins) <= 10 and sum(count for _, _, count in bins) == len(sizes)
    assert bins[0][0] == min(sizes) and bins[-1][1] == max(sizes)
    for first, last, count in bins:
        assert count == sum(first <= size <= last for size in sizes)
    for (_, last, _), (first, _, _) in zip(bins, bins[1:], strict=False):
        assert first == last + 1


def test_tables_and_picture(tmp_path):
    rows = [*PLAIN, row(16, 0.25, 14.0), row(64, 0.25, None)]
    text = markdown(rows, histogram([3, 4, 4]), rows[2])
    lines = text.splitlines()
    assert lines[0].split() == ["|", "atoms", "|", "molecules", "|"]
    (marked,) = [line for line in lines if "recommended" in line]
    assert "140.0 ± 0.0" in marked and "14.00" in marked and "1.17" in marked
    assert "does not fit" in lines[-1]
    assert len({len(line) for line in lines[6:]}) == 1
    path = tmp_path / "x.png"
    figure = draw(rows, np.array([3, 4, 4]), rows[2], path, "CPU")
    assert path.read_bytes().startswith(b"\x89PNG")
    _, time, memory = figure.axes
    assert [line.get_label() for line in time.lines] == ["D-MPNN", "ratio 0.25"]
    assert list(time.lines[0].get_ydata()) == [12.0, 10.0]
    assert list(memory.lines[1].get_ydata()) == [1.0]


def test_peak_memory_counts_what_is_held_at_once():
    held = torch.zeros(1000, 1000)

    def two_at_once():
        first = torch.zeros(1000, 1000)
        second = torch.zeros(500, 1000)
        del first
        return second, torch.zeros(100, 1000)

    assert peak_memory(two_at_once, "cpu") == 6_000_000
    assert held.sum() == 0


def test_peak_memory_keeps_quiet(capfd):
    peak_memory(lambda: torch.zeros(10), "cpu")
    print("after", flush=True)
    captured = capfd.readouterr()
    assert captured.out == "after\n" and captured.err == ""
