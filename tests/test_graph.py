"""The batch, its integer plan, and what is said about bad input."""

import sys
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
import torch
from batches import make_sample, samples
from hypothesis import given

from tritonpool import DiffPool, Graph, coarsen, link_loss
from tritonpool.coarse_plan import CoarsePlan, cluster_counts
from tritonpool.plan import Plan
from tritonpool.planning import MOST_COARSE, coarse_plan, kept_coarse


def edges(*pairs):
    return torch.tensor(pairs, dtype=torch.int64).reshape(-1, 2).T


@given(samples())
def test_plan_pointers_and_orders(sample):
    g, plan = sample.graph, sample.graph.plan
    src, dst = g.edge_index if plan.order is None else g.edge_index[:, plan.order]
    assert torch.equal(plan.src, src) and torch.equal(plan.dst, dst)
    for i in range(g.num_nodes):
        out = plan.out_edge[plan.out_ptr[i] : plan.out_ptr[i + 1]]
        into = plan.in_edge[plan.in_ptr[i] : plan.in_ptr[i + 1]]
        assert sorted(out.tolist()) == (src == i).nonzero()[:, 0].tolist()
        assert sorted(into.tolist()) == (dst == i).nonzero()[:, 0].tolist()
    for i in range(g.num_graphs):
        assert plan.nodes[i] == (g.batch == i).sum() == plan.node_ptr[i + 1] - plan.node_ptr[i]
        own = range(int(plan.edge_ptr[i]), int(plan.edge_ptr[i + 1]))
        assert list(own) == (g.batch[src] == i).nonzero()[:, 0].tolist()
    distinct = len({*zip(src.tolist(), dst.tolist(), strict=True)})
    if plan.parallel is None:
        assert distinct == g.num_edges
    else:
        assert len(set(plan.parallel.tolist())) == distinct == plan.parallel_ptr.numel() - 1


@pytest.mark.parametrize("drop", [True, False])
def test_coarse_plan_lists_every_pair_row_major_with_its_reverse(drop):
    coarse = CoarsePlan.build(torch.tensor([3, 0, 1, 2]), drop)
    plan = coarse.plan
    expected = [
        (first + p, first + q)
        for first, c in ((0, 3), (3, 0), (3, 1), (4, 2))
        for p in range(c)
        for q in range(c)
        if p != q or not drop
    ]
    pairs = list(zip(plan.src.tolist(), plan.dst.tolist(), strict=True))
    assert pairs == expected
    assert [pairs[r] for r in coarse.rev.tolist()] == [(q, p) for p, q in expected]
    edge_index, batch = plan.own_indices()
    rebuilt = Plan.build(batch, edge_index, 6, 4)
    for name in ("nodes", "edges", "node_ptr", "edge_ptr", "out_ptr", "in_ptr", "out_edge"):
        assert torch.equal(getattr(plan, name), getattr(rebuilt, name)), name
    for i in range(6):
        span = slice(int(plan.in_ptr[i]), int(plan.in_ptr[i + 1]))
        assert sorted(plan.in_edge[span].tolist()) == sorted(rebuilt.in_edge[span].tolist())


def test_a_plan_is_contiguous_however_its_graph_lies():
    turned, strided = edges((0, 1), (1, 0), (2, 2)), torch.tensor([0, 9, 0, 9, 1, 9])[::2]
    assert not turned.is_contiguous() and not strided.is_contiguous()
    plan = Graph(torch.zeros(3, 1), turned, batch=strided, num_graphs=2).plan
    for name, value in vars(plan).items():
        assert not isinstance(value, torch.Tensor) or value.is_contiguous(), name


