"""From scales to integers: what an integer graph's constants are made of, when it is made.

    table[code] = codes_y(f(values_x(code)))            softmax: s · log2(e) · 2^24 as a dyadic number
    norm:  weight = gamma / s_y · 2^(c - F),  bias = beta / s_y · 2^c,  eps = n² eps / s_x² · 2^k

Everything is computed in float64 and rounded once, ties up.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from ...errors import QuantizationError
from ..dyadic import BITS, INT32, Dyadic, integer
from ..types import QuantParams
from .fixed import EXP2_FRACTION
from .pointwise import SEGMENT_BITS, curve
from .rows import fraction, spare
from .windows import AVERAGE, sum_pool

Function = Callable[[Tensor], Tensor]
"""A pointwise function of float64 tensors."""
CURVE_SHIFT = 14
"""Bits after the point of a curve's coefficients: 16 before it, and every step fits 32."""
_INSTEAD = "give its argument codes of 8 bits, write it with clamp, add and mul, or keep it in float."


def table(function: Function, x: QuantParams, y: QuantParams) -> Tensor:
    """The 256 entries of a function of 8-bit codes."""
    limits = torch.iinfo(x.dtype)
    if limits.max - limits.min != 255:
        raise QuantizationError(f"A table cannot be made for {x.dtype}.", "Tables take 8 bits; use a curve for int16.")
    codes = torch.arange(limits.min, limits.max + 1).clamp(x.low, x.high)
    return y.codes(function(x.values(codes)))


def curve_coefficients(function: Function, x: QuantParams, y: QuantParams) -> Tensor:
    """(512, 3) coefficients of `planish::curve` with the shift CURVE_SHIFT, or an error where it is off by more than 1.

    A parabola a segment by least squares; lower coefficients are fitted again after higher ones are rounded.
    """
    codes = torch.arange(-(2**15), 2**15)
    exact = function(x.values(codes.clamp(x.low - 1, x.high + 1))) / y.scale + y.zero
    exact = exact.clamp(y.low - 256, y.high + 256)
    if not bool(exact.isfinite().all()):
        raise QuantizationError(
            "A function of int16 codes is NaN somewhere.", "Narrow its argument's range, or keep it in float."
        )
    half = 1 << (SEGMENT_BITS - 1)
    t = torch.arange(-half, half, dtype=torch.float64)
    rest = exact.reshape(-1, 2 * half) * 2.0**CURVE_SHIFT
    found: list[Tensor] = []
    for power in (2, 1, 0):
        basis = torch.stack([t**k for k in range(power + 1)], 1)
        fitted = (rest @ torch.linalg.pinv(basis).T)[:, power]
        found.insert(0, (fitted + 0.5).floor())
        rest = rest - found[0][:, None] * t**power
    coefficients = torch.stack(found, 1).clamp(*INT32).to(torch.int32)
    _steps_fit(coefficients)
    got = curve(codes.to(torch.int16), coefficients, CURVE_SHIFT, y.low, y.high, y.dtype)
    worst = float((got - exact.clamp(y.low, y.high)).abs().max())
    if worst > 1:
        raise QuantizationError(
            f"A function of int16 codes is off by {worst:.2f} codes as a curve of parabolas.",
            f"It bends too sharply: {_INSTEAD}",
        )
    return coefficients


def _steps_fit(coefficients: Tensor) -> None:
    """Refuse a curve that a kernel could not evaluate in 32 bits."""
    c0, c1, c2 = coefficients.to(torch.int64)[:, None].unbind(-1)
    t = torch.arange(-(1 << (SEGMENT_BITS - 1)), 1 << (SEGMENT_BITS - 1))
    slope = (c2 * t + c1) * t
    room = INT32[1] - (1 << (CURVE_SHIFT - 1))
    if max(int(step.abs().max()) for step in (c2 * t + c1, slope, slope + c0)) > room:
        raise QuantizationError(
            "A function of int16 codes is too steep for a curve of parabolas in 32 bits.",
            f"Look for a jump: {_INSTEAD}",
        )


def softmax_scale(scale: float) -> Dyadic:
    """From steps of the input to octaves with 24 bits after the point."""
    return Dyadic.of(scale * math.log2(math.e) * 2.0**EXP2_FRACTION)


@dataclass(frozen=True)
class NormConstants:
    """Arguments of `planish::layer_norm` and `planish::rms_norm`."""

    weight: Tensor
    bias: Tensor
    eps: int
    shift: int


def norm(gamma: Tensor, beta: Tensor, eps: float, count: int, x: QuantParams, y: QuantParams) -> NormConstants:
    """Constants for rows of `count` elements; one shift for all channels, set by the largest gamma or beta."""
    gain = gamma.to(torch.float64) / y.scale * 2.0 ** -fraction(count)
    offset = beta.to(torch.float64) / y.scale
    largest, farthest = float(gain.abs().max()), float(offset.abs().max())
    if not (math.isfinite(largest) and math.isfinite(farthest) and math.isfinite(eps) and eps >= 0):
        raise QuantizationError("A norm's gain, offset or eps is NaN, infinite or negative.", "Look at its parameters.")
    shift = min(62, BITS - 1 - math.frexp(largest)[1], 61 - math.frexp(farthest)[1])
    added = eps * (count / x.scale) ** 2 * 2.0 ** spare(count, x.dtype)
    if shift < 1 or added >= 2.0**61:
        raise QuantizationError(
            "A norm's gain, offset or eps is too large for its input's and output's scales.",
            "Look for a calibrated range that is nearly zero.",
        )
    weight, bias = (_integers(values, shift) for values in (gain, offset))
    return NormConstants(weight, bias, integer(added), shift)


def interpolation(matrix: Tensor, bits: int) -> tuple[Tensor, Tensor]:
    """(places, weights) of `planish::resize` for a float64 matrix (outputs, inputs), weights times 2^bits.

    Each row's weights add up to the row's sum exactly, so that what is constant stays so.
    """
    taps = max(int((matrix != 0).sum(1).max()), 1)
    places = torch.sort((matrix != 0).to(torch.int8), dim=1, descending=True, stable=True).indices[:, :taps]
    exact = torch.gather(matrix.to(torch.float64), 1, places)
    weights = _integers(exact, bits)
    missing = _integers(exact.sum(1), bits) - weights.sum(1)
    heaviest = exact.abs().argmax(1, keepdim=True)
    weights.scatter_add_(1, heaviest, missing[:, None])
    return places.T.contiguous(), weights.T.contiguous().to(torch.int32)


def divisors(
    extents: Sequence[int],
    kernel: Sequence[int],
    stride: Sequence[int],
    padding: Sequence[int],
    ceil_mode: bool,
    count_include_pad: bool,
) -> Tensor:
    """What an average pool over an image of `extents` divides each window's sum by, float64, one a place."""
    ones = torch.ones((1, 1, *extents), dtype=torch.float64)
    pool = AVERAGE[len(kernel)]
    means = pool(ones, kernel, stride, padding, ceil_mode, count_include_pad)
    inside = sum_pool(ones.to(torch.uint8), 0, kernel, stride, padding, ceil_mode)
    result: Tensor = (inside / means).round()[0, 0]
    return result


def _integers(values: Tensor, bits: int) -> Tensor:
    """values · 2^bits, rounded, ties up, in int64."""
    return torch.tensor([integer(math.ldexp(v, bits)) for v in values.flatten().tolist()]).reshape(values.shape)
