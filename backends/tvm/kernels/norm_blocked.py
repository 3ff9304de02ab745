"""Group and instance norm of channels in blocks: a vector is what a block has of one pixel.

    sums[c] = sum over pixels of x[c]      mean = sum over a group's channels of sums[c] / n      y = ...

A unit is as few blocks as hold whole groups. Threads share units; where there are few, they share blocks and parts of
their pixels, and between the passes one of them puts the sums together.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import nullcontext
from functools import partial
from math import lcm, prod
from typing import NamedTuple

from ..generic.region import PARALLEL_ELEMENTS
from ..ops.lanes import once
from ..template import Choice
from .emit import Buffer, Expr, Function, const
from .norm_geometry import ChannelWalk
from .norm_passes import FEW, PART, PARTS, SEGMENT, NormPasses

WIDE = (4, 2, 1, 8)
"""Pixels that one step takes."""


class Memory(NamedTuple):
    """Sums by (image and part, channel), and statistics by (image, channel), of a unit or of everything."""

    sums: Buffer
    squares: Buffer
    means: Buffer
    scales: Buffer


class Place(NamedTuple):
    """Pixels [first, first + size) of a block, which is the `local`-th in memory."""

    batch: Expr
    block: Expr
    local: Expr
    image: Expr
    slot: Expr
    first: Expr
    size: int


class BlockedNorm:
    """The kernel of one task."""

    def __init__(self, f: Function, walk: ChannelWalk, choice: Choice) -> None:
        """`choice` as `choices` has them."""
        self.f, self.walk, self.wide = f, walk, int(choice["wide"])
        self.passes = NormPasses(f, walk.norm)
        self.batch, self.channels, *space = walk.norm.shape
        self.block, self.pixels, self.per = walk.block, prod(space), walk.norm.row[0]
        self.blocks = -(-self.channels // self.block)
        share = lcm(self.per, self.block)
        whole = share == self.block or self.channels % share == 0
        self.unit = share // self.block if whole else self.blocks

    @staticmethod
    def choices(walk: ChannelWalk) -> Iterator[Choice]:
        """The default first."""
        pixels = prod(walk.norm.shape[2:])
        return ({"wide": wide} for wide in WIDE if wide == 1 or wide <= pixels)

    def emit(self) -> None:
        """Units, or parts of blocks."""
        f, units = self.f, self.blocks // self.unit
        work = prod(self.walk.norm.shape)
        if self.batch * units < FEW and work > 2 * PART:
            self._emit_parts()
            return
        loop = f.parallel if work > PARALLEL_ELEMENTS else f.serial
        with loop(self.batch * units) as index:
            n, number = f.unravel(index, (self.batch, units))
            memory = self._memory(1, 1, self.unit)

            def each(body: Callable[[Memory, Place], None]) -> None:
                with f.serial(self.unit) if self.unit > 1 else nullcontext(0) as local:
                    body(memory, Place(n, number * self.unit + local, local, 0, 0, 0, self.pixels))

            each(self._add)
            self._average(memory, 0, 1)
            each(self._square)
            self._scale(memory, 0, 1)
            each(self._finish)

    def _emit_parts(self) -> None:
        f = self.f
        wanted = max(1, min(PARTS // (self.batch * self.blocks), self.pixels * self.block // PART))
        share = -(-self.pixels // wanted)
        parts = -(-self.pixels // share)
        memory, rest = self._memory(self.batch, parts, self.blocks), self.pixels - (parts - 1) * share

        def each(body: Callable[[Memory, Place], None]) -> None:
            shape = (self.batch, self.blocks, parts)
            with f.parallel(prod(shape)) as index:
                n, block, part = f.unravel(index, shape)

                def piece(size: int) -> Callable[[], None]:
                    return lambda: body(memory, Place(n, block, block, n, n * parts + part, part * share, size))

                cases: list[tuple[Expr, Callable[[], None]]] = (
                    [(part < parts - 1, piece(share))] if rest != share else []
                )
                f.branches([*cases, (True, piece(rest))])

        for body, join in ((self._add, self._average), (self._square, self._scale)):
            each(body)
            with f.serial(self.batch) if self.batch > 1 else nullcontext(0) as n:
                join(memory, n, parts)
        each(self._finish)

    def _memory(self, images: int, parts: int, blocks: int) -> Memory:
        rows = (images * parts, images * parts, images, images)
        return Memory(*(self.f.scratch((count, blocks * self.block)) for count in rows))

    def _add(self, memory: Memory, place: Place) -> None:
        """Sums of a piece's pixels, by channel."""
        self._sums(place, memory.sums, lambda _, x: x)

    def _square(self, memory: Memory, place: Place) -> None:
        """Sums of squares of what a piece's pixels are from their mean, by channel."""

        def squared(v: Expr, x: Expr) -> Expr:
            return self.passes.squared(x, memory.means[place.image, place.local * self.block + v])

        self._sums(place, memory.squares, squared)

    def _sums(self, place: Place, into: Buffer, term: Callable[[Expr, Expr], Expr]) -> None:
        f, total = self.f, self.passes.filled(self.block)

        def segment(width: int, first: Expr, steps: int, wide: int) -> None:
            parts = [self.passes.filled(self.block) for _ in range(wide)]
            with f.serial(steps) if steps > 1 else nullcontext(0) as k:
                pixel = f.let(first + k * wide, self.pixels)
                for u, part in enumerate(parts):
                    with self.passes.lanes(width) as v:
                        f.store(part, part[v] + term(v, self._x(place, pixel + u, v)), [v])
            for part in parts:
                with f.lanes(width) as v:
                    f.store(total, total[v] + part[v], [v])

        def store(width: int) -> None:
            self._segments(place, partial(segment, width))
            with f.lanes(width) as v:
                f.store(into, total[v], [place.slot, place.local * self.block + v])

        self._with_width(place.block, store)

    def _x(self, place: Place, pixel: Expr, v: Expr) -> Expr:
        return once(self.passes.source.at(self._index(place, pixel, v)))

    def _index(self, place: Place, pixel: Expr, v: Expr) -> list[Expr]:
        return self.walk.index(place.batch, place.block * self.block + v, pixel)

    def _segments(self, place: Place, body: Callable[[Expr, int, int], None]) -> None:
        """`body(first pixel, steps, pixels of a step)` for pieces of a sum, in order."""
        steps, done = place.size // self.wide, 0
        if steps > SEGMENT:
            done = steps // SEGMENT
            with self.f.serial(done) as k:
                body(self.f.let(place.first + k * (SEGMENT * self.wide), self.pixels), SEGMENT, self.wide)
        if steps > done * SEGMENT:
            body(place.first + done * SEGMENT * self.wide, steps - done * SEGMENT, self.wide)
        if rest := place.size - steps * self.wide:
            body(place.first + steps * self.wide, 1, rest)

    def _average(self, memory: Memory, image: Expr, parts: int) -> None:
        """Means by channel from sums by channel."""
        share = const(1 / (self.per * self.pixels))
        self._join(image, parts, memory.sums, lambda total: total * share, memory.means)

    def _scale(self, memory: Memory, image: Expr, parts: int) -> None:
        """Scales by channel from squares by channel."""
        count = self.per * self.pixels
        self._join(image, parts, memory.squares, lambda total: self.passes.scale(total, count), memory.scales)

    def _join(self, image: Expr, parts: int, sums: Buffer, value: Callable[[Expr], Expr], into: Buffer) -> None:
        """`value(total)` for all channels of each group; the total is that of its channels and parts."""
        f, width = self.f, int(into.shape[1])
        total, slots = f.vector(1), f.serial(parts) if parts > 1 else nullcontext(0)
        if self.per == 1:
            self._join_lanes(image, parts, sums, value, into)
            return
        with f.serial(min(width, self.channels) // self.per) as group:
            f.store(total, const(0.0), [0])
            with slots as part, f.serial(self.per) as c:
                f.store(total, total[0] + sums[image * parts + part, group * self.per + c], [0])
            made = self.passes.named(value(total[0]))
            with f.serial(self.per) as c:
                f.store(into, made, [image, group * self.per + c])

    def _join_lanes(self, image: Expr, parts: int, sums: Buffer, value: Callable[[Expr], Expr], into: Buffer) -> None:
        """The same where each channel is a group."""
        f, blocks, total = self.f, int(into.shape[1]) // self.block, self.f.vector(self.block)
        with f.serial(blocks) if blocks > 1 else nullcontext(0) as block:
            with f.lanes(self.block) as v:
                f.store(total, const(0.0), [v])
            with f.serial(parts) if parts > 1 else nullcontext(0) as part, f.lanes(self.block) as v:
                f.store(total, total[v] + sums[image * parts + part, block * self.block + v], [v])
            with f.lanes(self.block) as v:
                f.store(into, value(total[v]), [image, block * self.block + v])

    def _finish(self, memory: Memory, place: Place) -> None:
        """The last pass, with a * x + b of a channel made ready before."""
        f, norm = self.f, self.walk.norm
        gains, shifts = f.vector(self.block), f.vector(self.block)

        def of(statistic: Buffer, v: Expr) -> Expr:
            return statistic[place.image, place.local * self.block + v]

        def store(width: int, first: Expr, steps: int, wide: int) -> None:
            with f.serial(steps) if steps > 1 else nullcontext(0) as k:
                pixel = f.let(first + k * wide, self.pixels)
                for u in range(wide):
                    with self.passes.lanes(width) as v:
                        value = (self._x(place, pixel + u, v) - of(memory.means, v)) * gains[v]
                        value = value if norm.bias is None else value + shifts[v]
                        self.passes.store(self._index(place, pixel + u, v), value)

        def block(width: int) -> None:
            with self.passes.lanes(width) as v:
                weight, bias = (self.passes.parameter(p, self._index(place, 0, v)) for p in (norm.weight, norm.bias))
                scale = of(memory.scales, v)
                f.store(gains, scale if weight is None else scale * weight, [v])
                if bias is not None:
                    f.store(shifts, bias, [v])
            steps = place.size // self.wide
            if steps:
                store(width, place.first, steps, self.wide)
            if rest := place.size - steps * self.wide:
                store(width, place.first + steps * self.wide, 1, rest)

        self._with_width(place.block, block)

    def _with_width(self, block: Expr, body: Callable[[int], None]) -> None:
        """`body` for a whole block, or for the last one, which ends at the last channel."""
        rest = self.channels % self.block
        if not rest:
            body(self.block)
        elif self.blocks == 1:
            body(rest)
        else:
            self.f.branches([(block < self.blocks - 1, lambda: body(self.block)), (True, lambda: body(rest))])
