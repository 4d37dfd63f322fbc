"""The messages of a D-MPNN on weighted edges, and their gradients.

A program owns one node and BD features: it adds up what reaches the node once, for all edges that
leave it, and takes from each what came back along it.
"""

from __future__ import annotations

import torch
import triton
import triton.language as tl
from torch import Tensor

from tritonpool.dtypes import accumulate_in
from tritonpool.plan import Plan

from .launch import launch, ready
from .loads import load_features, load_segment, load_slots, load_weights
from .precision import convert
from .segments import arguments_of, gathered, sum_parts, weight_parts

__all__ = ["messages_bwd", "messages_fwd"]

UNALIGNED = "in_ptr", "in_edge_ptr", "out_ptr", "out_edge_ptr", "rev_ptr"


@triton.jit(do_not_specialize=("D",), do_not_specialize_on_alignment=UNALIGNED)
def messages_kernel(
    in_ptr,  # [V + 1] each node's part of in_edge
    in_edge_ptr,  # [E] edges by target
    out_ptr,  # [V + 1] each node's part of out_edge
    out_edge_ptr,  # [E] edges by source
    rev_ptr,  # [E] reverse of each edge, or -1
    w_ptr,  # [E]
    H_ptr,  # [E, D]
    M_ptr,  # [E, D]
    D,
    HAS_W: tl.constexpr,
    EVEN_D: tl.constexpr,
    ACC: tl.constexpr,
    BS: tl.constexpr,
    BD: tl.constexpr,
):
    """``M[u -> v] = sum_{k -> u} w_ku H_ku - w_vu H_vu`` for the edges out of one node ``u``."""
    u = tl.program_id(0).to(tl.int64)
    d = tl.program_id(1) * BD + tl.arange(0, BD)
    if EVEN_D:
        D = D // 4 * 4
    start, n = load_segment(out_ptr, u)
    first, into = load_segment(in_ptr, u)
    into = tl.where(n > 0, into, 0)  # without edges out of it nobody asks
    total = gathered(
        H_ptr, w_ptr, in_edge_ptr, in_edge_ptr, first, into, d, D, HAS_W, True, ACC, BS, BD
    )  # fmt: skip
    for s0 in tl.range(0, n, BS, num_stages=1):
        s = s0 + tl.arange(0, BS)
        e = load_slots(out_edge_ptr, start, s, s < n, True)
        back = tl.load(rev_ptr + e, s < n, -1)
        rows = load_features(H_ptr, back, back >= 0, d, D, ACC)
        if HAS_W:
            rows *= load_weights(w_ptr, back, back >= 0, True, ACC)[:, None]
        message = total[None, :] - rows
        m_ptr = M_ptr + e[:, None] * D + d[None, :]
        mask = (s < n)[:, None] & (d < D)[None, :]
        tl.store(m_ptr, convert(message, M_ptr.dtype.element_ty), mask)


@triton.jit(do_not_specialize=("D", "E"), do_not_specialize_on_alignment=UNALIGNED)
def messages_grad_kernel(
    in_ptr,  # [V + 1] each node's part of in_edge
    in_edge_ptr,  # [E] edges by target
    out_ptr,  # [V + 1] each node's part of out_edge
    out_edge_ptr,  # [E] edges by source
    rev_ptr,  # [E] reverse of each edge, or -1
    w_ptr,  # [E]
    H_ptr,  # [E, D]
    G_ptr,  # [E, D] gradient of the messages
    dH_ptr,  # [E, D]
    dw_ptr,  # [blocks of D, E]
    D,
    E,
    HAS_W: tl.constexpr,
    NEED_X: tl.constexpr,
    NEED_W: tl.constexpr,
    EVEN_D: tl.constexpr,
    ACC: tl.constexpr,
    BS: tl.constexpr,
    BD: tl.constexpr,
):
    """``dH_kv = w_kv g_kv`` and ``dw_kv = <H_kv, g_kv>`` for the edges into one node ``v``, where
    ``g_kv = sum_{v -> x} G_vx - G_vk`` is what reaches the product of state and weight."""
    v = tl.program_id(0).to(tl.int64)
    d = tl.program_id(1) * BD + tl.arange(0, BD)
    if EVEN_D:
        D = D // 4 * 4
    start, n = load_segment(in_ptr, v)
    first, out = load_segment(out_ptr, v)
    out = tl.where(n > 0, out, 0)
    total = gathered(
        G_ptr, w_ptr, out_edge_ptr, out_edge_ptr, first, out, d, D, False, True, ACC, BS, BD
    )  # fmt: skip
    dw_ptr += tl.program_id(1).to(tl.int64) * E
    for s0 in tl.range(0, n, BS, num_stages=1):
        s = s0 + tl.arange(0, BS)
        there = s < n
        e = load_slots(in_edge_ptr, start, s, there, True)
        back = tl.load(rev_ptr + e, there, -1)
        found = total[None, :] - load_features(G_ptr, back, back >= 0, d, D, ACC)
        if NEED_W:
            rows = load_features(H_ptr, e, there, d, D, ACC)
            tl.store(dw_ptr + e, tl.sum(rows * found, 1), there)
        if NEED_X:
            if HAS_W:
                found = found * load_weights(w_ptr, e, there, True, ACC)[:, None]
            dh_ptr = dH_ptr + e[:, None] * D + d[None, :]
            mask = there[:, None] & (d < D)[None, :]
            tl.store(dh_ptr, convert(found, dH_ptr.dtype.element_ty), mask)


def _ends(plan: Plan, rev: Tensor) -> dict[str, Tensor]:
    return {
        "in_ptr": plan.in_ptr,
        "in_edge_ptr": plan.in_edge,
        "out_ptr": plan.out_ptr,
        "out_edge_ptr": plan.out_edge,
        "rev_ptr": rev.contiguous(),
    }


def messages_fwd(H: Tensor, w: Tensor | None, rev: Tensor, plan: Plan) -> Tensor:
    """The messages of a D-MPNN (the formula: :func:`tritonpool.segments.edge_messages`)."""
    H, w = ready(H), ready(w)
    M = torch.empty_like(H)
    grid, common = arguments_of("messages", H, accumulate_in(H, w), plan.num_nodes)
    launch(
        messages_kernel,
        grid,
        w_ptr=H if w is None else w,
        H_ptr=H,
        M_ptr=M,
        HAS_W=w is not None,
        **_ends(plan, rev),
        **common,
    )
    return M


def messages_bwd(
    grad: Tensor,
    H: Tensor | None,
    w: Tensor | None,
    rev: Tensor,
    plan: Plan,
    needs: tuple[bool, bool],
) -> tuple[Tensor | None, Tensor | None]:
    """Gradients of :func:`messages_fwd` w.r.t. ``H``, which only that of ``w`` asks for, and
    ``w``, where needed."""
    grad, H, w = ready(grad), ready(H), ready(w)
    acc = accumulate_in(grad, w)
    grid, common = arguments_of("messages_grad", grad, acc, plan.num_nodes)
    dH = torch.empty_like(grad) if needs[0] else None
    parts = weight_parts(grad, grid[1], plan.num_edges, acc) if needs[1] else None
    launch(
        messages_grad_kernel,
        grid,
        w_ptr=grad if w is None else w,
        H_ptr=grad if H is None else H,
        G_ptr=grad,
        dH_ptr=grad if dH is None else dH,
        dw_ptr=grad if parts is None else parts,
        E=plan.num_edges,
        HAS_W=w is not None,
        NEED_X=needs[0],
        NEED_W=needs[1],
        **_ends(plan, rev),
        **common,
    )
    return dH, None if parts is None else sum_parts(parts, w)
