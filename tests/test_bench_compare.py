"""The regression tracking finds a slower op, and nothing else."""

import json
import subprocess
import time
from contextlib import nullcontext
from dataclasses import replace

import pytest
import torch

from benchmarks import compare, confirm
from benchmarks.machine import machine
from benchmarks.rows import Row
from benchmarks.tracking import Tracker
from tritonpool import Graph, coarsen, sparse

ROW = Row("2026-01-01T00:00:00", "abc", "chip", 2, None, "2.13", "3.7", "op", 1.0, 0.05, 5.0)


@pytest.mark.parametrize(
    "ratio, spread, slower",
    [
        (0.5, 0.0, False),
        (1.17, 0.0, False),
        (1.18, 0.0, True),
        (1.24, 0.2, False),
        (1.26, 0.2, True),
    ],
)
def test_slower_by_more_than_the_tolerance_and_the_spread(ratio, spread, slower):
    lines, found = compare.compare([replace(ROW, ratio=ratio, spread=spread)], [ROW])
    assert found == (["op"] if slower else [])
    assert ("SLOWER" in lines[0]) == slower


@pytest.mark.parametrize("change", [{"chip": "other"}, {"threads": 4}, {"case": "new"}])
def test_only_what_is_alike_is_compared(change):
    lines, found = compare.compare([replace(ROW, ratio=9.0, **change)], [ROW])
    assert not found and "no baseline" in lines[0]


def write_run(path, ratio, **info):
    bench = {
        "extra_info": {"case": "op", "ratio": ratio, "spread": 0.01},
        "stats": {"median": 0.005},
    }
    run = {
        "datetime": "2026-01-02T00:00:00.5",
        "machine_info": {**machine(), **info},
        "benchmarks": [bench, {"extra_info": {}, "stats": {"median": 1.0}}],
    }
    path.write_text(json.dumps(run))
    return path


def test_accept_then_compare_a_slower_run(tmp_path, capsys):
    results = ["--results", str(tmp_path)]
    first = write_run(tmp_path / "first.json", 1.0)
    assert compare.main([str(first), *results]) == 0
    assert "no baseline" in capsys.readouterr().out
    assert compare.main([str(first), "--accept", *results]) == 0
    assert compare.main([str(first), "--accept", *results]) == 0
    assert len((tmp_path / "baseline.csv").read_text().splitlines()) == 2
    assert len((tmp_path / "history.csv").read_text().splitlines()) == 3
    assert (tmp_path / "history.png").stat().st_size > 1000
    assert compare.main([str(write_run(tmp_path / "ok.json", 1.1)), *results]) == 0


@pytest.mark.parametrize("confirmed", [True, False])
def test_a_suspect_is_tried_beside_the_accepted_code(tmp_path, monkeypatch, capsys, confirmed):
    results = ["--results", str(tmp_path)]
    compare.main([str(write_run(tmp_path / "first.json", 1.0)), "--accept", *results])
    slow = str(write_run(tmp_path / "slow.json", 1.2))
    asked = []

    def answer(cases, accepted):
        asked.append((cases, accepted))
        return ["a line"], ["op"] * confirmed

    monkeypatch.setattr(compare, "accepted_code", lambda *which: nullcontext(tmp_path))
    monkeypatch.setattr(compare, "confirm", answer)
    assert compare.main([slow, *results]) == confirmed
    assert asked == [(["op"], tmp_path)]
    assert ("slower than the accepted code: op" in capsys.readouterr().err) == confirmed


@pytest.mark.parametrize("ratio, slower", [(1.1, False), (1.2, True)])
def test_a_chip_without_baseline_runs_the_accepted_code(
    tmp_path, monkeypatch, capsys, ratio, slower
):
    """Nothing lands unnoticed on another chip, either."""
    results = ["--results", str(tmp_path)]
    first = write_run(tmp_path / "first.json", 0.1, chip="other")
    compare.main([str(first), "--accept", *results])
    measured = []

    def run(accepted, cases):
        measured.append((accepted, cases))
        own = machine()
        row = replace(ROW, chip=own["chip"], threads=own["threads"], spread=0.01)
        return [replace(row, case=case) for case in cases]

    monkeypatch.setattr(compare, "accepted_code", lambda *which: nullcontext(tmp_path))
    monkeypatch.setattr(compare, "measure_known", run)
    monkeypatch.setattr(compare, "confirm", lambda cases, accepted: (["a line"], cases))
    assert compare.main([str(write_run(tmp_path / "run.json", ratio)), *results]) == slower
    assert measured == [(tmp_path, ["op"])]
    assert "accepted code 1.000, at most" in capsys.readouterr().out


def test_a_new_case_on_a_known_chip_has_nothing_to_be_compared_with():
    assert compare.missing([replace(ROW, case="new")], [ROW]) == []
    assert compare.missing([replace(ROW, threads=4)], [ROW]) == ["op"]


def test_only_cases_that_the_accepted_code_has_are_measured(tmp_path, monkeypatch):
    monkeypatch.setattr(confirm, "collect", lambda tree: {f"{confirm.TEST}[op]"})
    monkeypatch.setattr(confirm, "measure", lambda tree, cases: [(tree, case) for case in cases])
    assert confirm.measure_known(tmp_path, ["op", "born later"]) == [(tmp_path, "op")]
    assert confirm.measure_known(tmp_path, ["born later"]) == []


