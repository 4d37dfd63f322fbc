"""``tritonpool train``: the files it writes, and that its plain form is chemprop's."""

import json
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch
from chemprop.models import load_model
from chemprop.models.utils import load_output_columns
from cli_tools import (
    SHORT,
    SMALL,
    chemprop_command,
    last_metrics,
    predictions,
    train,
    tritonpool,
    write_table,
)
from lightning import pytorch as pl

from tritonpool.chemprop import (
    DiffPoolAtomMessagePassing,
    DiffPoolBondMessagePassing,
    DiffPoolMPNN,
    GraphReadout,
)


@pytest.fixture(scope="module")
def trained(tmp_path_factory) -> tuple[Path, Path]:
    """A table and a model trained on it."""
    folder = tmp_path_factory.mktemp("trained")
    data = write_table(folder / "data.csv")
    assert train(data, folder / "out", "--diffpool-ratio", 0.3, "--dropout", 0.1) == 0
    return data, folder / "out"


def test_writes_the_files_that_chemprop_writes_and_the_scores(trained):
    _, out = trained
    found = {str(p.relative_to(out)) for p in out.rglob("*") if p.is_file()}
    best = {name for name in found if name.startswith("model_0/checkpoints/best-epoch=")}
    assert len(best) == 1
    assert found - best == {
        "config.toml",
        "splits.json",
        "test_scores.csv",
        "model_0/best.pt",
        "model_0/checkpoints/last.ckpt",
        "model_0/test_predictions.csv",
        "model_0/test_scores.csv",
        "model_0/trainer_logs/version_0/hparams.yaml",
        "model_0/trainer_logs/version_0/metrics.csv",
    }


def test_the_output_folder_can_be_read_like_any_other(trained, tmp_path):
    _, output = trained
    ordinary = tmp_path / "ordinary"
    ordinary.mkdir()
    assert output.stat().st_mode == ordinary.stat().st_mode


def test_best_model_has_the_settings_that_were_asked_for(trained):
    _, out = trained
    model = load_model(out / "model_0" / "best.pt")
    assert type(model.message_passing) is DiffPoolBondMessagePassing
    assert type(model.agg) is GraphReadout
    assert model.message_passing.hparams["ratio"] == 0.3
    assert model.message_passing.hparams["aggregation"] == "norm"
    assert model.message_passing.hparams["d_h"] == 16
    assert load_output_columns(out / "model_0" / "best.pt") == ["y"]


def test_stock_predict_repeats_the_test_predictions(trained, tmp_path, monkeypatch):
    data, out = trained
    test = json.loads((out / "splits.json").read_text())[0]["test"]
    pd.read_csv(data).iloc[test].to_csv(tmp_path / "test.csv", index=False)
    words = ("predict", "-i", tmp_path / "test.csv", "--model-paths", out, "-s", "smiles")
    chemprop_command(monkeypatch, *words, "-o", tmp_path / "stock.csv", "--accelerator", "cpu")
    assert tritonpool(*words, "-o", tmp_path / "ours.csv", "--accelerator", "cpu") == 0
    for name in ("stock.csv", "ours.csv"):
        values = pd.read_csv(tmp_path / name)["y"].to_numpy()
        np.testing.assert_allclose(values, predictions(out)[:, 0], rtol=1e-5)


def test_fingerprint_has_a_row_for_each_molecule(trained, tmp_path):
    data, out = trained
    words = ("-i", data, "--model-paths", out / "model_0" / "best.pt", "-s", "smiles")
    assert (
        tritonpool("fingerprint", *words, "--ffn-block-index", 0, "-o", tmp_path / "fps.csv") == 0
    )
    (found,) = tmp_path.glob("fps*.csv")
    assert len(pd.read_csv(found)) == 40


def test_config_file_repeats_the_run(trained, tmp_path):
    _, out = trained
    again = tmp_path / "again"
    assert tritonpool("train", "--config-path", out / "config.toml", "-o", again) == 0
    np.testing.assert_array_equal(predictions(again), predictions(out))
    assert last_metrics(again) == last_metrics(out)
    first, second = (Path(f, "config.toml").read_text().splitlines() for f in (out, again))
    assert {line for line in first if not line.startswith("output-dir")} == {
        line for line in second if not line.startswith("output-dir")
    }


