"""The weighted D-MPNN: its formula, chemprop's numbers at weight 1, and its gradients."""

import pytest
import torch
from batches import EDGES, REV, small_graph
from chemprop.data import build_dataloader
from chemprop.nn import AtomMessagePassing, BondMessagePassing
from molecules import MOLECULES, dataset
from torch import Tensor, nn

from tritonpool import Graph
from tritonpool.chemprop.weighted import WeightedAtomMessagePassing, WeightedBondMessagePassing

ENCODERS = {
    "bond": (BondMessagePassing, WeightedBondMessagePassing),
    "atom": (AtomMessagePassing, WeightedAtomMessagePassing),
}


def stock_and_ours(encoder: str = "bond", **arguments: object) -> tuple[nn.Module, nn.Module]:
    chemprop_class, own_class = ENCODERS[encoder]
    stock = chemprop_class(d_h=16, **arguments)
    ours = own_class(72, 14, 16, **arguments)
    ours.load_state_dict(stock.state_dict())
    return stock, ours


@pytest.mark.parametrize(
    "arguments",
    [{}, {"bias": True, "depth": 4}, {"undirected": True}, {"activation": "elu"}],
    ids=["default", "bias", "undirected", "elu"],
)
@pytest.mark.parametrize("encoder", ENCODERS)
def test_weight_one_is_chemprop(encoder: str, arguments: dict):
    stock, ours = stock_and_ours(encoder, **arguments)
    bmg = next(iter(build_dataloader(dataset(MOLECULES), shuffle=False))).bmg
    graph = Graph.from_bmg(bmg).replace(edge_weight=torch.ones(len(bmg.E)))
    expected, found = stock(bmg), ours(graph, bmg.rev_edge_index)
    torch.testing.assert_close(found, expected, rtol=0, atol=1e-6)
    seed = torch.randn_like(expected)
    for a, b in zip(
        torch.autograd.grad(expected, list(stock.parameters()), seed),
        torch.autograd.grad(found, list(ours.parameters()), seed),
        strict=True,
    ):
        torch.testing.assert_close(b, a, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("encoder", ENCODERS)
def test_missing_reverse_contributes_nothing(encoder: str):
    _, ours = stock_and_ours(encoder)
    x, attr = torch.randn(3, 72), torch.randn(3, 14)
    edges = torch.tensor([[0, 1, 1], [1, 2, 0]])
    w = torch.ones(3)
    full = ours(Graph(x, edges, attr, w), torch.tensor([2, -1, 0]))
    # an explicit reverse of weight 0 must change nothing
    more = torch.tensor([[0, 1, 1, 2], [1, 2, 0, 1]])
    graph = Graph(x, more, torch.cat([attr, torch.randn(1, 14)]), torch.tensor([1.0, 1, 1, 0]))
    torch.testing.assert_close(ours(graph, torch.tensor([2, 3, 0, 1])), full, rtol=0, atol=1e-6)


@pytest.mark.parametrize("encoder", ENCODERS)
def test_no_edges_and_one_step(encoder: str):
    ours = ENCODERS[encoder][1](4, 3, 8, depth=1)
    assert ours.W_h is None
    graph = Graph(
        torch.randn(2, 4), torch.zeros(2, 0, dtype=torch.int64), torch.zeros(0, 3), torch.zeros(0)
    )
    ours(graph, torch.zeros(0, dtype=torch.int64)).sum().backward()
    assert all(p.grad is not None for p in ours.parameters())
    assert ours.W_o.weight.grad.abs().sum() > 0


def test_edges_must_come_graph_by_graph():
    swapped = torch.tensor([3, 0, 1, 2, 4, 5])
    graph = small_graph(torch.float32)
    mixed = Graph(graph.x, EDGES[:, swapped], graph.edge_attr, graph.edge_weight, graph.batch, 2)
    with pytest.raises(ValueError, match="edge_index must list the edges graph by graph"):
        WeightedBondMessagePassing(4, 3, 8)(mixed, REV)


@pytest.mark.parametrize("undirected", [False, True])
def test_atom_encoder_is_the_formula(undirected: bool):
    """Edge by edge as chemprop does it, with weights, a self-loop and an edge without reverse."""
    graph = small_graph(torch.float64)
    ours = WeightedAtomMessagePassing(4, 3, 5, undirected=undirected).double()
    w, attr = graph.edge_weight[:, None], graph.edge_attr
    back = torch.where(REV < 0, torch.arange(6), REV)

    def into(rows: Tensor) -> Tensor:
        return torch.zeros(6, rows.shape[1], dtype=rows.dtype).index_add(0, EDGES[1], w * rows)

    H_0 = ours.W_i(graph.x)
    H = H_0.relu()
    for _ in range(2):
        of_edge = H[EDGES[0]]
        if undirected:
            of_edge = (of_edge + of_edge[back]) / 2
        H = (H_0 + ours.W_h(into(torch.cat([of_edge, attr], 1)))).relu()
    expected = ours.W_o(torch.cat([graph.x, into(H[EDGES[0]])], 1)).relu()
    torch.testing.assert_close(ours(graph, REV), expected, rtol=0, atol=1e-12)
