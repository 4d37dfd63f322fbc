"""``tritonpool clusters`` writes the clusters that a trained model really makes."""

from collections.abc import Iterable
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch
from chemprop.data import BatchMolGraph
from chemprop.featurizers import SimpleMoleculeMolGraphFeaturizer
from chemprop.models import MPNN
from cli_tools import train, tritonpool, write_pairs, write_table
from rdkit import Chem


@pytest.fixture(scope="module")
def data(tmp_path_factory) -> Path:
    return write_table(tmp_path_factory.mktemp("data") / "data.csv", 24)


@pytest.fixture(scope="module")
def model(tmp_path_factory, data) -> Path:
    out = tmp_path_factory.mktemp("model") / "out"
    assert train(data, out, "--diffpool-levels", 2, "--diffpool-temperature", 0.5) == 0
    return out


def clusters(data: Path, model: Path, out: Path, *words: object) -> int:
    return tritonpool("clusters", "-i", data, "--model-paths", model, "-o", out, *words)


def shares(model: Path, texts: Iterable[str]) -> list[list[torch.Tensor]]:
    """From the model itself, one molecule at a time."""
    block = MPNN.load_from_file(model / "model_0" / "best.pt").eval().message_passing
    featurize = SimpleMoleculeMolGraphFeaturizer()
    with torch.no_grad():
        return [
            [S[0] for S in block.assignments(BatchMolGraph([featurize(Chem.MolFromSmiles(text))]))]
            for text in texts
        ]


def test_the_tables_hold_the_models_clusters(tmp_path, data, model, capsys):
    # 5 molecules in a batch, so that rows must be counted over batches
    assert clusters(data, model, tmp_path, "--batch-size", 5, "--pictures", 3) == 0
    atoms, molecules = (pd.read_csv(tmp_path / f"{name}.csv") for name in ("atoms", "molecules"))
    texts = pd.read_csv(data)["smiles"]
    assert molecules.smiles[molecules.level == 1].tolist() == texts.tolist()
    for row, levels in enumerate(shares(model, texts)):
        mol = Chem.MolFromSmiles(texts[row])
        for level, S in enumerate(levels, 1):
            ours = atoms[(atoms.row == row) & (atoms.level == level)]
            assert ours.atom.tolist() == list(range(mol.GetNumAtoms()))
            assert ours.symbol.tolist() == [atom.GetSymbol() for atom in mol.GetAtoms()]
            np.testing.assert_allclose(ours.share, S.max(1).values, atol=1e-5)
            picked = S[torch.arange(len(S)), torch.tensor(ours.cluster.to_numpy())]
            np.testing.assert_allclose(picked, S.max(1).values, atol=1e-6)
            of = molecules[(molecules.row == row) & (molecules.level == level)].iloc[0]
            assert (of.atoms, of.clusters) == S.shape
            assert of.used == ours.cluster.nunique()
    assert len(molecules) == 2 * len(texts)
    page = (tmp_path / "clusters.html").read_text()
    assert page.count("<figure>") == 3 * 2 and "row 2, level 2: " in page
    assert f"<h1>Clusters of {model / 'model_0' / 'best.pt'}</h1>" in page
    printed = capsys.readouterr().out
    mean = molecules[molecules.level == 2].used.mean()
    (line,) = [line for line in printed.splitlines() if line.startswith("| smiles | 2 |")]
    assert float(line.split("|")[5]) == pytest.approx(mean, abs=0.006)


def test_a_training_is_no_place_for_tables(data, model, capsys):
    before = sorted(model.rglob("*"))
    assert clusters(data, model, model / "model_0") == 2
    assert f"{str(model / 'model_0')!r} holds a training" in capsys.readouterr().err
    assert clusters(data, model, model) == 2
    message = (
        f"argument --output-dir: {str(model)!r} holds a training (model_0/checkpoints/last.ckpt)"
    )
    assert message in capsys.readouterr().err and sorted(model.rglob("*")) == before


