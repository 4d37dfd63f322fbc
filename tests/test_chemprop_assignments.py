"""``assignments`` shows the clusters that ``forward`` pools by."""

import pytest
import torch
from molecules import ATOMS, MOLECULES, POLYMERS, batch_of

from tritonpool import Graph
from tritonpool.chemprop import DiffPoolAtomMessagePassing, DiffPoolBondMessagePassing
from tritonpool.chemprop.rings import ring_fragments

SETTINGS = [
    {},
    {"assignment": "gnn", "ratio": 0.5, "normalize": "both"},
    {"assignment": "rings", "max_clusters": 6, "cluster_features": True},
    {"prior": "rings", "positions": 2, "temperature": 0.3},
]


@pytest.mark.parametrize("cls", [DiffPoolBondMessagePassing, DiffPoolAtomMessagePassing])
@pytest.mark.parametrize("settings", SETTINGS)
def test_they_are_what_forward_pools_by(cls: type, settings: dict):
    torch.manual_seed(0)
    batch = batch_of(MOLECULES + POLYMERS[:5])
    mp = cls(d_h=16, levels=3, **settings).eval()
    pooled = []
    for pool in mp.pools:
        pool.register_forward_hook(lambda _, args, out: pooled.append((args[0], out[0], out[1])))
    mp(batch.bmg)
    seen, pooled[:] = list(pooled), []
    found = mp.assignments(batch.bmg)
    assert len(found) == 3 and all(len(level) == len(batch.bmg) for level in found)
    for g in range(len(batch.bmg)):
        product = None
        for level, (below, coarse, S) in enumerate(seen):
            rows = S[below.batch == g][:, : int(coarse.plan.nodes[g])]
            product = rows if product is None else product @ rows
            torch.testing.assert_close(found[level][g], product)
            torch.testing.assert_close(found[level][g].sum(1), torch.ones(len(product)))


def test_rings_are_ring_systems():
    bmg = batch_of(POLYMERS[:5]).bmg
    fragment = ring_fragments(Graph.from_bmg(bmg).plan)[:, 0]
    (level,) = DiffPoolBondMessagePassing(assignment="rings").assignments(bmg)
    assert torch.equal(torch.cat([S.argmax(1) for S in level]), fragment)


def test_an_atom_alone_is_its_only_cluster():
    (level,) = DiffPoolBondMessagePassing().assignments(batch_of(ATOMS).bmg)
    assert [S.tolist() for S in level] == [[[1.0]]] * len(ATOMS)
