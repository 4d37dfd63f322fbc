"""The trainings behind the tables: what a row holds, and what the controls change."""

import json
import sys
from dataclasses import replace
from hashlib import sha256
from subprocess import PIPE, Popen

import pandas as pd
import pytest
import torch
from cli_tools import SHORT, SMALL, train, tritonpool, write_table

from benchmarks import experiment, guide
from benchmarks.controls import CONTROLS
from benchmarks.experiment import Experiment
from tritonpool import Graph
from tritonpool.chemprop import DiffPoolBondMessagePassing


def options(data, *words) -> tuple[str, ...]:
    short = [word for word in SHORT if word not in ("--pytorch-seed", "0")]
    return tuple(map(str, ("-i", data, *SMALL, *short, *words)))


@pytest.mark.parametrize("levels", [0, 1])
def test_a_row_says_what_the_command_would_reach(tmp_path, levels):
    data = write_table(tmp_path / "data.csv")
    words = "--diffpool-levels", levels
    found = experiment.train(Experiment("x", 0, options(data, *words)))
    assert train(data, tmp_path / "out", *words) == 0
    table = pd.read_csv(tmp_path / "out" / "model_0" / "test_predictions.csv")
    rows = json.loads((tmp_path / "out" / "splits.json").read_text())[0]["test"]
    difference = table["y"] - pd.read_csv(data)["y"][rows].to_numpy()
    assert found["best"]["rmse"] == pytest.approx((difference**2).mean() ** 0.5, rel=1e-4)
    assert found["best"]["mae"] == pytest.approx(difference.abs().mean(), rel=1e-4)
    assert (found["train_molecules"], found["test_molecules"]) == (32, 4)
    assert found["data"] == f"sha256:{sha256(data.read_bytes()).hexdigest()[:12]}"
    assert found["epochs"] == 2 and found["best_epoch"] in (1, 2)
    if found["best_epoch"] == 2:
        assert found["last"] == pytest.approx(found["best"])


def test_more_molecules_to_test_on(tmp_path):
    data, more = write_table(tmp_path / "data.csv"), write_table(tmp_path / "more.csv", 70)
    found = experiment.train(Experiment("x", 0, options(data), test_path=str(more)))
    own = experiment.train(Experiment("x", 0, options(data)))
    assert train(data, tmp_path / "out") == 0
    table, known = pd.read_csv(more), pd.read_csv(data)["smiles"]
    table = table[~table["smiles"].isin(known)]
    assert 0 < len(table) <= 30  # the first 40 are those of the data
    table.to_csv(tmp_path / "new.csv", index=False)
    words = ("--model-paths", tmp_path / "out", "-o", tmp_path / "predicted.csv")
    assert tritonpool("predict", "-i", tmp_path / "new.csv", *words, "--accelerator", "cpu") == 0
    predicted = pd.read_csv(tmp_path / "predicted.csv")["y"].to_numpy()
    error = (predicted - table["y"].to_numpy()) ** 2
    assert found["best"]["rmse"] == pytest.approx(error.mean() ** 0.5, rel=1e-4)
    assert found["test_molecules"] == len(table)
    same = ("train_molecules", "best_epoch", "data", "parameters")
    assert [found[name] for name in same] == [own[name] for name in same]


def test_finished_rows_are_kept_and_others_refused(tmp_path, monkeypatch):
    data = write_table(tmp_path / "data.csv")
    plan = [Experiment(f"seed {seed}", seed, options(data)) for seed in (0, 1)]
    lines = []
    rows = experiment.run_all(plan, tmp_path / "rows", 2, lines.append)
    assert [row["seed"] for row in rows] == [0, 1] and len(lines) == 2
    assert rows[0]["best"] != rows[1]["best"]
    monkeypatch.setattr(experiment.subprocess, "run", lambda *_, **__: pytest.fail("ran again"))
    assert experiment.run_all(plan, tmp_path / "rows", 1, lines.append) == rows
    experiment.save(rows, tmp_path / "rows.csv")
    saved = pd.read_csv(tmp_path / "rows.csv")
    assert saved["rmse_best"].tolist() == pytest.approx([row["best"]["rmse"] for row in rows])
    assert saved["seed"].tolist() == [0, 1] and str(tmp_path) not in saved.to_csv()
    assert "test_path" in rows[0]
    paths = ("options", "test_path")
    kept = [{name: value for name, value in row.items() if name not in paths} for row in rows]
    assert experiment.load(tmp_path / "rows.csv") == kept
    older = {name: value for name, value in kept[0].items() if name != "data"}
    experiment.save([older, kept[1]], tmp_path / "both.csv")  # rows of earlier versions
    assert experiment.load(tmp_path / "both.csv") == [kept[0] | {"data": None}, kept[1]]
    with pytest.raises(ValueError, match="seed 0.json was made with other settings"):
        experiment.run_all([replace(plan[0], seed=5)], tmp_path / "rows", 1)