@pytest.mark.parametrize(
    "pairs, expected",
    [
        ([], True),
        ([(1, 0), (2, 2), (0, 1)], True),
        ([(1, 0), (0, 1), (0, 1), (1, 0)], True),
        ([(1, 0), (0, 1), (0, 1)], False),
        ([(1, 0), (0, 1), (1, 2)], False),
        ([(0, 1), (1, 2), (2, 0)], False),
    ],
)
def test_a_graph_is_undirected_if_every_edge_has_its_reverse(pairs, expected):
    plan = Graph(torch.zeros(3, 1), edges(*pairs)).plan
    assert plan.undirected is expected
    assert plan.to("meta").undirected is expected


@pytest.mark.parametrize(
    "nodes, K, ratio, expected",
    [(0, 8, 0.5, 0), (1, 8, 0.01, 1), (10, 8, 0.5, 5), (30, 8, 0.5, 8), (100, 32, 0.07, 7)],
)
def test_cluster_counts(nodes, K, ratio, expected):
    # 100 * 0.07 is 7.000000000000001 in float64, which must not make an eighth cluster
    assert cluster_counts(torch.tensor([nodes]), K, ratio).tolist() == [expected]


def test_a_plan_does_not_keep_every_coarse_plan():
    sample = make_sample([40], [60], [40], 40)
    plan = sample.graph.plan
    first = coarse_plan(plan, torch.tensor([1]), True)
    for c in range(1, 41):
        coarse = coarse_plan(plan, torch.tensor([c]), True)
        assert coarse_plan(plan, torch.tensor([c]), True) is coarse
        assert coarse.plan.num_edges == c * (c - 1)
    assert len(plan._coarse) == MOST_COARSE
    assert coarse_plan(plan, torch.tensor([1]), True) is not first


def test_threads_share_a_plan_whose_coarse_plans_come_and_go():
    plan = make_sample([3], [4], [2], K=2).graph.plan
    wrong, interval = [], sys.getswitchinterval()

    def ask(first: int) -> None:
        for key in range(first, first + 20_000):
            try:
                if kept_coarse(plan, key % 40, lambda key=key: key % 40 + 1) != key % 40 + 1:
                    wrong.append(key)
            except (KeyError, RuntimeError) as error:
                wrong.append(error)

    sys.setswitchinterval(1e-7)
    try:
        with ThreadPoolExecutor(8) as pool:
            list(pool.map(ask, range(0, 80, 10)))
    finally:
        sys.setswitchinterval(interval)
    assert not wrong


@pytest.mark.parametrize("made", [True, False])
@pytest.mark.parametrize(
    "name, value, expected",
    [
        ("x", torch.ones(9, 2), "graph.x must be of 5 rows, but is of dtype float32 and shape"),
        ("x", torch.ones(4, 2), "graph.x must be of 5 rows"),
        ("x", torch.ones(5, 2).int(), "graph.x must be a floating-point V x D tensor"),
        ("edge_attr", torch.ones(5, 2), "graph.edge_attr must be .* with E = 6"),
        ("edge_attr", torch.ones(6), "graph.edge_attr must be a floating-point E x C tensor"),
        ("edge_attr", torch.ones(6, 2, device="meta"), "graph.edge_attr is on meta, but graph.x"),
        ("edge_weight", torch.ones(7), r"graph.edge_weight must be .* of shape \(6,\)"),
        ("edge_weight", [1.0] * 6, "graph.edge_weight must be a tensor or None, but is list"),
        ("edge_index", edges((0, 1), (1, 0)), "graph.edge_attr must be .* with E = 2"),
    ],
)
def test_tensors_that_were_exchanged_must_fit(made, name, value, expected):
    graph = make_sample([3, 2], [4, 2], [2, 1], K=2, D=2, C=2).graph
    if made:
        graph.plan  # noqa: B018
    setattr(graph, name, value)
    S = torch.full((len(graph.x), 2), 0.5)
    for call in (lambda: coarsen(graph, S), lambda: DiffPool(2, 2)(graph), graph.validate):
        with pytest.raises(ValueError, match=expected):
            call()


