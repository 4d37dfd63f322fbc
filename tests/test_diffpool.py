"""The DiffPool layer."""

import copy
import io

import pytest
import torch
from batches import make_sample
from torch import nn

import tritonpool
from tritonpool import DiffPool, Graph, coarsen

pytestmark = pytest.mark.usefixtures("kernels_on_gpu")


def batch(dtype=torch.float32):
    return make_sample([6, 0, 1, 9], [14, 0, 0, 20], [1] * 4, K=1, D=5, C=3).to(dtype).graph


def test_shapes_shares_and_losses():
    graph = batch()
    layer = DiffPool(5, max_clusters=4, ratio=0.5)
    coarse, S, losses = layer(graph)
    assert coarse.plan.nodes.tolist() == [3, 0, 1, 4]  # ceil(6/2), none, at least 1, at most K
    assert S.shape == (16, 4)
    torch.testing.assert_close(S.sum(1), torch.ones(16))
    used = torch.tensor([3, 0, 1, 4])[graph.batch]
    assert torch.equal(S > 0, torch.arange(4) < used[:, None])
    assert coarse.x.shape == (8, 5) and coarse.edge_attr.shape == (3 * 2 + 4 * 3, 3)
    assert set(losses) == {"link", "entropy"}
    scaled = (
        graph.edge_weight
        / torch.tensor(
            [graph.edge_weight[graph.batch[graph.edge_index[0]] == g].max() for g in (0, 3)]
        )
        .repeat_interleave(torch.tensor([3, 3]))[[0, 3]]
        .repeat(1)[(graph.batch[graph.edge_index[0]] == 3).long()]
    )
    expected = tritonpool.link_loss(graph.replace(edge_weight=scaled), S, [3, 0, 1, 4])
    torch.testing.assert_close(losses["link"], expected)
    torch.testing.assert_close(losses["entropy"], tritonpool.entropy_loss(graph, S, [3, 0, 1, 4]))
    assert layer(graph, compute_losses=False)[2] == {}


def test_every_parameter_learns_and_z_is_what_is_pooled():
    graph = batch()
    layer = DiffPool(5, max_clusters=4, ratio=0.5)
    z = torch.randn(16, 7, requires_grad=True)
    coarse, S, losses = layer(graph, z)
    torch.testing.assert_close(coarse.x.sum(0), z.sum(0))
    loss = coarse.x.square().sum() + coarse.edge_attr.sum() + sum(losses.values())
    loss.backward()
    assert all(bool(p.grad.abs().sum() > 0) for p in layer.parameters())
    assert bool(z.grad.abs().sum() > 0)


def test_levels_stack():
    graph = batch()
    first, second = DiffPool(5, 4, 0.5), DiffPool(5, 2, 0.5)
    coarse, _, _ = first(graph)
    top, S, losses = second(coarse)
    assert top.plan.nodes.tolist() == [2, 0, 1, 2]
    (top.x.square().sum() + losses["link"]).backward()
    assert all(bool(p.grad.abs().sum() > 0) for p in first.parameters())


def test_the_link_loss_at_coarse_levels_sees_weights_up_to_one():
    """Weights a hundred times larger are the same graph to the loss."""
    graph = batch()
    layer = DiffPool(5, 4, 0.5)
    larger = graph.replace(edge_weight=100 * graph.edge_weight)
    torch.testing.assert_close(layer(graph)[2]["link"], layer(larger)[2]["link"])


def test_hard_assignment_is_for_inference():
    graph = batch()
    layer = DiffPool(5, 4, 0.5)
    with pytest.raises(ValueError, match="hard=True has no gradient .* call eval"):
        layer(graph, hard=True)
    layer.eval()
    soft, hard = layer(graph)[1], layer(graph, hard=True)[1]
    assert torch.equal(hard.argmax(1), soft.argmax(1))
    assert set(hard.flatten().tolist()) == {0.0, 1.0}


def test_any_network_can_assign():
    class Convolution(nn.Module):
        def __init__(self):
            super().__init__()
            self.lin = nn.Linear(5, 4)

        def forward(self, x, edge_index):
            return self.lin(x).index_add(0, edge_index[1], self.lin(x)[edge_index[0]])

    graph = batch()
    for network in (nn.Linear(5, 4), Convolution()):
        layer = DiffPool(5, 4, 0.5, assignment=network)
        assert layer(graph)[0].num_nodes == 8
    with pytest.raises(ValueError, match=r"must return 16 x 4 scores, but returned \(16, 3\)"):
        DiffPool(5, 4, assignment=nn.Linear(5, 3))(graph)


class Returning(nn.Module):
    def __init__(self, scores):
        super().__init__()
        self.scores = scores

    def forward(self, x):
        return self.scores


