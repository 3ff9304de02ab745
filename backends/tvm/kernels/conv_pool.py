"""A direct convolution and the pool after it in one kernel: the map between them stays in a core's cache.

    y[n, o, p] = after(pool over taps t of p:  z[n, o, p*stride - pad + t*dilation])      z = before(conv(x, w) + b)

A task makes a band of pooled rows for a chunk of output channels. It keeps the last few rows of z, as many as a
window is high, in a ring: row y lies at place y & (height - 1). Each row of z is computed once in a band, so only those
that two bands share are computed twice. Sums are those of the convolution alone: no choice changes a bit.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from math import prod

from torch import fx

from ..compat import tirx
from ..epilogue import Epilogue
from ..plan import size_of, value_of
from ..template import Choice, Task, distinct
from ..views import dtype_of
from .conv import Conv
from .conv_direct_kernel import DirectKernel
from .conv_walk import UNTUNED, Place, Walk
from .emit import Buffer, Expr, Function
from .pool import ADAPTIVE, AVERAGE, MAX, Pooling, PoolKernel, pooling
from .tiles import L2_BYTES, ORDERS, Tile
from .window import Axis
from .winograd_cost import direct_cycles

_LAUNCH = 2e-6
"""Seconds to start a kernel."""

_MOVE = 1 / 40e9
"""Seconds to write or to read a byte of the map that is not stored here."""

_HERTZ = 3.5e9


POOLS = (*MAX, *AVERAGE, *ADAPTIVE)


def pool_of(task: Task) -> fx.Node | None:
    """The pool in the epilogue of the region's convolution."""
    return next((n for n in task.region.epilogue if n.target in POOLS), None)


def refusal(task: Task, conv: Conv, node: fx.Node, tile: Tile) -> str | None:
    """Why the pool cannot be computed beside its convolution."""
    pool = pooling(node, conv.x)
    if conv.axes[0] != Axis(1, 1) or pool.axes[0].size * pool.axes[0].out != 1:
        return "only rows of images are kept until they are pooled, not volumes"
    if tile.block != task.target.block:
        return f"vectors of {tile.block} channels do not fill a block of {task.target.block}"
    if dtype_of(node.all_input_nodes[0]) != "float32":
        return "what is pooled is not float32 or bfloat16"
    bands = PooledKernel(task, conv, node, tile).bands
    if 4 * bands.ring * pool.axes[2].size * tile.columns > L2_BYTES:
        return f"{bands.ring} rows of what is pooled do not fit the cache"
    return None


