"""The register tile: how many pixels (rows) times how many channel blocks (columns) are accumulated at once.

    cycles(tile) = max(fma, broadcast rows + 2 weights, latency) + loop + wait weights
    choose the least sum over all tiles and threads

Two scalars are broadcast in a cycle, a vector of weights comes from the second-level cache in two. Measured: 14 to
16 accumulators run at 93 to 97 % of peak on AVX-512, 28 spill as soon as taps are unrolled.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from ..target import Target
from .window import split_evenly

_LATENCY = 8
"""Independent accumulators that keep two FMA units of latency four busy."""

_LOOP = 0.5
L2_BYTES = 512 * 1024
"""What a kernel may expect to keep in a core's second-level cache: half of it on today's server cores."""

ORDERS = ("weights", "rows")
"""What a parallel loop keeps while the other one goes by: a chunk of weights, or a tile of rows."""


@dataclass(frozen=True)
class Tile:
    """`rows` pixels or matrix rows times `blocks` channel blocks of `block` lanes."""

    rows: int
    blocks: int
    block: int

    @property
    def columns(self) -> int:
        """Channels in a tile."""
        return self.blocks * self.block

    @property
    def name(self) -> str:
        """How a choice writes it: "7x2"."""
        return f"{self.rows}x{self.blocks}"

    @staticmethod
    def parse(name: str | int, block: int) -> Tile:
        """The tile that a choice names."""
        rows, blocks = str(name).split("x")
        return Tile(int(rows), int(blocks), block)


def accumulators(target: Target) -> int:
    """Vector registers that a tile may take as accumulators."""
    return {16: 16, 8: 12}.get(target.lanes, 24 if target.registers == 32 else 12)


def candidates(rows: int, blocks: int, block: int, registers: int) -> Iterator[Tile]:
    """Tiles of at most `registers` accumulators; `blocks` is divided evenly, so no tile is cut across channels."""
    for b in range(1, min(blocks, registers) + 1):
        if blocks % b == 0:
            for r in range(1, min(rows, registers // b) + 1):
                yield Tile(r, b, block)


@dataclass(frozen=True)
class Product:
    """What a tile is chosen for: `rows` by `blocks` results, sums of `depth`.

    `outer` independent such products run in parallel; with `split_rows` the tiles of one do, too. `row_bytes` is
    the distance of neighbouring rows in memory: eight or more rows 4096 bytes apart fall into one set of an
    eight-way first-level cache. A step waits `wait` cycles for each of its vectors of weights, and the scalar of a row
    takes `broadcast` cycles.
    """

    rows: int
    blocks: int
    depth: int = 1
    outer: int = 1
    split_rows: bool = False
    row_bytes: int = 64
    wait: float = 0.0
    broadcast: float = 0.5


def choose(product: Product, target: Target, block: int) -> Tile:
    """The cheapest tile."""
    registers = accumulators(target) // max(1, block // target.lanes)
    tiles = candidates(product.rows, product.blocks, block, registers)
    return min(tiles, key=lambda tile: _cost(tile, product, target))


def tiles_to_try(product: Product, target: Target, default: Tile, count: int = 10) -> list[Tile]:
    """Tiles that may be faster than `default`, which stands first; the others are the cheapest of all shapes.

    Tiles that differ little run alike, so that of those with equal blocks only the three cheapest are tried. Tiles
    that need nearly all registers stand last: they spill in most kernels and are the fastest in a few.
    """
    block = default.block
    vectors = max(1, block // target.lanes)

    def cost(tile: Tile) -> tuple[bool, tuple[float, float]]:
        return tile.rows * tile.blocks * vectors > accumulators(target), _cost(tile, product, target)

    registers = (target.registers - 4) // vectors
    tiles = sorted(candidates(product.rows, product.blocks, block, registers), key=cost)
    by_blocks: dict[int, list[Tile]] = {}
    for tile in tiles:
        by_blocks.setdefault(tile.blocks, []).append(tile)
    few = {tile for alike in by_blocks.values() for tile in alike[:3]} - {default}
    return [default, *[tile for tile in tiles if tile in few][: count - 1]]


def _cost(tile: Tile, product: Product, target: Target) -> tuple[float, float]:
    """Cycles of one step of all sums, then the vectors a step reads."""
    vectors = tile.blocks * max(1, tile.block // target.lanes)
    widths = split_evenly(product.rows, tile.rows)
    total = sum(_cycles(width, vectors, product) for width in widths)
    if tile.columns * product.depth * 4 > 2 * L2_BYTES:
        total += len(widths) * vectors
    chunks = product.blocks // tile.blocks
    tasks = product.outer * chunks * (len(widths) if product.split_rows else 1)
    waves = -(-tasks // target.threads) * target.threads / tasks
    return total * chunks * waves, tile.rows / 2 + 2 * vectors


def _cycles(rows: int, vectors: int, product: Product) -> float:
    """Cycles of one step of the sum of a tile."""
    crowded = rows if product.row_bytes % 4096 == 0 and rows > 6 else 0
    loads = rows * product.broadcast + 2 * vectors
    return max(rows * vectors, loads, _LATENCY) + _LOOP + product.wait * vectors + crowded