def test_without_pictures_there_is_no_page(tmp_path, data, model):
    assert clusters(data, model, tmp_path, "--pictures", 0) == 0
    assert sorted(p.name for p in tmp_path.iterdir()) == ["atoms.csv", "molecules.csv"]


def test_a_table_without_header(tmp_path, data, model):
    lines = data.read_text().splitlines()[1:4]
    (tmp_path / "bare.csv").write_text("\n".join(lines) + "\n")
    assert clusters(tmp_path / "bare.csv", model, tmp_path / "out", "--no-header-row") == 0
    found = pd.read_csv(tmp_path / "out" / "molecules.csv")
    assert found.smiles[found.level == 1].tolist() == [line.split(",")[0] for line in lines]


def test_every_model_of_an_ensemble_gets_a_folder(tmp_path, data):
    assert train(data, tmp_path / "model", "--ensemble-size", 2) == 0
    assert clusters(data, tmp_path / "model", tmp_path / "out") == 0
    first, second = (pd.read_csv(tmp_path / "out" / f"model_{i}" / "atoms.csv") for i in (0, 1))
    assert len(first) == len(second) and not first.equals(second)


def test_earlier_results_are_replaced(tmp_path, data, model):
    (tmp_path / "out" / "mine").mkdir(parents=True)
    (tmp_path / "out" / "model_7").mkdir()
    (tmp_path / "out" / "model_7" / "note.txt").touch()
    assert clusters(data, model, tmp_path / "out", "--pictures", 0) == 0
    models = (model, model)
    words = ("-i", data, "--model-paths", *models, "-o", tmp_path / "out", "--pictures", 0)
    assert tritonpool("clusters", *words) == 0
    found = {str(p.relative_to(tmp_path / "out")) for p in (tmp_path / "out").rglob("*")}
    tables = {f"model_{i}/{name}.csv" for i in (0, 1) for name in ("atoms", "molecules")}
    mine = {"mine", "model_7", "model_7/note.txt"}
    assert found == {"model_0", "model_1"} | tables | mine
    assert clusters(data, model, tmp_path / "out", "--pictures", 0) == 0
    found = {str(p.relative_to(tmp_path / "out")) for p in (tmp_path / "out").rglob("*")}
    assert found == {"atoms.csv", "molecules.csv"} | mine


def test_two_columns_of_molecules(tmp_path, capsys):
    data = write_pairs(tmp_path / "pairs.csv")
    columns = ("--smiles-columns", "smiles", "other")
    words = (*columns, "--target-columns", "y")
    assert train(data, tmp_path / "model", *words) == 0
    assert clusters(data, tmp_path / "model", tmp_path / "out", *columns) == 0
    assert clusters(data, tmp_path / "model", tmp_path / "no", *columns[:2]) == 2
    assert "argument --smiles-columns: must name 2, because" in capsys.readouterr().err
    found = pd.read_csv(tmp_path / "out" / "molecules.csv")
    assert found.column.tolist() == ["smiles"] * 20 + ["other"] * 20
    assert found.atoms[20:].tolist() == list(range(2, 22))
    assert found.smiles[20:].tolist() == ["C" * n for n in range(2, 22)]


