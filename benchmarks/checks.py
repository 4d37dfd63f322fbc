"""Every candidate computes what it should before it is timed."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace

import torch
from torch import Tensor

from benchmarks.inputs import Inputs
from benchmarks.peers import PEERS, Outputs, Peer, backward, fork_loop, tritonpool_op
from tritonpool import use_backend

__all__ = ["check_against_reference", "check_peers"]

MOST_STEPS = 20_000  # of edges x clusters x clusters: a few seconds in Python
TOLERANCE = {torch.float32: 1e-4, torch.float64: 1e-9, torch.bfloat16: 4e-2, torch.float16: 4e-3}


def _small_graphs(inputs: Inputs) -> Tensor:
    """Which graphs the plain loops can do: the smallest, together at most that many steps."""
    edges = torch.bincount(inputs.batch[inputs.edge_index[0]], minlength=inputs.num_graphs)
    steps, order = (edges * inputs.clusters**2).sort(stable=True)
    chosen = torch.zeros(inputs.num_graphs, dtype=torch.bool)
    chosen[order[: max(1, int((steps.cumsum(0) <= MOST_STEPS).sum()))]] = True
    return chosen


def _part(inputs: Inputs, chosen: Tensor) -> Inputs:
    """The batch of the chosen graphs only."""
    nodes = chosen[inputs.batch]
    edges = nodes[inputs.edge_index[0]]
    return replace(
        inputs,
        x=inputs.x[nodes],
        edge_index=(nodes.cumsum(0) - 1)[inputs.edge_index[:, edges]],
        edge_attr=inputs.edge_attr[edges],
        batch=(chosen.cumsum(0) - 1)[inputs.batch[nodes]],
        num_graphs=int(chosen.sum()),
        S=inputs.S[nodes],
        clusters=inputs.clusters[chosen],
    )


def _with_gradients(inputs: Inputs) -> dict[str, Tensor]:
    """Outputs of our op, and the gradients of S, x and F."""
    inputs = replace(
        inputs,
        **{k: getattr(inputs, k).clone().requires_grad_() for k in ("S", "x", "edge_attr")},
    )
    outputs = tritonpool_op(inputs)
    backward(outputs)
    gradients = {"dS": inputs.S.grad, "dX": inputs.x.grad, "dF": inputs.edge_attr.grad}
    return {name: value.detach() for name, value in outputs.items()} | gradients


def _close(actual: Tensor, expected: Tensor, tolerance: float, name: str) -> None:
    """Raise unless the difference is small beside the tensor's root mean square."""
    expected = expected.double()
    error = (actual.double() - expected).square().mean().sqrt()
    size = expected.square().mean().sqrt()
    if not error <= tolerance * size:
        raise AssertionError(f"{name} differs by {float(error / size):.1e} of its size")


def check_against_reference(inputs: Inputs) -> None:
    """Raise unless our op agrees with the plain loops on some graphs of a batch: outputs and
    gradients of a batch of these, and the outputs of the whole batch."""
    chosen = _small_graphs(inputs)
    part = _part(inputs, chosen)
    exact = replace(part, S=part.S.double(), x=part.x.double(), edge_attr=part.edge_attr.double())
    with use_backend("reference"):
        expected = _with_gradients(exact)
    tolerance = TOLERANCE[inputs.S.dtype]
    for name, value in _with_gradients(part).items():
        _close(value, expected[name], tolerance, name)
    whole = tritonpool_op(inputs)
    clusters = chosen.repeat_interleave(inputs.clusters)
    pairs = chosen.repeat_interleave(inputs.clusters * (inputs.clusters - 1))
    for name, rows in (("X'", clusters), ("W", pairs), ("F'", pairs)):
        value = whole[name].detach()[rows]
        _close(value, expected[name], tolerance, f"{name} of the whole batch")


def _ragged(outputs: Outputs, inputs: Inputs) -> Outputs:
    """Padded results in our layout: clusters, and pairs without the diagonal, graph by graph."""
    K = int(inputs.clusters.max())
    used = torch.arange(K) < inputs.clusters[:, None]
    pairs = used[:, :, None] & used[:, None, :] & ~torch.eye(K, dtype=torch.bool)
    padded = {"X'": (3, used), "W": (3, pairs), "F'": (4, pairs)}
    return {
        name: value[padded[name][1]] if value.dim() == padded[name][0] else value
        for name, value in outputs.items()
        if name in padded
    }


def check_peers(inputs: Inputs, peers: Mapping[str, Peer] = PEERS) -> None:
    """Raise if the candidates disagree about what they compute."""
    own = tritonpool_op(inputs)
    for name, run in peers.items():
        for key, value in _ragged(run(inputs), inputs).items():
            torch.testing.assert_close(
                value, own[key], rtol=1e-3, atol=1e-4, msg=lambda m, who=(name, key): f"{who}: {m}"
            )
    loop = fork_loop(inputs, 1)["F'"]
    torch.testing.assert_close(own["F'"][: len(loop)], loop, rtol=1e-3, atol=1e-4)
