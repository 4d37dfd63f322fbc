"""Ring systems as clusters: what they are, and pooling by clusters that are known beforehand."""

import pytest
import torch
from batches import examples, make_sample, samples
from hypothesis import given
from molecules import ATOMS, MOLECULES, POLYMERS, batch_of, dataset, graph_of
from rdkit import Chem

from tritonpool import DiffPool, Graph, coarsen
from tritonpool.chemprop import DiffPoolBondMessagePassing, partition, rings
from tritonpool.chemprop.collate import build_dataloader
from tritonpool.chemprop.partition import Partition, coarsen_partition, ring_partition
from tritonpool.chemprop.rings import ring_counts, ring_fragments
from tritonpool.chemprop.settings import DiffPoolSettings
from tritonpool.coarse_plan import CoarsePlan
from tritonpool.planning import MOST_COARSE


def rdkit_fragments(smiles: str) -> set[frozenset[int]]:
    """Ring systems, and the connected pieces of the other atoms, by RDKit's rings."""
    mol = Chem.MolFromSmiles(smiles)
    systems = []
    for ring in map(set, mol.GetRingInfo().AtomRings()):
        for system in [s for s in systems if s & ring]:
            systems.remove(system)
            ring |= system
        systems.append(ring)
    in_ring = set().union(*systems)
    rest = [a.GetIdx() for a in mol.GetAtoms() if a.GetIdx() not in in_ring]
    links = [(b.GetBeginAtomIdx(), b.GetEndAtomIdx()) for b in mol.GetBonds()]
    pieces = {a: {a} for a in rest}
    for a, b in links:
        if a in pieces and b in pieces and pieces[a] is not pieces[b]:
            joined = pieces[a] | pieces[b]
            pieces.update(dict.fromkeys(joined, joined))
    return {frozenset(s) for s in [*systems, *pieces.values()]}


def test_ring_fragments_agree_with_rdkit():
    smiles = [*MOLECULES, *POLYMERS[:20], "C1CC12CC2", "C1CC1C1CC1CC2CCC2", "O"]
    graph = graph_of(smiles)
    fragment, total = ring_fragments(graph.plan).unbind(1)
    start = 0
    for text, n in zip(smiles, graph.plan.nodes.tolist(), strict=True):
        own = fragment[start : start + n].tolist()
        found = {frozenset(i for i in range(n) if own[i] == f) for f in set(own)}
        assert found == rdkit_fragments(text), text
        assert set(total[start : start + n].tolist()) == {len(found)}
        firsts = [own.index(f) for f in range(len(found))]
        assert firsts == sorted(firsts)  # numbered by their first atom
        start += n