@pytest.mark.parametrize("value", [-1, 2.0, None, torch.tensor(2)])
def test_a_number_of_graphs_that_is_exchanged_must_be_one(value):
    graph = make_sample([3, 2], [4, 2], [2, 1], K=2).graph
    with pytest.raises(ValueError, match="num_graphs must be an int >= 0, but is "):
        graph.num_graphs = value
    assert graph.num_graphs == 2
    graph.num_graphs = np.int64(3)
    assert graph.plan.nodes.tolist() == [3, 2, 0] and type(graph.num_graphs) is int


def test_what_is_written_to_a_pooled_batch_changes_no_other():
    graph = make_sample([3, 2], [4, 2], [2, 2], K=2).graph
    S = torch.full((5, 2), 0.5, dtype=graph.x.dtype)
    first = coarsen(graph, S)
    expected = [first.edge_index.clone(), first.batch.clone()]
    data = first.to_pyg()
    for tensor in (data.edge_index, data.batch, data.ptr):
        tensor.add_(10)
    again = coarsen(graph, S)
    assert torch.equal(again.edge_index, expected[0]) and torch.equal(again.batch, expected[1])
    assert again.plan.node_ptr.tolist() == [0, 2, 4]


def test_a_default_device_is_for_what_the_user_makes():
    sample = make_sample([3, 2], [4, 2], [2, 1], K=2)
    expected = link_loss(sample.graph, sample.S, sample.clusters, backend="sparse")
    with torch.device("meta"):
        found = link_loss(sample.graph, sample.S, sample.clusters.tolist(), backend="sparse")
    assert torch.equal(found, expected)


def test_plan_is_made_once_and_shared():
    graph = make_sample([3, 2], [4, 2], [2, 1], K=2).graph
    plan = graph.plan
    assert graph.plan is plan
    assert graph.replace(x=graph.x + 1).plan is plan
    coarse = coarse_plan(plan, torch.tensor([2, 1]), True)
    assert coarse_plan(plan, torch.tensor([2, 1]), True) is coarse
    assert graph.to("cpu").plan is plan


@pytest.mark.parametrize("made", [True, False])
def test_a_dtype_is_no_device(made):
    graph = make_sample([3], [4], [2], K=2).graph
    if made:
        graph.plan  # noqa: B018
    with pytest.raises(ValueError, match="device must be a device, but is torch.float32"):
        graph.to(torch.float32)


def test_replace_refuses_to_change_the_structure():
    graph = make_sample([3], [4], [2], K=2).graph
    with pytest.raises(ValueError, match=r"replace takes x, edge_attr and edge_weight, not"):
        graph.replace(edge_index=graph.edge_index)
    with pytest.raises(ValueError, match="x must be a tensor of 3 rows, but is None"):
        graph.replace(x=None)
    with pytest.raises(ValueError, match="x must be a tensor of 3 rows"):
        graph.replace(x=torch.zeros(4, 2))


X = torch.zeros(3, 2)
INDEX = edges((0, 1), (1, 2))