def test_remedies_reach_the_model_and_the_config_file(tmp_path):
    data = write_table(tmp_path / "data.csv")
    words = ("--diffpool-temperature", 0.5, "--diffpool-positions", 2, "--diffpool-prior", "rings")
    words += ("--diffpool-normalize", "both", "--diffpool-cluster-features", "--diffpool-gate")
    words += ("--diffpool-top-k", 3)
    out, again = tmp_path / "out", tmp_path / "again"
    assert train(data, out, *words) == 0
    hparams = load_model(out / "model_0" / "best.pt").message_passing.hparams
    expected = {"temperature": 0.5, "positions": 2, "prior": "rings", "normalize": "both"}
    expected |= {"cluster_features": True, "gate": True, "top_k": 3}
    assert hparams.items() >= expected.items()
    assert tritonpool("train", "--config-path", out / "config.toml", "-o", again) == 0
    np.testing.assert_array_equal(predictions(again), predictions(out))


@pytest.mark.parametrize("levels", [1, 2])
def test_rings_as_clusters(levels, tmp_path):
    data = write_table(tmp_path / "data.csv")
    out, again = tmp_path / "out", tmp_path / "again"
    words = ("--diffpool-assignment", "rings", "--diffpool-levels", levels)
    words += ("--diffpool-ratio", 0.5) if levels == 2 else ()
    assert train(data, out, *words) == 0
    hparams = load_model(out / "model_0" / "best.pt").message_passing.hparams
    ratio = 0.5 if levels == 2 else 0.25
    assert hparams.items() >= {"assignment": "rings", "levels": levels, "ratio": ratio}.items()
    assert tritonpool("train", "--config-path", out / "config.toml", "-o", again) == 0
    np.testing.assert_array_equal(predictions(again), predictions(out))


def test_logs_the_auxiliary_losses_and_the_progress(trained):
    _, out = trained
    table = pd.read_csv(out / "model_0/trainer_logs/version_0/metrics.csv")
    for name in ("train_link", "train_entropy", "train_loss_epoch", "val_loss"):
        assert table[name].notna().sum() == 2, name


def test_plain_training_is_that_of_chemprop(tmp_path, monkeypatch):
    data = write_table(tmp_path / "data.csv")
    words = (*SMALL, *SHORT, "--ensemble-size", 2, "--dropout", 0.2, "--metrics", "rmse", "r2")
    assert train(data, tmp_path / "ours", "--diffpool-levels", 0, *words[len(SMALL + SHORT) :]) == 0
    chemprop_command(monkeypatch, "train", "-i", data, "-o", tmp_path / "stock", *words)
    for model in (0, 1):
        ours, stock = (predictions(tmp_path / name, model) for name in ("ours", "stock"))
        np.testing.assert_array_equal(ours, stock)
        ours, stock = (last_metrics(tmp_path / name, model) for name in ("ours", "stock"))
        assert ours == stock
    names = {
        str(p.relative_to(tmp_path / "ours")) for p in (tmp_path / "ours").rglob("*") if p.is_file()
    }
    ours = {"test_scores.csv", *(f"model_{i}/test_scores.csv" for i in range(2))}
    ours |= {"ensemble/test_scores.csv", "ensemble/test_predictions.csv"}
    assert names - ours == {
        str(p.relative_to(tmp_path / "stock"))
        for p in (tmp_path / "stock").rglob("*")
        if p.is_file()
    }
    assert ours < names


def test_an_aggregation_that_nobody_chose_is_named(trained, tmp_path, capsys):
    data, out = trained
    told = "--aggregation is norm, chemprop's default; for what does not grow with the molecule"
    assert train(data, tmp_path / "default") == 0
    assert told in capsys.readouterr().err
    assert train(data, tmp_path / "chosen", "--aggregation", "norm") == 0
    model = out / "model_0" / "best.pt"
    assert train(data, tmp_path / "loaded", "--from-foundation", model) == 0
    assert told not in capsys.readouterr().err


