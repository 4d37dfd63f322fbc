"""The Triton kernels against a dense float64 definition and against each other."""

import itertools

import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode

from tritonpool import Graph, coarsen, kernels, reference
from tritonpool.kernels import backward, node_grad, pool, work
from tritonpool.kernels.launch import forked, launch, recording
from tritonpool.kernels.tiles import Tile
from tritonpool.losses import assignment_losses
from tritonpool.planning import coarse_plan

pytestmark = pytest.mark.usefixtures("kernels_on_gpu")

# relative RMS error per tensor; half results carry the rounding of their own dtype
TOLERANCE = {torch.float64: 1e-12, torch.float32: 1e-5, torch.bfloat16: 2e-2, torch.float16: 2e-3}
SIZES, EDGES = (7, 0, 1, 40, 5), (15, 0, 1, 140, 0)  # three tiles of 64 edges, the last ragged
EPS = 1e-8


def up_to(number, whole):
    return -(-number // whole) * whole


def relative_error(found, expected):
    found, expected = found.detach().double(), expected.detach().double()
    return float((found - expected).norm() / expected.norm().clamp(min=1e-30))


def assert_close(found, expected, names, *inputs):
    """Compare named tensors; the coarsest of the result's and the inputs' dtypes sets the bound."""
    assert len(found) == len(expected) == len(names)
    for a, b, name in zip(found, expected, names, strict=True):
        if b is None:
            assert a is None, name
            continue
        assert a.shape == b.shape, name
        assert a.isfinite().all(), name
        tolerance = max(TOLERANCE[t.dtype] for t in (a, *inputs))
        error = relative_error(a, b) if b.norm() > 0 else float(a.double().norm())
        assert error < tolerance, (name, error)


class Case:
    """Random tensors for all functions of the op; edges unsorted, parallel, self-loops."""

    def __init__(
        self, sizes, edges, counts, K, C, D=5, weighted=False, drop=True, dtypes=torch.float32
    ):
        first = [sum(sizes[:g]) for g in range(len(sizes))]
        ends = [
            torch.randint(n, (2, m)) + v for n, m, v in zip(sizes, edges, first, strict=True) if n
        ]
        ends = torch.cat(ends, 1) if ends else torch.zeros(2, 0, dtype=torch.int64)
        if ends.shape[1] > 4:
            ends[:, 1] = ends[:, 0]  # parallel
            ends[1, 2] = ends[0, 2]  # self-loop
        if isinstance(dtypes, torch.dtype):
            dtypes = (dtypes,) * 4
        V, E = sum(sizes), ends.shape[1]
        batch = torch.repeat_interleave(
            torch.arange(len(sizes)), torch.tensor(sizes, dtype=torch.int64)
        )
        self.batch = batch
        self.plan = Graph(torch.zeros(V, 1), ends, batch=batch, num_graphs=len(sizes)).plan
        self.coarse = coarse_plan(self.plan, torch.tensor(counts, dtype=torch.int64), drop)
        self.counts = counts
        used = torch.arange(K) < self.coarse.clusters[batch][:, None]
        S = torch.rand(V, K) * used
        self.S = (S / S.sum(1, keepdim=True).clamp(min=1e-30)).to(dtypes[0])
        self.X = torch.randn(V, D).to(dtypes[1])
        self.F = None if C is None else torch.randn(E, C).to(dtypes[2])
        self.w = torch.rand(E).to(dtypes[3]) if weighted else None

    @property
    def inputs(self):
        return self.S, self.X, self.F, self.w

    @property
    def needs(self):
        return tuple(t is not None for t in self.inputs)

    def leaves(self):
        """The inputs in float64, ready to be differentiated."""
        return [None if t is None else t.double().requires_grad_() for t in self.inputs]


def members(plan):
    for g in range(plan.num_graphs):
        yield (
            slice(int(plan.node_ptr[g]), int(plan.node_ptr[g + 1])),
            slice(int(plan.edge_ptr[g]), int(plan.edge_ptr[g + 1])),
        )


def dense_coarsen(case, S, X, F, w, eps=EPS):
    """The definition of the op as dense products, graph by graph."""
    Xc, W, Fc = [], [], []
    for (nodes, edges), c in zip(members(case.plan), case.counts, strict=True):
        s = S[:, :c]
        Xc.append(s[nodes].T @ X[nodes])
        left, right = s[case.plan.src[edges]], s[case.plan.dst[edges]]
        if w is not None:
            left = left * w[edges, None]
        keep = ~torch.eye(c, dtype=torch.bool) if case.coarse.drop_self_loops else ...
        weight = (left.T @ right)[keep].flatten()
        W.append(weight)
        if F is not None:
            total = torch.einsum("ep,eq,ec->pqc", left, right, F[edges])[keep]
            total = total.reshape(weight.numel(), F.shape[1])
            mean = total / torch.where(weight > eps, weight, 1)[:, None]
            Fc.append(torch.where((weight > eps)[:, None], mean, (total / eps).detach()))
    return torch.cat(Xc), torch.cat(W), None if F is None else torch.cat(Fc)


def dense_losses(case, S, w):
    square, entropy = [], []
    for nodes, edges in members(case.plan):
        s, n = S[nodes], nodes.stop - nodes.start
        ones = torch.ones(edges.stop - edges.start, dtype=S.dtype) if w is None else w[edges]
        u, v = (t[edges] - nodes.start for t in (case.plan.src, case.plan.dst))
        A = torch.zeros(n, n, dtype=S.dtype).index_put((u, v), ones, accumulate=True)
        square.append((A - s @ s.T).square().sum())
        entropy.append(torch.special.entr(s[s > 0]).sum())
    return torch.stack(square), torch.stack(entropy)


def gradients(outputs, inputs, given):
    pairs = [(o, g) for o, g in zip(outputs, given, strict=True) if g is not None]
    wanted = [t for t in inputs if t is not None]
    found = iter(
        torch.autograd.grad(
            [o for o, _ in pairs], wanted, [g.double() for _, g in pairs], allow_unused=True
        )
    )
    made = [None if t is None else next(found) for t in inputs]
    return [
        torch.zeros_like(t) if t is not None and d is None else d
        for t, d in zip(inputs, made, strict=True)
    ]


def run_coarsen(case, given=None):
    """Outputs and gradients of the kernels, for random or given output gradients."""
    out = kernels.coarsen_fwd(*case.inputs, case.plan, case.coarse, EPS)
    if given is None:
        given = [None if t is None else torch.randn_like(t) for t in out]
    grads = kernels.coarsen_bwd(
        *given, *case.inputs, *out[1:], case.plan, case.coarse, EPS, case.needs
    )
    return out, given, grads


COUNTS = {5: [4, 0, 1, 5, 0], 16: [4, 2, 1, 16, 3], 20: [4, 0, 1, 18, 3]}
CASES = [
    (torch.float32, 14, 20, True, True),
    (torch.float32, 14, 16, False, False),
    (torch.float32, 20, 20, False, True),
    (torch.float32, 0, 5, True, False),
    (torch.float32, None, 20, True, True),
    (torch.float64, 14, 20, True, True),
    (torch.float64, 20, 5, True, False),
    (torch.float64, 5, 16, False, True),
    (torch.bfloat16, 14, 20, True, True),
    (torch.bfloat16, 20, 16, False, False),
    (torch.float16, 5, 20, True, False),
    (torch.float16, 14, 16, False, True),
]


@pytest.mark.parametrize(("dtype", "C", "K", "weighted", "drop"), CASES)
def test_coarsen_equals_the_dense_definition(dtype, C, K, weighted, drop):
    case = Case(SIZES, EDGES, COUNTS[K], K, C, 37, weighted, drop, dtype)
    out, given, grads = run_coarsen(case)
    leaves = case.leaves()
    expected = dense_coarsen(case, *leaves)
    assert_close(out, expected, ("X'", "W", "F'"))
    assert_close(grads, gradients(expected, leaves, given), ("dS", "dX", "dF", "dw"))
    assert out[0].dtype == dtype
    assert out[1].dtype == (torch.float64 if dtype == torch.float64 else torch.float32)
    assert all(g is None or g.dtype == dtype for g in grads)
    used = torch.arange(K) < case.coarse.clusters[case.batch][:, None]
    assert torch.equal(grads[0][~used], torch.zeros_like(grads[0][~used]))


@pytest.mark.parametrize(("C", "D"), [(64, 5), (70, 5), (130, 150)])
def test_more_features_than_a_block_or_a_program_holds(C, D):
    case = Case((12,), (40,), [9], 9, C, D, True, True)
    out, given, grads = run_coarsen(case)
    leaves = case.leaves()
    expected = dense_coarsen(case, *leaves)
    assert_close(out, expected, ("X'", "W", "F'"))
    assert_close(grads, gradients(expected, leaves, given), ("dS", "dX", "dF", "dw"))


def test_equals_the_reference():
    case = Case((6, 0, 1), (11, 0, 0), [3, 1, 1], 3, 2, 2, True, True, torch.float64)
    out, given, grads = run_coarsen(case)
    expected = reference.coarsen_fwd(*case.inputs, case.plan, case.coarse, EPS)
    assert_close(out, expected, ("X'", "W", "F'"))
    expected = reference.coarsen_bwd(
        *given, *case.inputs, *expected[1:], case.plan, case.coarse, EPS, case.needs
    )
    assert_close(grads, expected, ("dS", "dX", "dF", "dw"))
    found = kernels.losses_fwd(case.S, case.w, case.plan, case.coarse)
    expected = reference.losses_fwd(case.S, case.w, case.plan, case.coarse)
    assert_close(found, expected, ("r2", "entropy"))


@pytest.mark.parametrize(
    ("own", "rest"),
    [(torch.float32, torch.bfloat16), (torch.float16, torch.float32),
     (torch.float64, torch.float32), (torch.bfloat16, torch.float64),
     (torch.float64, torch.bfloat16), (torch.float64, torch.float16)],
)  # fmt: skip
def test_mixed_dtypes(own, rest):
    case = Case((9,), (20,), [5], 5, 3, 4, True, True, (own, rest, rest, rest))
    out, given, grads = run_coarsen(case)
    leaves = case.leaves()
    expected = dense_coarsen(case, *leaves)
    assert_close(out, expected, ("X'", "W", "F'"), case.X)
    assert_close(grads, gradients(expected, leaves, given), ("dS", "dX", "dF", "dw"), case.X)
    assert [t.dtype for t in grads] == [t.dtype for t in case.inputs]
    assert out[1].dtype == (torch.float64 if torch.float64 in (own, rest) else torch.float32)


@pytest.mark.parametrize(
    "given", [(True, False, False), (False, True, False), (False, False, True)]
)
def test_outputs_without_a_gradient_count_zero(given):
    case = Case((9,), (20,), [5], 5, 3, 4, True, True, torch.float64)
    out = kernels.coarsen_fwd(*case.inputs, case.plan, case.coarse, EPS)
    given = [torch.randn_like(t) if wanted else None for t, wanted in zip(out, given, strict=True)]
    _, _, grads = run_coarsen(case, given)
    leaves = case.leaves()
    expected = gradients(dense_coarsen(case, *leaves), leaves, given)
    assert_close(grads, expected, ("dS", "dX", "dF", "dw"))


def test_only_what_is_needed_is_computed():
    case = Case((9,), (20,), [5], 5, 3, 4, True, True)
    out, given, full = run_coarsen(case)
    rest = (*case.inputs, *out[1:], case.plan, case.coarse, EPS)
    for needs in itertools.product((False, True), repeat=4):
        grads = kernels.coarsen_bwd(*given, *rest, needs)
        for grad, expected, needed in zip(grads, full, needs, strict=True):
            assert (grad is not None) == needed
            assert not needed or torch.equal(grad, expected)


def test_weights_below_eps():
    """There F' is N / eps, and no gradient flows through it."""
    case = Case((9,), (20,), [5], 5, 3, 4, True, True, torch.float64)
    case.w = case.w * 1e-10
    out, given, grads = run_coarsen(case)
    leaves = case.leaves()
    expected = dense_coarsen(case, *leaves)
    assert (expected[1] < EPS).all()
    assert_close(out, expected, ("X'", "W", "F'"))
    assert_close(grads, gradients(expected, leaves, given), ("dS", "dX", "dF", "dw"))
    assert grads[2].count_nonzero() == 0


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16])
@pytest.mark.parametrize("K", [5, 16, 40])
def test_lift(dtype, K):
    case = Case(SIZES, EDGES, {40: [4, 0, 1, 35, 2], **COUNTS}[K], K, None, dtypes=dtype)
    Xc = torch.randn(case.coarse.plan.num_nodes, 70).to(dtype)
    Y = kernels.lift_fwd(case.S, Xc, case.plan, case.coarse)
    dY = torch.randn_like(Y)
    grads = kernels.lift_bwd(dY, case.S, Xc, case.plan, case.coarse, (True, True))
    leaves = [case.S.double().requires_grad_(), Xc.double().requires_grad_()]
    starts = case.coarse.plan.node_ptr
    expected = torch.cat([
        leaves[0][nodes, :c] @ leaves[1][starts[g] : starts[g + 1]]
        for g, ((nodes, _), c) in enumerate(zip(members(case.plan), case.counts, strict=True))
    ])  # fmt: skip
    assert_close([Y], [expected], ["Y"])
    assert_close(grads, gradients([expected], leaves, [dY]), ("dS", "dX'"))
    assert Y.dtype == grads[0].dtype == grads[1].dtype == dtype
    assert kernels.lift_bwd(dY, case.S, Xc, case.plan, case.coarse, (False, False)) == (None, None)


