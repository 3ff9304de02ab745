"""Four neighbours of a row as one quad: how a depthwise convolution multiplies four taps in one instruction.

    y[i] = Σ over groups g:  quad(x[s_g], x[s_g + 1], x[s_g + 2], x[s_g + 3]) · weights of (i, g)

A group begins at a column s and serves every pixel whose taps lie in it. The weight of a column that is no tap of the
pixel, or one that another group has, is zero: so each pixel has its own variants of the weights, which are few.
"""

from __future__ import annotations

from dataclasses import dataclass

from .dot import QUAD
from .window import Axis, Run


@dataclass(frozen=True)
class Variant:
    """A quad of weights: that of column j is tap `first + j` where it lies in [low, high), zero elsewhere."""

    first: int
    low: int
    high: int


@dataclass(frozen=True)
class Group:
    """Four columns from `column` on, counted from the tile's first pixel's first tap, and who reads them."""

    column: int
    readers: tuple[tuple[int, Variant], ...]


def groups_of(axis: Axis, run: Run) -> list[Group]:
    """The groups of a tile; all its columns lie in the image, for every tile of the run."""
    first = run.start * axis.stride - axis.pad
    last = (run.start + (run.count - 1) * run.width) * axis.stride - axis.pad
    least, most = -first, axis.size - QUAD - last
    readers: dict[int, list[tuple[int, Variant]]] = {}
    for pixel, taps in enumerate(run.taps):
        low, end = (taps[0], taps[-1] + 1) if taps else (0, 0)
        while low < end:
            needed = -(-(end - low) // QUAD)
            place = pixel * axis.stride + low
            shared = [c for c in readers if c <= place < c + QUAD and _more(c, pixel, low, end, axis) < needed]
            column = max(shared, default=min(max(place, least), most))
            high = min(end, column + QUAD - pixel * axis.stride)
            readers.setdefault(column, []).append((pixel, Variant(column - pixel * axis.stride, low, high)))
            low = high
    return [Group(column, tuple(found)) for column, found in sorted(readers.items())]


def _more(column: int, pixel: int, low: int, end: int, axis: Axis) -> int:
    """Groups that a pixel needs after the one at `column`."""
    rest = end - (column + QUAD - pixel * axis.stride)
    return max(0, -(-rest // QUAD))
