"""Sliding windows without padded copies: which taps of the kernel an output pixel sees.

    taps(z) = { k : 0 <= z*stride - pad + k*dilation < size }

Along the innermost axis the taps of each pixel of a tile are known when the code is made; along the others they
are the bounds of a loop. So a border costs nothing inside, and no pixel outside the image is ever read.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from ..compat import tirx
from .emit import Expr

Taps = tuple[int, ...]


@dataclass(frozen=True)
class Axis:
    """One spatial axis of a convolution or pool."""

    size: int
    out: int
    kernel: int = 1
    stride: int = 1
    pad: int = 0
    dilation: int = 1

    def taps(self, z: int) -> Taps:
        """The taps of output pixel `z` that lie in the image."""
        return tuple(k for k in range(self.kernel) if 0 <= z * self.stride - self.pad + k * self.dilation < self.size)

    @property
    def reach(self) -> int:
        """Most taps that a pixel may see."""
        return self.kernel

    @property
    def inside(self) -> bool:
        """Whether every output pixel sees the whole window."""
        last = (self.out - 1) * self.stride - self.pad + (self.kernel - 1) * self.dilation
        return self.pad == 0 and last < self.size

    @property
    def interior(self) -> range:
        """Output pixels that see the whole window."""
        full = [z for z in range(self.out) if len(self.taps(z)) == self.kernel]
        return range(full[0], full[-1] + 1) if full else range(0)

    def bounds(self, z: Expr) -> tuple[Expr, Expr]:
        """Half-open range of taps of pixel `z`, an expression."""
        if self.inside:
            return 0, self.kernel
        start = z * self.stride - self.pad
        low = tirx.floordiv(self.dilation - 1 - start, self.dilation)
        high = tirx.floordiv(self.size - start + self.dilation - 1, self.dilation)
        return tirx.max(0, low), tirx.min(self.kernel, high)

    def source(self, z: Expr, tap: Expr) -> Expr:
        """The input pixel under `tap` of output pixel `z`."""
        return z * self.stride - self.pad + tap * self.dilation

    def kept(self, z: Expr, tap: Expr) -> Expr:
        """Where the weight of `tap` at output pixel `z` lies among the packed ones."""
        return tap


Axes = tuple[Axis, Axis, Axis]
"""Depth, height, width; an axis that an operator lacks is one pixel under one tap."""


def three_axes(spatial: Sequence[Axis]) -> Axes:
    """Fill up with axes of one pixel in front."""
    d, h, w = [Axis(1, 1)] * (3 - len(spatial)) + list(spatial)
    return d, h, w


@dataclass(frozen=True)
class Run:
    """`count` tiles of `width` pixels from `start` on, all of whose i-th pixels see the taps `taps[i]`."""

    start: int
    width: int
    taps: tuple[Taps, ...]
    count: int

    @property
    def fmas(self) -> int:
        """Multiply-adds of one tile, for one weight of each tap."""
        return sum(map(len, self.taps))


def split_evenly(total: int, width: int) -> list[int]:
    """Tile widths that cover `total`, at most `width` each, differing by at most one, larger first."""
    count = -(-total // width)
    return [total // count + (i < total % count) for i in range(count)]


def runs(axis: Axis, width: int, pixels: range | None = None) -> list[Run]:
    """Tiles over `pixels` (default: all), neighbours of equal shape joined."""
    pixels = range(axis.out) if pixels is None else pixels
    found: list[Run] = []
    start = pixels.start
    for w in split_evenly(len(pixels), width) if pixels else ():
        taps = tuple(axis.taps(z) for z in range(start, start + w))
        last = found[-1] if found else None
        if last and (last.width, last.taps) == (w, taps):
            found[-1] = Run(last.start, w, taps, last.count + 1)
        else:
            found.append(Run(start, w, taps, 1))
        start += w
    return found


def unrolled(tiles: Sequence[Run]) -> int:
    """Multiply-adds written out if each run becomes one body."""
    return sum(run.fmas for run in tiles)
