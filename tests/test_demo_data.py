"""The demo data: the Hueckel gap, the oligomers, the CSV file and the sub-command."""

import argparse
import hashlib
import math
import os
import stat
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from rdkit import Chem

from tritonpool.cli import demo_data
from tritonpool.cli.errors import InputError
from tritonpool.demo.huckel import (
    BETA_EV,
    CARBON_K,
    POLYENE_GAP_EV,
    H,
    K,
    frontier,
    hueckel_gap,
    pi_electrons,
)
from tritonpool.demo.oligomers import chain_smiles, generate, parse_chain
from tritonpool.demo.sequences import SEQUENCES
from tritonpool.demo.table import COLUMNS, write_csv
from tritonpool.demo.units import BY_CODE, LINKERS, RINGS, UNITS

# Of the file for `-n 64 --seed 0`. The published figures rest on it: it must not change.
FROZEN_SHA256 = "84323d4e73fc5cee0a7eb54eb695c2abc3a1da1d5b132d8c5aec6fff61856399"
SINGLE, DOUBLE = CARBON_K[Chem.BondType.SINGLE], CARBON_K[Chem.BondType.DOUBLE]


def gap_of(smiles: str) -> float:
    return hueckel_gap(Chem.MolFromSmiles(smiles))


def reduced_gap(matrix: np.ndarray) -> float:
    homo, lumo = frontier(matrix, len(matrix))
    return lumo - homo


def chain_matrix(n: int, ring: bool = False) -> np.ndarray:
    matrix = np.diag(np.ones(n - 1), 1)
    if ring:
        matrix[0, -1] = 1
    return matrix + matrix.T


# The Hueckel method


@pytest.mark.parametrize("n", [2, 4, 10, 50])
def test_linear_polyene_has_the_closed_form_gap(n: int) -> None:
    assert reduced_gap(chain_matrix(n)) == pytest.approx(4 * math.sin(math.pi / (2 * (n + 1))))


@pytest.mark.parametrize("n", [6, 10, 14, 30])
def test_annulene_has_the_closed_form_gap(n: int) -> None:
    # HOMO at k = (n - 2) / 4, LUMO one step further around the circle.
    homo, lumo = (-2 * math.cos(2 * math.pi * k / n) for k in ((n - 2) / 4, (n + 2) / 4))
    assert reduced_gap(chain_matrix(n, ring=True)) == pytest.approx(lumo - homo)


def test_antiaromatic_ring_has_no_gap() -> None:
    assert reduced_gap(chain_matrix(8, ring=True)) == pytest.approx(0, abs=1e-12)


def test_small_molecules_have_closed_form_gaps() -> None:
    beta = abs(BETA_EV)
    assert gap_of("C=C") == pytest.approx(2 * DOUBLE * beta)
    assert gap_of("c1ccccc1") == pytest.approx(2 * beta)
    half = SINGLE / 2
    assert gap_of("C=CC=C") == pytest.approx(2 * beta * (math.hypot(DOUBLE, half) - half))
    h, k = H["O", 1], K[frozenset({("C", 1), ("O", 1)})]
    assert gap_of("C=O") == pytest.approx(beta * math.sqrt(h * h + 4 * k * k))


def test_long_polyene_keeps_the_gap_of_polyacetylene() -> None:
    assert gap_of("C=C" * 400) == pytest.approx(POLYENE_GAP_EV, abs=1e-3)
    assert gap_of("C=C" * 20) > gap_of("C=C" * 40) > POLYENE_GAP_EV


def test_triple_bond_follows_the_slater_overlap() -> None:
    def overlap(angstrom: float) -> float:
        p = 1.625 * angstrom / 0.529177
        return math.exp(-p) * (1 + p + 2 * p**2 / 5 + p**3 / 15)

    ratio = overlap(1.20) / overlap(1.40)
    assert CARBON_K[Chem.BondType.TRIPLE] == pytest.approx(ratio, abs=0.005)


