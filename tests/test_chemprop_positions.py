"""Laplacian positional encodings: eigenvectors, and the same for any order of the atoms."""

import pytest
import torch
from molecules import MOLECULES, POLYMERS, graph_of, shuffled

import tritonpool.chemprop.positions as module
from tritonpool import Graph
from tritonpool.chemprop.positions import positions

LOPSIDED = ["CCCCCCN(C)CC(C)C", "CCc1ccccc1CC(=O)O", "C1CC1" + "C" * 40 + "O"]
# what a symmetry turns around, or more: of the bonds alone, or of the atoms, too
SYMMETRIC = ["O", "CC", "CCC", "NCCCO", "c1ccccc1", "CC(C)(C)C", "c1ccc(-c2ccccc2)cc1"]
SYMMETRIC += ["C12C3C4C1C5C2C3C45", "C" * 30, "CCO.CCO", "C" * 12 + "." + "C" * 9, "C.C"]
SYMMETRIC += ["C(CCCCCCCCC)(CCCCCCCCC)(CCCCCCCCC)CCCCCCCCC", "c1ccc(-c2ccc(-c3ccccc3)cc2)cc1"]
ALL = LOPSIDED + SYMMETRIC + MOLECULES + POLYMERS

# the whole spectrum, and a search for its lowest part
both_ways = pytest.mark.parametrize("most", [module.MOST_ATOMS, 0], ids=["dense", "sparse"])


@pytest.fixture(autouse=True)
def forget():
    module._remembered.cache_clear()
    yield
    module._remembered.cache_clear()


def spectrum(graph: Graph) -> tuple[torch.Tensor, torch.Tensor]:
    """Eigenvalues and eigenvectors of the normalised Laplacian of the only graph."""
    A = torch.zeros(graph.num_nodes, graph.num_nodes, dtype=torch.float64)
    A[tuple(graph.edge_index)] = 1
    root = A.sum(1).clamp(min=1).sqrt()
    return torch.linalg.eigh(torch.eye(len(A), dtype=torch.float64) - A / root[:, None] / root)


@pytest.mark.parametrize("atoms", [4, 40])
def test_positions_of_a_molecule_are_made_once(atoms, monkeypatch):
    def chains(*lengths: int) -> Graph:
        return graph_of(["C" * length for length in lengths])

    monkeypatch.setattr(module, "BYTES", 500)
    first, again = (positions(chains(7, atoms, 9).plan, 4) for _ in range(2))
    assert torch.equal(first, again)
    fits = 4 * atoms * 4 + 2 * 2 * (atoms - 1) * 4 <= 500  # encodings, and both ends of bonds
    assert module._remembered.cache_info().misses == 2 + fits
    assert module._remembered.cache_info().hits == 2 + fits
    # elsewhere in a batch, and with another number of encodings
    assert torch.equal(positions(chains(atoms).plan, 4), first[7 : 7 + atoms])
    assert torch.equal(positions(chains(atoms).plan, 2), first[7 : 7 + atoms, :2])


@both_ways
@pytest.mark.parametrize("smiles", LOPSIDED)
def test_without_symmetry_they_are_eigenvectors_that_heat_has_left(smiles, most, monkeypatch):
    monkeypatch.setattr(module, "MOST_ATOMS", most)
    monkeypatch.setattr(module, "TIME", 1.0)  # so that something is left of each
    graph = graph_of([smiles])
    found = positions(graph.plan, 4)
    values, vectors = spectrum(graph)
    expected = vectors[:, 1:5] * (-values[1:5]).exp() * graph.num_nodes**0.5
    expected *= (expected * found).sum(0).sign()
    torch.testing.assert_close(found, expected.float(), atol=1e-5, rtol=0)
    assert (found[found[:, 0].argmax()] > 0).all()
    assert found[:, 0].max() > -found[:, 0].min() - 1e-5


@both_ways
def test_heat_has_spread_for_100_steps(most, monkeypatch):
    monkeypatch.setattr(module, "MOST_ATOMS", most)
    graph = graph_of(["N" + "C" * 119])
    expected = (-200 * spectrum(graph)[0][1:9]).exp()
    torch.testing.assert_close(positions(graph.plan, 8).double().square().mean(0), expected)