def test_atom_descriptors_are_seen(tmp_path, data, capsys):
    counts = [Chem.MolFromSmiles(text).GetNumAtoms() for text in pd.read_csv(data)["smiles"]]
    draw = np.random.default_rng(0)
    for name in ("a", "b"):
        np.savez(tmp_path / f"{name}.npz", *[draw.normal(size=(n, 2)) for n in counts])
    given = [("--atom-descriptors-path", tmp_path / f"{name}.npz") for name in ("a", "b")]
    assert train(data, tmp_path / "model", *given[0]) == 0
    tables = []
    for i, words in enumerate(given):
        assert clusters(data, tmp_path / "model", tmp_path / str(i), *words) == 0
        tables.append(pd.read_csv(tmp_path / str(i) / "atoms.csv"))
    assert not tables[0].equals(tables[1])
    rows = [np.zeros((n, 2)) for n in counts]
    first, other = 0, next(i for i, n in enumerate(counts) if n != counts[0])
    swapped = rows.copy()
    swapped[first], swapped[other] = rows[other], rows[first]
    wrong = (
        (swapped, f"there are {counts[other]} rows for"),
        ([*rows, rows[0]], f"is for {len(rows) + 1} molecules, but the data has {len(rows)} rows"),
        (rows[1:], f"is for {len(rows) - 1} molecules, but the data has {len(rows)} rows"),
    )
    for values, message in wrong:
        np.savez(tmp_path / "wrong.npz", *values)
        words = ("--atom-descriptors-path", tmp_path / "wrong.npz")
        assert clusters(data, tmp_path / "model", tmp_path / "no", *words) == 1
        error = capsys.readouterr().err
        assert "error: argument --atom-descriptors-path: " in error and message in error


def test_features_of_another_width_are_named(tmp_path, data, model, capsys):
    file = model / "model_0" / "best.pt"
    counts = [Chem.MolFromSmiles(text).GetNumAtoms() for text in pd.read_csv(data)["smiles"]]
    np.savez(tmp_path / "a.npz", *[np.ones((n, 2)) for n in counts])
    for words, message in (
        (
            ("--multi-hot-atom-featurizer-mode", "RIGR"),
            "it takes 72 features of atoms, but 52 are given; see --atom-features-path, --mul",
        ),
        (
            ("--atom-descriptors-path", tmp_path / "a.npz"),
            "it takes 0 descriptors of atoms, but 2 are given; see --atom-descriptors-path",
        ),
    ):
        assert clusters(data, model, tmp_path / "out", *words) == 1
        line = capsys.readouterr().err.splitlines()[-1]
        start = f"argument --test-path: the model in {str(file)!r} does not fit the data: "
        assert start + message in line
        assert not (tmp_path / "out").exists()


def test_numbers_out_of_range(tmp_path, data, model, capsys):
    assert clusters(data, model, tmp_path / "out", "--num-workers", -1) == 2
    message = "argument --num-workers: must be a whole number at least 0, got -1"
    assert message in capsys.readouterr().err
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("words", [(), ("--use-cuikmolmaker-featurization",)])
def test_a_bad_smiles_is_named(tmp_path, model, capsys, words):
    (tmp_path / "bad.csv").write_text("smiles\nCC\nC(\n")
    assert clusters(tmp_path / "bad.csv", model, tmp_path / "out", *words) == 1
    line = capsys.readouterr().err.splitlines()[-1]
    assert "row 2 below the header: the SMILES 'C(' in column 'smiles' cannot be read" in line


def test_what_cannot_be_shown_is_named(tmp_path, data, model, capsys):
    def refused(code: int, message: str, *words: object) -> None:
        assert tritonpool("clusters", *words, "-o", tmp_path / "out") == code
        captured = capsys.readouterr().err
        assert f"tritonpool clusters: error: {message}" in captured and "Traceback" not in captured
        assert not (tmp_path / "out").exists()

    plain, empty = tmp_path / "plain", tmp_path / "empty"
    empty.mkdir()
    assert train(data, plain, "--diffpool-levels", 0) == 0
    file = plain / "model_0" / "best.pt"
    refused(1, f"{str(file)!r} has no DiffPool levels", "-i", data, "--model-paths", plain)
    ours = ("--model-paths", model)
    refused(1, "argument --model-paths: there is no .pt", "-i", data, "--model-paths", empty)
    for path in (tmp_path / "no.csv", tmp_path / "no.txt", tmp_path):
        refused(1, "argument --test-path: cannot read", "-i", path, *ours)
    refused(2, "argument --smiles-columns: ", "-i", data, *ours, "--smiles-columns", "x")
    refused(2, "argument --reaction-columns: ", "-i", data, *ours, "--reaction-columns", "smiles")
    refused(2, "argument --pictures: must be", "-i", data, *ours, "--pictures", -1)
