"""What padding with the zero point is worth: a convolution of codes, corrected by the taps that a pixel sees.

    Σ over taps k of z:  (x[k] - x_zero) · w[k]   ==   Σ x[k] · w[k]  -  x_zero · Σ over taps k of z: w[k]

The last sum depends on the pixel only through the taps that lie in the image. Pixels that see the same taps along an
axis are neighbours, hence one class: a few classes an axis, and a table of corrections by class and channel.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import product
from typing import Any

import numpy as np

from ..compat import tirx
from .emit import Expr, Function
from .window import Axis, Run, Taps


@dataclass(frozen=True)
class Classes:
    """The pixels of an axis by the taps they see: class number i begins at pixel `starts[i]` and sees `taps[i]`."""

    starts: tuple[int, ...]
    taps: tuple[Taps, ...]

    @staticmethod
    def of(axis: Axis) -> Classes:
        """Neighbours with equal taps."""
        starts: list[int] = []
        taps: list[Taps] = []
        for pixel in range(axis.out):
            seen = axis.taps(pixel)
            if not taps or taps[-1] != seen:
                starts.append(pixel)
                taps.append(seen)
        return Classes(tuple(starts), tuple(taps))

    def number(self, pixel: Expr) -> Expr:
        """The class of a pixel, as a number or an expression."""
        later = self.starts[1:]
        if isinstance(pixel, int):
            return sum(pixel >= start for start in later)
        total: Any = tirx.const(0, "int32")
        for start in later:
            total = total + tirx.Cast("int32", pixel >= start)
        return total


def column_class(f: Function, columns: Classes, start: Expr, i: int, run: Run | None) -> Expr:
    """The class of pixel `i` of a tile of a row: known from its taps, looked up where these are a loop."""
    if run is not None and run.taps[i] in columns.taps:
        return columns.taps.index(run.taps[i])
    return f.let(columns.number(start + i))


def border_key(axes: Sequence[Axis]) -> str:
    """What corrections depend on beside the weight."""
    return "_".join(f"{a.size}.{a.out}.{a.stride}.{a.pad}.{a.dilation}" for a in axes)


def corrections(weight: np.ndarray, x_zero: int, axes: Sequence[Classes], size: int) -> np.ndarray:
    """-x_zero · Σ w by class of depth, height and width, and by output channel, in int32 (which wraps).

    `weight` is [output channel, input channel, *kernel], an axis of which each of `axes` is for; zeros up to `size`.
    """
    sums = weight.astype(np.int64).sum(1)
    table = np.zeros((*(len(axis.taps) for axis in axes), size), np.int64)
    for place in product(*(range(len(axis.taps)) for axis in axes)):
        seen = [list(axis.taps[i]) for axis, i in zip(axes, place, strict=True)]
        table[place][: len(sums)] = -x_zero * sums[np.ix_(range(len(sums)), *seen)].reshape(len(sums), -1).sum(1)
    return table.astype(np.int32)
