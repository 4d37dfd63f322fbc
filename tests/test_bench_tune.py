"""The tuner of tiles, without a GPU: kernels run in the interpreter, and times are made up."""

from dataclasses import replace

import pytest
import torch

from benchmarks import tune
from tritonpool import use_backend
from tritonpool.kernels.tiles import tile_for, trying

TINY = {"tiny": {"number": 1, "ratio": 0.1, "source": "oligomers"}}

pytestmark = pytest.mark.skipif(torch.cuda.is_available(), reason="needs a machine without a GPU")


@pytest.fixture(autouse=True)
def tiny_cases(monkeypatch):
    monkeypatch.setattr(tune, "CASES", TINY)


def made_up(runs):
    return {"all": (2.0, 3.0), "pool_kernel": (1.0, 0.5)}


def time_pool():
    with use_backend("triton"):
        return tune.time_tiles("pool", "tiny", "cpu", made_up)


def test_neighbours_differ_in_one_thing():
    tile = tile_for("pool", torch.float32, "sm_90")
    first, *others = tune.neighbours(tile)
    assert first == tile and len(others) == 2 * len(tile.blocks) + 2
    for other in others:
        sizes = [name for name in tile.blocks if other.blocks[name] != tile.blocks[name]]
        assert len(sizes) + (other.warps != tile.warps) == 1


def test_another_tile_is_taken_and_put_back():
    present = tile_for("pool", torch.float32, "sm_90")
    other = replace(present, warps=8)
    with trying("pool", other):
        assert tile_for("pool", torch.float32, "sm_90") is other
        assert tile_for("lift", torch.float32, "sm_90") != other
    assert tile_for("pool", torch.float32, "sm_90") == present


def test_every_tile_has_a_row(monkeypatch):
    some = [*tune.neighbours(tile_for("pool", torch.float32, "sm_90"))][:3]
    monkeypatch.setattr(tune, "neighbours", lambda _: some)
    rows = time_pool()
    assert len({row["tile"] for row in rows}) == len(rows) == 3
    assert all(row["us"] == 500.0 and not row["error"] for row in rows)


def test_a_tile_that_fails_says_why(monkeypatch):
    def bad(tile):
        yield replace(tile, blocks={**tile.blocks, "BV": 3})
        yield tile

    monkeypatch.setattr(tune, "neighbours", bad)
    failed, fine = time_pool()
    assert failed["us"] is None and "power of 2" in failed["error"]
    assert fine["us"] == 500.0


def test_other_results_count_as_failure(monkeypatch):
    errors = iter([{"dS": 1e-6}, {"dS": 1e-6}, {"dS": 1e-3}])
    monkeypatch.setattr(tune, "check", lambda *_: next(errors))
    monkeypatch.setattr(tune, "neighbours", lambda tile: [tile, tile])
    fine, failed = time_pool()
    assert fine["us"] and failed["error"] == "RuntimeError: another result"


def test_without_a_gpu_it_says_so(capsys):
    assert tune.main([]) == 2
    assert "torch finds no GPU" in capsys.readouterr().err