def loss(task: Task, conv: Conv, node: fx.Node, tile: Tile) -> str | None:
    """Why that would take no less time than two kernels: rows made twice, or by one thread while others wait."""
    bands = PooledKernel(task, conv, node, tile).bands
    height, chunks = conv.axes[1].out, -(-conv.out_channels // tile.columns)
    share = conv.batch * chunks * height / task.target.threads
    again = (bands.share(task, chunks) / share - 1) * direct_cycles(conv, task.target) / _HERTZ
    saved = _LAUNCH + 2 * size_of(value_of(node.all_input_nodes[0])) * _MOVE
    if again > saved:
        return f"rows computed twice or by too few threads would take {again * 1e6:.0f} us and save {saved * 1e6:.0f}"
    return None


def pooled_choices(task: Task, conv: Conv, tiles: Sequence[Tile]) -> Sequence[Choice]:
    """Register tiles, bands, what the outer loop walks along, and looking ahead; the default first."""
    node = pool_of(task)
    assert node is not None
    default = PooledKernel(task, conv, node, tiles[0])
    orders = ORDERS if default.weights_first else ORDERS[::-1]
    return distinct(
        PooledKernel(task, conv, node, tile, Walk(order, False, ahead), band.band).choice
        for ahead in ((default.ahead, 0) if default.ahead else (0,))
        for tile in tiles
        for band in Bands.to_try(default.pool, task, -(-conv.out_channels // tile.columns))
        for order in orders
    )


@dataclass(frozen=True)
class _Ring:
    """The rows of z that are kept, read as if they were all of it: z[n, block, depth, row, pixel, lane]."""

    buffer: Buffer
    height: int
    first: Expr

    def __getitem__(self, index: tuple[Expr, ...]) -> Expr:
        """A lane of a pixel in a row that was made before and is not overwritten yet."""
        _, block, _, row, pixel, lane = index
        return self.buffer[self.place(row), block - self.first, pixel, lane]

    def place(self, row: Expr) -> Expr:
        """Where a row lies."""
        return tirx.bitwise_and(row, tirx.const(self.height - 1, "int32")) if self.height > 1 else 0


class PooledKernel(DirectKernel):
    """The kernel of one task, for one tile and bands of `band` pooled rows."""

    flattens = False

    def __init__(
        self, task: Task, conv: Conv, node: fx.Node, tile: Tile, walk: Walk = UNTUNED, band: int | None = None
    ) -> None:
        """`node` is the pool; the band with the fewest rows for the busiest thread where none is given."""
        super().__init__(task, conv, tile, walk._replace(by_tile=False))
        self.node, self.pool = node, pooling(node, conv.x)
        self.bands = Bands.of(self.pool, task, self.chunks) if band is None else Bands(self.pool, band)

    @property
    def choice(self) -> Choice:
        """What was chosen."""
        return {**super().choice, "share": "bands", "band": self.bands.band}

    def _emit(self) -> None:
        """The parallel loop over batch, bands of pooled rows and chunks of output channels."""
        f, anchor = self.f, self.task.region.anchor_node
        assert anchor is not None
        self.epilogue = Epilogue(f, anchor, self.node)
        parts = [self.chunks, self.conv.batch, self.bands.count]
        order = [0, 1, 2] if self.weights_first else [1, 2, 0]
        with f.parallel(prod(parts)) as task:
            where = dict(zip(order, f.unravel(task, [parts[a] for a in order]), strict=True))
            self._band(where[0], where[1], where[2])

    def _band(self, chunk: Expr, n: Expr, number: Expr) -> None:
        """Some rows of the pool, one after the other; each begins with the rows of z that were not made yet."""
        f, bands, blocks = self.f, self.bands, self.tile.blocks
        height = bands.ring
        rows = f.scratch((height, blocks, self.axes[2].out, self.lanes))
        ring = self.ring = _Ring(rows, height, f.simplify(chunk * blocks))
        pool = _Rows(self.task, self.pool, f, Epilogue(f, self.node), ring)
        first = number * bands.band
        rest = bands.rows.out - first
        with f.serial(f.let(tirx.min(bands.band, rest)) if bands.rows.out % bands.band else bands.band) as i:
            row = f.let(first + i, bands.rows.out)
            low, high = bands.source(row)
            before = bands.source(row - 1)[1]
            start = tirx.Select(i == 0, low, tirx.max(low, before))
            with f.serial(f.let(high), f.let(start)) as y:
                self._row(Place(chunk, n, 0, f.let(y)), 0)
            with f.serial(blocks) as b:
                pool.emit([n, f.simplify(chunk * blocks + b), 0, row])

    def _store(self, at: Place, b: int, x: Expr, v: Expr, total: Expr) -> None:
        """One lane of a pixel into the ring."""
        _, value = self.epilogue.apply(self._index(at, b, x, v), total)
        self.f.store(self.ring.buffer, value, [self.ring.place(at.y), b, x, v])


class _Rows(PoolKernel):
    """The pool of one row and channel block, read from the ring."""

    def __init__(self, task: Task, pool: Pooling, f: Function, epilogue: Epilogue, ring: _Ring) -> None:
        super().__init__(task, pool)
        self.f, self.epilogue, self.x = f, epilogue, ring
        self.open()

    def emit(self, place: list[Expr]) -> None:
        """All pixels."""
        if self.pool.kind == "adaptive":
            with self.f.serial(self.pool.axes[2].out) as x:
                self._adaptive(place, x)
        else:
            self.rows.row(self.f, partial(self._tile, place))


@dataclass(frozen=True)
class Bands:
    """Bands of `band` pooled rows."""

    pool: Pooling
    band: int

    @property
    def rows(self) -> Axis:
        """The axis that is cut."""
        return self.pool.axes[1]

    @property
    def count(self) -> int:
        """How many there are."""
        return -(-self.rows.out // self.band)

    @property
    def window(self) -> int:
        """Rows of z under one pooled row, at most."""
        if self.pool.kind == "adaptive":
            return max(-(-(y + 1) * self.rows.size // self.rows.out) - y * self.rows.size // self.rows.out
                       for y in range(self.rows.out))  # fmt: skip
        return min(self.rows.size, (self.rows.kernel - 1) * self.rows.dilation + 1)

    @property
    def ring(self) -> int:
        """Rows of z that are kept: a power of two."""
        return 1 << (self.window - 1).bit_length()

    @property
    def made(self) -> int:
        """Rows of z that a band makes."""
        step = -(-self.rows.size // self.rows.out) if self.pool.kind == "adaptive" else self.rows.stride
        return self.window + (self.band - 1) * min(step, self.window)

    def source(self, row: Expr) -> tuple[Expr, Expr]:
        """Rows of z that a pooled row reads, half-open."""
        axis = self.rows
        if self.pool.kind == "adaptive":
            return row * axis.size // axis.out, ((row + 1) * axis.size + axis.out - 1) // axis.out
        low, high = axis.bounds(row)
        return axis.source(row, low), axis.source(row, high - 1) + 1

    def share(self, task: Task, chunks: int) -> int:
        """Rows of z that the busiest thread makes."""
        return -(-self.pool.batch * self.count * chunks // task.target.threads) * self.made

    @staticmethod
    def of(pool: Pooling, task: Task, chunks: int) -> Bands:
        """Those with the fewest rows for the busiest thread."""
        return Bands.to_try(pool, task, chunks)[0]

    @staticmethod
    def to_try(pool: Pooling, task: Task, chunks: int, count: int = 3) -> Sequence[Bands]:
        """The best ones first."""
        every = (Bands(pool, -(-pool.axes[1].out // n)) for n in range(1, pool.axes[1].out + 1))
        return sorted({b: None for b in every}, key=lambda b: b.share(task, chunks))[:count]
