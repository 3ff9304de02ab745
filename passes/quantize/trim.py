"""Where a function's codes differ:  f(x) = f(least) for x < trimmed[0],  f(x) = f(most) for x > trimmed[1].

A value that is read by a function alone needs no codes where the function's result stays the same code: GELU of less
than -6 is 0, and of more than the largest code that code.
"""

from __future__ import annotations

import math

import torch

from ...ir.quantized.constants import Function
from ...ir.quantized.pointwise import SEGMENT_BITS
from ...ir.types import QuantParams

BEND = 3.0
"""Where functions that are made of relu6(x + 3) bend; that is no parabola inside a segment."""
SAMPLES = 4097
"""Points of an interval that are looked at, twice: the second time between those that are left."""


def trimmed(function: Function, interval: tuple[float, float], y: QuantParams) -> tuple[float, float]:
    """The interval without its ends, as far as these have equal codes."""
    least, most = interval
    for _ in range(2):
        points = torch.linspace(least, most, SAMPLES, dtype=torch.float64)
        codes = y.codes(function(points))
        rises, falls = ((codes != codes[end]).nonzero().flatten() for end in (0, -1))
        if not len(rises):
            return least, most
        least, most = float(points[max(int(rises[0]) - 1, 0)]), float(points[min(int(falls[-1]) + 1, SAMPLES - 1)])
    return least, most


def words_of_curve(interval: tuple[float, float]) -> QuantParams:
    """int16 for an interval that a curve reads; where hardswish and its like bend, at 3 and -3, a segment ends."""
    words = QuantParams.symmetric(max(map(abs, interval)), 16)
    segments = math.floor(BEND / (words.scale * 2**SEGMENT_BITS))
    if not segments:
        return words
    return QuantParams(BEND / (segments * 2**SEGMENT_BITS), 0, words.low, words.high, torch.int16)
