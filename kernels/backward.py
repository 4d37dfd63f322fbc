"""The gradients of ``coarsen_fwd`` and ``lift_fwd``: which kernels run, and in which order."""

from __future__ import annotations

import torch
from torch import Tensor

from tritonpool.coarse_plan import CoarsePlan
from tritonpool.dtypes import accumulate_in
from tritonpool.plan import Plan

from .coarsen import edge_arguments, is_wide, unit
from .coarsen_grad import (
    coarsen_bwd_assignment_kernel,
    coarsen_bwd_features_kernel,
    weight_grad_kernel,
)
from .launch import forked, launch, ready, target_of
from .node_grad import node_grad
from .pool import lift, pool
from .precision import TRITON, widen
from .tiles import blocks_of, tile_for
from .work import ROW, edge_pair_tiles, edge_tiles, scratch_size

__all__ = ["coarsen_bwd", "lift_bwd"]


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
) -> tuple[Tensor, int, Tensor | None]:
    """What each edge adds to the rows of its ends, the width of the slices, and ``dw``."""
    C = 0 if dFc is None else dFc.shape[1]
    tile = tile_for("coarsen_bwd_assignment", acc, target_of(S), C)
    width = tile.blocks["BQ"]
    rows = S.new_empty(scratch_size(plan, coarse), dtype=acc)
    share = S.new_empty(len(rows) // ROW.value, dtype=acc) if need_w else rows
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
        T_ptr=rows,
        R_ptr=share,
        EPS=eps,
        HAS_F=C > 0,
        WIDE=is_wide(C, tile),
        NEED_W=need_w,
        UNIT=unit(C),
        **edge_arguments(S, C, w, plan, coarse, acc),
    )
    if not need_w:
        return rows, width, None
    dw = torch.empty_like(w)
    tile = tile_for("weight_grad", acc, target_of(S))
    items = edge_tiles(plan, coarse, tile.blocks["BE"])
    launch(
        weight_grad_kernel,
        (items.shape[0],),
        tile,
        items_ptr=items,
        R_ptr=share,
        dw_ptr=dw,
        SLICE=width,
        ACC=TRITON[acc],
    )
    return rows, width, dw


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
        (items.shape[0], blocks_of(C, tile.blocks["BC"])),
        tile,
        items_ptr=items,
        W_ptr=W,
        dFc_ptr=dFc,
        dF_ptr=dF,
        EPS=eps,
        UNIT=unit(C),
        **edge_arguments(S, C, w, plan, coarse, acc),
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
    dtypes = [None if t is None else t.dtype for t in (S, X, F, w)]
    given = widen(acc, S, X, F, w, W, Fc, dXc, dW, dFc)
    S, X, F, w, W, Fc, dXc, dW, dFc = map(ready, given)
    dS = dX = dF = dw = None
    with forked(S) as beside:
        with beside():
            if need_F and dFc is None:
                dF = torch.zeros_like(F)
            elif need_F:
                dF = _feature_grad(dFc, S, F, w, W, plan, coarse, eps, acc)
            if need_X:
                dX = (
                    torch.zeros_like(X) if dXc is None else lift(S, dXc, plan, coarse, acc, X.dtype)
                )
        edges, width = None, 1
        if (dW is not None or dFc is not None) and (need_S or need_w):
            edges, width, dw = _edge_grads(
                dW, dFc, S, F, w, W, Fc, plan, coarse, eps, need_w, acc
            )  # fmt: skip
        elif need_w:
            dw = torch.zeros_like(w)
        if need_S:
            nodes = None if dXc is None else (X, dXc)
            dS = node_grad(S, nodes, edges, width, plan, coarse, acc)
    return tuple(
        None if grad is None else grad.to(dtype)
        for grad, dtype in zip((dS, dX, dF, dw), dtypes, strict=True)
    )


def lift_bwd(
    dY: Tensor, S: Tensor, Xc: Tensor, plan: Plan, coarse: CoarsePlan, needs: tuple[bool, bool]
) -> tuple[Tensor | None, Tensor | None]:
    """Gradients of :func:`lift_fwd` w.r.t. ``S`` and ``Xc``, where needed."""
    acc = accumulate_in(S, Xc)
    dtypes = S.dtype, Xc.dtype
    dY, S, Xc = map(ready, widen(acc, dY, S, Xc))
    dS = node_grad(S, (dY, Xc), None, 1, plan, coarse, acc).to(dtypes[0]) if needs[0] else None
    dXc = pool(S, dY, plan, coarse, acc).to(dtypes[1]) if needs[1] else None
    return dS, dXc
