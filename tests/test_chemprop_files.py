"""Stock chemprop, python and command line, on the files of DiffPool models."""

import sys
from pathlib import Path

import pandas as pd
import pytest
import torch
from chemprop.cli.main import main as chemprop_main
from chemprop.data import build_dataloader
from chemprop.models import MPNN, load_model, save_model
from chemprop.models.utils import load_output_columns
from chemprop.nn import BondMessagePassing, MeanAggregation, RegressionFFN
from lightning import pytorch as pl
from lightning.pytorch.callbacks import ModelCheckpoint
from molecules import MOLECULES, POLYMERS, dataset, target

from tritonpool.chemprop import (
    DiffPoolAtomMessagePassing,
    DiffPoolBondMessagePassing,
    DiffPoolMPNN,
    GraphReadout,
)
from tritonpool.cli.callbacks import History

SMILES = POLYMERS[:14] + MOLECULES[:6]
# chemprop rounds torch tensors with numpy functions
pytestmark = pytest.mark.filterwarnings("ignore:__array_wrap__:DeprecationWarning")

GOLDEN = Path(__file__).parent / "data" / "golden.pt"
QUIET = dict(accelerator="cpu", logger=False, enable_progress_bar=False, enable_model_summary=False)


def predictions(model: MPNN, smiles: list[str] = SMILES) -> torch.Tensor:
    loader = build_dataloader(dataset(smiles), shuffle=False, drop_last=False)
    with torch.inference_mode():
        return torch.cat([model.eval()(b.bmg, b.V_d, b.X_d) for b in loader])


def trained(folder: Path, seed: int, mp_cls: type = DiffPoolBondMessagePassing) -> DiffPoolMPNN:
    torch.manual_seed(seed)
    mp = mp_cls(d_h=16, levels=2, max_clusters=6, assignment="gnn")
    ffn = RegressionFFN(input_dim=mp.output_dim, hidden_dim=16)
    model = DiffPoolMPNN(mp, GraphReadout(), ffn, batch_norm=True, warmup_epochs=1)
    saver = ModelCheckpoint(folder, "model")
    trainer = pl.Trainer(max_epochs=2, callbacks=[saver], **QUIET)
    trainer.fit(model, build_dataloader(dataset(SMILES), batch_size=10, seed=0))
    save_model(folder / "model.pt", model, ["y"])
    return model.eval()


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """``model.pt`` and ``model.ckpt``, another model below ``other/``, and ``data.csv``."""
    path = tmp_path_factory.mktemp("files")
    (path / "other").mkdir()
    trained(path, 0)
    trained(path / "other", 1)
    table = pd.DataFrame({"smiles": SMILES, "y": [target(s) for s in SMILES]})
    table.to_csv(path / "data.csv", index=False)
    return path


def chemprop(monkeypatch: pytest.MonkeyPatch, *argv: object) -> None:
    """Run chemprop's own command; nothing of ours is named."""
    monkeypatch.setattr(sys, "argv", ["chemprop", *map(str, argv)])
    chemprop_main()


def predict(monkeypatch, folder: Path, out: Path, *models: Path, more: tuple = ()) -> pd.DataFrame:
    chemprop(
        monkeypatch, "predict", "-i", folder / "data.csv", "-o", out, "-s", "smiles",
        "--model-paths", *models, "--accelerator", "cpu", "-n", "0", *more,
    )  # fmt: skip
    return pd.read_csv(out)


@pytest.mark.parametrize("mp_cls", [DiffPoolBondMessagePassing, DiffPoolAtomMessagePassing])
def test_loading_changes_nothing(tmp_path: Path, mp_cls: type):
    model = trained(tmp_path, 0, mp_cls)
    expected = predictions(model)
    for name in ("model.pt", "model.ckpt"):
        loaded = load_model(tmp_path / name)
        assert type(loaded) is MPNN and type(loaded.message_passing) is mp_cls
        assert type(loaded.agg) is GraphReadout
        assert (predictions(loaded) - expected).abs().max() == 0.0
    for cls in (MPNN, DiffPoolMPNN):
        again = cls.load_from_checkpoint(tmp_path / "model.ckpt", map_location="cpu")
        assert type(again) is cls and torch.equal(predictions(again), expected)
        from_file = cls.load_from_file(tmp_path / "model.pt")
        assert torch.equal(predictions(from_file), expected)
    assert load_output_columns(tmp_path / "model.pt") == ["y"]


