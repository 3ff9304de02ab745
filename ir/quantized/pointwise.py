"""Integer operators element by element: between float and codes, between scales, and tables of functions.

    real value = scale · (code - zero)

Only `quantize` and `dequantize` see floats. What has a `low` and a `high` clamps: ReLU, ReLU6 and the dtype's own
range are these two numbers.
"""

from __future__ import annotations

import torch
from torch import Tensor

from ...errors import QuantizationError
from ..dyadic import requantized, shifted
from .accumulate import centered, fits, wide

SEGMENT_BITS = 7
"""A curve over 16 bits has 512 segments of 128 codes."""


def quantize(x: Tensor, scale: float, zero: int, low: int, high: int, dtype: torch.dtype) -> Tensor:
    """Codes of floats, in float32: clamp(zero + round(x / scale)), ties to even as every CPU converts; NaN is `low`."""
    fits(low, high, dtype)
    steps = x.to(torch.float32) / torch.tensor(scale, dtype=torch.float32)
    least, most = float(low - zero), float(high - zero)
    steps = torch.where(steps >= least, steps, least)  # false for NaN
    return (torch.where(steps <= most, steps, most).round().to(torch.int64) + zero).to(dtype)


def dequantize(x: Tensor, scale: Tensor, zero: int) -> Tensor:
    """float32(code - zero) · scale; the scale is one, or one a channel, in float32."""
    return centered(x, zero).to(torch.float32) * scale.to(torch.float32)


def rounded(x: Tensor, scale: float, zero: int, low: int, high: int) -> Tensor:
    """What the codes of floats stand for: dequantize(quantize(x)), in the dtype of x."""
    codes = quantize(x, scale, zero, low, high, torch.uint8)
    return dequantize(codes, torch.tensor(scale), zero).to(x.dtype)


def requantize(
    x: Tensor,
    multiplier: Tensor,
    shift: Tensor,
    x_zero: int,
    zero: int,
    low: int,
    high: int,
    dtype: torch.dtype,
) -> Tensor:
    """clamp(zero + (x - x_zero) · multiplier · 2^-shift): to another scale, by one ratio or one a channel or place."""
    fits(low, high, dtype)
    result = requantized(centered(x, x_zero), multiplier, shift, zero, low, high)
    if result.shape != x.shape:
        raise QuantizationError(
            f"Multipliers of shape {tuple(multiplier.shape)} do not broadcast to {tuple(x.shape)}.",
            "Give one, or as many as the dimension has that they belong to.",
        )
    return result.to(dtype)


def add(
    a: Tensor,
    b: Tensor,
    a_multiplier: Tensor,
    b_multiplier: Tensor,
    shift: Tensor,
    a_zero: int,
    b_zero: int,
    zero: int,
    low: int,
    high: int,
    dtype: torch.dtype,
) -> Tensor:
    """clamp(zero + ((a - a_zero) · ma + (b - b_zero) · mb) · 2^-shift), rounded once; a difference has negative mb.

    Multipliers have at most 30 bits, so that both products fit: `dyadic.sum_multipliers`.
    """
    fits(low, high, dtype)
    total = centered(a, a_zero) * a_multiplier + centered(b, b_zero) * b_multiplier
    return (shifted(total, shift).clamp(low - zero, high - zero) + zero).to(dtype)


def lookup(x: Tensor, table: Tensor) -> Tensor:
    """table[x - least code]: any function of 8 bits, rounded as well as 8 bits can be."""
    if x.dtype.itemsize != 1 or table.shape != (256,):
        raise QuantizationError(
            f"A table of shape {tuple(table.shape)} is looked up with {x.dtype}.",
            "Tables have 256 entries and are looked up with 8 bits.",
        )
    return table[wide(x) - torch.iinfo(x.dtype).min]


def curve(x: Tensor, coefficients: Tensor, shift: int, low: int, high: int, dtype: torch.dtype) -> Tensor:
    """(c0 + c1 t + c2 t²) · 2^-shift, rounded and clamped: a function of int16 codes by 512 parabolas.

    The upper 9 bits of the code choose a row of `coefficients` (512, 3), int32; t in -64..63 is the lower 7 bits.
    Every step fits 32 bits: `constants.curve_coefficients` makes them so and checks all 65,536 results.
    """
    fits(low, high, dtype)
    if x.dtype != torch.int16 or coefficients.shape != (1 << (16 - SEGMENT_BITS), 3):
        raise QuantizationError(
            f"A curve of shape {tuple(coefficients.shape)} is evaluated at {x.dtype}.",
            "Curves have 512 rows of 3 and are evaluated at int16.",
        )
    code = wide(x) + 2**15
    c0, c1, c2 = wide(coefficients)[code >> SEGMENT_BITS].unbind(-1)
    t = (code & ((1 << SEGMENT_BITS) - 1)) - (1 << (SEGMENT_BITS - 1))
    return shifted((c2 * t + c1) * t + c0, shift).clamp(low, high).to(dtype)
