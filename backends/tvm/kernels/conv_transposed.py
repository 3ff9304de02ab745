"""Transposed convolution (1d, 2d, 3d) in blocked channels, as direct convolutions of its stride phases.

    y[n, o, z] = epilogue(b[o] + sum over c, taps k:  x[n, c, i] * w[c, o, k]   where  z = i*stride - pad + k*dilation)

The pixels z of one phase, z mod stride, see the same taps: every step-th one from the first, step = stride /
gcd(stride, dilation). Along the width each phase is a stride-1 convolution with these taps, reversed; along the other
axes a row looks up its phase. So no multiplication with the zeros between the pixels takes place.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import cached_property, partial
from math import gcd, prod

import numpy as np

from ..compat import tirx
from ..template import Choice, Lowered, Refused, Task, Wants, distinct
from .conv import Conv, lanes_of, read_conv
from .conv_direct import blocked_wants
from .conv_direct_kernel import DirectKernel
from .conv_walk import UNTUNED, Place, Walk
from .emit import Expr, Function, PackedArg
from .rows import Rows
from .tiles import ORDERS, Product, Tile, choose, tiles_to_try
from .window import Axis, Run


class ConvTransposed:
    """The template: transposed convolutions whose groups leave something to vectorize."""

    name = "conv_transposed"

    def wants(self, task: Task) -> Wants | Refused:
        """Blocked output; the input PLAIN where it has few channels, blocked otherwise."""
        conv = read_conv(task, transposed=True)
        if isinstance(conv, Refused):
            return conv
        return blocked_wants(task, conv, plain=conv.channels < task.target.block)

    def space(self, task: Task) -> Sequence[Choice]:
        """Register tiles, what the outer loop walks along, and what a task of it is: rows or single tiles."""
        conv = read_conv(task, transposed=True)
        assert isinstance(conv, Conv)
        product = product_of(conv, task.target.block)
        default = _Kernel(task, conv, choose(product, task.target, lanes_of(conv, task.target.block)))
        orders = ORDERS if default.weights_first else ORDERS[::-1]
        kernels = (
            _Kernel(task, conv, tile, Walk(order, shared))
            for tile in tiles_to_try(product, task.target, default.tile)
            for shared in (default.by_tile, not default.by_tile)
            for order in orders
        )
        return distinct(kernel.choice for kernel in kernels)

    def emit(self, task: Task, choice: Choice | None = None) -> Lowered:
        """Choose the tile, then write the kernel."""
        conv = read_conv(task, transposed=True)
        assert isinstance(conv, Conv)
        lanes = lanes_of(conv, task.target.block)
        if choice is None:
            tile = choose(product_of(conv, task.target.block), task.target, lanes)
            return _Kernel(task, conv, tile).lower()
        return _Kernel(task, conv, Tile.parse(choice["tile"], lanes), Walk.parse(choice)).lower()


def product_of(conv: Conv, block: int) -> Product:
    """The matrix product that a tile is chosen for: the pixels of one phase of a row."""
    width = -(-conv.axes[2].out // conv.axes[2].stride)
    blocks = -(-(conv.out_channels // conv.groups) // lanes_of(conv, block))
    depth = conv.channels // conv.groups * prod(Spread.of(a).reach for a in conv.axes)
    rows = prod(a.out for a in conv.axes) // width
    return Product(width, blocks, depth, conv.batch * conv.groups * max(1, rows))


@dataclass(frozen=True)
class Spread(Axis):
    """An axis of a transposed convolution: `size` input pixels, each spread over `kernel` output pixels.

    Tap number j of output pixel z is k = first(z) + j*step; under it lies the input pixel (z + pad - k*dilation) /
    stride, which is base(z) - j*shift.
    """

    @staticmethod
    def of(axis: Axis) -> Spread:
        """The same numbers, read as those of a transposed convolution."""
        return Spread(axis.size, axis.out, axis.kernel, axis.stride, axis.pad, axis.dilation)

    @property
    def common(self) -> int:
        """Output pixels whose place z + pad is no multiple of this see nothing."""
        return gcd(self.stride, self.dilation)

    @property
    def step(self) -> int:
        """Distance of the taps that a pixel sees."""
        return self.stride // self.common

    @property
    def shift(self) -> int:
        """Distance of the input pixels under neighbouring taps."""
        return self.dilation // self.common

    @property
    def reach(self) -> int:
        """Most taps that a pixel may see."""
        return -(-self.kernel // self.step)

    @cached_property
    def _inverse(self) -> int:
        return pow(self.shift, -1, self.step) if self.step > 1 else 0

    def first(self, z: Expr) -> Expr:
        """The first tap of pixel `z`."""
        return (z + self.pad) // self.common * self._inverse % self.step

    def base(self, z: Expr) -> Expr:
        """The input pixel under the first tap."""
        return (z + self.pad - self.first(z) * self.dilation) // self.stride

    def bounds(self, z: Expr) -> tuple[Expr, Expr]:
        """Half-open range of numbers of taps of pixel `z` under which there is an input pixel."""
        base = self.base(z)
        low = tirx.max(0, (base - self.size) // self.shift + 1)
        high = tirx.min((self.kernel - self.first(z) + self.step - 1) // self.step, base // self.shift + 1)
        return low, high if self.common == 1 else tirx.if_then_else((z + self.pad) % self.common == 0, high, 0)

    def source(self, z: Expr, tap: Expr) -> Expr:
        """The input pixel under tap number `tap` of pixel `z`."""
        return self.base(z) - tap * self.shift

    def kept(self, z: Expr, tap: Expr) -> Expr:
        """Which tap of the kernel it is."""
        return self.first(z) + tap * self.step

    def phase(self, number: int) -> Phase:
        """The pixels number, number + stride, ... as an axis of a convolution."""
        first, shift = self.first(number), self.shift
        taps = len(range(first, self.kernel, self.step)) if (number + self.pad) % self.common == 0 else 0
        pad = (taps - 1) * shift - self.base(number)
        count = len(range(number, self.out, self.stride))
        return Phase(self.size, count, taps, 1, pad, shift, last=first + (taps - 1) * self.step, step=self.step)


@dataclass(frozen=True)
class Phase(Axis):
    """One phase of a `Spread`: a stride-1 convolution whose taps run backwards from `last` by `step`."""

    last: int = 0
    step: int = 1

    def kept(self, z: Expr, tap: Expr) -> Expr:
        """Which tap of the kernel it is."""
        return self.last - tap * self.step


class _Kernel(DirectKernel):
    """The kernel of one task: one parallel loop, in which every row is made phase by phase."""

    def __init__(self, task: Task, conv: Conv, tile: Tile, walk: Walk = UNTUNED) -> None:
        super().__init__(task, conv, tile, walk)
        self.flat = False
        depth, height, width = map(Spread.of, conv.axes)
        self.axes = (depth, height, width)
        self.phases = [_Phase(task, conv, tile, n, self.ahead) for n in range(min(width.stride, width.out))]
        self.weights_first = self._keep_weights() if walk.order is None else walk.order == ORDERS[0]
        short = not any(phase.rows.loop_taps for phase in self.phases)
        self.by_tile = short and (self._few_rows() if walk.by_tile is None else walk.by_tile)

    def _emit(self) -> None:
        """The same loop, its tiles those of all phases."""
        for phase in self.phases:
            phase.share(self)
        super()._emit()

    @property
    def _tiles(self) -> int:
        """How many tiles there are in a row."""
        return sum(phase.rows.count for phase in self.phases)

    def _row(self, place: Place, tile: Expr) -> None:
        """One task of the parallel loop: all phases of a row, or one tile."""
        if self.by_tile:
            return self._one_tile(place, tile)
        for phase in self.phases:
            phase.rows.row(self.f, partial(phase.tile_at, place))
        return None

    def _one_tile(self, place: Place, tile: Expr) -> None:
        """The tile of number `tile` among those of all phases."""
        cases: list[tuple[Expr, Callable[[], None]]] = []
        first = 0
        for phase in self.phases:
            body = partial(phase.rows.tile, self.f, tile - first, partial(phase.tile_at, place))
            first += phase.rows.count
            cases.append((tile < first, body))
        self.f.branches(cases)

    def _pack_weight(self) -> PackedArg:
        """As for a convolution: output channels first."""
        made, groups = super()._pack_weight(), self.conv.groups
        pack = made.packed.pack

        def turned(weight: np.ndarray) -> np.ndarray:
            split = weight.reshape(groups, weight.shape[0] // groups, *weight.shape[1:])
            return pack(np.swapaxes(split, 1, 2).reshape(-1, split.shape[1], *weight.shape[2:]))

        return replace(made, packed=replace(made.packed, key=f"t{groups}{made.packed.key}", pack=turned))


class _Phase(DirectKernel):
    """The tiles of one phase of the width."""

    def __init__(self, task: Task, conv: Conv, tile: Tile, number: int, ahead: int) -> None:
        super().__init__(task, conv, tile, Walk(ahead=ahead))
        self.flat, self.number = False, number
        depth, height, width = map(Spread.of, conv.axes)
        self.axes = (depth, height, width.phase(number))
        self.rows = Rows.plan(self.axes[2], tile.rows, tile.blocks)

    def share(self, whole: DirectKernel) -> None:
        """Work in the function of `whole`."""
        self.f: Function = whole.f
        self.x, self.epilogue, self.exact = whole.x, whole.epilogue, whole.exact

    def tile_at(self, place: Place, start: Expr, run: Run | None) -> None:
        """Accumulate and store one tile."""
        self._tile(place, start, run)

    def _space(self, z: Expr, y: Expr, x: Expr) -> list[Expr]:
        """Logical spatial index of a pixel of the phase."""
        return super()._space(z, y, x * self.conv.axes[2].stride + self.number)
