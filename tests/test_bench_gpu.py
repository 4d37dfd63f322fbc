"""The script for GPUs, tried on the CPU: it checks, times and keeps its rows."""

import csv

import pytest
import torch

from benchmarks import clocks, gpu
from benchmarks.inputs import make_inputs
from benchmarks.machine import commit
from tritonpool import sparse

TINY = {
    "tiny": {"number": 3, "ratio": 0.1, "source": "oligomers"},
    "half": {"number": 2, "ratio": 0.1, "dtype": torch.bfloat16, "source": "oligomers"},
}


@pytest.fixture(autouse=True)
def tiny_cases(monkeypatch):
    monkeypatch.setattr(gpu, "CASES", TINY)


def test_rows_are_added(tmp_path, capsys):
    path = tmp_path / "gpu.csv"
    for _ in range(2):
        words = ["--device", "cpu", "--rounds", "3", "--output", str(path)]
        assert gpu.main(words) == 0
    assert "largest error over what is allowed: 0." in capsys.readouterr().out
    with path.open(newline="") as file:
        rows = list(csv.DictReader(file))
    ways = {"coarsen", "coarsen, no gradient of F", "coarsen, losses", "PyG + einsum"}
    ways.add("coarsen, losses, with the plan")
    assert len(rows) == 2 * 2 * len(ways)
    assert {(row["case"], row["way"]) for row in rows} == {(c, w) for c in TINY for w in ways}
    for row in rows:
        assert 0 < float(row["p20"]) <= float(row["ms"]) <= float(row["p80"])
        assert row["torch"] == torch.__version__ and row["device"] == "cpu"
        assert row["commit"] == commit()  # nothing where there is no git
        assert not row["error"] and row["chip"] == "CPU"


def test_rows_are_not_added_under_other_columns(tmp_path):
    path = tmp_path / "gpu.csv"
    path.write_text("case,way,ms\n")
    with pytest.raises(ValueError, match="gpu.csv has other columns"):
        gpu._add(path, [{"case": "tiny", "way": "coarsen", "error": ""}])
    assert path.read_text() == "case,way,ms\n"


def test_a_wrong_result_is_an_error(tmp_path, monkeypatch):
    original = sparse.gather_sum

    def wrong(ptr, index, rows, weight=None):
        found = original(ptr, index, rows, weight)
        return found if rows.dtype == torch.float64 else 1.001 * found

    monkeypatch.setattr(sparse, "gather_sum", wrong)
    words = ["--device", "cpu", "--cases", "tiny", "--rounds", "1"]
    assert gpu.main([*words, "--output", str(tmp_path / "gpu.csv")]) == 1


def test_two_runs_that_differ_are_an_error(monkeypatch):
    original = sparse.gather_sum

    def noisy(ptr, index, rows, weight=None):
        found = original(ptr, index, rows, weight)
        return found * (1 + 1e-6 * torch.rand(()))

    monkeypatch.setattr(sparse, "gather_sum", noisy)
    with pytest.raises(AssertionError, match="differs between two runs"):
        gpu.check(make_inputs(**TINY["tiny"]), "cpu")


def test_a_way_that_fails_leaves_a_row_and_the_others(tmp_path, monkeypatch):
    def broken(inputs):
        raise torch.OutOfMemoryError("Tried to allocate 99 GiB.")

    path = tmp_path / "gpu.csv"
    words = ["--device", "cpu", "--cases", "tiny", "--rounds", "2", "--output", str(path)]
    monkeypatch.setattr(gpu, "pyg_einsum", broken)
    assert gpu.main(words) == 0  # a peer's failure is not ours
    with path.open(newline="") as file:
        rows = {row["way"]: row for row in csv.DictReader(file)}
    assert rows["PyG + einsum"]["error"] == "OutOfMemoryError: Tried to allocate 99 GiB."
    assert float(rows["coarsen"]["ms"]) > 0 and not rows["PyG + einsum"]["ms"]
    monkeypatch.setattr(gpu, "_planning", broken)
    assert gpu.main(words) == 1


def test_kernels_are_summed_by_name():
    events = [("pool_kernel", 3.0), ("Memset (Device)", 1.0), ("void at::f<4>(x_kernel)", 1.0)] * 2
    found = clocks.by_kernel(events, 2)
    assert list(found) == ["all", "pool_kernel", "of torch"]
    assert found["all"] == (3.0, pytest.approx(5e-3))
    assert found["pool_kernel"] == (1.0, pytest.approx(3e-3))
    assert found["of torch"] == (2.0, pytest.approx(2e-3))


def test_numbers_that_are_not_finite_are_an_error():
    nan = torch.tensor([float("nan")])
    with pytest.raises(AssertionError, match="dS is not finite"):
        gpu._same("dS", nan, nan, "two runs")


def test_gradients_and_losses_only_where_asked():
    inputs = make_inputs(**TINY["tiny"])
    for losses in (False, True):
        for edges in (False, True):
            run, held = gpu.prepare(inputs, losses, edges)
            run()
            assert ("dF" in held) == edges and ("link" in held) == losses


@pytest.mark.skipif(torch.cuda.is_available(), reason="needs a machine without a GPU")
def test_without_a_gpu_it_says_so(capsys):
    assert gpu.main([]) == 2
    assert "torch finds no GPU" in capsys.readouterr().err
