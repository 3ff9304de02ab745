"""How Winograd's tiles are blocked, and when they pay: one small model of cycles, from measured figures.

    cycles(task) = patches + chunks * (max(t*t products, their weights / bandwidth) + transforms back)
    memory(work) = max(work + 0.3 fetch, fetch)           fetch = weights / bandwidth
    pays(conv)   = memory(cycles of the fastest form) < 0.9 memory(cycles of direct convolution)

Where direct convolution multiplies pairs of bfloat16 it takes half the cycles, and fetches half the bytes.

The transformed weights are t*t/9 times the bytes: a 7x7 image with 512 channels is not worth 37.7 MB of them, but it
is worth the 16.8 MB of m = 2.

Measured on Zen 4 (117 GFLOP/s a core), one thread, microseconds of CPU time with weights in the cache, and from
memory:

                 direct        F(4,3)       F(2,3)
    56^2 x  64   1956          601          1004
    28^2 x 128   1922   1967   604    633    975  1015
    14^2 x 256   1830   1955   735    822    935  1067
     7^2 x 512   1751   2201   940   1272   1266  1367
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from math import prod

from ..target import Target
from .conv import Conv
from .tiles import Product, Tile, choose, tiles_to_try
from .window import Axis, split_evenly
from .winograd_points import Form, form_of, matrices, terms

_SCRATCH_BYTES = 640 * 1024
"""V and M of one block of tiles: what is left of a second-level cache of 1 MB beside the weights of one product."""

_MOST_TILES = 64
_TERM, _MOVED, _STORED = 0.4, 1.85, 2.3
"""Cycles for a coefficient of a transform, for an element of a patch that is read and written, and for one of a tile.

Measured: 240 and 85 for one patch of one block of channels of F(4x4, 3x3) and F(2x2, 3x3), 190 and 60 for a tile of
results, a plain epilogue included.
"""

_CACHE_BYTES = 11
"""Bytes a cycle of one core from the last-level cache while it multiplies."""

_MEMORY_BYTES = 10
"""Bytes a cycle from memory, all cores together."""

_EXPOSED = 0.3
"""Share of the time to fetch weights from memory that is not hidden behind the arithmetic."""

_DIRECT = 0.97
"""Share of peak that direct convolution reaches while its weights are in a cache."""

_GAIN = 0.9
"""Share of direct convolution's time below which the larger rounding error and more memory are worth it."""

_ONE_FMA = ("znver4",)
"""CPUs that make one full vector multiply-add a cycle; all others with 256 bits or more make two."""


@dataclass(frozen=True)
class Numbers:
    """What is multiplied: `depth` channels in so many `instructions`, transformed weights of `bytes` each.

    Direct convolution takes `direct` instructions and `direct_bytes` for a channel, `spread` is what the transforms
    take of those of float32.
    """

    whole: bool = False
    depth: int = 1
    instructions: int = 1
    bytes: int = 4
    direct: float = 1.0
    direct_bytes: float = 4.0
    spread: float = 1.0


FLOATS = Numbers()
PAIRS_DIRECT = Numbers(direct=0.5, direct_bytes=2.0)
"""Direct convolution multiplies pairs of bfloat16; transformed values are float32."""