def test_gap_does_not_depend_on_the_order_of_atoms() -> None:
    mol = Chem.MolFromSmiles("[*]c1ccc(c2nsnc12)C=Cc1cnc(s1)Oc1c[nH]c(C#N)c1[*]")
    rng = np.random.default_rng(0)
    for _ in range(10):
        order = [int(i) for i in rng.permutation(mol.GetNumAtoms())]
        assert hueckel_gap(Chem.RenumberAtoms(mol, order)) == pytest.approx(hueckel_gap(mol))


def test_disconnected_pi_systems_give_lowest_lumo_minus_highest_homo() -> None:
    # Dimethoxybenzene has the highest HOMO, pyrazine the lowest LUMO, and neither has both.
    donor, acceptor = "COc1ccc(OC)cc1", "c1cnccn1"
    both = gap_of(f"{donor}.{acceptor}")
    assert both < min(gap_of(donor), gap_of(acceptor)) - 0.1
    linked = gap_of("COc1ccc(OC)c(Cc2cnccn2)c1")
    assert linked == pytest.approx(both)


def test_cross_conjugation_and_heteroatoms_matter() -> None:
    para, meta = gap_of("c1ccc(cc1)C=Cc1ccc(cc1)C=C"), gap_of("c1cc(ccc1)C=Cc1cc(ccc1)C=C")
    assert meta > para + 0.1
    assert gap_of("c1ccoc1C=C") != pytest.approx(gap_of("c1ccsc1C=C"), abs=0.01)


@pytest.mark.parametrize(
    ("smiles", "total"),
    [
        ("c1ccncc1", 6),
        ("c1cc[nH]c1", 6),
        ("c1ccsc1", 6),
        ("c1ccoc1", 6),
        ("c1ccc2nsnc2c1", 10),
        ("[*]c1ccc([*])n1[*]", 6),
        ("Oc1ccccc1", 8),
        ("CCO", 0),
        ("C=CCO", 2),
        ("C#N", 2),
    ],
)
def test_pi_electrons(smiles: str, total: int) -> None:
    assert sum(pi_electrons(Chem.MolFromSmiles(smiles)).values()) == total