@pytest.mark.parametrize(
    "scores, what",
    [
        ((torch.zeros(16, 4), None), "tuple"),
        (None, "NoneType"),
        (torch.ones(16, 4).int(), "torch.int32"),
    ],
)
def test_other_things_than_scores_are_named(scores, what):
    with pytest.raises(
        ValueError, match=f"must return a floating-point tensor, but returned {what}"
    ):
        DiffPool(5, 4, assignment=Returning(scores))(batch())


@pytest.mark.parametrize(
    "arguments, message",
    [
        ({"ratio": 0}, r"ratio must be a number above 0 and at most 1, but is 0"),
        ({"ratio": 1.5}, "ratio must be a number above 0 and at most 1, but is 1.5"),
        ({"ratio": float("nan")}, "ratio must be a number above 0 and at most 1, but is nan"),
        ({"max_clusters": 0}, "max_clusters must be an int of at least 1, but is 0"),
        ({"ratio": "a"}, "ratio must be a number above 0 and at most 1, but is 'a'"),
        ({"max_clusters": None}, "max_clusters must be an int of at least 1, but is None"),
        ({"assignment": "mlp"}, "assignment must be a module or None, but is str"),
        ({"in_channels": 0}, "in_channels must be an int of at least 1, but is 0"),
    ],
)
def test_bad_settings_are_named(arguments, message):
    with pytest.raises(ValueError, match=message):
        DiffPool(**{"in_channels": 5, "max_clusters": 4, **arguments})


class Convolution(nn.Module):
    """What PyG's convolutions look like from outside."""

    def __init__(self):
        super().__init__()
        self.linear = nn.Linear(4, 3)
        self.bias = nn.Parameter(torch.zeros(3))

    def reset_parameters(self):
        self.linear.reset_parameters()
        nn.init.zeros_(self.bias)

    def forward(self, x, edge_index, edge_weight=None):
        self.seen = edge_weight
        rows = self.linear(x)[edge_index[0]]
        rows = rows if edge_weight is None else rows * edge_weight[:, None]
        return torch.zeros(len(x), 3).index_add(0, edge_index[1], rows) + self.bias


class Asking(nn.Module):
    """Remembers what it is given beside the node features."""

    def __init__(self):
        super().__init__()
        self.linear = nn.Linear(5, 4)

    def remember(self, x, *seen):
        self.seen = seen
        return self.linear(x)


class OfFeatures(Asking):
    def forward(self, x, edge_index, edge_attr):
        return self.remember(x, edge_index, edge_attr)


class OfAll(Asking):
    edge_dim = 3  # as PyG's layers with edge features have it

    def forward(self, x, edge_index, edge_weight=None, *, edge_attr=None, batch, size=None):
        return self.remember(x, edge_index, edge_weight, edge_attr, batch, size)


class WithoutFeatures(OfAll):
    edge_dim = None  # as those made without


class RequiringFeatures(WithoutFeatures):
    def forward(self, x, edge_index, edge_attr):
        return self.remember(x, edge_index, edge_attr)


class OfBatch(Asking):
    def forward(self, x, batch, edge_attr=None):
        return self.remember(x, batch, edge_attr)


def test_a_network_is_given_what_its_arguments_name():
    graph = batch()
    edges, attr, w, of = graph.edge_index, graph.edge_attr, graph.edge_weight, graph.batch
    for kind, expected in [
        (OfFeatures, (edges, attr)),
        (OfAll, (edges, w, attr, of, None)),
        (WithoutFeatures, (edges, w, None, of, None)),
        (RequiringFeatures, (edges, attr)),
        (OfBatch, (of, None)),  # no edge features without the edges
    ]:
        layer = DiffPool(5, 4, assignment=kind())
        layer(graph)
        given = layer.assignment.seen
        assert all(a is b for a, b in zip(given, expected, strict=True)), kind


def test_a_network_that_is_exchanged_is_given_what_it_asks_for():
    layer, graph = DiffPool(5, 4), batch()
    layer(graph)
    layer.assignment = OfFeatures()
    layer(graph)
    assert layer.assignment.seen[0] is graph.edge_index
    assert [name for name, _ in layer.named_parameters()][0] == "assignment.linear.weight"


def test_a_network_that_requires_other_things_is_refused():
    class Other(Asking):
        def forward(self, x, edge_index, time):
            return self.remember(x, time)

    class Named(Asking):
        def forward(self, x, *, time):
            return self.remember(x, time)

    for kind in (Other, Named):
        message = f"may require node features, .*, but {kind.__name__} requires 'time' too"
        with pytest.raises(ValueError, match=message):
            DiffPool(5, 4, assignment=kind())


