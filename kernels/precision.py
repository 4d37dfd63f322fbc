"""Matrix products as accurate as float32 on tensor cores that read 10 mantissa bits."""

from __future__ import annotations

import torch
import triton
import triton.language as tl
from torch import Tensor

__all__ = ["TRITON", "convert", "dot", "split", "widen"]

HALVES = torch.float16, torch.bfloat16
TRITON = {torch.float32: tl.float32, torch.float64: tl.float64}


def widen(acc: torch.dtype, *tensors: Tensor | None) -> list[Tensor | None]:
    """The tensors, those in half precision in float32 if sums are formed in float64: Triton cannot
    compile a float64 product that is fed from half precision."""
    if acc != torch.float64:
        return list(tensors)
    return [t.float() if t is not None and t.dtype in HALVES else t for t in tensors]


@triton.jit
def convert(x, dtype: tl.constexpr):
    """``x`` in another floating dtype. bfloat16 goes through float32, the only way that is right
    in Triton's interpreter, which otherwise computes with its bit patterns."""
    if x.dtype == tl.bfloat16 or dtype == tl.bfloat16:
        x = x.to(tl.float32)
    return x.to(dtype)


@triton.jit
def split(x):
    """``x = high + low``, where ``high`` is exact in tf32 (13 low mantissa bits cleared)."""
    high = (x.to(tl.int32, bitcast=True) & -8192).to(tl.float32, bitcast=True)
    return high, x - high


@triton.jit
def dot(a, b, acc, PRECISION: tl.constexpr):
    """``acc + a @ b``. ``"x3"``: three tf32 products of the split operands, whose error is that of
    float32; what is left out, low times low, lies below its rounding. ``"ieee"``: as it stands."""
    if PRECISION == "x3":
        a_high, a_low = split(a)
        b_high, b_low = split(b)
        acc = tl.dot(a_low, b_high, acc, input_precision="tf32")
        acc = tl.dot(a_high, b_low, acc, input_precision="tf32")
        return tl.dot(a_high, b_high, acc, input_precision="tf32")
    return tl.dot(a, b, acc, input_precision="ieee", out_dtype=acc.dtype)