@pytest.mark.parametrize(
    ("smiles", "message"),
    [
        ("CCC", "no pi electrons"),
        ("[CH2]C=C", r"atom 0 \(C\) is charged or a radical"),
        ("C[N+](C)=CC=C", r"atom 1 \(N\) is charged or a radical"),
        ("[O-]C=C", r"atom 0 \(O\) is charged or a radical"),
        ("CS(C)=C", r"no Hueckel parameters for atom 1 \(S\)"),
        ("C=C[Si](C)=C", r"no Hueckel parameters for atom 2 \(Si\)"),
        ("CS(=O)(=O)C=C", "atom 1 has two double bonds"),
        ("C=C=C", "atom 1 has two double bonds"),
    ],
)
def test_gap_rejects_what_is_not_modelled(smiles: str, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        gap_of(smiles)


@pytest.mark.parametrize("electrons", [0, 3, 8])
def test_frontier_rejects_electron_counts(electrons: int) -> None:
    with pytest.raises(ValueError, match=f"less than 8 for 4 orbitals, got {electrons}"):
        frontier(chain_matrix(4), electrons)


# The units


@pytest.mark.parametrize("unit", UNITS, ids=lambda unit: unit.code)
def test_unit_is_what_the_table_says(unit) -> None:
    mol = Chem.MolFromSmiles(f"[*:1]{unit.smiles}[*:2]")
    assert mol.GetNumHeavyAtoms() == unit.atoms
    back = Chem.MolFromSmiles(f"[*:2]{unit.text(True)}[*:1]")
    assert Chem.MolToSmiles(back) == Chem.MolToSmiles(mol)
    swapped = Chem.MolFromSmiles(f"[*:2]{unit.smiles}[*:1]")
    symmetric = Chem.MolToSmiles(swapped) == Chem.MolToSmiles(mol)
    assert symmetric == (unit.reverse is None)


def test_codes_and_units_are_distinct() -> None:
    assert len(BY_CODE) == len(UNITS) == len({unit.smiles for unit in UNITS})
    rings = [Chem.MolFromSmiles(unit.smiles) for unit in RINGS]  # RDKit's ring info dies with them
    assert all(mol.GetRingInfo().NumRings() for mol in rings)


def test_known_polymers_have_known_repeat_units() -> None:
    def canonical(smiles: str) -> str:
        return Chem.MolToSmiles(Chem.MolFromSmiles(smiles))

    assert canonical(chain_smiles(parse_chain("P-V"))) == canonical("[*]c1ccc(C=C[*])cc1")
    assert canonical(chain_smiles(parse_chain("E"))) == canonical("[*]c1sc([*])c2OCCOc12")
    assert canonical(chain_smiles(parse_chain("Fl-B"))) == canonical(
        "[*]c1ccc2c(c1)Cc1cc(ccc1-2)-c1ccc([*])c2nsnc12"
    )


# The oligomers


@pytest.fixture(scope="module")
def table() -> pd.DataFrame:
    return pd.DataFrame(list(generate(2000)))


def test_oligomers_are_distinct_and_round_trip(table: pd.DataFrame) -> None:
    canonical = []
    for row in table.itertuples():
        mol = Chem.MolFromSmiles(row.smiles)
        assert mol.GetNumHeavyAtoms() == row.atoms
        assert [atom.GetSymbol() for atom in mol.GetAtoms()].count("*") == 2
        canonical.append(Chem.MolToSmiles(mol))
        assert Chem.MolToSmiles(Chem.MolFromSmiles(canonical[-1])) == canonical[-1]
    assert len(set(canonical)) == len(table)


def test_units_are_recovered_from_the_chain(table: pd.DataFrame) -> None:
    for row in table.itertuples():
        chain = parse_chain(row.chain)
        assert chain_smiles(chain) == row.smiles
        assert len(chain) == row.units
        assert sum(unit.atoms for unit, _ in chain) == row.atoms


def test_kinds_of_sequence_are_equally_many_and_as_named(table: pd.DataFrame) -> None:
    assert dict(table["sequence"].value_counts()) == dict.fromkeys(SEQUENCES, 500)
    for row in table.itertuples():
        codes = [unit.code for unit, _ in parse_chain(row.chain)]
        if row.sequence == "homopolymer":
            assert len(set(codes)) == 1 and len(codes) >= 2
        elif row.sequence == "alternating":
            assert len(codes) >= 3 and codes[0] != codes[1]
            assert codes == [codes[i % 2] for i in range(len(codes))]
        else:
            assert len(set(codes)) >= 2
        if row.sequence == "block":
            bulk = [code for code in codes if not BY_CODE[code].linker]
            runs = 1 + sum(a != b for a, b in zip(bulk, bulk[1:], strict=False))
            assert runs == len(set(bulk)) and len(bulk) >= 2 * runs


def test_linkers_sit_between_two_other_units(table: pd.DataFrame) -> None:
    linkers = {unit.code for unit in LINKERS}
    found = set()
    for text in table["chain"]:
        is_linker = [unit.linker for unit, _ in parse_chain(text)]
        assert not is_linker[0] and not is_linker[-1]
        assert not any(a and b for a, b in zip(is_linker, is_linker[1:], strict=False))
        found |= linkers & {unit.code for unit, _ in parse_chain(text)}
    assert found == linkers


def test_sizes_and_gaps_are_reasonable(table: pd.DataFrame) -> None:
    assert table["atoms"].between(10, 80).all()
    assert 40 < table["atoms"].mean() < 60
    assert table["gap"].between(0.3, 6).all()
    assert table["gap"].std() > 0.5


def test_order_matters_beyond_counts(table: pd.DataFrame) -> None:
    """A linear model on unit counts and length explains less than 90 % of the variance."""
    counts = np.array(
        [
            [[unit.code for unit, _ in parse_chain(text)].count(code) for code in BY_CODE]
            for text in table["chain"]
        ]
    )
    features = np.column_stack([counts, table["units"], table["atoms"], np.ones(len(table))])
    gap = table["gap"].to_numpy()
    fold = np.random.default_rng(0).permutation(len(table)) % 5
    predicted = np.empty_like(gap)
    for k in range(5):
        weights = np.linalg.lstsq(features[fold != k], gap[fold != k], rcond=None)[0]
        predicted[fold == k] = features[fold == k] @ weights
    r2 = 1 - np.mean((predicted - gap) ** 2) / np.var(gap)
    assert 0.5 < r2 < 0.9


def test_same_units_in_another_order_have_another_gap() -> None:
    def gap_of_chain(text: str) -> float:
        return gap_of(chain_smiles(parse_chain(text)))

    alternating, block = gap_of_chain("T-B-T-B-T-B"), gap_of_chain("T-T-T-B-B-B")
    assert abs(alternating - block) > 0.05
    assert gap_of_chain("P-P-P-P-M-M") < gap_of_chain("P-P-M-P-P-M") - 0.05


def test_seed_decides() -> None:
    first, again, other = (list(generate(12, seed)) for seed in (3, 3, 4))
    assert first == again
    assert {row.smiles for row in first} != {row.smiles for row in other}


def test_shorter_request_is_the_start_of_a_longer_one() -> None:
    assert list(generate(5, seed=1)) == list(generate(9, seed=1))[:5]


def test_thousands_of_atoms() -> None:
    for row in generate(4, seed=0, min_atoms=1000, max_atoms=1200):
        assert 1000 <= row.atoms <= 1200
        assert Chem.MolFromSmiles(row.smiles).GetNumHeavyAtoms() == row.atoms


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"number": 0}, "number must be at least 1, got 0"),
        ({"number": 1, "seed": -1}, "seed must not be negative, got -1"),
        ({"number": 1, "min_atoms": 30, "max_atoms": 20}, "got 30 and 20"),
        ({"number": 1, "min_atoms": 9}, "10 <= min_atoms <= max_atoms <= 5000, got 9 and 80"),
        ({"number": 1, "max_atoms": 5001}, "got 10 and 5001"),
        (
            {"number": 100_000, "min_atoms": 10, "max_atoms": 11},
            r"number is 100000, but only \d+ distinct oligomers of 10 to 11 heavy atoms",
        ),
    ],
)
def test_generate_rejects(options: dict, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        list(generate(**options))


def test_unknown_unit_in_a_chain() -> None:
    with pytest.raises(ValueError, match="chain has the unknown unit 'Zz'"):
        parse_chain("T-Zz")


# The command and its file


def run(*words: str) -> None:
    args = demo_data.add_args(argparse.ArgumentParser(prog="tritonpool demo-data")).parse_args(
        words
    )
    demo_data.run(args)


def test_file_is_frozen(tmp_path: Path) -> None:
    path = tmp_path / "oligomers.csv"
    run("-n", "64", "--seed", "0", "-o", str(path))
    assert hashlib.sha256(path.read_bytes()).hexdigest() == FROZEN_SHA256


def test_command_writes_the_file(tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    path = tmp_path / "oligomers.csv"
    run("-n", "6", "--seed", "2", "-o", str(path), "--min-atoms", "12", "--max-atoms", "30")
    assert capsys.readouterr().out == f"Wrote 6 oligomers to {path}.\n"
    assert [entry.name for entry in tmp_path.iterdir()] == ["oligomers.csv"]
    written = pd.read_csv(path)
    assert tuple(written.columns) == COLUMNS
    expected = pd.DataFrame(list(generate(6, 2, 12, 30)))
    assert list(written["smiles"]) == list(expected["smiles"])
    np.testing.assert_allclose(written["gap"], expected["gap"], atol=5.01e-5)
    assert stat.S_IMODE(path.stat().st_mode) & stat.S_IRUSR


def test_chemprop_reads_the_file(tmp_path: Path) -> None:
    # Imported here: chemprop is slow to load and only this test needs it.
    from chemprop.cli.utils.parsing import parse_csv
    from chemprop.data import MoleculeDatapoint, MoleculeDataset

    path = tmp_path / "oligomers.csv"
    write_csv(generate(8), path)
    (smiles,), _, gaps, *_ = parse_csv(path, ["smiles"], None, ["gap"], None, None, None, None)
    assert gaps.shape == (8, 1) and gaps.dtype.kind == "f"
    data = MoleculeDataset([MoleculeDatapoint.from_smi(text) for text in smiles])
    atoms = pd.read_csv(path)["atoms"]
    assert [data[i].mg.V.shape[0] for i in range(8)] == [count + 2 for count in atoms]


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["-n", "0"], "argument -n/--number: must be a whole number at least 1, got '0'"),
        (["-n", "many"], "argument -n/--number: must be a whole number at least 1, got 'many'"),
        (
            ["--seed", "-3"],
            "argument --seed: must be a whole number from 0 to 4294967295, got '-3'",
        ),
        (["--min-atoms", "9"], "argument --min-atoms: must be a whole number from 10 to 5000"),
        (["--max-atoms", "5001"], "argument --max-atoms: must be a whole number from 10 to 5000"),
        (["--min-atoms", "90"], "argument --min-atoms: must not be larger than --max-atoms (80)"),
    ],
)
def test_usage_errors_exit_with_2(
    tmp_path: Path, capsys: pytest.CaptureFixture, words: list[str], message: str
) -> None:
    with pytest.raises(SystemExit) as error:
        run("-o", str(tmp_path / "o.csv"), *words)
    assert error.value.code == 2
    assert message in capsys.readouterr().err
    assert not list(tmp_path.iterdir())