@pytest.mark.parametrize(
    "arguments, message",
    [
        ({"x": torch.zeros(3)}, r"x must be a floating-point V x D tensor.*shape \(3,\)"),
        ({"x": torch.zeros(3, 2).long()}, "x must be a floating-point V x D.*int64"),
        ({"x": [[1.0]]}, "x must be a tensor, but is list"),
        ({"edge_attr": [[1.0], [2.0]]}, "edge_attr must be a tensor or None, but is list"),
        ({"edge_weight": 1.0}, "edge_weight must be a tensor or None, but is float"),
        ({"batch": [0, 0, 0]}, "batch must be a tensor or None, but is list"),
        ({"x": X.to_sparse()}, "x must be a dense tensor, but is"),
        ({"num_graphs": True}, "num_graphs must be an int >= 0, but is True"),
        ({"edge_index": INDEX.int()}, "edge_index must be an int64 2 x E tensor.*int32"),
        ({"edge_index": torch.zeros(3, 2).long()}, r"edge_index must be .* shape \(3, 2\)"),
        ({"edge_attr": torch.zeros(3, 4)}, r"edge_attr must be .* with E = 2, .*\(3, 4\)"),
        ({"edge_attr": torch.zeros(2)}, r"edge_attr must be .*E x C.*\(2,\)"),
        ({"edge_weight": torch.ones(2, 1)}, r"edge_weight must be .*\(2,\).*\(2, 1\)"),
        ({"edge_weight": torch.ones(2).long()}, "edge_weight must be a floating-point.*int64"),
        ({"batch": torch.zeros(2).long()}, r"batch must be an int64 tensor of shape \(3,\)"),
        ({"batch": torch.zeros(3)}, "batch must be an int64 tensor.*float32"),
        ({"edge_attr": torch.zeros(2, 1, device="meta")}, "edge_attr is on meta, but x is on cpu"),
        ({"num_graphs": -1}, "num_graphs must be an int >= 0, but is -1"),
        ({"num_graphs": 1.0}, "num_graphs must be an int >= 0, but is 1.0"),
        ({"edge_index": edges((0, 3))}, "edge_index holds node 3, but the batch has nodes 0 to 2"),
        ({"edge_index": edges((-1, 0))}, "edge_index holds node -1, but"),
        (
            {"x": X[:0], "edge_index": edges((0, 0))},
            "edge_index holds node 0, but the batch has no nodes",
        ),
        ({"batch": torch.tensor([0, 1, 0])}, r"batch must not decrease, but batch\[2\] is 0 after"),
        ({"batch": torch.tensor([0, 0, 1])}, "edge 1 joins node 1 of graph 0 to node 2 of graph 1"),
        ({"batch": torch.tensor([0, 0, 0]) + 5, "num_graphs": 2}, "batch names graph 5, but num"),
        ({"edge_weight": torch.tensor([1.0, -2.0])}, r"edge_weight\[1\] is -2"),
        ({"edge_weight": torch.tensor([torch.nan, 1])}, r"edge_weight\[0\] is nan"),
    ],
)
def test_bad_batches_are_named(arguments, message):
    with pytest.raises(ValueError, match=message):
        Graph(**{"x": X, "edge_index": INDEX, **arguments}).validate()


def test_num_graphs_is_counted_and_empty_graphs_at_the_end_are_kept():
    batch = torch.tensor([0, 0, 2])
    assert Graph(X, edges((0, 1)), batch=batch).num_graphs == 3
    assert Graph(X, edges((0, 1)), batch=batch, num_graphs=5).plan.nodes.tolist() == [2, 0, 1, 0, 0]
    assert Graph(X[:0], edges(), batch=batch[:0]).num_graphs == 0
    counted = Graph(X, edges((0, 1)), batch=batch, num_graphs=np.int64(5)).num_graphs
    assert counted == 5 and type(counted) is int


def test_a_plan_owns_its_numbers():
    """In a loader's worker the memory of a batch is given back before its plan is sent."""
    index, batch = edges((0, 1), (1, 0), (2, 2)), torch.tensor([0, 0, 1])
    plan = Graph(X, index, batch=batch, num_graphs=2).plan
    index.fill_(0), batch.fill_(0)
    assert plan.src.tolist() == [0, 1, 2] and plan.dst.tolist() == [1, 0, 2]
    assert plan.batch.tolist() == [0, 0, 1]


class Rings(torch.utils.data.Dataset):
    """Graphs that bring their plan along."""

    def __len__(self) -> int:
        return 4

    def __getitem__(self, i: int) -> Graph:
        index = torch.stack([torch.arange(6), (torch.arange(6) + 1) % 6])
        return Graph(torch.ones(6, 2), index).validate()


def test_plans_survive_a_worker():
    loader = torch.utils.data.DataLoader(Rings(), batch_size=None, num_workers=1)
    for graph in loader:
        assert graph.plan.src.tolist() == list(range(6))
        assert graph.plan.dst.tolist() == [1, 2, 3, 4, 5, 0]


