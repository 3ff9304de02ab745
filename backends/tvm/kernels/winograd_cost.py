"""How Winograd's tiles are blocked, and when they pay: one small model of cycles, from measured figures.

    cycles(task) = patches + chunks * (max(t*t products, their weights / bandwidth) + transforms back)
    pays(conv)   = cycles(winograd) + its weights / bandwidth < 0.9 (cycles(direct) + its weights / bandwidth)

The transformed weights are t*t/9 times the bytes: a 7x7 image with 512 channels is not worth 37.7 MB of them.

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
from .winograd_points import TAPS

_SCRATCH_BYTES = 640 * 1024
"""V and M of one block of tiles: what is left of a second-level cache of 1 MB beside the weights of one product."""

_MOST_TILES = 64
_PATCH = {4: 240, 2: 85}
"""Cycles for one patch of one block of input channels."""

_BACK = {4: 190, 2: 60}
"""Cycles for one tile of one block of output channels, a plain epilogue included."""

_CACHE_BYTES = 11
"""Bytes a cycle of one core from the last-level cache while it multiplies."""

_MEMORY_BYTES = 12
"""Bytes a cycle from memory, all cores together."""

_DIRECT = 0.9
"""Share of peak that direct convolution reaches while its weights are in a cache."""

_GAIN = 0.9
"""Share of direct convolution's time below which the larger rounding error and more memory are worth it."""

_ONE_FMA = ("znver4",)
"""CPUs that make one full vector multiply-add a cycle; all others with 256 bits or more make two."""


@dataclass(frozen=True)
class Blocking:
    """`tile_blocks` blocks of tiles: `larger` of them have `fewest` + 1 tiles, the others `fewest`.

    `rows` by `blocks` is the register tile; `groups` tasks share the chunks of each block of tiles.
    """

    m: int
    total: int
    tile_blocks: int
    rows: int
    blocks: int
    chunks: int
    chunks_per_group: int
    channels: int

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
        return (-(-self.channels // 16) | 1) * 16


def suits(conv: Conv) -> str | None:
    """Why a convolution cannot be computed this way, or None. One over a volume of one slice is one over an image."""
    if [a.kernel for a in conv.axes] != [1, TAPS, TAPS] or conv.axes[0] != Axis(1, 1):
        return f"kernel {tuple(a.kernel for a in conv.axes)} is not 3x3 over an image"
    if conv.groups != 1:
        return f"{conv.groups} groups"
    if any(a.stride != 1 or a.dilation != 1 for a in conv.axes):
        return "stride or dilation is not 1"
    return None


def plan_blocking(conv: Conv, m: int, target: Target) -> Blocking:
    """The blocking with the fewest cycles."""
    return min(_blockings(conv, m, target), key=lambda b: cycles(b, target))


def blockings_to_try(conv: Conv, m: int, target: Target, count: int = 8) -> list[Blocking]:
    """The blockings of fewest cycles, the first of them also with other register tiles."""
    few = sorted(_blockings(conv, m, target), key=lambda b: cycles(b, target))[:count]
    best = few[0]
    out_blocks = best.chunks * best.blocks
    product = _product(best.tiles, out_blocks, conv.channels, m, target)
    tiles = tiles_to_try(product, target, Tile(best.rows, best.blocks, target.block), count)
    names = (f"{tile.rows}x{tile.blocks}" for tile in tiles)
    return [*few, *(blocking_of(conv, m, target, best.tile_blocks, name, best.groups) for name in names)]


def blocking_of(conv: Conv, m: int, target: Target, tile_blocks: int, tile: str, groups: int) -> Blocking:
    """The blocking that a choice names."""
    register = Tile.parse(tile, target.block)
    total = conv.batch * prod(-(-a.out // m) for a in conv.axes[1:])
    chunks = -(-conv.out_channels // target.block) // register.blocks
    each = -(-chunks // groups)
    return Blocking(m, total, tile_blocks, register.rows, register.blocks, chunks, each, conv.channels)


def _blockings(conv: Conv, m: int, target: Target) -> Iterator[Blocking]:
    """All blockings whose scratch fits; at least one tile at a time."""
    total = conv.batch * prod(-(-a.out // m) for a in conv.axes[1:])
    out_blocks = -(-conv.out_channels // target.block)
    found = False
    for tile_blocks in sorted({-(-total // p) for p in range(1, min(total, _MOST_TILES) + 1)}, reverse=True):
        largest = -(-total // tile_blocks)
        tile = _register_tile(largest, out_blocks, conv.channels, m, target)
        chunks = out_blocks // tile.blocks
        bytes_ = 4 * (m + 2) ** 2 * largest * (conv.channels + 16 + tile.columns)
        if bytes_ > _SCRATCH_BYTES and found:
            return
        found = True
        for each in sorted({-(-chunks // g) for g in range(1, chunks + 1)}):
            yield Blocking(m, total, tile_blocks, tile.rows, tile.blocks, chunks, each, conv.channels)


def _register_tile(tiles: int, out_blocks: int, channels: int, m: int, target: Target) -> Tile:
    return choose(_product(tiles, out_blocks, channels, m, target), target, target.block)


def _product(tiles: int, out_blocks: int, channels: int, m: int, target: Target) -> Product:
    return Product(tiles, out_blocks, channels, (m + 2) ** 2 * target.threads)


def cycles(plan: Blocking, target: Target) -> float:
    """Cycles of one thread, weights in the last-level cache."""
    per_block = max(1, target.block // target.lanes)
    points, vectors = (plan.m + 2) ** 2, plan.blocks * per_block
    fmas = _fmas(target)
    widths = split_evenly(plan.tiles, plan.rows)
    step = sum(max(w * vectors / fmas, w / 2 + 2 * vectors, 4) + 0.5 for w in widths)
    weights = points * plan.channels * plan.blocks * target.block * 4
    products = max(points * plan.channels * step, weights / _CACHE_BYTES)
    patches = plan.tiles * -(-plan.channels // target.block) * per_block * _PATCH[plan.m]
    waves = -(-plan.tile_blocks * plan.groups // target.threads)
    return waves * (patches + plan.chunks_per_group * (products + plan.tiles * vectors * _BACK[plan.m]))


def pays(conv: Conv, target: Target, m: int = 4) -> bool:
    """Whether F(m, 3) is faster than direct convolution inside a network, where weights come from memory."""
    if suits(conv) or min(conv.channels, conv.out_channels) < target.block:
        return False
    weights = 4 * conv.channels * conv.out_channels / _MEMORY_BYTES
    winograd = cycles(plan_blocking(conv, m, target), target) + weights * (m + 2) ** 2
    return winograd < _GAIN * (_direct_cycles(conv, target) + weights * TAPS**2)


def _direct_cycles(conv: Conv, target: Target) -> float:
    """Cycles of one thread of direct convolution."""
    pixels = conv.batch * prod(a.out for a in conv.axes)
    vectors = -(-conv.out_channels // target.block) * max(1, target.block // target.lanes)
    return TAPS**2 * pixels * vectors * conv.channels / _fmas(target) / _DIRECT / target.threads


def _fmas(target: Target) -> int:
    """Vector multiply-adds a cycle."""
    return 1 if target.cpu in _ONE_FMA else 2
