"""To and from PyG's data objects; the only file that imports torch_geometric."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch

from tritonpool.graph import Graph

if TYPE_CHECKING:
    from torch_geometric.data import Batch, Data

__all__ = ["graph_from_pyg", "graph_to_pyg"]


def graph_from_pyg(data: Data | Batch) -> Graph:
    """Read ``x``, ``edge_index``, ``edge_attr``, ``edge_weight`` and ``batch``.

    An ``edge_attr`` of shape ``E`` counts as one feature. ``num_graphs`` is taken from a
    ``Batch``, so empty graphs at its end are kept.

    Raises
    ------
    ValueError
        if ``x`` is missing, or ``x`` or ``edge_attr`` hold integers: cast or embed them first
    """
    edge_attr = data.edge_attr
    if edge_attr is not None and edge_attr.dim() == 1:
        edge_attr = edge_attr[:, None]
    weight = getattr(data, "edge_weight", None)
    batch = getattr(data, "batch", None)
    ptr = getattr(data, "ptr", None)
    num_graphs = len(ptr) - 1 if batch is not None and ptr is not None else None
    return Graph(data.x, data.edge_index, edge_attr, weight, batch, num_graphs)


def graph_to_pyg(graph: Graph) -> Batch:
    """A PyG ``Batch`` that shares the tensors of ``graph``. It can be split again
    (``to_data_list``) unless the edges of different graphs are mixed.

    Raises
    ------
    ImportError
        if PyG is not installed
    """
    try:
        from torch_geometric.data import Batch
    except ImportError as error:
        raise ImportError("to_pyg needs PyG: pip install torch_geometric") from error
    batch = graph.batch
    if batch is None:
        batch = torch.zeros(graph.num_nodes, dtype=torch.int64, device=graph.device)
    plan = graph.plan
    data = Batch(
        x=graph.x,
        edge_index=graph.edge_index,
        edge_attr=graph.edge_attr,
        edge_weight=graph.edge_weight,
        batch=batch,
        ptr=plan.node_ptr.clone(),
    )
    if plan.order is None:  # PyG takes graphs out by slices, so each needs its edges in one piece
        first, starts = plan.node_ptr.cpu(), {"x": plan.node_ptr.cpu()}
        starts |= dict.fromkeys(("edge_index", "edge_attr", "edge_weight"), plan.edge_ptr.cpu())
        data._num_graphs = graph.num_graphs
        data._slice_dict = {name: ptr for name, ptr in starts.items() if name in data}
        data._inc_dict = {
            name: first[:-1] if name == "edge_index" else torch.zeros_like(first[:-1])
            for name in data._slice_dict
        }
    return data
