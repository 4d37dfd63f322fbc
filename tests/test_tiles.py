"""Tile sizes and targets, and the arithmetic of the split product."""

import inspect

import pytest
import torch
import triton
import triton.language as tl

from tritonpool.kernels.launch import ready, recording, target_of
from tritonpool.kernels.precision import dot, split
from tritonpool.kernels.tiles import TARGETS, nearest_target, tile_for
from tritonpool.kernels.work import LEAST_SLICE

KERNELS = (
    "coarsen_fwd", "coarsen_bwd_assignment", "coarsen_bwd_features", "weight_grad", "pool", "lift",
    "node_grad", "losses_fwd", "losses_total", "losses_bwd", "losses_weight_grad",
    "segment_sum", "segment_spread", "messages", "messages_grad",
    "shares", "shares_grad", "softmax", "softmax_grad",
)  # fmt: skip


@pytest.mark.parametrize(
    ("target", "nearest"),
    [
        ("sm_80", "sm_80"), ("sm_86", "sm_80"), ("sm_89", "sm_80"), ("sm_90", "sm_90"),
        ("sm_100", "sm_100"), ("sm_103", "sm_100"), ("sm_120", "sm_80"), ("sm_121", "sm_80"),
        ("gfx942", "gfx942"), ("gfx950", "gfx942"), ("interpret", "sm_90"),
    ],
)  # fmt: skip
def test_every_card_follows_a_target_of_the_table(target, nearest):
    assert nearest_target(target) == nearest


@pytest.mark.parametrize("kernel", KERNELS)
@pytest.mark.parametrize("target", [*TARGETS, "interpret"])
def test_every_tile_is_one_that_triton_takes(kernel, target):
    exact = kernel.startswith("loss")  # always in float64
    for accumulate in (torch.float64,) if exact else (torch.float32, torch.float64):
        for C in (0, 14, 16, 64, 300):
            tile = tile_for(kernel, accumulate, target, C)
            assert all(size & (size - 1) == 0 for size in tile.blocks.values())
            assert tile.warps in (1, 2, 4, 8)
            if "BC" in tile.blocks and C < 16:
                assert tile.blocks["BC"] > C  # room for the total weight
            if kernel == "coarsen_bwd_assignment":
                assert tile.blocks["BQ"] >= LEAST_SLICE


def test_precision_follows_the_target():
    assert tile_for("pool", torch.float32, "sm_80").precision == "x3"
    assert tile_for("pool", torch.float32, "interpret").precision == "x3"
    assert tile_for("pool", torch.float32, "gfx942").precision == "ieee"
    assert tile_for("pool", torch.float64, "sm_90").precision == "ieee"
    assert tile_for("node_grad", torch.float32, "sm_80").registers == 255
    assert tile_for("node_grad", torch.float64, "gfx942").registers is None


def test_tiles_know_nothing_about_the_batch():
    assert list(inspect.signature(tile_for).parameters) == ["kernel", "accumulate", "target", "C"]


def test_the_target_of_a_tensor():
    tensor = torch.zeros(3)
    with recording("gfx942") as calls:
        assert target_of(tensor) == "gfx942"
    assert calls == []
    if not torch.cuda.is_available():
        assert target_of(tensor) == "interpret"


def test_ready_tensors_are_aligned_and_contiguous():
    base = torch.arange(12.0).view(3, 4)
    assert ready(base) is base
    assert ready(None) is None
    shifted = base.flatten()[1:]
    assert ready(shifted).data_ptr() % 16 == 0
    assert torch.equal(ready(shifted), shifted)
    assert torch.equal(ready(base.t()), base.t())
    assert ready(base.t()).is_contiguous()


@triton.jit
def split_kernel(x_ptr, high_ptr, low_ptr, N: tl.constexpr):
    i = tl.arange(0, N)
    high, low = split(tl.load(x_ptr + i))
    tl.store(high_ptr + i, high)
    tl.store(low_ptr + i, low)


@triton.jit
def product_kernel(a_ptr, b_ptr, c_ptr, N: tl.constexpr, PRECISION: tl.constexpr):
    at = tl.arange(0, N)[:, None] * N + tl.arange(0, N)[None, :]
    acc = dot(tl.load(a_ptr + at), tl.load(b_ptr + at), tl.zeros((N, N), tl.float32), PRECISION)
    tl.store(c_ptr + at, acc)


def halves(x):
    high, low = torch.empty_like(x), torch.empty_like(x)
    split_kernel[(1,)](x, high, low, N=x.numel())
    return high, low


def as_tf32(x):
    """What a tensor core reads of a float32 number: 10 bits after the point, the rest cut off."""
    return (x.view(torch.int32) & ~0x1FFF).view(torch.float32).double()


DEVICE = "cuda" if torch.cuda.is_available() else "cpu"


def test_three_tf32_products_are_as_good_as_float32():
    a, b = torch.rand(32, 32, device=DEVICE), torch.randn(32, 32, device=DEVICE)
    a_high, a_low = (t.view(32, 32) for t in halves(a.flatten()))
    b_high, b_low = (t.view(32, 32) for t in halves(b.flatten()))
    assert torch.equal(a_high + a_low, a)
    assert torch.equal(as_tf32(a_high), a_high.double())
    exact = a.double() @ b.double()

    def error(product):
        return float((product - exact).norm() / exact.norm())

    pairs = [(a_low, b_high), (a_high, b_low), (a_high, b_high)]
    assert error(sum(as_tf32(x) @ as_tf32(y) for x, y in pairs)) < 1e-6
    assert error(as_tf32(a) @ as_tf32(b)) > 1e-4
    assert error(as_tf32(a_low) @ as_tf32(b_high) + as_tf32(a_high) @ as_tf32(b_high)) > 1e-4
    for precision in ("x3", "ieee"):
        found = torch.empty_like(a)
        product_kernel[(1,)](a, b, found, N=32, PRECISION=precision)
        assert error(found.double()) < 1e-6
