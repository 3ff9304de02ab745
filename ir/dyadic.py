"""Dyadic numbers: a positive ratio of scales as a multiplier of 31 bits and a shift.

    r ≈ b · 2^-c,   2^30 <= b < 2^31,   |b · 2^-c - r| <= r · 2^-31
    scaled(x, b, c) = (x · b + 2^(c-1)) >> c,   requantized(x) = clamp(z + scaled(x, b, c), low, high)

The shift is arithmetic and the sum exact in 64 bits, so the result is x · b · 2^-c rounded to the nearest, ties up.
For c >= 63 that is 0; for c <= 0 nothing is shifted out and the product saturates at 64 bits. It differs from
x · r rounded so only where x · r lies within |x · r| · 2^-31 of a tie, and there by 1.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from ..errors import QuantizationError

BITS = 31
"""Bits of a multiplier: |x| <= 2^31 times it fits 63 bits."""
SUM_BITS = 30
"""Bits of the multipliers of a sum of two: both products and the rounding together fit 63 bits."""
SHIFTS = range(-31, 95)
"""Shifts that a ratio may have; one beyond them, less than 2^-64 or 2^62 and more, comes from a broken scale."""
INT32 = (-(2**31), 2**31 - 1)
INT64 = (-(2**63), 2**63 - 1)


@dataclass(frozen=True)
class Dyadic:
    """multiplier · 2^-shift, normalized: the multiplier has exactly 31 bits."""

    multiplier: int
    shift: int

    def __post_init__(self) -> None:
        """Refuse what is not normalized or out of range."""
        if not 2 ** (BITS - 1) <= self.multiplier < 2**BITS or self.shift not in SHIFTS:
            raise QuantizationError(
                f"{self.multiplier} · 2^-{self.shift} is not a normalized dyadic number.",
                f"Make it by Dyadic.of(ratio): {BITS} bits, a shift from {SHIFTS[0]} to {SHIFTS[-1]}.",
            )

    @classmethod
    def of(cls, ratio: float) -> Dyadic:
        """The nearest to a float64 ratio, which is taken as exact; ties up."""
        mantissa, exponent = _split(ratio)
        multiplier, shift = _round_up(mantissa, 53 - BITS), BITS - exponent
        if multiplier == 2**BITS:  # a ratio just under a power of two
            multiplier, shift = multiplier // 2, shift - 1
        if shift not in SHIFTS:
            raise QuantizationError(
                f"The ratio {ratio!r} of scales is out of range: it must lie between 2^-64 and 2^62.",
                "Look for a value whose calibrated range is nearly zero or is huge.",
            )
        return cls(multiplier, shift)

    def __float__(self) -> float:
        """The value, which float64 holds exactly."""
        return math.ldexp(self.multiplier, -self.shift)


def multipliers(ratios: Sequence[float]) -> tuple[Tensor, Tensor]:
    """One dyadic number a ratio, as int64 tensors of multipliers and shifts."""
    numbers = [Dyadic.of(ratio) for ratio in ratios]
    return torch.tensor([n.multiplier for n in numbers]), torch.tensor([n.shift for n in numbers])


def sum_multipliers(*ratios: float) -> tuple[tuple[int, ...], int]:
    """Multipliers of at most 30 bits and one shift: x1 r1 + x2 r2 is then rounded once. In a difference r2 is negative.

    The largest ratio sets the shift c, so that each multiplier is right within 2^-(c+1).
    """
    shift = SUM_BITS - max(_split(abs(ratio))[1] for ratio in ratios)
    if shift - 1 not in SHIFTS or shift not in SHIFTS:
        raise QuantizationError(
            f"The ratios {ratios} of scales are out of range: the largest must lie between 2^-64 and 2^60.",
            "Look for a value whose calibrated range is nearly zero or is huge.",
        )
    if max(integer(math.ldexp(abs(ratio), shift)) for ratio in ratios) == 2**SUM_BITS:  # just under a power of two
        shift -= 1
    return tuple(integer(math.ldexp(ratio, shift)) for ratio in ratios), shift


def integer(value: float) -> int:
    """A float64 rounded to the nearest integer, ties up, exactly (`floor(x + 0.5)` rounds twice)."""
    below = math.floor(value)
    return below + (value - below >= 0.5)


def scaled(x: Tensor, multiplier: Tensor | int, shift: Tensor | int) -> Tensor:
    """x · multiplier · 2^-shift rounded, ties up, in int64; |x · multiplier| must be below 2^62."""
    return shifted(x.to(torch.int64) * multiplier, shift)


def shifted(x: Tensor, shift: Tensor | int) -> Tensor:
    """x · 2^-shift rounded, ties up, for int64 x below 2^62; saturates where the shift is negative."""
    by = torch.as_tensor(shift, dtype=torch.int64)
    right = by.clamp(1, 62)
    rounded = (x + (1 << (right - 1))) >> right
    result = torch.where(by >= 63, 0, rounded)
    if bool((by <= 0).any()):
        return torch.where(by <= 0, _shifted_left(x, (-by).clamp(0, 62)), result)
    return result


def requantized(x: Tensor, multiplier: Tensor | int, shift: Tensor | int, zero: int, low: int, high: int) -> Tensor:
    """clamp(zero + scaled(x), low, high) in int64; clamped before the zero is added, which then cannot overflow."""
    return scaled(x, multiplier, shift).clamp(low - zero, high - zero) + zero


def _shifted_left(x: Tensor, by: Tensor) -> Tensor:
    """x · 2^by, saturated at 64 bits."""
    most = torch.tensor(INT64[1]) >> by
    return torch.where(x > most, INT64[1], torch.where(x < -most - 1, INT64[0], x << by))


def _split(ratio: float) -> tuple[int, int]:
    """A positive finite float as mantissa · 2^(exponent - 53), where the mantissa has 53 bits."""
    if not (math.isfinite(ratio) and ratio > 0):
        raise QuantizationError(
            f"A ratio of scales is {ratio!r}: it must be positive and finite.",
            "Look for NaN, an infinity or a range of zero in what was calibrated.",
        )
    mantissa, exponent = math.frexp(ratio)
    return int(math.ldexp(mantissa, 53)), exponent


def _round_up(value: int, bits: int) -> int:
    """value · 2^-bits to the nearest integer, ties up."""
    return (value + (1 << (bits - 1))) >> bits
