"""The networks that score nodes for clusters."""

import pytest
import torch

from tritonpool import Graph
from tritonpool.chemprop.assignment import AssignmentPool, NeighbourScores, NodeScores

EDGES = torch.tensor([[0, 1, 1, 2, 2, 3], [1, 0, 2, 1, 3, 2]])  # a path


@pytest.mark.parametrize("scores", [NodeScores, NeighbourScores])
@pytest.mark.parametrize("scale", [0.01, 1.0, 100.0])
def test_first_scores_differ_whatever_the_scale(scores: type, scale: float):
    x = torch.randn(2000, 32) * scale
    src = torch.arange(1999)
    graph = Graph(x, torch.stack([src, src + 1]))
    found = scores(32, 8)(graph)
    assert 0.5 < found.std(0).mean() < 1.5
    pool = AssignmentPool(32, 8, 1.0, assignment=scores(32, 8))
    _, S, _ = pool(graph)
    assert 0.2 < S.amax(1).mean() < 0.7  # neither uniform (0.125) nor decided


def test_reset_parameters_keeps_the_scale():
    pool = AssignmentPool(32, 8, 1.0, assignment=NodeScores(32, 8))
    before = pool.assignment.scores.weight.clone()
    pool.reset_parameters()
    after = pool.assignment.scores.weight.detach()
    assert not torch.equal(before, after)
    assert float(after.std()) == pytest.approx(32**-0.5, rel=0.2)


@pytest.mark.parametrize("scores", [NodeScores, NeighbourScores])
def test_with_encodings_all_other_weights_start_the_same(scores: type):
    def start(encodings: int) -> tuple[list[torch.Tensor], torch.Tensor]:
        torch.manual_seed(0)
        return list(scores(5, 3, encodings).state_dict().values()), torch.rand(4)

    (without, *others), after = start(0)
    (beside, *found), later = start(2)
    sources = without.shape[1] // 5
    each = beside.view(5, sources, 7)
    assert torch.equal(each[..., :5], without.view(5, sources, 5))
    assert float(each[..., 5:].std()) == pytest.approx(float(without.std()), rel=0.5)
    assert all(torch.equal(a, b) for a, b in zip(found, others, strict=True))
    assert torch.equal(after, later)


def test_neighbours_tell_place():
    """Equal nodes in different places: an MLP cannot tell them apart, a GNN can."""
    x = torch.zeros(4, 3)
    x[:, 0] = 1
    x[0] = x[3] = torch.tensor([0.0, 1.0, 2.0])
    path = Graph(x, EDGES)
    graph = Graph(
        x[[0, 1, 1, 1, 3]], torch.tensor([[0, 1, 1, 2, 2, 3, 3, 4], [1, 0, 2, 1, 3, 2, 4, 3]])
    )
    alone, together = NodeScores(3, 2)(graph), NeighbourScores(3, 2)(graph)
    torch.testing.assert_close(alone[1], alone[2])
    assert (together[1] - together[2]).abs().max() > 1e-3
    symmetric = NeighbourScores(3, 2)(path)
    torch.testing.assert_close(symmetric[0], symmetric[3])


@pytest.mark.parametrize("width", [32, 300])
@pytest.mark.parametrize("scores", [NodeScores, NeighbourScores])
def test_places_weigh_in_long_molecules(scores: type, width: int):
    """What the first network sees of a place, by what it sees of the state."""

    def weight(atoms: int) -> float:
        src = torch.arange(atoms - 1)
        both = torch.stack([torch.cat([src, src + 1]), torch.cat([src + 1, src])])
        seen = scores(width, 8, 8).seen(Graph(torch.randn(atoms, width), both)).square().sum(1)
        assert seen.shape == (atoms,)
        return float(seen.mean() / width - 1)

    assert weight(20) < 0.01
    assert 0.2 < weight(120) < 0.5


def test_weights_and_edge_order():
    mixed = torch.tensor([[3, 0, 1, 1, 3, 5], [3, 1, 0, 2, 5, 3]])
    back = [1, 2, 3, 0, 4, 5]
    batch = torch.tensor([0, 0, 0, 1, 1, 1])
    x, w = torch.randn(6, 3), torch.rand(6)
    scores = NeighbourScores(3, 2)
    found = scores(Graph(x, mixed, None, w, batch, 2))
    torch.testing.assert_close(scores(Graph(x, mixed[:, back], None, w[back], batch, 2)), found)
    # only the ratios of a node's weights count
    torch.testing.assert_close(scores(Graph(x, mixed, None, 3 * w, batch, 2)), found)
    assert not torch.allclose(scores(Graph(x, mixed, None, None, batch, 2)), found)


@pytest.mark.parametrize("weighted", [False, True])
def test_neighbour_scores_are_layers_on_states_beside_means(weighted: bool):
    edges = torch.tensor([[0, 1, 2, 1, 3, 0], [1, 0, 1, 2, 3, 2]])  # and a node that none reach
    w = torch.rand(6, dtype=torch.float64) + 0.1 if weighted else None
    x = torch.randn(5, 7, dtype=torch.float64)
    scores = NeighbourScores(7, 4).double()
    torch.nn.init.normal_(scores.hidden.bias)
    torch.nn.init.normal_(scores.scores.bias)
    A = torch.zeros(5, 5, dtype=torch.float64)
    A[edges[1], edges[0]] = 1.0 if w is None else w
    A /= A.sum(1, keepdim=True).clamp(min=1e-6)
    H = torch.nn.functional.layer_norm(x, (7,))
    H = scores.hidden(torch.cat([H, A @ H], 1)).relu()
    expected = scores.scores(torch.cat([H, A @ H], 1))
    torch.testing.assert_close(scores(Graph(x, edges, None, w)), expected)


@pytest.mark.parametrize("version", [1, 2])
def test_states_of_earlier_encodings_are_refused(version: int):
    state = NodeScores(3, 2, 4).state_dict()
    NodeScores(3, 2, 4).load_state_dict(state)
    state._metadata[""]["version"] = version
    with pytest.raises(RuntimeError, match="earlier version of tritonpool .* train it again"):
        NodeScores(3, 2, 4).load_state_dict(state)
    state = NodeScores(7, 2).state_dict()
    state._metadata[""]["version"] = version
    NodeScores(7, 2).load_state_dict(state)  # without encodings nothing has changed
