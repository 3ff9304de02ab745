"""A histogram of a stream in bounded memory, exact: batches in any order and size give the same counts.

    counts[k] = how many values lie in [k w, (k + 1) w),   w the least power of two that gives every value a bin

When a value lies outside, neighbours are added and w doubles; ⌊⌊v / w⌋ / 2⌋ = ⌊v / 2w⌋, so nothing is lost by it.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor

from ...errors import QuantizationError

HALF = 4096
"""Bins on each side of 0, a power of two."""
CHUNK = 1 << 20
"""Values looked at together, so that a large batch needs no large copy."""


class Histogram:
    """Counts, the least and the largest of all values that were added."""

    def __init__(self) -> None:
        """No values; the finest bins that float32 knows."""
        self.counts = torch.zeros(2 * HALF, dtype=torch.int64)
        self.exponent = -149
        self.least, self.most = math.inf, -math.inf

    def add(self, values: Tensor) -> None:
        """Count more values; NaN and infinities are refused."""
        for chunk in values.detach().flatten().split(CHUNK):
            if chunk.numel():
                self._add(chunk if chunk.dtype == torch.float64 else chunk.to(torch.float32))

    @property
    def width(self) -> float:
        """Of a bin."""
        return math.ldexp(1.0, self.exponent)

    @property
    def total(self) -> int:
        """How many values were added."""
        return int(self.counts.sum())

    def occupied(self) -> tuple[Tensor, Tensor]:
        """(middles, counts) of the bins that hold something, float64, ascending; no middle lies beyond the extremes."""
        where = self.counts.nonzero().flatten()
        middles = (where.to(torch.float64) - HALF + 0.5) * self.width
        return middles.clamp(self.least, self.most), self.counts[where].to(torch.float64)

    def _add(self, chunk: Tensor) -> None:
        least, most = extremes(chunk)
        self.least, self.most = min(self.least, least), max(self.most, most)
        peak = max(-least, most)
        needed = math.frexp(peak)[1] - (HALF.bit_length() - 1)  # peak < 2^frexp = HALF bins
        if peak and needed > self.exponent:
            self._widen(needed - self.exponent)
        bins = (chunk.to(torch.float64) / self.width).floor().to(torch.int64) + HALF
        self.counts += torch.bincount(bins, minlength=2 * HALF)

    def _widen(self, doublings: int) -> None:
        """Make bins 2^doublings times as wide."""
        places = (torch.arange(-HALF, HALF) >> min(doublings, 62)) + HALF
        self.counts = torch.zeros_like(self.counts).index_add_(0, places, self.counts)
        self.exponent += doublings


def extremes(values: Tensor) -> tuple[float, float]:
    """(least, most) of a batch, which must be finite."""
    least, most = (float(bound) for bound in values.detach().aminmax())
    if not (math.isfinite(least) and math.isfinite(most)):
        raise QuantizationError(
            f"{int((~values.isfinite()).sum())} of {values.numel()} values are NaN or infinite.",
            "Look at the calibration data, or at the layer that made them.",
        )
    return least, most