def test_a_failed_training_leaves_no_row(tmp_path):
    plan = [Experiment("x", 0, options(tmp_path / "missing.csv"))]
    with pytest.raises(RuntimeError, match="x failed:[^$]*missing.csv"):
        experiment.run_all(plan, tmp_path / "rows", 1)
    assert list((tmp_path / "rows").iterdir()) == []


class _Model(torch.nn.Module):
    def __init__(self):
        super().__init__()
        self.message_passing = DiffPoolBondMessagePassing(d_h=8, ratio=0.5, max_clusters=4)


def changed(control: str):
    torch.manual_seed(0)
    block = CONTROLS[control](_Model()).message_passing
    return block.pools[0], [p for p in block.pools.parameters() if p.requires_grad]


def graph(x: torch.Tensor) -> Graph:
    edges = torch.tensor([[0, 1, 3, 4], [1, 0, 4, 3]])
    return Graph(x, edges, torch.ones(4, 1), batch=torch.tensor([0, 0, 0, 1, 1]))


def test_a_training_ends_with_the_process_that_asked_for_it():
    training = "from benchmarks.experiment import watch_parent; import time; watch_parent()"
    training += "; print('begun', flush=True); time.sleep(100)"
    asking = f"import subprocess, sys; subprocess.run([sys.executable, '-c', {training!r}])"
    with Popen([sys.executable, "-c", asking], stdout=PIPE) as asks:
        assert asks.stdout.readline() == b"begun\n"
        asks.kill()
        asks.communicate(timeout=30)  # until nobody holds its end of the pipe


def test_fixed_random_scores_depend_on_the_place_only():
    pool, learned = changed("fixed random")
    scores = pool.scores(graph(torch.randn(5, 8)))
    assert not learned and scores.std() > 1
    assert torch.equal(scores, pool.scores(graph(torch.randn(5, 8))))
    assert torch.equal(scores[:2], scores[3:])


def test_shuffled_scores_stay_in_their_molecule():
    pool, learned = changed("shuffled")
    x = torch.randn(5, 8)
    learned_scores = type(pool).__mro__[1].scores(pool, graph(x))
    seen = set()
    for _ in range(30):
        scores = pool.scores(graph(x))
        for part in (slice(0, 3), slice(3, 5)):
            assert torch.equal(scores[part].sort(0)[0], learned_scores[part].sort(0)[0])
        seen.add(tuple(scores[:, 0].tolist()))
    assert learned and len(seen) > 2


def test_a_frozen_head_has_nothing_to_learn():
    pool, learned = changed("frozen head")
    assert not learned and len(list(pool.parameters())) > 0


@pytest.mark.parametrize("most", [None, 32])
def test_the_guide_trains_every_setting_on_every_split(tmp_path, monkeypatch, capsys, most):
    seen = []

    def run(plan, folder, jobs):
        seen.extend(plan)
        for row in ({"name": each.name, "seed": each.seed} for each in plan):
            yield {**row, "best": {"rmse": row["seed"] / 100}, "last": {"rmse": 1.0}}

    words = ["--data-path", "x.csv", "--batch-sizes", "16", "64", "--ratios", "0.5"]
    words += ["--seeds", "42", "44", "--csv", str(tmp_path / "rows.csv")]
    words += [] if most is None else ["--max-clusters", str(most)]
    monkeypatch.setattr("benchmarks.guide.run_all", run)
    monkeypatch.setattr("sys.argv", ["guide", *words])
    guide.main()
    model = "ratio 0.5, bond" if most is None else "ratio 0.5, bond, at most 32 clusters"
    assert {each.name for each in seen} == {
        f"{name}, batch {size}, seed {seed}"
        for name in ("D-MPNN", model)
        for size in (16, 64)
        for seed in (42, 44)
    }
    for each in seen:
        pools = each.name.startswith("ratio")
        assert ("--diffpool-ratio" in each.options) == pools
        assert ("--diffpool-max-clusters" in each.options) == (pools and most is not None)
        size = each.options[each.options.index("--batch-size") + 1]
        assert f"batch {size}," in each.name
    assert "| 16 | 0.430 (0.420, 0.440) | 0.430 (0.420, 0.440) |" in capsys.readouterr().out
    assert len(experiment.load(tmp_path / "rows.csv")) == 8
