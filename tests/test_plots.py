"""The pictures of the demo."""

import math
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from tritonpool.plots import learning_curves, parity, scores

PNG = b"\x89PNG\r\n\x1a\n"


def test_scores_match_hand_values() -> None:
    rmse, r2 = scores([1.0, 2.0, 3.0], [1.0, 2.0, 4.0])
    assert rmse == pytest.approx(math.sqrt(1 / 3))
    assert r2 == pytest.approx(1 - (1 / 3) / (2 / 3))


def test_scores_of_constant_truth() -> None:
    rmse, r2 = scores([2.0, 2.0], [2.0, 3.0])
    assert rmse == pytest.approx(math.sqrt(0.5))
    assert math.isnan(r2)


def test_parity_draws_one_panel_per_model(tmp_path: Path) -> None:
    truth = np.linspace(1, 3, 20)
    path = tmp_path / "parity.png"
    figure = parity(truth, {"D-MPNN": truth + 0.1, "DiffPool": truth}, path)
    assert path.read_bytes().startswith(PNG)
    assert [axes.get_title() for axes in figure.axes] == [
        "D-MPNN\nRMSE 0.100 eV, R² 0.973",
        "DiffPool\nRMSE 0.000 eV, R² 1.000",
    ]
    for axes in figure.axes:
        low, high = axes.get_xlim()
        assert axes.get_ylim() == (low, high)
        assert axes.get_aspect() == 1
        assert low < 1 and high > 3.1
    points = figure.axes[0].collections[0].get_offsets()
    np.testing.assert_allclose(points, np.column_stack([truth, truth + 0.1]))


def test_parity_of_equal_values(tmp_path: Path) -> None:
    figure = parity([1.0, 1.0], {"mean": [1.0, 1.0]}, tmp_path / "p.png")
    assert figure.axes[0].get_xlim() == pytest.approx((0.96, 1.04))


def test_learning_curves_draw_every_point(tmp_path: Path) -> None:
    path = tmp_path / "curves.png"
    figure = learning_curves({"a": ([0, 1, 2], [0.5, 0.3, 0.2]), "b": ([0], [0.4])}, path)
    assert path.read_bytes().startswith(PNG)
    (axes,) = figure.axes
    assert [line.get_label() for line in axes.lines] == ["a", "b"]
    np.testing.assert_array_equal(axes.lines[0].get_ydata(), [0.5, 0.3, 0.2])
    assert axes.get_yscale() == "log"
    assert axes.get_ylabel() == "validation RMSE / eV"


def test_learning_curves_with_a_negative_value_are_linear(tmp_path: Path) -> None:
    figure = learning_curves({"a": ([0, 1], [0.5, -0.1])}, tmp_path / "c.png", ylabel="loss")
    assert figure.axes[0].get_yscale() == "linear"
    assert figure.axes[0].get_ylabel() == "loss"


@pytest.mark.parametrize(
    ("actual", "predicted", "message"),
    [
        ([], {"a": []}, r"actual must be a non-empty list of numbers, got shape \(0,\)"),
        ([1.0], {}, "predicted must hold the predictions of at least one model"),
        ([1.0], {"a": [1.0, 2.0]}, r"predicted\['a'\] must have the shape of actual, \(1,\)"),
    ],
)
def test_parity_rejects(tmp_path: Path, actual: list, predicted: dict, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        parity(actual, predicted, tmp_path / "p.png")
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    ("curves", "message"),
    [
        ({}, "curves must hold at least one curve"),
        ({"a": ([0, 1], [1.0])}, r"curves\['a'\] must hold as many values as epochs"),
        ({"a": ([], [])}, r"curves\['a'\] must hold as many values as epochs"),
    ],
)
def test_learning_curves_reject(tmp_path: Path, curves: dict, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        learning_curves(curves, tmp_path / "c.png")
    assert not list(tmp_path.iterdir())


def test_pyplot_is_not_imported() -> None:
    code = "import sys, tritonpool.plots; sys.exit('matplotlib.pyplot' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