def test_train_size_cuts_the_training_part_only(tmp_path):
    data = write_table(tmp_path / "data.csv")
    splits = {}
    for size in (32, 20, 10):
        out = tmp_path / str(size)
        assert train(data, out, "--train-size", size, "--diffpool-levels", 0) == 0
        splits[size] = json.loads((out / "splits.json").read_text())[0]
    for size, split in splits.items():
        assert len(set(split["train"])) == size
        assert split["val"] == splits[32]["val"]
        assert split["test"] == splits[32]["test"]
    # the smaller ones are nested, so that a learning curve is about size only
    assert set(splits[10]["train"]) < set(splits[20]["train"]) < set(splits[32]["train"])


def test_train_size_is_a_random_draw_with_the_seed_of_the_data(tmp_path):
    data = write_table(tmp_path / "data.csv", 60)
    (tmp_path / "splits.json").write_text('[{"train": "0-39", "val": "40-49", "test": "50-59"}]')
    drawn = []
    for seed in (0, 0, 1):
        out = tmp_path / str(len(drawn))
        words = ("--splits-file", tmp_path / "splits.json", "--data-seed", seed)
        assert train(data, out, *words, "--train-size", 12, "--diffpool-levels", 0) == 0
        drawn.append(json.loads((out / "splits.json").read_text())[0]["train"])
    assert drawn[0] == drawn[1] != drawn[2]
    assert drawn[0] != sorted(range(12))
    assert all(0 <= i < 40 for i in drawn[0])


def test_replicates_go_to_folders_of_their_own(tmp_path):
    data = write_table(tmp_path / "data.csv")
    out = tmp_path / "out"
    assert train(data, out, "--num-replicates", 2, "--remove-checkpoints") == 0
    for i in (0, 1):
        assert (out / f"replicate_{i}" / "model_0" / "best.pt").is_file()
        assert not (out / f"replicate_{i}" / "model_0" / "checkpoints").exists()
    first, second = json.loads((out / "splits.json").read_text())
    assert first["test"] != second["test"]


@pytest.mark.parametrize(
    ("task", "column"),
    [
        ("classification", lambda row, text: row % 2),
        ("multiclass", lambda row, text: row % 3),
        ("regression-mve", lambda row, text: len(text)),
        ("regression-evidential", lambda row, text: len(text)),
        ("regression-quantile", lambda row, text: len(text)),
    ],
)
@pytest.mark.parametrize("precision", ["32-true", "bf16-mixed"])
def test_every_task_trains_in_every_precision(tmp_path, task, column, precision):
    data = write_table(tmp_path / "data.csv", t=column)
    # metrics.csv must not be all that is checked: the predictions go through NumPy
    words = ("--task-type", task, "--precision", precision)
    assert train(data, tmp_path / "out", *words) == 0
    table = pd.read_csv(tmp_path / "out" / "model_0" / "test_predictions.csv")
    assert len(table) == 4
    assert table["t"].notna().all()
    model = torch.load(tmp_path / "out/model_0/best.pt", weights_only=False)
    assert all(
        w.dtype == torch.float32 for w in model["state_dict"].values() if w.is_floating_point()
    )


@pytest.mark.parametrize(
    ("task", "loss", "metrics"),
    [
        ("regression", "bounded-mae", ("rmse", "r2", "bounded-mse")),
        ("regression-quantile", "pinball", ("mae",)),
        ("classification", "binary-mcc", ("roc", "prc", "accuracy", "f1", "binary-mcc", "mse")),
        ("classification-dirichlet", "dirichlet", ("roc",)),
        ("multiclass", "ce", ("multiclass-mcc",)),
    ],
)
def test_losses_and_metrics_that_fit_the_task(tmp_path, task, loss, metrics):
    data = write_table(tmp_path / "data.csv", t=lambda row, text: row % 2)
    words = ("--task-type", task, "--loss-function", loss, "--metrics", *metrics)
    assert train(data, tmp_path / "out", *words) == 0
    table = pd.read_csv(tmp_path / "out/model_0/trainer_logs/version_0/metrics.csv")
    assert {f"val/{name}" for name in metrics} < set(table.columns)


