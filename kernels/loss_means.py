"""Both losses of a batch from those of its graphs, and the gradient: a launch each."""

from __future__ import annotations

import triton
import triton.language as tl
from torch import Tensor

from tritonpool.plan import Plan

from .launch import launch, ready, target_of
from .losses import EXACT
from .precision import TRITON, convert
from .tiles import blocks_of, tile_for

__all__ = ["loss_means_bwd", "loss_means_fwd"]

UNALIGNED = ("node_ptr", "r2_ptr", "ent_ptr", "dlink_ptr", "dentropy_ptr")


@triton.jit
def load_shares(node_ptr, g, G, ACC: tl.constexpr):
    """What one node of each graph counts in the mean over the graphs."""
    start = tl.load(node_ptr + g, g < G, 0)
    stop = tl.load(node_ptr + g + 1, g < G, 0)
    nodes = tl.maximum((stop - start).to(ACC), tl.full((), 1.0, ACC))
    return 1.0 / (nodes * G.to(ACC))


@triton.jit(do_not_specialize=("G",), do_not_specialize_on_alignment=UNALIGNED)
def loss_means_kernel(
    node_ptr,  # [G + 1] first node of each graph
    r2_ptr,  # [G]
    ent_ptr,  # [G]
    link_ptr,  # []
    entropy_ptr,  # []
    G,
    ACC: tl.constexpr,
    BG: tl.constexpr,
):
    """``link = sum_g sqrt(r2[g]) / (n[g] G)`` and ``entropy = sum_g ent[g] / (n[g] G)``, by one
    program."""
    link = tl.zeros((BG,), ACC)
    entropy = tl.zeros((BG,), ACC)
    for g0 in tl.range(0, G, BG, num_stages=1):
        g = g0 + tl.arange(0, BG)
        share = load_shares(node_ptr, g, G, ACC)
        link += tl.sqrt(convert(tl.load(r2_ptr + g, g < G, 0.0), ACC)) * share
        entropy += convert(tl.load(ent_ptr + g, g < G, 0.0), ACC) * share
    tl.store(link_ptr, convert(tl.sum(link, 0), link_ptr.dtype.element_ty))
    tl.store(entropy_ptr, convert(tl.sum(entropy, 0), entropy_ptr.dtype.element_ty))


@triton.jit(do_not_specialize=("G",), do_not_specialize_on_alignment=UNALIGNED)
def loss_means_grad_kernel(
    node_ptr,  # [G + 1] first node of each graph
    r2_ptr,  # [G]
    dlink_ptr,  # []
    dentropy_ptr,  # []
    dr2_ptr,  # [G]
    dent_ptr,  # [G]
    G,
    ACC: tl.constexpr,
    BG: tl.constexpr,
):
    """The gradients of both means, that of a residual of 0 being 0; a program owns BG graphs."""
    g = tl.program_id(0) * BG + tl.arange(0, BG)
    share = load_shares(node_ptr, g, G, ACC)
    r2 = convert(tl.load(r2_ptr + g, g < G, 0.0), ACC)
    zero = r2 == 0.0  # and not one that is NaN
    slope = tl.where(zero, 0.0, 0.5 / tl.sqrt(tl.where(zero, 1.0, r2)))
    dr2 = convert(tl.load(dlink_ptr), ACC) * share * slope
    dent = convert(tl.load(dentropy_ptr), ACC) * share
    tl.store(dr2_ptr + g, convert(dr2, dr2_ptr.dtype.element_ty), g < G)
    tl.store(dent_ptr + g, convert(dent, dent_ptr.dtype.element_ty), g < G)


def _arguments(r2: Tensor, plan: Plan) -> dict:
    """The arguments that both kernels share."""
    return {
        "node_ptr": plan.node_ptr,
        "r2_ptr": r2,
        "G": plan.num_graphs,
        "ACC": TRITON[EXACT],
    }


def loss_means_fwd(r2: Tensor, entropy: Tensor, plan: Plan) -> tuple[Tensor, Tensor]:
    """The mean over the graphs of the norm of the residual, and of the entropy, for each node."""
    r2, entropy = ready(r2), ready(entropy)
    means = r2.new_empty(()), r2.new_empty(())
    launch(
        loss_means_kernel,
        (1,),
        tile_for("loss_means", EXACT, target_of(r2)),
        ent_ptr=entropy,
        link_ptr=means[0],
        entropy_ptr=means[1],
        **_arguments(r2, plan),
    )
    return means


def loss_means_bwd(
    dlink: Tensor, dentropy: Tensor, r2: Tensor, plan: Plan
) -> tuple[Tensor, Tensor]:
    """Gradients of :func:`loss_means_fwd` w.r.t. both inputs."""
    r2 = ready(r2)
    grads = r2.new_empty(r2.shape), r2.new_empty(r2.shape)
    tile = tile_for("loss_means_grad", EXACT, target_of(r2))
    launch(
        loss_means_grad_kernel,
        (blocks_of(plan.num_graphs, tile.blocks["BG"]),),
        tile,
        dlink_ptr=dlink,
        dentropy_ptr=dentropy,
        dr2_ptr=grads[0],
        dent_ptr=grads[1],
        **_arguments(r2, plan),
    )
    return grads