@dataclass(frozen=True)
class Blocking:
    """`tile_blocks` blocks of tiles: `larger` of them have `fewest` + 1 tiles, the others `fewest`.

    `rows` by `blocks` is the register tile; `groups` tasks share the chunks of each block of tiles.
    """

    form: Form
    total: int
    tile_blocks: int
    rows: int
    blocks: int
    chunks: int
    chunks_per_group: int
    channels: int
    numbers: Numbers = FLOATS

    @property
    def fewest(self) -> int:
        """Tiles in a smaller block."""
        return self.total // self.tile_blocks

    @property
    def larger(self) -> int:
        """Blocks that have a tile more."""
        return self.total % self.tile_blocks

    @property
    def tiles(self) -> int:
        """Tiles in the largest block."""
        return -(-self.total // self.tile_blocks)

    @property
    def groups(self) -> int:
        """Tasks that share the chunks of one block of tiles."""
        return -(-self.chunks // self.chunks_per_group)

    @property
    def patch_stride(self) -> int:
        """Channels of V in memory: an odd number of cache lines, so that rows fall into different sets."""
        line = 64 // self.numbers.bytes
        return (-(-self.channels // line) | 1) * line


def suits(conv: Conv, m: int, whole: bool = False) -> str | None:
    """Why a convolution cannot be computed this way, or None. One over a volume of one slice is one over an image."""
    _, height, width = conv.axes
    if conv.axes[0] != Axis(1, 1):
        return "it is not over an image"
    if form_of((height.kernel, width.kernel), m, whole) is None:
        return f"kernel {height.kernel}x{width.kernel} has no short form with tiles of {m}"
    if conv.groups != 1:
        return f"{conv.groups} groups"
    if any(a.stride != 1 or a.dilation != 1 for a in conv.axes):
        return "stride or dilation is not 1"
    return None


def plan_blocking(conv: Conv, m: int, target: Target, numbers: Numbers = FLOATS) -> Blocking:
    """The blocking with the fewest cycles."""
    return min(_blockings(conv, m, target, numbers), key=lambda b: cycles(b, target))


def blockings_to_try(conv: Conv, m: int, target: Target, numbers: Numbers = FLOATS, count: int = 8) -> list[Blocking]:
    """The blockings of fewest cycles, the first of them also with other register tiles."""
    few = sorted(_blockings(conv, m, target, numbers), key=lambda b: cycles(b, target))[:count]
    best = few[0]
    out_blocks = best.chunks * best.blocks
    product = _product(best.tiles, out_blocks, conv.channels, best.form, target)
    tiles = tiles_to_try(product, target, Tile(best.rows, best.blocks, target.block), count)
    names = (f"{tile.rows}x{tile.blocks}" for tile in tiles)
    return [*few, *(blocking_of(conv, m, target, (best.tile_blocks, name, best.groups), numbers) for name in names)]


def blocking_of(conv: Conv, m: int, target: Target, cut: tuple[int, str, int], numbers: Numbers = FLOATS) -> Blocking:
    """The blocking that a choice names: blocks of tiles, register tile, groups."""
    tile_blocks, tile, groups = cut
    register = Tile.parse(tile, target.block)
    form = _form(conv, m, numbers)
    chunks = -(-conv.out_channels // target.block) // register.blocks
    each = -(-chunks // groups)
    sizes = (_tiles(conv, form), tile_blocks, register.rows, register.blocks, chunks, each, conv.channels)
    return Blocking(form, *sizes, numbers)


def _blockings(conv: Conv, m: int, target: Target, numbers: Numbers) -> Iterator[Blocking]:
    """All blockings whose scratch fits; at least one tile at a time."""
    form = _form(conv, m, numbers)
    total = _tiles(conv, form)
    out_blocks = -(-conv.out_channels // target.block)
    found = False
    for tile_blocks in sorted({-(-total // p) for p in range(1, min(total, _MOST_TILES) + 1)}, reverse=True):
        largest = -(-total // tile_blocks)
        tile = choose(_product(largest, out_blocks, conv.channels, form, target), target, target.block)
        chunks = out_blocks // tile.blocks
        bytes_ = form.points * largest * (numbers.bytes * (conv.channels + 16) + 4 * tile.columns)
        if bytes_ > _SCRATCH_BYTES and found:
            return
        found = True
        for each in sorted({-(-chunks // g) for g in range(1, chunks + 1)}):
            yield Blocking(form, total, tile_blocks, tile.rows, tile.blocks, chunks, each, conv.channels, numbers)


def _form(conv: Conv, m: int, numbers: Numbers) -> Form:
    form = form_of((conv.axes[1].kernel, conv.axes[2].kernel), m, numbers.whole)
    assert form is not None, conv
    return form


def _tiles(conv: Conv, form: Form) -> int:
    return conv.batch * -(-conv.axes[1].out // form.height.outputs) * -(-conv.axes[2].out // form.width.outputs)


def _product(tiles: int, out_blocks: int, channels: int, form: Form, target: Target) -> Product:
    return Product(tiles, out_blocks, channels, form.points * target.threads)


def cycles(plan: Blocking, target: Target) -> float:
    """Cycles of one thread, weights in the last-level cache."""
    per_block = max(1, target.block // target.lanes)
    numbers, points, vectors = plan.numbers, plan.form.points, plan.blocks * per_block
    fmas = _fmas(target) / numbers.instructions
    widths = split_evenly(plan.tiles, plan.rows)
    step = sum(max(w * vectors / fmas, w / 2 + 2 * vectors, 4) + 0.5 for w in widths)
    weights = points * plan.channels * plan.blocks * target.block * numbers.bytes
    products = max(points * -(-plan.channels // numbers.depth) * step, weights / _CACHE_BYTES)
    patches = plan.tiles * -(-plan.channels // target.block) * per_block * _patch(plan.form) * numbers.spread
    waves = -(-plan.tile_blocks * plan.groups // target.threads)
    return waves * (patches + plan.chunks_per_group * (products + plan.tiles * vectors * _back(plan.form)))


def _patch(form: Form) -> float:
    """Cycles for B^T d B of one vector of channels."""
    rows, columns = matrices(form.height).patch, matrices(form.width).patch
    count = form.width.points * terms(rows) + form.height.points * terms(columns)
    return _TERM * count + _MOVED * 2 * form.points


def _back(form: Form) -> float:
    """Cycles for A^T M A of one vector of channels, and a plain epilogue."""
    rows, columns = matrices(form.height).output, matrices(form.width).output
    count = form.width.points * terms(rows) + form.height.outputs * terms(columns)
    return _TERM * count + _STORED * (form.points + form.outputs)


def pays(conv: Conv, target: Target, m: int = 4, numbers: Numbers = FLOATS) -> bool:
    """Whether tiles of m are the fastest form, and faster than direct convolution, inside a network."""
    if suits(conv, m, numbers.whole) or min(conv.channels, conv.out_channels) < target.block:
        return False
    times = {
        other: _network_cycles(conv, other, target, numbers)
        for other in (4, 2)
        if not suits(conv, other, numbers.whole)
    }
    taps = prod(a.kernel for a in conv.axes)
    direct = _from_memory(direct_cycles(conv, target) * numbers.direct, conv, taps * numbers.direct_bytes)
    return times[m] == min(times.values()) and times[m] < _GAIN * direct


def _network_cycles(conv: Conv, m: int, target: Target, numbers: Numbers) -> float:
    """Cycles where the weights come from memory."""
    plan = plan_blocking(conv, m, target, numbers)
    return _from_memory(cycles(plan, target), conv, plan.form.points * numbers.bytes)


def _from_memory(cycles: float, conv: Conv, bytes_each: float) -> float:
    """Cycles with so many bytes for each pair of channels fetched beside the arithmetic."""
    fetch = conv.channels * conv.out_channels * bytes_each / _MEMORY_BYTES
    return max(cycles + _EXPOSED * fetch, fetch)


def direct_cycles(conv: Conv, target: Target) -> float:
    """Cycles of one thread of direct convolution of float32."""
    pixels, taps = conv.batch * prod(a.out for a in conv.axes), prod(a.kernel for a in conv.axes)
    vectors = -(-conv.out_channels // target.block) * max(1, target.block // target.lanes)
    return taps * pixels * vectors * conv.channels / _fmas(target) / _DIRECT / target.threads


def _fmas(target: Target) -> int:
    """Vector multiply-adds a cycle."""
    return 1 if target.cpu in _ONE_FMA else 2
