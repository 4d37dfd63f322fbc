"""The pooling of edges: which kernels run, in which order, on which tiles."""

from __future__ import annotations

import torch
import triton
from torch import Tensor

from tritonpool.dtypes import accumulate_in, weight_dtype
from tritonpool.plan import CoarsePlan, Plan

from .coarsen import (
    coarsen_bwd_assignment_kernel,
    coarsen_bwd_features_kernel,
    coarsen_fwd_kernel,
    weight_grad_kernel,
)
from .launch import launch, ready, target_of
from .pool import lift, node_grad, pool
from .precision import TRITON
from .tiles import Tile, tile_for
from .work import edge_pair_tiles, edge_tiles, pair_tiles

__all__ = ["coarsen_bwd", "coarsen_fwd"]


def _wide(C: int, tile: Tile) -> bool:
    """Whether the features need every column of a block; if not, a free one takes the weight."""
    return tile.blocks["BC"] <= C


def _common(
    S: Tensor,
    C: int,
    w: Tensor | None,
    plan: Plan,
    coarse: CoarsePlan,
    acc: torch.dtype,
    tile: Tile,
) -> dict:
    """The arguments that the three edge kernels share."""
    K = S.shape[1]
    return {
        "node_ptr": plan.node_ptr,
        "edge_ptr": plan.edge_ptr,
        "cluster_ptr": coarse.plan.node_ptr,
        "pair_ptr": coarse.plan.edge_ptr,
        "src_ptr": plan.src,
        "dst_ptr": plan.dst,
        "S_ptr": S,
        "w_ptr": S if w is None else w,
        "K": K,
        "C": C,
        "drop": int(coarse.drop_self_loops),
        "HAS_W": w is not None,
        "EVEN_K": K % 16 == 0,
        "EVEN_C": _wide(C, tile) and C % 4 == 0,
        "ACC": TRITON[acc],
    }


def coarsen_fwd(
    S: Tensor,
    X: Tensor,
    F: Tensor | None,
    w: Tensor | None,
    plan: Plan,
    coarse: CoarsePlan,
    eps: float,
) -> tuple[Tensor, Tensor, Tensor | None]:
    """Pool nodes, edge weights and edge features (the formulas: :func:`tritonpool.coarsen`)."""
    acc = accumulate_in(S, X, F, w)
    S, F, w = ready(S), ready(F), ready(w)
    C = 0 if F is None else F.shape[1]
    pairs = coarse.plan.num_edges
    W = S.new_empty(pairs, dtype=weight_dtype(S, w))
    Fc = None if F is None else F.new_empty(pairs, C)
    tile = tile_for("coarsen_fwd", acc, target_of(S), C)
    items = pair_tiles(plan, coarse, tile.blocks["BP"], tile.blocks["BQ"])
    launch(
        coarsen_fwd_kernel,
        (items.shape[0], triton.cdiv(max(C, 1), tile.blocks["BC"])),
        tile,
        items_ptr=items,
        F_ptr=F if C else S,
        W_ptr=W,
        Fc_ptr=Fc if C else W,
        EPS=eps,
        HAS_F=C > 0,
        WIDE=_wide(C, tile),
        **_common(S, C, w, plan, coarse, acc, tile),
    )
    return pool(S, X, plan, coarse, acc), W, Fc


