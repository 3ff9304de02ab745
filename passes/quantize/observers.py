"""Observers: from the stream of a value's batches to the range that its codes should cover. Bounded memory.

    MinMax: all of it                      MovingAverage: r ← m r + (1 - m) batch's
    Percentile: all but the tails          MeanSquare: the least Σ (x - q(x))²         Entropy: the least Σ p log(p / q)

The last three look at an exact histogram (`histogram`). They try ranges that cover a part of what was seen, and
`quantizer` says which codes a range would get. What was seen is never widened.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Protocol

import torch
from torch import Tensor

from ...errors import QuantizationError
from ...ir.types import QuantParams
from .histogram import Histogram, extremes

Quantizer = Callable[[float, float], QuantParams]
"""Codes for a range, such as `QuantParams.asymmetric`."""
STEPS = 100
"""Ranges tried for each end."""


class Observer(Protocol):
    """What calibration feeds with every batch of a value, and asks for the range at the end."""

    def add(self, values: Tensor) -> None:
        """Look at a batch; NaN and infinities are refused."""

    def range(self) -> tuple[float, float]:
        """(least, most) that codes should cover; an error before the first batch."""


class MinMax:
    """All that was seen."""

    def __init__(self) -> None:
        """Nothing seen."""
        self._range: tuple[float, float] | None = None

    def add(self, values: Tensor) -> None:
        """Widen the range to hold the batch."""
        if values.numel():
            least, most = extremes(values)
            self._range = (min(least, self._range[0]), max(most, self._range[1])) if self._range else (least, most)

    def range(self) -> tuple[float, float]:
        """(least, most)."""
        return self._range or _nothing_seen()


class MovingAverage:
    """The range of a typical batch: each batch's range moves it by 1 - momentum."""

    def __init__(self, momentum: float = 0.9) -> None:
        """Nothing seen."""
        if not 0 <= momentum < 1:
            raise QuantizationError(f"momentum={momentum!r} does not average.", "Give 0 or more, and less than 1.")
        self._momentum = momentum
        self._range: tuple[float, float] | None = None

    def add(self, values: Tensor) -> None:
        """Move towards the batch's range."""
        if values.numel():
            batch, m = extremes(values), self._momentum
            before = self._range or batch
            self._range = (m * before[0] + (1 - m) * batch[0], m * before[1] + (1 - m) * batch[1])

    def range(self) -> tuple[float, float]:
        """(least, most)."""
        return self._range or _nothing_seen()


class OfHistogram:
    """What the observers of a histogram share."""

    def __init__(self) -> None:
        """Nothing seen."""
        self.histogram = Histogram()

    def add(self, values: Tensor) -> None:
        """Count the batch."""
        self.histogram.add(values)

    def seen(self) -> tuple[float, float]:
        """(least, most) of all values."""
        if not self.histogram.total:
            _nothing_seen()
        return self.histogram.least, self.histogram.most


class Percentile(OfHistogram):
    """All but (1 - kept) / 2 of the values at either end, to within a bin (1/2048 of the largest)."""

    def __init__(self, kept: float = 0.9999) -> None:
        """`kept` is a fraction."""
        super().__init__()
        if not 0 < kept <= 1:
            raise QuantizationError(f"kept={kept!r} is no fraction.", "Give more than 0 and at most 1, such as 0.9999.")
        self._kept = kept

    def range(self) -> tuple[float, float]:
        """(least, most)."""
        least, most = self.seen()
        middles, counts = self.histogram.occupied()
        half = self.histogram.width / 2
        left = math.floor(float(counts.sum()) * (1 - self._kept) / 2 + 1e-6)  # 1 - 0.9 is just under a tenth
        first = int((counts.cumsum(0) <= left).sum())
        last = len(counts) - 1 - int((counts.flip(0).cumsum(0) <= left).sum())
        return max(least, float(middles[first]) - half), min(most, float(middles[last]) + half)


class Searched(OfHistogram):
    """The range with the least cost: first both ends by one factor, then each alone."""

    def __init__(self, quantizer: Quantizer = QuantParams.asymmetric) -> None:
        """`quantizer` gives the codes of a range."""
        super().__init__()
        self._quantizer = quantizer

    def cost(self, middles: Tensor, counts: Tensor, params: QuantParams) -> float:
        """What to minimize."""
        raise NotImplementedError

    def range(self) -> tuple[float, float]:
        """(least, most)."""
        least, most = self.seen()
        if not (least or most):
            return least, most
        factors = [i / STEPS for i in range(STEPS, 0, -1)]
        both = self._best([(least * f, most * f) for f in factors])
        lower = self._best([both, *((least * f, both[1]) for f in factors if least < 0)])
        return self._best([lower, *((lower[0], most * f) for f in factors if most > 0)])

    def _best(self, ranges: list[tuple[float, float]]) -> tuple[float, float]:
        """The one of least cost, the first of equals."""
        found = self.histogram.occupied()
        return min(ranges, key=lambda ends: self.cost(*found, self._quantizer(*ends)))


class MeanSquare(Searched):
    """The least mean square of what rounding and clamping take away."""

    def cost(self, middles: Tensor, counts: Tensor, params: QuantParams) -> float:
        """Σ n (x - q(x))²."""
        return float((counts * (params.values(params.codes(middles)) - middles).square()).sum())


class Entropy(Searched):
    """The least information lost: p is the histogram with its tails moved to the ends, q what codes can tell of it.

    Values in the bin of 0 do not count: 0 is a code of every range, and the many zeros of a ReLU would speak for the
    range whose code of 0 stands for the fewest other bins. A step is at least as wide as a bin, which tells all of p.
    """

    def cost(self, middles: Tensor, counts: Tensor, params: QuantParams) -> float:
        """Σ p log(p / q); a code's share of q lies evenly on the occupied bins that it stands for."""
        other = (middles < 0) | (middles >= self.histogram.width)
        middles, counts = middles[other], counts[other]
        ends = params.values(torch.tensor([params.low, params.high]))
        inside = (middles >= ends[0] - params.scale / 2) & (middles <= ends[1] + params.scale / 2)
        if params.scale < self.histogram.width or not bool(inside.any()):
            return math.inf
        kept = counts[inside]
        codes = params.codes(middles[inside]).to(torch.int64) - params.low
        width = params.high - params.low + 1
        share = torch.zeros(width, dtype=torch.float64).index_add_(0, codes, kept)
        bins = torch.zeros(width, dtype=torch.float64).index_add_(0, codes, torch.ones_like(kept))
        q = (share / bins.clamp(min=1))[codes] / kept.sum()
        p = kept.clone()
        first = int(inside.to(torch.int8).argmax())
        p[0] += counts[:first].sum()
        p[-1] += counts[first + len(kept) :].sum()
        p /= counts.sum()
        return float((p * (p / q).log()).sum())


def _nothing_seen() -> tuple[float, float]:
    raise QuantizationError("No values were seen.", "Give calibration data that reaches this layer.")