def test_training_logs_the_losses(monkeypatch: pytest.MonkeyPatch):
    """As means over the molecules of each epoch, whose last batch is smaller."""
    mp = DiffPoolBondMessagePassing(d_h=16)
    model = DiffPoolMPNN(mp, GraphReadout(), RegressionFFN(input_dim=mp.output_dim))
    seen, pop_aux = [], mp.pop_aux

    def note() -> tuple[torch.Tensor, torch.Tensor] | None:
        if (losses := pop_aux()) is not None:
            seen.append(torch.stack(losses).detach())
        return losses

    monkeypatch.setattr(mp, "pop_aux", note)
    history = History()
    options = dict(max_steps=7, callbacks=[history], enable_checkpointing=False)
    trainer = pl.Trainer(**options, **QUIET)
    loader = build_dataloader(dataset(SMILES), batch_size=8, seed=0, drop_last=False)
    trainer.fit(model, loader, loader)
    assert {"train_loss_epoch", "val_loss"} <= set(trainer.logged_metrics)
    assert len(seen) == 7 and torch.stack(seen).std(0).min() > 1e-4
    # callbacks know each epoch's own; of the third, which ends early, only the log does
    logged = [*history.metrics[:2], trainer.logged_metrics]
    for epoch, sizes in enumerate(([8.0, 8.0, 4.0], [8.0, 8.0, 4.0], [8.0])):
        sizes = torch.tensor(sizes)[:, None]
        means = (torch.stack(seen[3 * epoch :][: len(sizes)]) * sizes).sum(0) / sizes.sum()
        found = [float(logged[epoch][name]) for name in ("train_link", "train_entropy")]
        assert found == pytest.approx(means.tolist(), rel=1e-5)
    assert model._sums is None


@pytest.mark.parametrize("clip", [None, 0.01])
def test_one_kernel_updates_all_parameters_as_chemprop_does(clip: float | None):
    def weights(cls: type[MPNN]) -> tuple[bool, torch.Tensor]:
        torch.manual_seed(0)
        mp = DiffPoolBondMessagePassing(d_h=16)
        model = cls(mp, GraphReadout(), RegressionFFN(input_dim=mp.output_dim), init_lr=1e-3)
        loader = build_dataloader(dataset(SMILES), batch_size=8, seed=0)
        options = dict(max_epochs=3, gradient_clip_val=clip, enable_checkpointing=False)
        trainer = pl.Trainer(**options, **QUIET)
        trainer.fit(model, loader)
        (group,) = trainer.optimizers[0].param_groups
        return bool(group["fused"]), torch.cat([p.detach().flatten() for p in model.parameters()])

    (fused, ours), (other, chemprops) = weights(DiffPoolMPNN), weights(MPNN)
    assert fused and not other
    torch.testing.assert_close(ours, chemprops, rtol=1e-4, atol=1e-5)


def test_one_kernel_takes_scaled_and_clipped_gradients():
    """Those of fp16, as lightning hands them over; a step with an infinite one is left out."""

    def weights(cls: type[MPNN]) -> torch.Tensor:
        torch.manual_seed(0)
        mp = DiffPoolBondMessagePassing(d_h=16, link_weight=0.0, entropy_weight=0.0)
        model = cls(mp, GraphReadout(), RegressionFFN(input_dim=mp.output_dim), init_lr=1e-3)
        loader = build_dataloader(dataset(SMILES), batch_size=8, seed=0)
        trainer = pl.Trainer(max_steps=1, enable_checkpointing=False, **QUIET)
        trainer.fit(model, loader)
        (optimizer,) = trainer.optimizers
        assert not getattr(optimizer, "_step_supports_amp_scaling", False)  # no clipping with it
        scaler = torch.amp.GradScaler("cpu", init_scale=1024.0)
        for number, (bmg, _, _, targets, *_) in enumerate([*loader, *loader]):
            optimizer.zero_grad()
            with torch.autocast("cpu", torch.float16):
                predicted = model.predictor.train_step(model.fingerprint(bmg))
            loss = torch.nn.functional.mse_loss(predicted.float(), targets)
            scaler.scale(loss * torch.inf if number == 1 else loss).backward()
            scaler.unscale_(optimizer)
            torch.nn.utils.clip_grad_norm_(model.parameters(), 0.1)
            scaler.step(optimizer)
            scaler.update()
        return torch.cat([p.detach().flatten() for p in model.parameters()])

    ours, chemprops = weights(DiffPoolMPNN), weights(MPNN)
    assert ours.isfinite().all()
    torch.testing.assert_close(ours, chemprops, rtol=1e-4, atol=1e-5)


