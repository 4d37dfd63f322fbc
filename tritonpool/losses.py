"""The two auxiliary losses of DiffPool, per graph and free of padding."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from tritonpool import library
from tritonpool.autograd import Losses
from tritonpool.backend import choose_backend
from tritonpool.coarse_plan import CoarsePlan
from tritonpool.graph import Graph
from tritonpool.ops import in_plan_order, prepare
from tritonpool.plan import Plan
from tritonpool.top_k import TopK, as_dense

__all__ = ["assignment_losses", "entropy_loss", "link_loss", "planned_losses"]

CONVENTIONS = ("mean", "pyg", "tgp")


def _root(square: Tensor) -> Tensor:
    """The square root with gradient 0 at 0; what is not a number stays so."""
    zero = square == 0
    return torch.where(zero, 0, torch.where(zero, 1, square).sqrt())


def _link(r2: Tensor, plan: Plan, convention: str) -> Tensor:
    nodes = plan.nodes
    entries = len(nodes) * int(nodes.max()) ** 2 if convention == "pyg" else int((nodes**2).sum())
    return _root(r2.sum()) / max(entries, 1)


def _entropy(total: Tensor, plan: Plan, convention: str) -> Tensor:
    nodes = plan.nodes
    rows = len(nodes) * int(nodes.max()) if convention == "pyg" else plan.num_nodes
    return total.sum() / max(rows, 1)


def assignment_losses(
    graph: Graph,
    S: Tensor | TopK,
    clusters: Tensor | Sequence[int] | None = None,
    *,
    convention: str = "mean",
    backend: str | None = None,
) -> tuple[Tensor, Tensor]:
    """:func:`link_loss` and :func:`entropy_loss` for the price of one."""
    if convention not in CONVENTIONS:
        raise ValueError(
            f"unknown convention {convention!r}; expected one of {', '.join(CONVENTIONS)}"
        )
    S = as_dense(S)
    return planned_losses(graph, S, prepare(graph, S, clusters), convention, backend)


def planned_losses(
    graph: Graph,
    S: Tensor,
    coarse: CoarsePlan,
    convention: str = "mean",
    backend: str | None = None,
) -> tuple[Tensor, Tensor]:
    """:func:`assignment_losses` with an assignment that is known to fit its plan."""
    plan = graph.plan
    w = in_plan_order(graph.edge_weight, graph)
    if torch.compiler.is_compiling():
        r2, entropy = library.losses(S, w, plan, coarse, backend)
    else:
        means = convention == "mean" and plan.num_graphs > 0
        name = choose_backend(graph.device, backend)
        found = Losses.apply(S, w, plan, coarse, means, name)
        if means:
            return found
        r2, entropy = found
    if not r2.numel():
        return r2.sum(), entropy.sum()
    if convention != "mean":
        return _link(r2, plan, convention), _entropy(entropy, plan, convention)
    share = plan.make_node_shares(r2.dtype)
    return torch.dot(_root(r2), share), torch.dot(entropy, share)


def link_loss(
    graph: Graph,
    S: Tensor | TopK,
    clusters: Tensor | Sequence[int] | None = None,
    *,
    convention: str = "mean",
    backend: str | None = None,
) -> Tensor:
    r"""How badly the clusters explain the edges, a mean over the batch's graphs:

    .. math::
        \frac{1}{G} \sum_g \frac{1}{n_g} \bigl\| A_g - S_g S_g^\top \bigr\|_F

    where :math:`A_g` holds the edge weights (1 each without weights; parallel edges are added up)
    and :math:`n_g` is the number of nodes. Its gradient is 0 where the loss is 0, and a graph
    without nodes counts 0. Edge weights should lie in [0, 1], as :math:`S S^\top` does.

    Parameters
    ----------
    graph : Graph
        the batch, with ``V`` nodes
    S : Tensor | TopK
        the assignment, of shape ``V x K``
    clusters : Tensor | Sequence[int] | None, default=None
        how many of the ``K`` columns each graph uses; ``None`` means all
    convention : str, default="mean"
        ``"mean"``: the formula above; ``"pyg"``: the value of PyG's ``dense_diff_pool``, one norm
        over the batch divided by ``G`` times the square of the largest graph; ``"tgp"``: that of
        torch-geometric-pool's ``sparse_link_pred_loss``, one norm divided by the sum of
        :math:`n_g^2`
    backend : str | None, default=None
        as for :func:`coarsen`

    Returns
    -------
    Tensor
        a scalar, float32 (float64 if ``S`` or the weights are)

    Raises
    ------
    ValueError
        as for :func:`coarsen`, and for an unknown convention

    Notes
    -----
    The link prediction objective is from Ying et al., NeurIPS 2018, arXiv:1806.08804, section 3.3.
    """
    return assignment_losses(graph, S, clusters, convention=convention, backend=backend)[0]


def entropy_loss(
    graph: Graph,
    S: Tensor | TopK,
    clusters: Tensor | Sequence[int] | None = None,
    *,
    convention: str = "mean",
    backend: str | None = None,
) -> Tensor:
    r"""How undecided the assignment is, a mean over the batch's graphs:

    .. math::
        \frac{1}{G} \sum_g \frac{1}{n_g} \sum_{i \in g} \sum_p - S_{ip} \log S_{ip}

    with :math:`0 \log 0 = 0`, and gradient 0 there.

    Parameters
    ----------
    graph, S, clusters, backend
        as for :func:`link_loss`
    convention : str, default="mean"
        ``"mean"``: the formula above; ``"pyg"``: the sum over nodes divided by ``G`` times the
        size of the largest graph, as PyG's ``dense_diff_pool``, which counts padding rows;
        ``"tgp"``: divided by the number of nodes in the batch

    Returns
    -------
    Tensor
        a scalar, in nats

    Raises
    ------
    ValueError
        as for :func:`link_loss`
    """
    return assignment_losses(graph, S, clusters, convention=convention, backend=backend)[1]