@pytest.mark.parametrize("weighted", [False, True])
@pytest.mark.parametrize(
    ("dtype", "K"),
    [(torch.float32, 20), (torch.float64, 5), (torch.float64, 20), (torch.float16, 16)],
)
def test_losses(dtype, K, weighted):
    case = Case(SIZES, EDGES, COUNTS[K], K, None, weighted=weighted, dtypes=dtype)
    found = kernels.losses_fwd(case.S, case.w, case.plan, case.coarse)
    leaves = case.leaves()
    own = [leaves[0], leaves[3]]
    expected = dense_losses(case, *own)
    assert_close(found, expected, ("r2", "entropy"))
    assert found[0].dtype == (torch.float64 if dtype == torch.float64 else torch.float32)
    given = [torch.randn_like(t) for t in found]
    grads = kernels.losses_bwd(*given, case.S, case.w, case.plan, case.coarse, (True, weighted))
    assert_close(grads, gradients(expected, own, given), ("dS", "dw"))


def test_losses_at_the_optimum():
    """A disjoint pair of loops, explained exactly by hard clusters: residual and gradient are 0."""
    plan = Graph(torch.zeros(2, 1), torch.tensor([[0, 1], [0, 1]])).plan
    coarse = coarse_plan(plan, torch.tensor([2]), True)
    S = torch.eye(2)
    r2, entropy = kernels.losses_fwd(S, None, plan, coarse)
    assert r2.tolist() == [0.0] and entropy.tolist() == [0.0]
    dS, _ = kernels.losses_bwd(torch.ones(1), torch.zeros(1), S, None, plan, coarse, (True, False))
    assert dS.count_nonzero() == 0


