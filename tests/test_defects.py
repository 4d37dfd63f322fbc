"""The chains that differ only in where their defects are."""

import csv
import sys
from collections import Counter, defaultdict

import pytest
from rdkit import Chem
from rdkit.Chem.rdFingerprintGenerator import GetMorganGenerator

from benchmarks import defects


def runs_of(chain: str) -> list[int]:
    return [len(run.strip("-").split("-")) for run in chain.split("Me")]


@pytest.fixture(scope="module")
def chains():
    return list(defects.draw(60, units=24, defects=4))


def test_all_have_the_same_units_and_none_is_another_backwards(chains):
    assert {tuple(sorted(Counter(c.chain.split("-")).items())) for c in chains} == {
        (("Me", 4), ("T", 24))
    }
    assert {(c.units, c.atoms) for c in chains} == {(28, 124)}
    both = [
        text for c in chains for text in {tuple(runs_of(c.chain)), tuple(runs_of(c.chain)[::-1])}
    ]
    assert len(both) == len(set(both))
    assert len({Chem.CanonSmiles(c.smiles) for c in chains}) == len(chains)


def test_the_gap_is_that_of_the_longest_run(chains):
    gaps = defaultdict(set)
    for c in chains:
        assert c.sequence == str(max(runs_of(c.chain)))
        gaps[max(runs_of(c.chain))].add(round(c.gap, 6))
    assert len(gaps) > 4 and all(len(found) == 1 for found in gaps.values())
    falling = [gaps[longest].pop() for longest in sorted(gaps)]
    assert falling == sorted(set(falling), reverse=True)


def test_atoms_have_the_same_surroundings_up_to_four_bonds(chains):
    long_runs = [c for c in chains if min(runs_of(c.chain)) > 2]
    surroundings = GetMorganGenerator(radius=4)
    counts = [
        surroundings.GetSparseCountFingerprint(Chem.MolFromSmiles(c.smiles)).GetNonzeroElements()
        for c in long_runs
    ]
    assert len({c.gap for c in long_runs}) > 2
    assert all(found == counts[0] for found in counts)


def test_a_seed_gives_the_same_file(tmp_path, monkeypatch):
    for name in ("a", "b"):
        words = ["defects", "-n", "5", "--seed", "3", "--units", "9", "--defects", "2"]
        monkeypatch.setattr(sys, "argv", [*words, "-o", str(tmp_path / f"{name}.csv")])
        defects.main()
    text = (tmp_path / "a.csv").read_text()
    assert text == (tmp_path / "b.csv").read_text()
    rows = list(csv.DictReader(text.splitlines()))
    assert [row["chain"].count("T") for row in rows] == [9] * 5
    assert {row["chain"].count("Me") for row in rows} == {2}
    assert [r["smiles"] for r in rows] != [c.smiles for c in defects.draw(5, 4, 9, 2)]


def test_more_than_there_are_is_an_error():
    # 4 units in two runs: 1 + 3, which is 3 + 1 backwards, and 2 + 2
    assert len(list(defects.draw(2, units=4, defects=1))) == 2
    with pytest.raises(ValueError, match="only 2 different chains"):
        list(defects.draw(3, units=4, defects=1))


def test_more_defects_than_places_are_an_error():
    with pytest.raises(ValueError, match="defects must be from 0 to 3, but is 4"):
        list(defects.draw(1, units=4, defects=4))
