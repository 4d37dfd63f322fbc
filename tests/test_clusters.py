"""What clusters are like, in numbers and pictures."""

import math
import re

import numpy as np
import pytest
import torch
from rdkit import Chem

from tritonpool.clusters import Measures, atom_kinds, draw_clusters, mean_measures, measure
from tritonpool.clusters.pictures import colour, page

# butanol's heavy atoms: C C C C O, the chain's two halves as clusters; the third is empty
BONDS = [(0, 1), (1, 2), (2, 3), (3, 4)]
SHARES = np.array(
    [[0.9, 0.1, 0.0], [0.7, 0.3, 0.0], [0.4, 0.6, 0.0], [0.0, 1.0, 0.0], [0.5, 0.5, 0.0]]
)


def test_a_small_chain_by_hand():
    kinds = atom_kinds(Chem.MolFromSmiles("CCCCO"))
    assert kinds[1] == kinds[2] == kinds[3] and len(set(kinds)) == 3
    found = measure(SHARES, BONDS, kinds)
    # main clusters 0 0 1 1 0
    assert (found.atoms, found.clusters, found.used) == (5, 3, 2)
    assert found.effective == pytest.approx(math.exp(-2 * 0.5 * math.log(0.5)))
    assert found.largest_share == pytest.approx((0.9 + 0.7 + 0.6 + 1.0 + 0.5) / 5)
    assert found.bonds == 2 / 4  # 0-1 and 2-3
    assert found.same_kind == pytest.approx(1 / 3)  # of the pairs 1-2, 1-3, 2-3
    assert found.chance == 4 / 10  # 0-1, 0-4, 1-4, 2-3


@pytest.mark.parametrize("atoms, missing", [(0, 4), (1, 3)])
def test_what_cannot_be_counted_is_nan(atoms, missing):
    found = measure(SHARES[:atoms], [], ["C"] * atoms)
    assert sum(math.isnan(value) for value in vars(found).values()) == missing


def test_means_leave_out_what_is_not_there():
    first = Measures(2, 1, 1, 1, 1, 0.5, math.nan, 1)
    mean = mean_measures([first, Measures(4, 3, 2, 2, 0.5, 1.0, math.nan, math.nan)])
    assert (mean.atoms, mean.clusters, mean.bonds, mean.chance) == (3, 2, 0.75, 1)
    assert math.isnan(mean.same_kind)


def test_colours_tell_clusters_apart_and_fade():
    assert len({colour(p) for p in range(4096)}) == 4096
    full, pale = np.array(colour(3)), np.array(colour(3, 0.1))
    assert (full < pale).all() and (pale < 1).all()


def test_atoms_and_inner_bonds_are_coloured():
    text = draw_clusters(Chem.MolFromSmiles("CCCCO"), SHARES)
    assert text.startswith("<svg") and text.rstrip().endswith("</svg>")

    drawn = {tuple(bytes.fromhex(found)) for found in re.findall("#([0-9A-F]{6})", text)}

    def used(cluster: int, share: float) -> bool:
        wanted = 255 * np.array(colour(cluster, share))
        return any(np.abs(wanted - found).max() < 1.01 for found in drawn)

    assert all(used(p, share) for p, share in [(0, 0.9), (0, 0.7), (1, 0.6), (1, 1.0), (0, 0.5)])
    assert not used(1, 0.9)
    # five atoms, and the two bonds inside clusters
    assert text.count("<ellipse") == 5
    lone = draw_clusters(Chem.MolFromSmiles("CCCCO"), np.eye(5))
    assert text.count("<path") - lone.count("<path") == 2


def test_shares_as_a_model_gives_them():
    butanol, shares = Chem.MolFromSmiles("CCCCO"), torch.from_numpy(SHARES).requires_grad_()
    picture = draw_clusters(butanol, shares)
    assert picture == draw_clusters(butanol, SHARES)
    assert picture._repr_svg_() == picture  # what a notebook asks for
    kinds = atom_kinds(butanol)
    for given in (shares, shares.bfloat16()):
        found = vars(measure(given, BONDS, kinds))
        assert found == pytest.approx(vars(measure(SHARES, BONDS, kinds)), rel=1e-2)
    assert draw_clusters(butanol, shares.bfloat16()).startswith("<svg")
    with pytest.raises(ValueError, match=r"a row for each of the 5 atoms, got shape \(4, 3\)"):
        draw_clusters(butanol, shares[:4])


def test_a_page_is_whole_and_escaped():
    text = page("A & B", [("row 0: <C>", "<svg>1</svg>"), ("row 1", "<svg>2</svg>")])
    assert text.count("<figure>") == 2 and "<svg>1</svg>" in text
    assert "row 0: &lt;C&gt;" in text and "<title>A &amp; B</title>" in text