def everything(case, given=None, slopes=None):
    """All results of all functions of the op for one case."""
    out, given, grads = run_coarsen(case, given)
    lifted = kernels.lift_fwd(case.S, out[0], case.plan, case.coarse)
    back = kernels.lift_bwd(lifted, case.S, out[0], case.plan, case.coarse, (True, True))
    losses = kernels.losses_fwd(case.S, case.w, case.plan, case.coarse)
    slopes = torch.randn(2, case.plan.num_graphs) if slopes is None else slopes
    needs = (True, case.w is not None)
    loss_grads = kernels.losses_bwd(*slopes, case.S, case.w, case.plan, case.coarse, needs)
    return given, slopes, (*out, *grads, lifted, *back, *losses, *loss_grads)


def test_a_graph_alone_is_bitwise_the_graph_in_a_batch():
    batch = Case(SIZES, EDGES, COUNTS[20], 20, 14, 37, True, True)
    given, slopes, found = everything(batch)
    g = 3
    nodes, edges = list(members(batch.plan))[g]
    alone = Case((40,), (140,), [18], 20, 14, 37, True, True)
    ends = torch.stack([batch.plan.src[edges], batch.plan.dst[edges]]) - nodes.start
    alone.plan = Graph(torch.zeros(40, 1), ends).plan
    alone.coarse = coarse_plan(alone.plan, torch.tensor([18]), True)
    alone.S, alone.X = batch.S[nodes], batch.X[nodes]
    alone.F, alone.w = batch.F[edges], batch.w[edges]
    (rows, pairs) = list(members(batch.coarse.plan))[g]
    own = [rows, pairs, pairs]
    _, _, single = everything(
        alone, [t[s] for t, s in zip(given, own, strict=True)], slopes[:, g : g + 1]
    )
    per_graph = slice(g, g + 1)
    parts = [
        *own, nodes, nodes, edges, edges, nodes, nodes, rows, per_graph, per_graph, nodes, edges
    ]  # fmt: skip
    for whole, part, one in zip(found, parts, single, strict=True):
        assert torch.equal(whole[part], one)