def test_output_must_be_writable(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(InputError, match=r"argument --output: .* '.*/file' is not a folder"):
        run("-o", str(tmp_path / "file" / "new" / "o.csv"))
    (tmp_path / "file").unlink()
    with pytest.raises(InputError, match=r"argument --output: '.*' is a folder, not a file"):
        run("-o", str(tmp_path))
    # A superuser may write anywhere, so the answer of the system is set by hand.
    monkeypatch.setattr("os.access", lambda path, mode: False)
    with pytest.raises(InputError, match=r"argument --output: the folder of '.*' is not writable"):
        run("-o", str(tmp_path / "o.csv"))
    assert not list(tmp_path.iterdir())


def test_a_missing_folder_is_made(tmp_path: Path) -> None:
    path = tmp_path / "new" / "deep" / "o.csv"
    with pytest.raises(InputError, match="distinct oligomers of 10 to 10 heavy atoms"):
        run("-n", "5000", "--min-atoms", "10", "--max-atoms", "10", "-o", str(path))
    assert not list(tmp_path.iterdir())
    run("-n", "3", "-o", str(path))
    assert len(pd.read_csv(path)) == 3


def test_failure_leaves_the_old_file(tmp_path: Path) -> None:
    path = tmp_path / "o.csv"
    path.write_text("old")
    with pytest.raises(InputError, match="distinct oligomers of 10 to 10 heavy atoms"):
        run("-n", "5000", "--min-atoms", "10", "--max-atoms", "10", "-o", str(path))
    assert path.read_text() == "old"
    assert [entry.name for entry in tmp_path.iterdir()] == ["o.csv"]


def test_a_link_is_followed_and_a_device_left_alone(tmp_path: Path) -> None:
    (tmp_path / "link.csv").symlink_to(tmp_path / "real.csv")
    write_csv([], tmp_path / "link.csv")
    assert (tmp_path / "link.csv").is_symlink() and (tmp_path / "real.csv").is_file()
    os.mkfifo(tmp_path / "pipe")
    with pytest.raises(OSError, match="is a device or a pipe, not a file"):
        write_csv([], tmp_path / "pipe")
    assert (tmp_path / "pipe").is_fifo()
