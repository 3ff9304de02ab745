"""Direct convolution (1d, 2d, 3d) in blocked channels: the template, its space of tiles, and the tile untuned.

`conv_direct_kernel` writes the kernel.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from math import prod

from torch import fx

from ..epilogue import wants_blocked
from ..plan import PLAIN, Layout
from ..template import Choice, Lowered, Refused, Task, Wants, distinct
from .conv import Conv, has_pairs, has_tap_pairs, lanes_of, read_conv
from .conv_direct_kernel import DirectKernel
from .conv_pool import PooledKernel, loss, pool_of, pooled_choices, refusal
from .conv_prologue import PrologueKernel, prologue_choices, prologue_refusal, read_prologue
from .conv_walk import UNTUNED, Walk
from .tiles import L2_BYTES, ORDERS, Product, Tile, choose, tiles_to_try

_WAIT = 0.25
"""Cycles for a vector of weights of a 1x1 convolution that do not stay in the cache; others use theirs kw times.

Measured with weights from memory: 14x14, 1024 to 256 channels, 173 GFLOP/s in tiles of 4x4, 200 in 16x1; 7x7, 2048
to 512 channels, 188 and 219.
"""


class ConvDirect:
    """The template: dense convolutions, and grouped ones in vectors that no group's border cuts."""

    name = "conv_direct"

    def __init__(self, anywhere: bool = False) -> None:
        """With `anywhere` a pool is taken also where that is not faster."""
        self._anywhere = anywhere

    def wants(self, task: Task) -> Wants | Refused:
        """Blocked output; the input PLAIN where it has few channels or pixels, blocked otherwise."""
        conv, computed = _read(task)
        if isinstance(conv, Refused):
            return conv
        node = pool_of(task)
        if computed and (reason := prologue_refusal(task, conv) or (node and "its input is computed as it is read")):
            return Refused(str(reason))
        tile = default_tile(conv, task)
        if node is not None and (reason := refusal(task, conv, node, tile) or self._loss(task, conv, node, tile)):
            return Refused(reason)
        few = conv.channels < task.target.block and not computed
        return blocked_wants(task, conv, few and (not has_pairs(conv, task) or has_tap_pairs(conv, task)), node)

    def _loss(self, task: Task, conv: Conv, node: fx.Node, tile: Tile) -> str | None:
        """Why a pool is the faster in a kernel of its own."""
        return None if self._anywhere else loss(task, conv, node, tile)

    def space(self, task: Task) -> Sequence[Choice]:
        """Register tiles, what the outer loop walks along, its tasks (rows or single tiles), and looking ahead."""
        conv, computed = _read(task)
        assert isinstance(conv, Conv)
        tiles = tiles_to_try(product_of(conv, task), task.target, default_tile(conv, task))
        if computed:
            return prologue_choices(task, conv, tiles)
        if pool_of(task) is not None:
            return pooled_choices(task, conv, tiles)
        default = DirectKernel(task, conv, default_tile(conv, task))
        orders = ORDERS if default.weights_first else ORDERS[::-1]
        shares = (default.by_tile, not default.by_tile)
        distances = (default.ahead, 0) if default.ahead else (0,)
        return distinct(
            DirectKernel(task, conv, tile, Walk(order, share, ahead)).choice
            for ahead in distances
            for tile in tiles
            for share in shares
            for order in orders
        )

    def emit(self, task: Task, choice: Choice | None = None) -> Lowered:
        """Choose the tile, then write the kernel."""
        conv, computed = _read(task)
        assert isinstance(conv, Conv)
        tile, walk = default_tile(conv, task), UNTUNED
        if choice is not None:
            tile, walk = Tile.parse(choice["tile"], lanes_of(conv, task.target.block)), Walk.parse(choice)
        if computed:
            cut = None if choice is None else (int(choice["fill"]), int(choice["parts"]))
            return PrologueKernel(task, conv, tile, walk, cut).lower()
        node = pool_of(task)
        if node is None:
            return DirectKernel(task, conv, tile, walk).lower()
        return PooledKernel(task, conv, node, tile, walk, None if choice is None else int(choice["band"])).lower()


def _read(task: Task) -> tuple[Conv | Refused, bool]:
    """Geometry of the convolution, and whether its input is computed from the region's."""
    source = read_prologue(task)
    if isinstance(source, Refused):
        return source, True
    return read_conv(task, source=source), source is not None


def blocked_wants(task: Task, conv: Conv, plain: bool, pool: fx.Node | None = None) -> Wants | Refused:
    """Blocked output and operands; the input PLAIN as well where it has one pixel, or if it is to be with `plain`.

    `pool` is the one in the epilogue that the kernel computes.
    """
    block = task.target.block
    if lanes_of(conv, block) < 2:
        return Refused(f"groups of {conv.out_channels // conv.groups} channels leave nothing to vectorize")
    layout: Layout = f"c{block}"
    one = prod(a.size for a in conv.axes) == 1
    first: tuple[Layout, ...] = (PLAIN, layout) if one or plain else (layout,)
    return wants_blocked(task, {conv.x: first}, pool)


def product_of(conv: Conv, task: Task) -> Product:
    """The matrix product that a tile is chosen for: rows of pixels, or the whole image of a pointwise convolution."""
    pixels = prod(a.out for a in conv.axes)
    flat = conv.pointwise and pool_of(task) is None
    width = pixels if flat else conv.axes[2].out
    blocks = -(-(conv.out_channels // conv.groups) // lanes_of(conv, task.target.block))
    depth = conv.channels // conv.groups * prod(a.kernel for a in conv.axes)
    many = all(a.kernel == 1 for a in conv.axes) and 4 * conv.out_channels * depth > L2_BYTES // 4
    outer = conv.batch * conv.groups * pixels // width
    wait, broadcast = _WAIT if many else 0.0, _broadcast(conv, task)
    return Product(width, blocks, depth, outer, split_rows=flat, wait=wait, broadcast=broadcast)


def _broadcast(conv: Conv, task: Task) -> float:
    """Cycles for the scalar of a pixel; the last of an odd number of taps is made a pair, which takes 2 more.

    Measured on a 3x3 stem of 48 channels: 118 GFLOP/s in tiles of 16x1, 158 in 5x3.
    """
    taps = conv.axes[2].kernel
    single = taps % 2 and task.inputs[conv.x].layout == PLAIN and has_tap_pairs(conv, task)
    return 0.5 + (2 / -(-taps // 2) if single else 0.0)


def default_tile(conv: Conv, task: Task) -> Tile:
    """A tile that is good untuned."""
    product = product_of(conv, task)
    tile = choose(product, task.target, lanes_of(conv, task.target.block))
    if product.outer * -(-product.rows // tile.rows) * (product.blocks // tile.blocks) > 1:
        return tile
    smaller = [d for d in range(1, product.blocks) if product.blocks % d == 0]  # one tile is all the work: share it
    return replace(tile, blocks=smaller[-1]) if smaller else tile