def moved_to_gpu(case):
    """The case with all its tensors on the GPU."""
    for name in ("S", "X", "F", "w"):
        setattr(case, name, getattr(case, name).cuda())
    case.plan = case.plan.to("cuda")
    case.coarse = coarse_plan(case.plan, case.coarse.clusters, True)
    return case


def test_results_depend_neither_on_the_run_nor_on_the_order_of_work():
    case = Case(SIZES, EDGES, COUNTS[20], 20, 14, 5, True, True)
    case = moved_to_gpu(case) if torch.cuda.is_available() else case
    slopes = torch.randn(2, len(SIZES)).to(case.S.device)
    given, _, first = everything(case, None, slopes)
    items = case.coarse._items["work"]
    lists = {key: t.flip(0) for key, t in items.items()}
    assert len(lists) >= 5 and all(len(t) > 1 for t in lists.values())
    items |= lists
    _, _, second = everything(case, given, slopes)
    assert all(torch.equal(a, b) for a, b in zip(first, second, strict=True))


def test_lists_of_work_are_made_at_once_from_the_second_batch_on(monkeypatch):
    """A new batch asks for its first list, and gets with it those that batches before it needed."""
    made = []
    make = work._make_lists
    monkeypatch.setattr(work, "_make_lists", lambda *a: made.append(a[-1]) or make(*a))
    monkeypatch.setattr(work, "_asked", {})
    one_by_one = Case(SIZES, EDGES, COUNTS[20], 20, 14, weighted=True)
    listed_launches(one_by_one)
    assert len(made) >= 5 and all(len(wanted) == 1 for wanted in made)
    asked = [key for wanted in made for key in wanted]
    at_once = Case(SIZES, EDGES, COUNTS[20], 20, 14, weighted=True)
    made.clear()
    listed_launches(at_once)
    assert len(made) == 1 and sorted(made[0]) == sorted(asked)
    for key, items in one_by_one.coarse._items["work"].items():
        assert torch.equal(at_once.coarse._items["work"][key], items)
    for size in range(2, 2 * work.MOST_ASKED):
        work.node_tiles(one_by_one.plan, one_by_one.coarse, size)
    assert len(work._asked) == work.MOST_ASKED
    assert list(work._asked)[-1] == ("nodes", size, 1)