def test_a_suspect_without_history_is_named(tmp_path, capsys):
    results = ["--results", str(tmp_path)]
    compare.main([str(write_run(tmp_path / "first.json", 1.0)), "--accept", *results])
    assert compare.main([str(write_run(tmp_path / "slow.json", 1.2)), *results]) == 0
    assert "perhaps slower, perhaps only this machine: op" in capsys.readouterr().err


@pytest.mark.parametrize("present, slower", [(1.3, []), (1.6, ["op"])])
def test_both_run_in_turn_on_the_same_machine(tmp_path, monkeypatch, present, slower):
    """On a machine where the accepted code takes 1.3 times its baseline, too, nothing is slower."""
    old, new = tmp_path / "old", tmp_path / "new"
    order = []

    def measured(tree, cases):
        order.append(tree)
        return [replace(ROW, case=c, ratio={old: 1.3, new: present}[tree]) for c in cases]

    monkeypatch.setattr(confirm, "collect", lambda tree: {f"{confirm.TEST}[op]"})
    monkeypatch.setattr(confirm, "measure", measured)
    lines, found = confirm.confirm(["op", "born later"], old, new)
    assert found == slower and order == [old, new] * 3
    assert any("not in the accepted code" in line for line in lines)
    assert any("accepted code 1.300, at most 1.495" in line for line in lines)


def test_the_spread_of_several_runs_is_that_between_them():
    rows = [replace(ROW, ratio=ratio, spread=0.7) for ratio in (1.0, 1.4, 1.1)]
    pooled = confirm.pool(rows)
    assert (pooled.ratio, pooled.spread) == (1.1, pytest.approx(0.4))


def test_the_accepted_code_is_that_of_the_baseline(tmp_path, monkeypatch):
    source, shallow = tmp_path / "source", tmp_path / "shallow"

    def git(*words):
        author = ["-c", "user.name=a", "-c", "user.email=a@b.c"]
        subprocess.run(["git", *author, *words], cwd=tmp_path, check=True, capture_output=True)

    def commit(**files):
        for name, text in files.items():
            (source / name).write_text(text)
        git("-C", str(source), "add", ".")
        git("-C", str(source), "commit", "-m", "a change")

    git("init", str(source))
    a, b = ("A(R) C+ 1", 2), ("B", 4)
    commit(code="first", baseline="commit,A(R) C+ 1,2,1.0\n")
    commit(code="second", baseline="commit,A(R) C+ 1,2,1.1\ncommit,B,4,1.0\n")
    commit(code="third", baseline="commit,A(R) C+ 1,2,1.1\ncommit,B,4,1.1\n")
    commit(code="fourth")
    monkeypatch.setattr(confirm, "ROOT", source)
    for (chip, threads), code in ((a, "second"), (b, "third"), (("C", 2), "third")):
        with confirm.accepted_code(source / "baseline", chip, threads) as tree:
            assert (tree / "code").read_text() == code
        assert not tree.exists()

    git("clone", "--depth", "1", f"file://{source}", str(shallow))
    for root in (shallow, tmp_path):
        monkeypatch.setattr(confirm, "ROOT", root)
        with confirm.accepted_code(root / "baseline", *a) as tree:
            assert tree is None


def test_the_code_of_the_folder_is_what_runs(tmp_path):
    with pytest.raises(RuntimeError, match="expected Python to import the code in"):
        confirm.collect(tmp_path)


def test_a_run_without_ratios_is_refused(tmp_path, capsys):
    path = tmp_path / "run.json"
    path.write_text(json.dumps({"machine_info": machine(), "benchmarks": []}))
    assert compare.main([str(path)]) == 2
    assert "holds no ratios" in capsys.readouterr().err


def test_the_machine_is_described():
    found = machine()
    assert found["chip"] and found["torch"] == torch.__version__ and found["threads"] >= 1


def test_a_slowed_path_is_found(monkeypatch):
    """A sum made slower on purpose must show, measured as the tracking measures."""
    gen = torch.Generator().manual_seed(0)
    x = torch.randn(60, 8, generator=gen)
    ends = torch.randint(0, 60, (2, 200), generator=gen)
    S = torch.rand(60, 5, generator=gen).requires_grad_()
    clock = {"now": 0.0}

    def op():
        coarsen(Graph(x, ends, x[ends[0]]), S, backend="sparse").edge_attr.sum().backward()
        clock["now"] += 1.0

    def fixed():
        clock["now"] += 1.0

    def measure() -> Row:
        tracker = Tracker(op, fixed, blocks=4, rounds=3)
        return replace(ROW, **tracker.summary(tracker.run()))

    # a clock that counts calls instead of seconds: nothing here depends on the machine
    monkeypatch.setattr(time, "perf_counter", lambda: clock["now"])
    usual = measure()
    assert compare.compare([measure()], [usual])[1] == []

    original = sparse.gather_sum

    def slowed(*args):
        clock["now"] += 0.1
        return original(*args)

    monkeypatch.setattr(sparse, "gather_sum", slowed)
    assert compare.compare([measure()], [usual])[1] == ["op"]