def test_layers_of_pyg_see_features_of_edges_and_graphs():
    pyg = pytest.importorskip("torch_geometric.nn")
    sample = make_sample([5, 3], [8, 4], [3, 3], K=3, D=4, C=2).to(torch.float32)
    layer = DiffPool(4, 3, assignment=pyg.GATv2Conv(4, 3, edge_dim=2))
    layer(sample.graph)[0].x.square().sum().backward()
    assert layer.assignment.lin_edge.weight.grad.abs().sum() > 0
    for kind in (pyg.GATv2Conv, pyg.GENConv, pyg.GeneralConv, pyg.TransformerConv):
        DiffPool(4, 3, assignment=kind(4, 3))(sample.graph)  # made without
    DiffPool(4, 4, assignment=pyg.CGConv(4, dim=0))(sample.graph)
    DiffPool(4, 4, assignment=pyg.CGConv(4, dim=2))(sample.graph)
    net = pyg.GCN(4, 8, 2, 3, norm="GraphNorm")
    layer = DiffPool(4, 3, 1.0, assignment=net).eval()
    own = sample.graph.batch[sample.graph.edge_index[0]] == 0
    tensors = sample.graph.edge_index[:, own], sample.graph.edge_attr[own]
    first = Graph(sample.graph.x[:5], *tensors, sample.graph.edge_weight[own])
    torch.testing.assert_close(layer(sample.graph)[1][:5], layer(first)[1])


def test_a_traced_network_is_asked_for_scores_of_nodes():
    graph, plain = batch(), nn.Linear(5, 4)
    traced = torch.jit.trace(plain, torch.zeros(2, 5))
    found, expected = (DiffPool(5, 4, assignment=net)(graph)[1] for net in (traced, plain))
    torch.testing.assert_close(found, expected)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_small_weights_in_half_precision_are_divided_by_the_largest_too(dtype):
    graph = make_sample([6, 9], [14, 20], [1, 1], K=1, D=5).to(torch.float32).graph
    layer = DiffPool(5, 4, 0.5)
    links = [
        layer(graph.replace(edge_weight=torch.full((34,), 0.005, dtype=t)))[2]["link"]
        for t in (torch.float32, dtype)
    ]
    torch.testing.assert_close(links[1].float(), links[0])


def test_a_network_for_edges_sees_their_weights():
    sample = make_sample([5, 3], [8, 4], [3, 3], K=3, D=4).to(torch.float32)
    pool = DiffPool(4, 3, assignment=Convolution())
    coarse, *_ = pool(sample.graph)
    assert pool.assignment.seen is sample.graph.edge_weight
    pool(coarse)
    assert pool.assignment.seen is coarse.edge_weight


@pytest.mark.parametrize("wrap", [nn.DataParallel, torch.optim.swa_utils.AveragedModel])
def test_a_wrapped_network_sees_edges(wrap):
    sample = make_sample([5, 3], [8, 4], [3, 3], K=3, D=4).to(torch.float32)
    network = Convolution()
    expected = DiffPool(4, 3, assignment=network)(sample.graph)[1]
    assert torch.equal(DiffPool(4, 3, assignment=wrap(network))(sample.graph)[1], expected)


def test_all_weights_are_drawn_anew():
    pool = DiffPool(4, 3, assignment=Convolution())
    with torch.no_grad():
        for p in pool.parameters():
            p.fill_(7)
    pool.reset_parameters()
    assert not any((p == 7).any() for p in pool.parameters())


def test_other_things_than_graphs_are_named():
    with pytest.raises(ValueError, match="graph must be a tritonpool.Graph, but is Tensor"):
        DiffPool(4, 3)(torch.zeros(2, 4))


def test_wrong_width_is_named():
    with pytest.raises(ValueError, match="graph.x must have in_channels = 6 columns, but has 5"):
        DiffPool(6, 4)(batch())


@pytest.mark.parametrize(
    "z, message",
    [
        (torch.zeros(15, 2), r"for each of the 16 nodes, but is torch.float32 of shape \(15,"),
        (torch.zeros(16), r"z must be a floating-point tensor .* of shape \(16,\)"),
        (torch.zeros(16, 2).int(), "z must be a floating-point tensor .* but is torch.int32"),
        ([0.0] * 16, "z must be a floating-point tensor .* but is list"),
        (torch.zeros(16, 2, device="meta"), "z is on meta, but the graph is on cpu"),
    ],
)
def test_wrong_features_to_pool_are_named(z, message):
    with pytest.raises(ValueError, match=message):
        DiffPool(5, 4)(batch(), z)


