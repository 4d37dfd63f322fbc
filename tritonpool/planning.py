"""Where plans come from: made once and cached, or, under ``torch.compile``, by a custom op.

A plan is made with NumPy on the host, which a compiled graph can neither trace nor repeat for the
next batch. There an op makes it: it returns the plan's tensors, whose sizes are those of the batch,
and a key by which other ops (:mod:`tritonpool.library`) find the plan itself.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import torch
from torch import Tensor
from torch.library import get_ctx

from tritonpool.coarse_plan import CoarsePlan
from tritonpool.handles import find, host_op, ticket
from tritonpool.plan import Plan, once

__all__ = [
    "ALWAYS",
    "MIXED",
    "MOST_COARSE",
    "coarse_plan",
    "copies",
    "empty",
    "kept_coarse",
    "make_plan",
]

# The sizes of a plan's tensors, by name; those of the first three are on the host.
SIZES = {
    "nodes": "G",
    "edges": "G",
    "key": "1",
    "node_ptr": "G + 1",
    "edge_ptr": "G + 1",
    "src": "E",
    "dst": "E",
    "out_ptr": "V + 1",
    "out_edge": "E",
    "in_ptr": "V + 1",
    "in_edge": "E",
    "batch": "V",
    "order": "E",
    "parallel": "E",
    "parallel_ptr": "pairs",
}
HOST = ("nodes", "edges", "key")
MOST_COARSE = 16  # that a plan keeps, for someone who asks for ever new cluster counts
MIXED = "edge_index must list the edges graph by graph, but it mixes graphs"
OPTIONAL = ("order", "parallel", "parallel_ptr")
ALWAYS = tuple(name for name in SIZES if name not in OPTIONAL)


def make_plan(
    edge_index: Tensor,
    batch: Tensor | None,
    num_nodes: int,
    num_graphs: int,
    grouped: bool = False,
) -> Plan:
    """The plan of a batch; on a GPU this takes one copy of the indices to the host and one back.

    Parameters
    ----------
    edge_index, batch, num_nodes, num_graphs
        as those of :class:`~tritonpool.Graph`
    grouped : bool, default=False
        the edges must stand graph by graph

    Raises
    ------
    ValueError
        as for :meth:`Plan.build <tritonpool.plan.Plan.build>`, and if the edges are not grouped
        although they must be
    """
    if torch.compiler.is_compiling():
        made = _plan(edge_index, batch, num_nodes, num_graphs, grouped)
        return Plan(**dict(zip(_names(grouped), made, strict=True)))
    return _make_plan(edge_index, batch, num_nodes, num_graphs, grouped)


def _make_plan(
    edge_index: Tensor, batch: Tensor | None, num_nodes: int, num_graphs: int, grouped: bool
) -> Plan:
    device = edge_index.device
    if device.type != "cpu":
        packed = edge_index.reshape(-1)
        if batch is not None:
            packed = torch.cat([packed, batch])
        packed = packed.cpu()
        E = edge_index.shape[1]
        edge_index = packed[: 2 * E].view(2, -1)
        batch = None if batch is None else packed[2 * E :]
    plan = Plan.build(batch, edge_index, num_nodes, num_graphs)
    if grouped and plan.order is not None:
        raise ValueError(MIXED)
    return plan.to(device)


def coarse_plan(plan: Plan, clusters: Tensor, drop_self_loops: bool) -> CoarsePlan:
    """The plan of the coarse graph, for ``clusters`` (a CPU tensor of shape ``G``). Cached with the
    plan; in compiled code the op finds it there and returns copies."""
    if torch.compiler.is_compiling():
        counts, rev, key, *made = _coarse_plan(plan.key, plan.src, clusters, drop_self_loops)
        pairs = Plan(**dict(zip(ALWAYS, made, strict=True)))
        return CoarsePlan(clusters, drop_self_loops, counts, rev, pairs, key)
    return _cached_coarse_plan(plan, clusters, drop_self_loops)


def _cached_coarse_plan(plan: Plan, clusters: Tensor, drop_self_loops: bool) -> CoarsePlan:
    def make() -> CoarsePlan:
        # the counts are the caller's, who may change them
        return CoarsePlan.build(clusters.clone(), drop_self_loops).to(plan.device)

    return kept_coarse(plan, (clusters.numpy().tobytes(), drop_self_loops), make)


def kept_coarse(plan: Plan, key: object, make: Callable[[], CoarsePlan]) -> CoarsePlan:
    """The coarse plan of that key, which ``make`` makes at first use; of those made, a plan keeps
    the last 16."""
    coarse = once(plan._coarse, key, make)
    if len(plan._coarse) > MOST_COARSE:
        for old in list(plan._coarse)[:-MOST_COARSE]:
            plan._coarse.pop(old, None)  # another thread may have done so
    return coarse


def copies(plan: Plan, names: tuple[str, ...], *keeps: object) -> list[Tensor]:
    """A plan's tensors, copied because a compiled graph may write to what an op returns."""
    copies = {name: getattr(plan, name).clone() for name in names if name != "key"}
    copies["key"] = ticket(plan.key, plan, *keeps)
    return [copies[name] for name in names]