@pytest.mark.parametrize(
    ("sizes", "edges", "counts", "C", "D"),
    [
        ((), (), [], 3, 2),
        ((0, 0), (0, 0), [0, 0], 3, 2),
        ((3,), (0,), [2], 3, 2),
        ((3, 1), (4, 0), [0, 0], 3, 2),
        ((1,), (1,), [1], 3, 2),
        ((3,), (4,), [2], 0, 0),
        ((0, 3), (0, 4), [2, 2], None, 2),
    ],
)
def test_nothing_there(sizes, edges, counts, C, D):
    case = Case(sizes, edges, counts, 3, C, D, True, True)
    _, _, found = everything(case)
    assert all(t is None or t.isfinite().all() for t in found)
    if counts:
        leaves = case.leaves()
        assert_close(found[:3], dense_coarsen(case, *leaves), ("X'", "W", "F'"))


class NoWaiting(TorchDispatchMode):
    """Fails on operations that make the host wait for a device."""

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        name = func.overloadpacket.__name__
        assert name not in ("_local_scalar_dense", "nonzero", "_to_copy", "masked_select"), name
        return func(*args, **(kwargs or {}))


def listed_launches(case):
    out = [torch.zeros(n, *s) for n, s in (
        (case.coarse.plan.num_nodes, case.X.shape[1:]),
        (case.coarse.plan.num_edges, ()),
        (case.coarse.plan.num_edges, case.F.shape[1:]),
    )]  # fmt: skip
    with recording("sm_90") as calls:
        everything(case, out, torch.zeros(2, case.plan.num_graphs))
    return calls


