"""What an assignment, its cluster counts and edge weights must satisfy."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import torch
from torch import Tensor
from torch.utils.weak import WeakTensorKeyDictionary

from tritonpool.patterns import used_entries

if TYPE_CHECKING:
    from tritonpool.coarse_plan import CoarsePlan
    from tritonpool.graph import Graph
    from tritonpool.plan import Plan

__all__ = [
    "check_assignment",
    "check_assignment_once",
    "check_cluster_rows",
    "check_clusters",
    "check_counts",
    "check_node_rows",
    "check_scores",
    "check_sizes",
    "check_weights",
]

# The op and the losses ask about the same assignment: what passed, and at which version.
_passed = WeakTensorKeyDictionary()


def check_clusters(graph: Graph, S: Tensor, clusters: Tensor | Sequence[int] | None) -> Tensor:
    """``clusters`` as a CPU tensor of shape ``G``, after checking it and the shape of ``S``.

    Raises
    ------
    ValueError
        if ``S`` is not a dense floating-point ``V x K`` tensor on the graph's device, or if a count
        is below 0 or above ``K``
    """
    if not isinstance(S, Tensor) or S.dim() != 2 or not S.is_floating_point():
        what = f"{S.dtype} of shape {tuple(S.shape)}" if isinstance(S, Tensor) else type(S).__name__
        raise ValueError(f"S must be a floating-point V x K tensor, but is {what}")
    if S.layout != torch.strided:
        raise ValueError(f"S must be a dense tensor, but is {S.layout}")
    V, K = S.shape
    if V != graph.num_nodes:
        raise ValueError(f"S has {V} rows, but the graph has {graph.num_nodes} nodes")
    if S.device != graph.device:
        raise ValueError(f"S is on {S.device}, but the graph is on {graph.device}")
    G = graph.num_graphs
    if clusters is None:
        return torch.full((G,), K, device="cpu")
    try:
        given = isinstance(clusters, Tensor)  # elsewhere a default device may be set
        counts = clusters if given else torch.as_tensor(clusters, device="cpu")
    except (TypeError, ValueError, RuntimeError):  # text, ragged lists, too large numbers
        raise ValueError(
            f"clusters must hold one integer for each of the {G} graphs, but is {clusters!r}"
        ) from None
    if not counts.numel():  # an empty list makes a float tensor
        counts = counts.long()
    if counts.shape != (G,) or counts.is_floating_point() or counts.dtype == torch.bool:
        raise ValueError(
            f"clusters must hold one integer for each of the {G} graphs, but is {counts.dtype} "
            f"of shape {tuple(counts.shape)}"
        )
    counts = counts.to("cpu", torch.int64)  # from a GPU this is a copy to the host: pass CPU counts
    if not torch.compiler.is_compiling():  # there the op looks at values, when it runs
        check_counts(counts, K)
    return counts


def check_counts(counts: Tensor, K: int) -> None:
    """Look at every cluster count.

    Raises
    ------
    ValueError
        if one is below 0 or above ``K``
    """
    values = counts.numpy()
    if values.min(initial=0) < 0 or values.max(initial=0) > K:
        g = int(((counts < 0) | (counts > K)).nonzero()[0])
        raise ValueError(
            f"clusters[{g}] is {int(counts[g])}, but must be from 0 to K = {K}, the columns of S"
        )


def check_sizes(
    plan: Plan, S: Tensor, x: Tensor | None, edge_attr: Tensor | None, edge_weight: Tensor | None
) -> None:
    """The tensors of a batch must have the sizes of its plan: kernels do not look where one ends.

    Raises
    ------
    ValueError
        if one has not
    """
    nodes = {"S": S, "graph.x": x}
    edges = {"graph.edge_attr": edge_attr, "graph.edge_weight": edge_weight}
    for tensors, rows in ((nodes, plan.num_nodes), (edges, plan.num_edges)):
        for name, value in tensors.items():
            if value is not None and value.shape[0] != rows:
                raise ValueError(
                    f"{name} must be of {rows} rows, but has shape {tuple(value.shape)}"
                )


def check_cluster_rows(coarse_x: Tensor, P: int, device: torch.device) -> None:
    """Cluster features must have a row for each of the batch's ``P`` clusters.

    Raises
    ------
    ValueError
        if they have not, or are no dense floating-point matrix, or not on ``device``
    """
    if coarse_x.layout != torch.strided:
        raise ValueError(f"coarse_x must be a dense tensor, but is {coarse_x.layout}")
    if coarse_x.device != device:
        raise ValueError(f"coarse_x is on {coarse_x.device}, but the graph is on {device}")
    if coarse_x.dim() != 2 or len(coarse_x) != P or not coarse_x.is_floating_point():
        raise ValueError(
            f"coarse_x must be a floating-point tensor with a row for each of the {P} clusters, "
            f"but is {coarse_x.dtype} of shape {tuple(coarse_x.shape)}"
        )


def check_node_rows(z: object, graph: Graph) -> None:
    """Features to pool must have a row for each node.

    Raises
    ------
    ValueError
        if they have not, or are no floating-point matrix on the graph's device
    """
    V, tensor = graph.num_nodes, isinstance(z, Tensor)
    if not tensor or z.dim() != 2 or z.shape[0] != V or not z.is_floating_point():
        what = f"{z.dtype} of shape {tuple(z.shape)}" if tensor else type(z).__name__
        raise ValueError(
            f"z must be a floating-point tensor with a row for each of the {V} nodes, but is {what}"
        )
    if z.device != graph.device:
        raise ValueError(f"z is on {z.device}, but the graph is on {graph.device}")


def check_assignment(S: Tensor, plan: Plan, coarse: CoarsePlan) -> None:
    """Look at every entry of ``S``; on a GPU the host waits for the answer.

    Raises
    ------
    ValueError
        if ``S`` holds NaN, a negative entry, or a nonzero entry beyond its graph's clusters
    """
    S = S.detach()
    if not S.numel():
        return
    low = S.amin()
    if not bool(low >= 0):  # NaN fails this too
        if bool(torch.isnan(S).any()):
            row = int(torch.isnan(S).any(1).nonzero()[0])
            raise ValueError(f"S must not hold NaN, but row {row} does")
        i, p = (int(v) for v in (S < 0).nonzero()[0])
        raise ValueError(f"S must not be negative, but S[{i}, {p}] is {float(S[i, p]):g}")
    if int(coarse.clusters.min()) == S.shape[1]:
        return
    wrong = S.bool().gt(used_entries(plan, coarse, S.shape[1]))
    if bool(wrong.any()):
        i, p = (int(v) for v in wrong.nonzero()[0])
        raise ValueError(
            f"S[{i}, {p}] is {float(S[i, p]):g}, but node {i} belongs to graph "
            f"{int(plan.batch[i])}, which has {int(coarse.counts[plan.batch[i]])} clusters: later "
            "columns must be 0"
        )


def check_assignment_once(S: Tensor, plan: Plan, coarse: CoarsePlan) -> None:
    """:func:`check_assignment`, unless this very tensor has passed it and was not changed since."""
    if S.is_inference():  # these count no versions
        check_assignment(S, plan, coarse)
    elif _passed.get(S) != (S._version, coarse):
        check_assignment(S, plan, coarse)
        _passed[S] = S._version, coarse


def check_scores(scores: Tensor, x: Tensor) -> None:
    """Refuse scores that no assignment can be made of, and say whether ``x`` is to blame."""
    if not bool(scores.detach().isfinite().all()):
        what = "the scores hold" if bool(x.isfinite().all()) else "graph.x holds"
        raise ValueError(
            f"{what} NaN or infinity: look at the inputs, and whether the training diverges"
        )


def check_weights(w: Tensor | None) -> None:
    """Look at every edge weight; on a GPU the host waits for the answer.

    Raises
    ------
    ValueError
        if a weight is negative or not finite
    """
    if w is None or not w.numel():
        return
    low, high = w.detach().aminmax()
    if not bool((low >= 0) & (high < float("inf"))):
        e = int((~((w >= 0) & (w < float("inf")))).nonzero()[0])
        value = float(w.detach()[e])
        raise ValueError(
            f"edge_weight must be at least 0 and finite, but edge_weight[{e}] is {value:g}"
        )