@pytest.mark.parametrize(
    "words",
    [("threshold", "--activation-args", 0.1, "value=0.0"), ("prelu", "--activation-args", 16)],
)
def test_activations_with_arguments(tmp_path, words):
    data = write_table(tmp_path / "data.csv")
    assert train(data, tmp_path / "out", "--activation", *words) == 0


def test_two_components_and_atom_messages(tmp_path, monkeypatch):
    table = pd.read_csv(write_table(tmp_path / "one.csv"))
    table["solvent"] = list(table["smiles"][::-1])
    table.to_csv(tmp_path / "two.csv", index=False)
    words = ("-s", "smiles", "solvent", "--target-columns", "y")
    out = tmp_path / "out"
    assert train(tmp_path / "two.csv", out, *words, "--atom-messages", "--batch-norm") == 0
    model = load_model(out / "model_0" / "best.pt", multicomponent=True)
    assert [type(b) for b in model.message_passing.blocks] == [DiffPoolAtomMessagePassing] * 2
    target = tmp_path / "predicted.csv"
    paths = ("-i", tmp_path / "two.csv", "--model-paths", out, "-o", target)
    chemprop_command(monkeypatch, "predict", *words[:3], *paths)
    assert pd.read_csv(target)["y"].std() > 0


def test_reactions(tmp_path):
    data = write_table(tmp_path / "data.csv")
    table = pd.read_csv(data)
    table["smiles"] = [f"{a}>>{b}" for a, b in zip(table.smiles, table.smiles[::-1], strict=True)]
    table.to_csv(data, index=False)
    assert train(data, tmp_path / "out", "-r", "smiles") == 0
    assert np.isfinite(predictions(tmp_path / "out").astype(float)).all()


def test_a_reaction_in_a_solvent(tmp_path):
    data = write_table(tmp_path / "data.csv")
    table = pd.read_csv(data)
    table["rxn"] = [f"{a}>>{b}" for a, b in zip(table.smiles, table.smiles[::-1], strict=True)]
    table.to_csv(data, index=False)
    assert train(data, tmp_path / "out", "-s", "smiles", "-r", "rxn") == 0
    assert np.isfinite(predictions(tmp_path / "out")[:, -1].astype(float)).all()


def test_encoder_of_a_stock_foundation_becomes_ours(tmp_path):
    data = write_table(tmp_path / "data.csv")
    assert train(data, tmp_path / "plain", "--diffpool-levels", 0) == 0
    plain = tmp_path / "plain/model_0/best.pt"
    # a learning rate of almost 0 leaves the encoder as it came
    frozen = ("--init-lr", 1e-12, "--max-lr", 1e-12, "--final-lr", 1e-12)
    out = tmp_path / "pooled"
    assert train(data, out, "--from-foundation", plain, "--diffpool-levels", 2, *frozen) == 0
    before, after = load_model(plain), load_model(out / "model_0/best.pt")
    assert after.message_passing.hparams["levels"] == 2
    torch.testing.assert_close(after.message_passing.W_h.weight, before.message_passing.W_h.weight)
    # and a foundation that pools already keeps its levels
    again = tmp_path / "again"
    assert train(data, again, "--from-foundation", out / "model_0/best.pt") == 0
    assert load_model(again / "model_0/best.pt").message_passing.hparams["levels"] == 2


def test_checkpoint_goes_on_with_the_saved_model(trained, tmp_path):
    data, out = trained
    best = out / "model_0" / "best.pt"
    words = ("--checkpoint", best, "--freeze-encoder", "--frzn-ffn-layers", 1)
    assert train(data, tmp_path / "out", *words) == 0
    before, after = load_model(best), load_model(tmp_path / "out/model_0/best.pt")
    for name, value in before.message_passing.state_dict().items():
        torch.testing.assert_close(after.message_passing.state_dict()[name], value, rtol=0, atol=0)
    assert not torch.equal(after.predictor.ffn[1][2].weight, before.predictor.ffn[1][2].weight)
    assert DiffPoolMPNN.load_from_file(tmp_path / "out/model_0/best.pt") is not None
    assert "diffpool" not in (tmp_path / "out" / "config.toml").read_text()