@both_ways
def test_all_are_read_from_the_same_end_of_a_chain(most, monkeypatch):
    """So that they tell the place along one chain as along another."""
    monkeypatch.setattr(module, "MOST_ATOMS", most)
    for seed in range(20):
        units = torch.randint(0, 3, (30,), generator=torch.Generator().manual_seed(seed)).tolist()
        chain = "".join(["C", "c1ccc(cc1)", "C(C)O"][unit] for unit in units)
        found = positions(graph_of(["N" + chain]).plan, 8)
        read = found if found[0, 0] > 0 else found.flip(0)
        along = torch.linspace(0, torch.pi, len(read))[:, None] * torch.arange(1, 9)
        assert (torch.nn.functional.cosine_similarity(read, along.cos(), dim=0) > 0.5).all()


@both_ways
@pytest.mark.parametrize("smiles", ALL)
def test_with_symmetry_they_are_what_no_choice_of_basis_changes(smiles, most, monkeypatch):
    monkeypatch.setattr(module, "MOST_ATOMS", most)
    monkeypatch.setattr(module, "TIME", 1.0)  # so that something is left of each
    graph = graph_of([smiles])
    n, count = graph.num_nodes, 6
    found = positions(graph.plan, count).double()
    values, vectors = spectrum(graph)
    expected = torch.zeros(n, count, dtype=torch.float64)
    left = torch.ones(count, dtype=torch.float64)
    done = 0
    while done < n:
        own = (values - values[done]).abs() < 1e-8
        column, end = max(done - 1, 0), done + int(own.sum())
        if end > 1 and column < count:
            expected[:, column] = (vectors[:, own].square().sum(1) * n / own.sum()).sqrt()
            left[column] = (-values[done]).exp()
        done = end
    found /= left
    torch.testing.assert_close(found.abs(), expected, atol=1e-5, rtol=0)
    used = expected.any(0)
    torch.testing.assert_close(found.square().mean(0)[used], expected.new_ones(int(used.sum())))


@both_ways
@pytest.mark.parametrize("count", [1, 3, 8])
def test_the_order_of_the_atoms_does_not_matter(count, most, monkeypatch):
    monkeypatch.setattr(module, "MOST_ATOMS", most)
    monkeypatch.setattr(module, "TIME", 1.0)  # so that something is left of each
    expected = positions(graph_of(ALL).plan, count)
    for seed in range(3):
        bmg, order = shuffled(ALL, seed)
        found = positions(Graph.from_bmg(bmg).plan, count)
        torch.testing.assert_close(found, expected[order], atol=1e-4, rtol=0)


def test_many_equal_eigenvalues_are_found_together():
    """A star has one eigenvalue for all of its arms but one; a search finds some of them only."""
    arms, length = 40, 9
    ends = torch.arange(1, 1 + arms * length)
    before = torch.where((ends - 1) % length == 0, 0, ends - 1)
    bonds = torch.stack([torch.cat([before, ends]), torch.cat([ends, before])])
    graph = Graph(torch.zeros(len(ends) + 1, 1), bonds)
    assert graph.num_nodes > module.MOST_ATOMS
    found = positions(graph.plan, 3)
    assert found[:, 0].any() and not found[:, 1:].any()
    along = found[1:, 0].reshape(arms, length)
    torch.testing.assert_close(along, along[:1].expand(arms, length), atol=1e-4, rtol=0)


def test_a_plan_on_a_device_remembers_what_encodings_are_made_of(monkeypatch):
    """So that a GPU is not waited for."""
    plan = graph_of(LOPSIDED).plan
    expected, moved = plan.ends_on_host(), plan.to("meta")
    monkeypatch.setattr(torch.Tensor, "cpu", lambda _: pytest.fail("copied to the host"))
    assert all(a is b for a, b in zip(moved.ends_on_host(), expected, strict=True))
    found = positions(moved, 4)
    assert found.device.type == "meta" and found.shape == (plan.num_nodes, 4)
    assert plan.host_ends is None


def test_none_is_so_small_that_it_is_slow_to_compute_with():
    found = positions(graph_of(ALL).plan, 8).abs()
    assert found[found > 0].min() > torch.finfo(torch.float32).tiny


def test_a_molecule_without_atoms_has_none():
    graph = Graph(torch.zeros(2, 1), torch.tensor([[0, 1], [1, 0]]), batch=torch.tensor([1, 1]))
    assert positions(graph.plan, 3).shape == (2, 3)