@pytest.mark.parametrize("most", [3, 32])
def test_rings_are_clusters_always(most: int):
    smiles = [*POLYMERS[:12], *ATOMS, "", "c1ccccc1Cc1ccccc1Cc1ccccc1Cc1ccccc1"]
    mp = DiffPoolBondMessagePassing(d_h=16, max_clusters=most, levels=2, assignment="rings")
    assert not list(mp.pools[0].parameters()) and list(mp.pools[1].parameters())
    graph = graph_of(smiles)
    coarse, S, losses = mp.pools[0](graph.replace(x=torch.randn(graph.num_nodes, 16)))
    assert set(losses) == {"link", "entropy"}
    fragment, total = ring_fragments(graph.plan).unbind(1)
    own = torch.where(total > most, fragment * most // total, fragment)
    assert torch.equal(S, torch.nn.functional.one_hot(own, most).float())
    start, counts = 0, []
    for text, n in zip(smiles, graph.plan.nodes.tolist(), strict=True):
        counts.append(min(most, len(rdkit_fragments(text)) or n))
        assert set(own[start : start + n].tolist()) == set(range(counts[-1]))  # none is empty
        start += n
    assert coarse.plan.nodes.tolist() == mp.pools[0].counts(graph).tolist() == counts


def test_rings_as_clusters_know_no_order_of_atoms():
    smiles = ["OCc1ccccc1Cc1ccncc1C(=O)N", "c1ccc(cc1)C1CC1CCO"]
    again = [Chem.MolToSmiles(Chem.MolFromSmiles(s), doRandom=True) for s in smiles for _ in "ab"]
    mp = DiffPoolBondMessagePassing(d_h=32, assignment="rings").eval()
    first, second = mp(batch_of(smiles).bmg), mp(batch_of(again).bmg)
    torch.testing.assert_close(first.repeat_interleave(2, 0), second, rtol=1e-4, atol=1e-5)


def test_fixed_clusters_have_no_losses():
    batch = batch_of(POLYMERS[:6])
    for levels, logged in ((1, 0), (2, 2)):
        mp = DiffPoolBondMessagePassing(d_h=16, levels=levels, assignment="rings", aux="expose")
        mp(batch.bmg)
        assert len(mp.pop_aux() or ()) == logged
    with pytest.raises(ValueError, match="positions and prior must be left out with assignment="):
        DiffPoolSettings(assignment="rings", positions=2)


@pytest.mark.parametrize("levels, workers", [(1, 0), (2, 0), (2, 1)])
def test_the_loader_counts_rings(levels: int, workers: int, monkeypatch):
    settings = DiffPoolSettings(assignment="rings", levels=levels)
    loader = build_dataloader(dataset(POLYMERS[:8]), 8, workers, shuffle=False, settings=settings)
    bmg = next(iter(loader)).bmg
    assert torch.equal(bmg.plan.counts["rings"], ring_counts(graph_of(POLYMERS[:8]).plan, 99))
    assert bmg.plan.to("meta").counts["rings"].device.type == "cpu"
    monkeypatch.setattr(CoarsePlan, "build", None)  # all coarse graphs are planned
    monkeypatch.setattr(rings, "_fragments", None)  # and all rings found
    mp = DiffPoolBondMessagePassing(d_h=16, levels=levels, assignment="rings")
    assert mp(bmg).shape == (8, 16 * (levels + 1))


def connected(nodes: set[int], edges: set[frozenset[int]]) -> list[set[int]]:
    """The connected components, in the order of their first node."""
    left, found = set(nodes), []
    while left:
        part, front = set(), {min(left)}
        while front:
            part |= front
            front = {n for e in edges if e & front for n in e} - part
        found.append(part)
        left -= part
    return found


@examples("sparse")
@given(samples(max_nodes=9, max_edges=12, weights=False))
def test_ring_fragments_by_their_definition(sample):
    """In any directed graph, with self-loops, parallel edges and several pieces."""
    plan = sample.graph.plan
    expected = []
    for g in range(plan.num_graphs):
        nodes = set((plan.batch == g).nonzero()[:, 0].tolist())
        pairs = zip(plan.src.tolist(), plan.dst.tolist(), strict=True)
        edges = {frozenset(e) for e in pairs if e[0] in nodes and e[0] != e[1]}
        pieces = len(connected(nodes, edges))
        bridges = {e for e in edges if len(connected(nodes, edges - {e})) > pieces}
        in_ring = {n for e in edges - bridges for n in e}
        parts = connected(nodes, {e for e in edges if e not in bridges or not e & in_ring})
        number = {n: i for i, part in enumerate(parts) for n in part}
        expected += [[number[n], len(parts)] for n in sorted(nodes)]
    assert ring_fragments(plan).tolist() == expected


@pytest.mark.parametrize("drop_self_loops", [True, False])
@examples("sparse")
@given(samples(max_nodes=6, max_edges=10, hard=True))
def test_a_partition_is_a_hard_assignment(drop_self_loops, sample):
    """Values and gradients of coarsen, and only pairs of weight 0 are missing."""
    graph, S, clusters = sample.graph, sample.S, sample.clusters
    plan = graph.plan
    at = Partition.build(plan, S.argmax(1), clusters, drop_self_loops)
    leaves = [graph.x, graph.edge_attr, graph.edge_weight]

    def run(pool):
        own = [None if t is None else t.clone().requires_grad_() for t in leaves]
        x, F, w = own
        made = pool(Graph(x, graph.edge_index, F, w, graph.batch, graph.num_graphs))
        return made, own

    whole, whole_leaves = run(
        lambda g: coarsen(g, S, clusters, drop_self_loops=drop_self_loops, backend="reference")
    )
    found, found_leaves = run(lambda g: coarsen_partition(g, at))
    pairs = {pair: k for k, pair in enumerate(map(tuple, whole.edge_index.T.tolist()))}
    kept = [pairs[pair] for pair in map(tuple, found.edge_index.T.tolist())]
    assert kept == sorted(kept)
    p, q = found.edge_index
    assert torch.equal(torch.stack([p, q])[:, at.rev], torch.stack([q, p]))
    missing = torch.ones(whole.num_edges, dtype=torch.bool)
    missing[kept] = False
    assert not whole.edge_weight[missing].any()
    close = {"rtol": 1e-12, "atol": 1e-12}
    torch.testing.assert_close(found.x, whole.x, **close)
    torch.testing.assert_close(found.edge_weight, whole.edge_weight[kept], **close)
    results = [(found.x, whole.x), (found.edge_weight, whole.edge_weight)]
    if found.edge_attr is not None:
        torch.testing.assert_close(found.edge_attr, whole.edge_attr[kept], **close)
        results.append((found.edge_attr, whole.edge_attr))
    of_found = of_whole = torch.zeros((), dtype=torch.float64)
    for number, (own, full) in enumerate(results):
        weights = torch.randn(full.shape, dtype=torch.float64)
        of_whole = of_whole + (full * weights).sum()
        of_found = of_found + (own * (weights[kept] if number else weights)).sum()
    for total in (of_found, of_whole):
        if total.requires_grad:
            total.backward()
    for own, full in zip(found_leaves, whole_leaves, strict=True):
        if own is not None:
            zero = torch.zeros_like(own)
            torch.testing.assert_close(
                zero if own.grad is None else own.grad,
                zero if full.grad is None else full.grad,
                **close,
            )


class Complete(DiffPool):
    """Ring systems as a hard assignment to the clusters of a complete coarse graph."""

    def counts(self, graph: Graph) -> torch.Tensor:
        return ring_counts(graph.plan, self.max_clusters)

    def scores(self, graph: Graph) -> torch.Tensor:
        own = rings.ring_clusters(ring_fragments(graph.plan), self.max_clusters)[:, None]
        scores = graph.x.new_full((graph.num_nodes, self.max_clusters), -1e4)
        return scores.scatter(1, own, 0.0)


@pytest.mark.parametrize(
    "settings",
    [
        {},
        {"levels": 2, "max_clusters": 3},
        {"cluster_features": True, "normalize": "both"},
        {"normalize": "none"},
        {"coarse_encoder": "atom", "undirected": True},
    ],
    ids=str,
)
def test_pairs_without_a_bond_change_no_prediction(settings):
    mp = DiffPoolBondMessagePassing(d_h=16, assignment="rings", **settings)
    bmg = batch_of([*POLYMERS, *ATOMS, ""]).bmg
    pool = mp.pools[0]
    few = mp(bmg)
    few.square().sum().backward()
    grads = [p.grad.clone() for p in mp.parameters()]
    mp.zero_grad()
    mp.pools[0] = Complete(
        16,
        pool.max_clusters,
        assignment=torch.nn.Identity(),
        drop_self_loops=pool.drop_self_loops,
    )
    all_pairs = mp(bmg)
    torch.testing.assert_close(few, all_pairs)
    all_pairs.square().sum().backward()
    for grad, p in zip(grads, mp.parameters(), strict=True):
        torch.testing.assert_close(grad, p.grad, rtol=1e-4, atol=1e-5)
    graph = graph_of([*POLYMERS, *ATOMS, ""])
    graph = graph.replace(x=torch.randn(graph.num_nodes, 16))
    pairs = [p(graph)[0].num_edges for p in (pool, mp.pools[0])]
    assert pairs[0] < pairs[1] or pool.max_clusters == 3


def test_a_partition_goes_along_with_its_plan():
    plan = graph_of(POLYMERS[:4]).plan
    at = ring_partition(plan, 32, True)
    assert ring_partition(plan, 32, True) is at and ring_partition(plan, 32, False) is not at
    moved = ring_partition(plan.to("meta"), 32, True)
    devices = {name: getattr(moved, name).device.type for name in partition.TENSORS}
    assert devices == dict.fromkeys(partition.TENSORS, "meta")
    assert moved.plan.src.device.type == "meta" and torch.equal(moved.clusters, at.clusters)
    for most in range(1, 2 * MOST_COARSE):
        ring_partition(plan, most, True)
    assert len(plan._coarse) == MOST_COARSE


@pytest.mark.parametrize("smiles", [[""], ["", ""], ["O", "C", "[Na+]"], ["[Na+].c1ccccc1[O-]"]])
@pytest.mark.parametrize("settings", [{}, {"levels": 2, "cluster_features": True}], ids=str)
def test_rings_of_odd_molecules(smiles: list[str], settings: dict):
    """Nothing, single atoms, a salt: each gets the same row alone and beside others."""
    mp = DiffPoolBondMessagePassing(d_h=16, assignment="rings", **settings).eval()
    H = mp(batch_of(smiles).bmg)
    among = mp(batch_of([*smiles, *POLYMERS[:3]]).bmg)
    torch.testing.assert_close(H, among[: len(H)])
    assert H.isfinite().all() and H.any(1).all()


def test_no_gradient_flows_through_a_weight_of_eps():
    w = torch.tensor([1e-8], requires_grad=True)
    graph = Graph(torch.ones(2, 1), torch.tensor([[0], [1]]), torch.ones(1, 1), w)
    at = Partition.build(graph.plan, torch.tensor([0, 1]), torch.tensor([2]), True)
    coarsen_partition(graph, at).edge_attr.sum().backward()
    assert w.grad.item() == 0


def test_its_op_keeps_the_rules_of_custom_ops():
    plan = graph_of(POLYMERS[:3]).plan
    # the key that an op returns has another number in each call
    rules = ("test_schema", "test_autograd_registration", "test_faketensor")
    given = (plan.key, plan.src, plan.batch, plan.nodes, 32, True)
    torch.library.opcheck(partition._ring_partition, given, test_utils=rules)


def test_a_partition_in_half_precision():
    sample = make_sample([300], [2000], [2], 2, hard=True, weights=False)
    half = sample.to(torch.bfloat16).graph
    at = Partition.build(half.plan, sample.S.argmax(1), sample.clusters, False)
    found, exact = coarsen_partition(half, at), coarsen_partition(sample.graph, at)
    assert found.x.dtype == found.edge_attr.dtype == torch.bfloat16
    assert found.edge_weight.dtype == torch.float32
    torch.testing.assert_close(found.edge_weight.double(), exact.edge_weight)
    torch.testing.assert_close(found.edge_attr.double(), exact.edge_attr, rtol=2e-2, atol=2e-3)