def test_other_edges_are_another_plan():
    graph = Graph(X, edges((0, 1), (1, 0)))
    S = torch.eye(3)
    coarsen(graph, S)
    graph.edge_index = edges((1, 2), (2, 1))
    assert coarsen(graph, S).edge_weight.tolist() == [0, 0, 0, 1, 0, 1]
    graph.batch = torch.tensor([0, 1, 1])
    graph.num_graphs = 3
    assert graph.plan.nodes.tolist() == [1, 2, 0]


def test_the_default_device_does_not_matter():
    index, S = edges((0, 1), (1, 0)), torch.eye(3)
    with torch.device("meta"):
        coarse = coarsen(Graph(X, index), S)
    assert coarse.edge_weight.tolist() == [1, 0, 1, 0, 0, 0]


def test_repr_tells_the_sizes():
    graph = make_sample([3, 2], [4, 2], [2, 1], K=2, D=7, C=5).graph
    assert repr(graph) == "Graph(2 graphs, 5 nodes x 7, 6 edges x 5, weighted, cpu)"


@pytest.mark.gpu
def test_plan_costs_one_copy_to_the_host():
    graph = make_sample([3, 2], [4, 2], [2, 1], K=2).graph.to("cuda")
    with torch.profiler.profile() as profile:
        assert graph.plan.num_nodes == 5
    copies = [e for e in profile.events() if "Memcpy DtoH" in e.name]
    assert len(copies) == 1


def test_pyg_round_trip():
    pytest.importorskip("torch_geometric")
    graph = make_sample([3, 2, 0], [4, 2, 0], [2, 1, 1], K=2).graph
    data = graph.to_pyg()
    assert data.num_graphs == 3
    back = Graph.from_pyg(data)
    for name in ("x", "edge_index", "edge_attr", "edge_weight", "batch"):
        assert torch.equal(getattr(back, name), getattr(graph, name)), name
    assert back.num_graphs == 3


@pytest.mark.parametrize("weights", [True, False])
def test_pyg_splits_what_it_is_handed(weights):
    Batch = pytest.importorskip("torch_geometric.data").Batch
    sizes = [3, 2, 0], [4, 2, 0], [2, 1, 1]
    graph = make_sample(*sizes, K=2, weights=weights, shuffle=False).graph
    parts = graph.to_pyg().to_data_list()
    assert [part.num_nodes for part in parts] == [3, 2, 0]
    assert [part.num_edges for part in parts] == [4, 2, 0]
    again = Graph.from_pyg(Batch.from_data_list(parts))
    for name in ("x", "edge_index", "edge_attr", "batch", *["edge_weight"] * weights):
        assert torch.equal(getattr(again, name), getattr(graph, name)), name
    assert (again.edge_weight is None) != weights


def test_pyg_does_not_split_mixed_edges():
    pytest.importorskip("torch_geometric")
    mixed = Graph(X, edges((2, 2), (0, 1)), batch=torch.tensor([0, 0, 1]), num_graphs=2)
    with pytest.raises(RuntimeError):
        mixed.to_pyg().to_data_list()


def test_from_pyg_reads_a_collated_batch_and_flat_edge_attributes():
    data = pytest.importorskip("torch_geometric.data")
    one = data.Data(x=X, edge_index=INDEX, edge_attr=torch.tensor([1.0, 2.0]))
    graph = Graph.from_pyg(data.Batch.from_data_list([one, one]))
    assert graph.num_graphs == 2
    assert graph.edge_attr.tolist() == [[1.0], [2.0], [1.0], [2.0]]
    assert Graph.from_pyg(one).num_graphs == 1
    loose = data.Data(**data.Batch.from_data_list([one, one]).to_dict())
    assert Graph.from_pyg(loose).num_graphs == 2