def test_batch_norm_with_less_than_a_batch_to_validate_on(tmp_path):
    data = write_table(tmp_path / "data.csv")
    assert train(data, tmp_path / "out", "--batch-norm", "--batch-size", 12) == 0
    assert len(predictions(tmp_path / "out")) == 4


def test_table_without_header(tmp_path):
    data = write_table(tmp_path / "data.csv")
    data.write_text(data.read_text().partition("\n")[2])
    assert train(data, tmp_path / "out", "--no-header-row") == 0
    table = pd.read_csv(tmp_path / "out" / "model_0" / "test_predictions.csv")
    assert list(table.columns) == ["SMILES", "pred_0"]
    assert table["pred_0"].notna().all() and len(table) == 4


def test_descriptors_and_frozen_model(trained, tmp_path):
    data, _ = trained
    words = ("--molecule-featurizers", "rdkit_2d", "--epochs", 3)
    assert train(data, tmp_path / "first", *words) == 0
    best = tmp_path / "first" / "model_0" / "best.pt"
    assert train(data, tmp_path / "out", *words, "--model-frzn", best) == 0
    before, after = load_model(best), load_model(tmp_path / "out/model_0/best.pt")
    assert before.predictor.input_dim > 2 * 16
    for name, value in before.message_passing.state_dict().items():
        torch.testing.assert_close(after.message_passing.state_dict()[name], value, rtol=0, atol=0)


def test_insulator_polymers(tmp_path, insulator_csv):
    table = pd.read_csv(insulator_csv).iloc[:120]
    table.to_csv(tmp_path / "data.csv", index=False)
    words = ("-s", "smiles", "--target-columns", "bandgap_chain", "--metrics", "rmse")
    assert train(tmp_path / "data.csv", tmp_path / "out", *words) == 0
    saved = pd.read_csv(tmp_path / "out/model_0/test_predictions.csv")["bandgap_chain"]
    assert saved.between(-5, 15).all()


def test_a_seeded_training_fills_no_memory_and_leaves_the_setting(tmp_path, monkeypatch):
    seen, settings, fit = [], torch.utils.deterministic, pl.Trainer.fit

    def watched(*args, **kwargs):
        seen.append(settings.fill_uninitialized_memory)
        return fit(*args, **kwargs)

    monkeypatch.setattr(pl.Trainer, "fit", watched)
    monkeypatch.setattr(settings, "fill_uninitialized_memory", True)
    assert train(write_table(tmp_path / "data.csv"), tmp_path / "out") == 0
    assert seen == [False] and settings.fill_uninitialized_memory


def test_bounded_targets(tmp_path):
    data = write_table(tmp_path / "data.csv", y=lambda row, text: f"{'<>'[row % 2]}{len(text)}")
    assert train(data, tmp_path / "out", "--loss-function", "bounded-mse") == 0
    assert np.isfinite(predictions(tmp_path / "out").astype(float)).all()


def test_molecules_to_train_and_to_judge_by_are_told_of(tmp_path, capsys):
    texts = ["CCO", "OCC", "CCN", "CCC", "CCCC", "CCF", "C=C", "c1ccccc1"]
    parts = ["train", "test", *["train"] * 4, "val", "test"]
    rows = [
        f"{text},{row},{part}" for row, (text, part) in enumerate(zip(texts, parts, strict=True))
    ]
    (tmp_path / "data.csv").write_text("\n".join(["smiles,y,part", *rows]) + "\n")
    words = ("--splits-column", "part", "--target-columns", "y")
    assert train(tmp_path / "data.csv", tmp_path / "m", *words) == 0
    shown = capsys.readouterr().err
    assert "1 of the 2 molecules in the test part of split 0 are in its training part" in shown
    assert "in the validation part" not in shown and "the model learns" not in shown


def test_the_data_of_several_splits_are_saved(tmp_path):
    data, out = write_table(tmp_path / "data.csv"), tmp_path / "out"
    assert train(data, out, "--num-replicates", 2, "--save-data-splits") == 0
    for i in range(2):
        parts = [pd.read_csv(out / f"replicate_{i}" / f"{p}.csv") for p in ("train", "val", "test")]
        assert sorted(map(len, parts)) == [4, 4, 32]