def test_launches_are_constant_in_the_number_of_graphs():
    few = listed_launches(Case((3,), (4,), [2], 16, 14, weighted=True))
    many = listed_launches(Case((3, 9) * 50, (4, 30) * 50, [2, 7] * 50, 16, 14, weighted=True))
    assert [c.kernel.__name__ for c in few] == [c.kernel.__name__ for c in many]
    assert len(few) == 14
    constants = [
        [
            {k: v for k, v in c.arguments.items() if k.isupper() and k not in ("E", "G")}
            | c.options
            for c in calls
        ]
        for calls in (few, many)
    ]
    assert constants[0] == constants[1]


@pytest.mark.parametrize("nodes", [(3,), (3, 9) * 50])
def test_the_op_with_its_losses_takes_four_launches_and_five(nodes):
    ends = torch.tensor([[0, 1], [1, 0]])
    first = torch.tensor(nodes).cumsum(0) - torch.tensor(nodes)
    edge_index = (first[:, None, None] + ends).transpose(0, 1).flatten(1)
    batch = torch.repeat_interleave(torch.tensor(nodes))
    x, F = (torch.rand(n, 14, requires_grad=True) for n in (len(batch), edge_index.shape[1]))
    S = torch.rand(len(batch), 2).softmax(1).requires_grad_()
    graph = Graph(x, edge_index, F, None, batch)
    with recording("sm_90") as calls:
        coarse = coarsen(graph, S, backend="triton")
        losses = assignment_losses(graph, S, backend="triton")
        forward = len(calls)
        outputs = coarse.x, coarse.edge_weight, coarse.edge_attr, *losses
        torch.autograd.backward(outputs, [torch.ones_like(t) for t in outputs])
    assert (forward, len(calls) - forward) == (4, 5)


def test_a_kernel_takes_its_own_arguments_only():
    rows, ptr = torch.ones(2, 3), torch.tensor([0, 2])
    with recording("sm_90"), pytest.raises(TypeError, match="pool_kernel takes no MEAN, ptr"):
        launch(pool.pool_kernel, (1,), Tile({}, 1, "x3"), ptr=ptr, MEAN=True, X_ptr=rows)