def _edge_grads(
    dW: Tensor | None,
    dFc: Tensor | None,
    S: Tensor,
    F: Tensor | None,
    w: Tensor | None,
    W: Tensor,
    Fc: Tensor | None,
    plan: Plan,
    coarse: CoarsePlan,
    eps: float,
    need_w: bool,
    acc: torch.dtype,
) -> tuple[tuple[Tensor, Tensor], int, Tensor | None]:
    """What each edge adds to the rows of its ends, the width of the slices, and ``dw``."""
    C = 0 if dFc is None else dFc.shape[1]
    E, K = plan.num_edges, S.shape[1]
    tile = tile_for("coarsen_bwd_assignment", acc, target_of(S), C)
    width = tile.blocks["BQ"]
    slices = triton.cdiv(K, width)
    out = S.new_empty(slices, E, K, dtype=acc)
    into = S.new_empty(E, K, dtype=acc)
    share = S.new_empty(slices, E, dtype=acc) if need_w else out
    items = edge_pair_tiles(plan, coarse, tile.blocks["BE"], width)
    launch(
        coarsen_bwd_assignment_kernel,
        (items.shape[0],),
        tile,
        items_ptr=items,
        F_ptr=F if C else S,
        W_ptr=W,
        Fc_ptr=Fc if C else W,
        dW_ptr=torch.zeros_like(W) if dW is None else dW,
        dFc_ptr=dFc if C else W,
        T_ptr=out,
        U_ptr=into,
        R_ptr=share,
        E=E,
        EPS=eps,
        HAS_F=C > 0,
        WIDE=_wide(C, tile),
        NEED_W=need_w,
        **_common(S, C, w, plan, coarse, acc, tile),
    )
    if not need_w:
        return (out, into), width, None
    dw = torch.empty_like(w)
    tile = tile_for("weight_grad", acc, target_of(S))
    items = edge_tiles(plan, coarse, tile.blocks["BE"])
    launch(
        weight_grad_kernel,
        (items.shape[0],),
        tile,
        items_ptr=items,
        edge_ptr=plan.edge_ptr,
        cluster_ptr=coarse.plan.node_ptr,
        R_ptr=share,
        dw_ptr=dw,
        E=E,
        SLICE=width,
        ACC=TRITON[acc],
    )
    return (out, into), width, dw


def _feature_grad(
    dFc: Tensor,
    S: Tensor,
    F: Tensor,
    w: Tensor | None,
    W: Tensor,
    plan: Plan,
    coarse: CoarsePlan,
    eps: float,
    acc: torch.dtype,
) -> Tensor:
    dF = torch.empty_like(F)
    C = F.shape[1]
    tile = tile_for("coarsen_bwd_features", acc, target_of(S), C)
    items = edge_tiles(plan, coarse, tile.blocks["BE"])
    launch(
        coarsen_bwd_features_kernel,
        (items.shape[0], triton.cdiv(C, tile.blocks["BC"])),
        tile,
        items_ptr=items,
        W_ptr=W,
        dFc_ptr=dFc,
        dF_ptr=dF,
        EPS=eps,
        **_common(S, C, w, plan, coarse, acc, tile),
    )
    return dF


def coarsen_bwd(
    dXc: Tensor | None,
    dW: Tensor | None,
    dFc: Tensor | None,
    S: Tensor,
    X: Tensor,
    F: Tensor | None,
    w: Tensor | None,
    W: Tensor,
    Fc: Tensor | None,
    plan: Plan,
    coarse: CoarsePlan,
    eps: float,
    needs: tuple[bool, bool, bool, bool],
) -> tuple[Tensor | None, Tensor | None, Tensor | None, Tensor | None]:
    """Gradients of :func:`coarsen_fwd` w.r.t. ``S``, ``X``, ``F`` and ``w``, where needed."""
    need_S, need_X, need_F, need_w = needs
    acc = accumulate_in(S, X, F, w)
    S, X, F, w, W, Fc, dXc, dW, dFc = map(ready, (S, X, F, w, W, Fc, dXc, dW, dFc))
    dS = dX = dF = dw = None
    edges, width = None, 1
    if (dW is not None or dFc is not None) and (need_S or need_w):
        edges, width, dw = _edge_grads(
            dW, dFc, S, F, w, W, Fc, plan, coarse, eps, need_w, acc
        )  # fmt: skip
    elif need_w:
        dw = torch.zeros_like(w)
    if need_F:
        dF = torch.zeros_like(F)
        if dFc is not None:
            dF = _feature_grad(dFc, S, F, w, W, plan, coarse, eps, acc)
    if need_X:
        dX = torch.zeros_like(X) if dXc is None else lift(S, dXc, plan, coarse, acc, X.dtype)
    if need_S:
        nodes = None if dXc is None else (X, dXc)
        dS = node_grad(S, nodes, edges, width, plan, coarse, acc)
    return dS, dX, dF, dw
