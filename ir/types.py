"""What a value's integers mean.

real value = scale · (code - zero),   code in low..high
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from ..errors import QuantizationError

SCALES = (2.0**-100, 2.0**100)
"""Scales, their products and quotients stay normal float32 numbers between these."""


@dataclass(frozen=True)
class QuantParams:
    """A value's scale (float64, known at compile time), zero point, range of codes, and dtype.

    Attached to a node as `meta["quant"]`; accumulators have zero 0 and may have one scale a channel elsewhere.
    """

    scale: float
    zero: int
    low: int
    high: int
    dtype: torch.dtype

    def __post_init__(self) -> None:
        """Refuse scales that are no scales, and codes that the dtype or the range cannot hold."""
        if not (math.isfinite(self.scale) and SCALES[0] <= self.scale <= SCALES[1]):
            raise QuantizationError(
                f"{self.scale!r} is no scale: it must lie between 2^-100 and 2^100.",
                "Look for NaN, an infinity or a range of zero in what was calibrated.",
            )
        limits = torch.iinfo(self.dtype)
        if not limits.min <= self.low <= self.zero <= self.high <= limits.max:
            raise QuantizationError(
                f"The codes {self.low}..{self.high} with zero {self.zero} do not fit {self.dtype}.",
                "The zero point must be a code: 0 is padded, and is what a ReLU gives.",
            )

    @classmethod
    def asymmetric(cls, least: float, most: float) -> QuantParams:
        """All 256 codes of uint8 for a range, which is widened to hold 0."""
        _finite(least, most)
        least, most = min(least, 0.0), max(most, 0.0)
        scale = (most - least) / 255
        _some_range(scale)
        return cls(scale, min(max(math.floor(-least / scale + 0.5), 0), 255), 0, 255, torch.uint8)

    @classmethod
    def symmetric(cls, bound: float, bits: int = 8) -> QuantParams:
        """Codes -(2^(bits-1) - 1) to 2^(bits-1) - 1 for |x| <= bound, in int8 up to 8 bits, else in int16."""
        if not 2 <= bits <= 16:
            raise QuantizationError(f"{bits} bits are no width of codes.", "Give 2 to 16.")
        _finite(bound)
        most = 2 ** (bits - 1) - 1
        scale = abs(bound) / most
        _some_range(scale)
        return cls(scale, 0, -most, most, torch.int8 if bits <= 8 else torch.int16)

    def codes(self, values: Tensor) -> Tensor:
        """Codes of real values, in float64, ties up (weights and constants; inputs go through `planish::quantize`)."""
        steps = (values.to(torch.float64) / self.scale + 0.5).floor() + self.zero
        if not bool(steps.isfinite().all()):
            raise QuantizationError("A value to quantize is NaN or infinite.", "Look at the layer before.")
        return steps.clamp(self.low, self.high).to(self.dtype)

    def values(self, codes: Tensor) -> Tensor:
        """What codes stand for, in float64."""
        return (codes.to(torch.float64) - self.zero) * self.scale


def _finite(*bounds: float) -> None:
    if not all(math.isfinite(bound) for bound in bounds):
        raise QuantizationError(
            f"A calibrated range is {bounds}.", "Look for NaN or an infinity in the calibration data."
        )


def _some_range(scale: float) -> None:
    if scale < SCALES[0]:
        raise QuantizationError(
            "A calibrated range is zero: every value seen was 0.",
            "Calibrate with inputs that reach this layer, or keep it in float.",
        )