def test_launchers_never_wait_for_the_device():
    case = Case(SIZES, EDGES, COUNTS[20], 20, 14, weighted=True)
    listed_launches(case)  # makes the lists of work items, once for each batch
    with NoWaiting():
        listed_launches(case)


def test_on_the_cpu_nothing_runs_beside():
    case = Case((9,), (20,), [5], 5, 3, 4)
    with forked(case.S) as beside, beside():
        found = kernels.lift_fwd(case.S, torch.ones(5, 2), case.plan, case.coarse)
    torch.testing.assert_close(found, case.S.sum(1, keepdim=True).expand(9, 2))


def test_a_graph_beyond_32_bit_offsets_is_refused():
    case = Case((3,), (4,), [2], 5, 2)
    case.plan.edges[0] = 2**30  # only the counts on the host are asked
    with pytest.raises(
        ValueError, match="1073741824 edges with rows of 20 numbers.*backend='sparse'"
    ):
        kernels.coarsen_fwd(*case.inputs, case.plan, case.coarse, EPS)
    case = Case((3,), (4,), [2], 5, 2)
    case.plan.nodes[0] = 2**29
    with pytest.raises(ValueError, match="536870912 nodes with rows of 5 numbers"):
        kernels.losses_fwd(case.S, case.w, case.plan, case.coarse)
    with pytest.raises(ValueError, match="536870912 nodes with rows of 7 numbers"):
        kernels.lift_fwd(case.S, torch.randn(2, 7), case.plan, case.coarse)


@pytest.mark.parametrize("C", [5, 20])
def test_scratch_memory_is_as_large_as_each_graph_needs(monkeypatch, C):
    case = Case((4, 0, 40, 3), (6, 0, 60, 5), [2, 0, 25, 3], 32, C, weighted=True)
    found = {}

    def keep(S, nodes, edges, width, *rest):
        found.update(rows=edges.cpu(), width=width)
        return node_grad.node_grad(S, nodes, edges, width, *rest)

    monkeypatch.setattr(backward, "node_grad", keep)
    torch.use_deterministic_algorithms(True)  # which fills new memory with NaN
    try:
        outputs = kernels.coarsen_fwd(*case.inputs, case.plan, case.coarse, EPS)
        grads = [torch.ones_like(t) for t in outputs]
        kernels.coarsen_bwd(
            *grads, *case.inputs, *outputs[1:], case.plan, case.coarse, EPS, case.needs
        )
    finally:
        torch.use_deterministic_algorithms(False)
    rows = found["rows"]
    for m, c in zip(case.plan.edges.tolist(), case.counts, strict=True):
        row, size = up_to(c, 16), m * (1 + up_to(c, 8) // 8) * up_to(c, 16)
        part, rows = rows[:size].view(-1, m, row) if size else rows[:0], rows[size:]
        used = 1 + up_to(c, found["width"]) // found["width"]
        if size:
            assert part[:used, :, :c].isfinite().all()
            assert part[used:].isnan().all() and part[:, :, up_to(c, 4) :].isnan().all()
    assert not len(rows)


@pytest.mark.gpu
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16])
def test_gpu_equals_the_dense_definition(dtype):
    case = Case(SIZES, EDGES, COUNTS[20], 20, 14, 37, True, True, dtype)
    expected_out = dense_coarsen(case, *(leaves := case.leaves()))
    given = [torch.randn_like(t).to(case.X.dtype) for t in expected_out]
    expected = (*expected_out, *gradients(expected_out, leaves, given))
    case = moved_to_gpu(case)
    runs = [
        everything(case, [t.cuda() for t in given], torch.ones(2, len(SIZES)).cuda())[2]
        for _ in range(2)
    ]
    assert all(torch.equal(a, b) for a, b in zip(*runs, strict=True))
    found = [t.cpu() for t in runs[0][:7]]
    assert_close(found, expected, ("X'", "W", "F'", "dS", "dX", "dF", "dw"))