def test_save_load_copy_reset_repr():
    layer = DiffPool(5, 4, 0.5)
    graph = batch()
    expected = layer(graph)[1]
    buffer = io.BytesIO()
    torch.save(layer.state_dict(), buffer)
    buffer.seek(0)
    other = DiffPool(5, 4, 0.5)
    assert not torch.equal(other(graph)[1], expected)
    other.load_state_dict(torch.load(buffer))
    assert torch.equal(other(graph)[1], expected)
    assert torch.equal(copy.deepcopy(layer)(graph)[1], expected)
    layer.reset_parameters()
    assert not torch.equal(layer(graph)[1], expected)
    assert repr(layer).startswith("DiffPool(\n  in_channels=5, max_clusters=4, ratio=0.5\n")
    sharper = repr(DiffPool(5, 4, 0.5, temperature=0.2))
    assert sharper.startswith(
        "DiffPool(\n  in_channels=5, max_clusters=4, ratio=0.5, temperature=0.2"
    )


def test_no_padding_no_batch_effect():
    """A molecule's clusters do not depend on the largest molecule of its batch."""
    graph = batch()
    layer = DiffPool(5, 4, 0.5)
    _, S, _ = layer(graph)
    own = graph.edge_index[:, graph.batch[graph.edge_index[0]] == 0]
    alone = Graph(graph.x[:6], own)
    torch.testing.assert_close(layer(alone)[1], S[:6])


def test_the_gradient_of_the_link_loss_reaches_the_largest_weight():
    layer = DiffPool(5, max_clusters=4, ratio=0.5).double()
    given = batch(torch.float64)
    w = given.edge_weight.clamp(min=0.2).requires_grad_()

    def link(weight):
        return layer(given.replace(edge_weight=weight))[2]["link"]

    assert torch.autograd.gradcheck(link, w)


def test_weights_of_a_single_graph_need_no_batch_vector():
    layer = DiffPool(5, max_clusters=4, ratio=0.5)
    edges, w = torch.tensor([[0, 1], [1, 0]]), torch.tensor([0.5, 2.0])
    x = torch.randn(2, 5)
    alone = layer(Graph(x, edges, None, w))
    named = layer(Graph(x, edges, None, w, torch.zeros(2, dtype=torch.int64)))
    assert torch.equal(alone[2]["link"], named[2]["link"])


def test_a_coarse_graph_may_keep_the_bonds_inside_a_cluster():
    given = batch()
    kept, S, _ = DiffPool(5, 4, 0.5, drop_self_loops=False)(given)
    expected = tritonpool.coarsen(given, S, kept.plan.nodes, drop_self_loops=False)
    assert torch.equal(kept.edge_index, expected.edge_index) and kept.num_edges == 9 + 1 + 16
    torch.testing.assert_close(kept.edge_weight, expected.edge_weight)


def test_states_that_are_not_finite_are_named():
    given = batch()
    wrong = given.replace(x=given.x.index_fill(0, torch.tensor([3]), torch.nan))
    layer = DiffPool(5, 4, 0.5)
    with pytest.raises(ValueError, match="graph.x holds NaN or infinity: look at the inputs"):
        layer(wrong)
    with torch.no_grad():
        layer.assignment[0].bias.fill_(torch.inf)
    with pytest.raises(ValueError, match="the scores hold NaN or infinity"):
        layer(given)


@pytest.mark.parametrize("value", [-1.0, torch.inf, torch.nan])
@pytest.mark.parametrize("compute_losses", [True, False])
def test_weights_that_are_none_are_named(compute_losses, value):
    given = batch()
    wrong = given.replace(edge_weight=given.edge_weight.index_fill(0, torch.tensor([2]), value))
    with pytest.raises(
        ValueError, match=r"edge_weight must be at least 0 and finite, but edge_weight\[2\]"
    ):
        DiffPool(5, 4, 0.5)(wrong, compute_losses=compute_losses)


def test_losses_of_a_graph_whose_weights_are_all_zero_have_finite_gradients():
    pool = DiffPool(3, 2, 1.0, drop_self_loops=False)
    edges = torch.tensor([[0, 1], [1, 0]])
    graph = Graph(torch.randn(2, 3), edges, None, torch.zeros(2))
    S = torch.randn(2, 2).softmax(1).requires_grad_()
    _, _, losses = pool(coarsen(graph, S))
    (2.0**16 * losses["link"]).backward()
    assert S.grad.isfinite().all()


@pytest.mark.parametrize("w", [1e-40, 1e-30])
def test_losses_of_a_graph_whose_weights_are_tiny_have_finite_gradients(w):
    weights = torch.tensor([w, w / 2], requires_grad=True)
    graph = Graph(torch.randn(2, 2), torch.tensor([[0, 1], [1, 0]]), edge_weight=weights)
    *_, losses = DiffPool(2, 2)(graph)
    losses["link"].backward()
    assert weights.grad.isfinite().all()