def empty(names: tuple[str, ...], like: Tensor, **sizes: int) -> list[Tensor]:
    """Tensors of the sizes that a plan's have."""

    def size(text: str) -> int:
        name, _, more = text.partition(" + ")
        return sizes.get(name, 1) + int(more or 0)

    return [
        like.new_empty(
            size(SIZES[name]), dtype=torch.int64, device="cpu" if name in HOST else like.device
        )
        for name in names
    ]


def _names(grouped: bool) -> tuple[str, ...]:
    return tuple(name for name in SIZES if not (grouped and name == "order"))


@host_op("tritonpool::plan")
def _plan(
    edge_index: Tensor, batch: Tensor | None, num_nodes: int, num_graphs: int, grouped: bool
) -> list[Tensor]:
    plan = _make_plan(edge_index, batch, num_nodes, num_graphs, grouped)
    # a graph is compiled for all batches, so what a batch may lack is there in every one
    every = torch.arange(plan.num_edges + 1, device=plan.device)
    filled = replace(plan, key=plan.key)
    if filled.order is None:
        filled.order = every[:-1]
    if filled.parallel is None:
        filled.parallel = torch.empty_like(plan.out_edge).index_copy_(0, plan.out_edge, every[:-1])
        filled.parallel_ptr = every
    return copies(filled, _names(grouped), plan)


@_plan.register_fake
def _(edge_index, batch, num_nodes, num_graphs, grouped):
    pairs = get_ctx().new_dynamic_size()
    E = edge_index.shape[1]
    return empty(_names(grouped), edge_index, V=num_nodes, E=E, G=num_graphs, pairs=pairs)


@host_op("tritonpool::coarse_plan")
def _coarse_plan(key: Tensor, src: Tensor, clusters: Tensor, drop_self_loops: bool) -> list[Tensor]:
    plan = find(key)
    if bool((clusters < 0).any()):
        raise ValueError(f"clusters must be at least 0, but hold {int(clusters.min())}")
    coarse = _cached_coarse_plan(plan, clusters, drop_self_loops)
    own = [coarse.counts.clone(), coarse.rev.clone(), ticket(coarse.key, plan, coarse)]
    return own + copies(coarse.plan, ALWAYS, plan)


@_coarse_plan.register_fake
def _(key, src, clusters, drop_self_loops):
    P, E = get_ctx().new_dynamic_size(), get_ctx().new_dynamic_size()
    G = clusters.shape[0]
    own = [src.new_empty(G), src.new_empty(E), key.new_empty(1)]
    return own + empty(ALWAYS, src, V=P, E=E, G=G)
