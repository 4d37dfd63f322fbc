"""The benchmark suite checks what it times, and reports what it measured."""

import json

import numpy as np
import pytest
import torch

from benchmarks import limits, report
from benchmarks.checks import check_against_reference, check_peers
from benchmarks.inputs import Inputs
from benchmarks.peers import OURS, PEERS, Peer, both, pyg, sparse_loop
from tritonpool import sparse
from tritonpool.bench.memory import saved_bytes

PLAIN = PEERS["PyG dense_diff_pool, no bond features"]
NO_GRADIENT = PEERS["tritonpool, F without gradient"]


@pytest.fixture
def inputs() -> Inputs:
    """Two paths of three and two nodes, with two and one clusters."""
    gen = torch.Generator().manual_seed(0)
    S = torch.rand(5, 2, generator=gen)
    S[3:, 1] = 0
    return Inputs(
        source="paths",
        x=torch.randn(5, 7, generator=gen),
        edge_index=torch.tensor([[0, 1, 1, 2, 3, 4], [1, 0, 2, 1, 4, 3]]),
        edge_attr=torch.randn(6, 4, generator=gen),
        batch=torch.tensor([0, 0, 0, 1, 1]),
        num_graphs=2,
        S=S / S.sum(1, keepdim=True),
        clusters=torch.tensor([2, 1]),
        ratio=0.5,
    )


def test_the_check_accepts_the_op_and_finds_a_wrong_one(inputs, monkeypatch):
    check_against_reference(inputs)
    original = sparse.gather_sum
    monkeypatch.setattr(sparse, "gather_sum", lambda *args: 1.01 * original(*args))
    with pytest.raises(AssertionError, match="X' differs by"):
        check_against_reference(inputs)


def test_the_check_finds_a_wrong_gradient(inputs, monkeypatch):
    original = sparse.sampled_products
    monkeypatch.setattr(sparse, "sampled_products", lambda *args: 1.01 * original(*args))
    with pytest.raises(AssertionError, match="dS differs by"):
        check_against_reference(inputs)


@pytest.mark.parametrize("peer", [OURS, Peer(pyg), Peer(sparse_loop)])
def test_what_a_peer_keeps_for_backward_is_counted(inputs, peer):
    assert sum(saved_bytes(lambda: peer(inputs)).values()) >= inputs.S.nbytes


@pytest.mark.parametrize("layout", [torch.sparse_coo, torch.sparse_csr])
def test_kept_sparse_matrices_count_by_their_values(layout):
    matrix = torch.eye(5).to_sparse(layout=layout)
    if layout == torch.sparse_coo:  # as one is that was just made from indices
        matrix = torch.sparse_coo_tensor(matrix.indices(), matrix.values(), (5, 5))
    dense = torch.randn(5, 2, requires_grad=True)
    kept = saved_bytes(lambda: torch.sparse.mm(matrix, dense))
    assert sum(kept.values()) == 4 * 5


def test_peers_that_disagree_are_found(inputs):
    check_peers(inputs)

    def wrong(given):
        return {**pyg(given), "W": 1.01 * pyg(given)["W"]}

    with pytest.raises(AssertionError, match="wrong', 'W'"):
        check_peers(inputs, {"wrong": Peer(wrong, bonds=False)})


def test_work_counted_by_hand(inputs):
    """Shares: 3 x 2 + 2 x 1 = 8; pairs: 2; by pair both graphs are cheaper: 2 (4 x 4 + 2 x 1)."""
    sums, pooling, losses = 2 * (4 * 4 + 2 * 1) * 5, 2 * 8 * 7, 2 * (3 * 4 + 2 * 1 + 4 * 2 + 2 * 1)
    forward = limits.work(inputs, OURS, "forward")
    assert forward.operations == sums + pooling + losses
    assert forward.bytes == 4 * (8 + 5 * 7 + 6 * 4 + 3 * 7 + 2 + 2 * 4) + 2 * 6 * 8
    backward = limits.work(inputs, OURS, "backward")
    assert backward.operations == 2 * (sums + pooling) + losses
    read = 8 + 5 * 7 + 6 * 4 + 3 * 7 + 2 * (2 + 2 * 4)
    written = 8 + 5 * 7 + 6 * 4
    assert backward.bytes == 4 * (read + written) + 2 * 6 * 8
    assert limits.work(inputs, OURS, "both") == forward + backward
    less = limits.work(inputs, NO_GRADIENT, "backward")
    assert less.bytes == backward.bytes - 4 * 6 * 4
    assert less.operations < backward.operations
    plain = limits.work(inputs, PLAIN, "forward")
    assert plain.bytes == forward.bytes - 4 * (6 * 4 + 2 * 4)
    assert plain.operations == sums // 5 + pooling + losses


@pytest.mark.parametrize("bound", ["bytes", "operations", "calls"])
def test_the_limit_is_the_longest_of_three(inputs, monkeypatch, bound):
    seconds = {"bytes": 1.0, "operations": 1.0, "calls": 1.0, bound: 2.0}
    count = limits.work(inputs, OURS, "both").operations
    monkeypatch.setattr(limits, "_copy_seconds", lambda _: seconds["bytes"])
    monkeypatch.setattr(limits, "_operations_per_second", lambda _: count / seconds["operations"])
    monkeypatch.setattr(limits, "_call_seconds", lambda _: seconds["calls"])
    assert limits.limit(inputs, OURS, "both") == limits.Limit(2.0, bound)


def test_limits_of_this_machine_are_below_the_measured_time(inputs):
    found = limits.limit(inputs, OURS, "both")
    assert 0 < found.seconds < limits._best_seconds(lambda: both(OURS, inputs))
    A = torch.randn(64, 32)
    rate = limits._operations_per_second(torch.float32)
    assert limits.product_seconds(lambda: A.t() @ A) == pytest.approx(2 * 64 * 32 * 32 / rate)


def test_report(tmp_path, capsys):
    def bench(group, name, times, **info):
        return {"group": group, "name": name, "stats": {"data": times}, "extra_info": info}

    full = {"peak_bytes": 2_000_000, "saved_bytes": 1_000_000, "limit": 5e-4, "bound": "bytes"}
    run = {
        "machine_info": {
            "chip": "a chip",
            "threads": 2,
            "torch": "2.13",
            "triton": None,
            "commit": "abc",
        },
        "benchmarks": [
            bench("first", "x", [1e-3, 2e-3, 3e-3, 4e-3, 5e-3, 6e-3], row="tritonpool", **full),
            bench("first", "y", [7e-3] * 3, row="PyG"),
            bench(None, "alone", [1.0]),
        ],
    }
    path = tmp_path / "run.json"
    path.write_text(json.dumps(run))
    assert report.main([str(path)]) == 0
    text = (tmp_path / "run.md").read_text()
    assert text in capsys.readouterr().out
    assert text.startswith("a chip, 2 threads, torch 2.13, commit abc\n\nfirst\n")
    cells = [cell.strip() for cell in text.splitlines()[6].split("|")[1:-1]]
    assert cells == ["tritonpool", "3.500", "2.000 to 5.000", "2", "1", "0.5", "bytes", "7"]
    assert "alone" in text and "1000.000" in text
    assert (tmp_path / "run.png").stat().st_size > 5000
    rows = report.read(run)
    assert np.isclose(rows[0]["median"], 3.5) and rows[2]["group"] == "alone"
    path.write_text(json.dumps({**run, "benchmarks": []}))
    assert report.main([str(path)]) == 2