def test_stock_predict(folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    expected = predictions(load_model(folder / "model.pt"))[:, 0].tolist()
    other = predictions(load_model(folder / "other" / "model.pt"))[:, 0].tolist()
    for name in ("model.pt", "model.ckpt"):
        found = predict(monkeypatch, folder, tmp_path / "preds.csv", folder / name)
        assert found["y" if name.endswith(".pt") else "pred_0"].tolist() == pytest.approx(
            expected, abs=1e-5
        )
    mean = [(a + b) / 2 for a, b in zip(expected, other, strict=True)]
    both = folder / "model.pt", folder / "other" / "model.pt"
    for models in ([folder], both):  # a folder is searched for models
        found = predict(monkeypatch, folder, tmp_path / "preds.csv", *models)
        assert found["y"].tolist() == pytest.approx(mean, abs=1e-5)


def test_stock_predict_with_cuik(folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    expected = predictions(load_model(folder / "model.pt"))[:, 0].tolist()
    fast = ("--use-cuikmolmaker-featurization",)
    found = predict(monkeypatch, folder, tmp_path / "p.csv", folder / "model.pt", more=fast)
    assert found["y"].tolist() == pytest.approx(expected, abs=1e-4)


def test_stock_components_from_a_foundation(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    """A DiffPool model becomes the encoder of both parts of a pair, and predicts."""
    pairs = pd.read_csv(folder / "data.csv")
    pairs["second"] = pairs["smiles"].tolist()[::-1]
    pairs.to_csv(tmp_path / "pairs.csv", index=False)
    chemprop(
        monkeypatch, "train", "-i", tmp_path / "pairs.csv", "-o", tmp_path / "out",
        "-s", "smiles", "second", "--target-columns", "y", "--epochs", "2", "-b", "8", "-n", "0",
        "--accelerator", "cpu", "--warmup-epochs", "1", "--from-foundation", folder / "model.pt",
    )  # fmt: skip
    best = tmp_path / "out" / "model_0" / "best.pt"
    blocks = load_model(best, multicomponent=True).message_passing.blocks
    assert [type(block) for block in blocks] == [DiffPoolBondMessagePassing] * 2
    chemprop(
        monkeypatch, "predict", "-i", tmp_path / "pairs.csv", "-o", tmp_path / "preds.csv",
        "-s", "smiles", "second", "--model-paths", best, "--accelerator", "cpu", "-n", "0",
    )  # fmt: skip
    assert pd.read_csv(tmp_path / "preds.csv")["y"].nunique() > 10


def test_stock_uncertainty(folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    dropout = "--uncertainty-method", "dropout", "--dropout-sampling-size", "4"
    found = predict(
        monkeypatch, folder, tmp_path / "d.csv", folder / "model.pt",
        more=(*dropout, "--uncertainty-dropout-p", "0.3"),
    )  # fmt: skip
    assert (found["y_unc"] > 0).all()
    found = predict(
        monkeypatch, folder, tmp_path / "e.csv", folder, more=("--uncertainty-method", "ensemble")
    )
    first, second = (predictions(load_model(folder / p / "model.pt")) for p in ("", "other"))
    variance = ((first - second) / 2).square()[:, 0].tolist()
    assert found["y_unc"].tolist() == pytest.approx(variance, rel=1e-3, abs=1e-6)


def test_stock_fingerprint(folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    model = folder / "model.pt"
    chemprop(
        monkeypatch, "fingerprint", "-i", folder / "data.csv", "-o", tmp_path / "fp.csv",
        "-s", "smiles", "--model-paths", model, "--ffn-block-index", "0", "-n", "0",
    )  # fmt: skip
    (written,) = tmp_path.glob("fp*.csv")
    found = pd.read_csv(written).filter(like="fp_")
    loaded = load_model(model).eval()
    batch = next(iter(build_dataloader(dataset(SMILES), shuffle=False)))
    with torch.inference_mode():
        expected = loaded.fingerprint(batch.bmg)
    assert found.shape == (len(SMILES), loaded.message_passing.output_dim)
    torch.testing.assert_close(torch.tensor(found.values).float(), expected, rtol=1e-4, atol=1e-5)


def train(monkeypatch, folder: Path, out: Path, *more: object) -> MPNN:
    chemprop(
        monkeypatch, "train", "-i", folder / "data.csv", "-o", out, "-s", "smiles",
        "--target-columns", "y", "--epochs", "2", "--warmup-epochs", "1", "-b", "8", "-n", "0",
        "--accelerator", "cpu", "--split-sizes", "0.6", "0.2", "0.2", "--ffn-hidden-dim", "16",
        *more,
    )  # fmt: skip
    return load_model(out / "model_0" / "best.pt")


@pytest.mark.parametrize("option", ["--from-foundation", "--checkpoint"])
def test_stock_training_goes_on(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, option: str
):
    model = train(monkeypatch, folder, tmp_path / "out", option, folder / "model.pt")
    assert type(model.message_passing) is DiffPoolBondMessagePassing
    assert type(model.agg) is GraphReadout
    start = load_model(folder / "model.pt").message_passing.state_dict()
    now = model.message_passing.state_dict()
    for name in ("W_i", "pools.0.assignment.hidden", "encoders.0.W_i", "encoders.1.W_o"):
        assert not torch.equal(now[f"{name}.weight"], start[f"{name}.weight"]), name
    found = predict(monkeypatch, folder, tmp_path / "p.csv", tmp_path / "out" / "model_0/best.pt")
    assert found["y"].notna().all()


def test_stock_training_freezes_the_pooling_too(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    path = folder / "model.pt"
    model = train(monkeypatch, folder, tmp_path / "o", "--checkpoint", path, "--freeze-encoder")
    start = load_model(path).message_passing.state_dict()
    assert all(torch.equal(v, start[k]) for k, v in model.message_passing.state_dict().items())


def golden_model() -> MPNN:
    """How ``data/golden.pt`` was made. Never make it again: it must stay loadable as it is."""
    torch.manual_seed(0)
    mp = DiffPoolBondMessagePassing(d_h=4, levels=2, max_clusters=3)
    return MPNN(mp, GraphReadout(), RegressionFFN(input_dim=mp.output_dim, hidden_dim=4))


def test_golden_file(tmp_path: Path):
    """A file written by the first version, and what it predicted."""
    model = load_model(GOLDEN)
    found = predictions(model, MOLECULES[:6])[:, 0].tolist()
    expected = [-0.1644725, -0.1405386, -0.2126472, -0.1359884, -0.2803059, -0.1546671]
    assert found == pytest.approx(expected, abs=1e-5)
    now = golden_model().message_passing
    assert now.state_dict().keys() == model.message_passing.state_dict().keys()
    stored = torch.load(GOLDEN, weights_only=False)["hyper_parameters"]["message_passing"]
    assert stored["cls"] is DiffPoolBondMessagePassing
    assert stored.keys() <= now.hparams.keys()
    # that version pooled sums, and its files do not say so
    assert model.message_passing.normalize == "none" and now.normalize == "weights"
    save_model(tmp_path / "again.pt", model)
    assert predictions(load_model(tmp_path / "again.pt"), MOLECULES[:6])[:, 0].tolist() == found


def test_an_encoder_without_levels_changes_no_setting():
    mp = DiffPoolBondMessagePassing(d_h=16)
    mp.load_state_dict(BondMessagePassing(d_h=16).state_dict(), strict=False)
    assert mp.normalize == mp.hparams["normalize"] == "weights"


def test_a_stock_model_is_untouched_by_the_import(tmp_path: Path):
    model = MPNN(BondMessagePassing(d_h=16), MeanAggregation(), RegressionFFN(input_dim=16))
    save_model(tmp_path / "stock.pt", model)
    assert torch.equal(predictions(load_model(tmp_path / "stock.pt")), predictions(model))
