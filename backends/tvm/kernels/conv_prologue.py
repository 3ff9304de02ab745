"""A 1x1 convolution that computes its input as it reads it: what a norm and an activation before it would store.

    y[n, o, p] = epilogue(b[o] + sum over c:  w[o, c] * before(x[n, c, p]))

A task takes a range of pixels and of output channels. It fills a buffer, which stays in its core's second-level cache,
with before(x) of all channels there, and multiplies from that: each element is computed once a share of the channels,
which costs a few percent of its products. Sums are those of the convolution alone: no choice changes a bit.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from math import prod

from torch import fx

from ..compat import tirx
from ..ops.pointwise import is_pointwise
from ..template import Choice, Refused, Task, distinct
from ..views import dtype_of, shape_of
from .conv import Conv, has_pairs
from .conv_direct_kernel import DirectKernel
from .conv_walk import UNTUNED, Place, Walk
from .emit import Buffer, Expr
from .tiles import L2_BYTES, Tile

_FILL = 6
"""Cycles to compute and store a vector of the input."""

_WEIGHT = 2
"""Cycles for a vector of weights, which a task reads once.

Measured on DenseNet-121: 20.12 ms with norms in concatenations, 19.62 with them here; 20.05 if weights are said to take
6 cycles, which makes larger buffers of pixels.
"""


def read_prologue(task: Task) -> int | Refused | None:
    """The one activation that the convolution's input is computed from, or None where that is an input itself."""
    before = task.region.prologue
    anchor = task.region.anchor_node
    if anchor is None or not anchor.all_input_nodes or anchor.all_input_nodes[0] in task.region.placeholders:
        return None
    source, shape = anchor.all_input_nodes[0], shape_of(anchor.all_input_nodes[0])
    if not all(is_pointwise(n) and shape_of(n) == shape and dtype_of(n) == "float32" for n in before):
        return Refused("its input is not computed element by element")
    placeholders = task.region.placeholders
    read = {placeholders.index(a) for n in before for a in n.all_input_nodes if a in placeholders}
    given = read - task.constants
    if source not in before or len(given) != 1:
        return Refused("its input is computed from several activations")
    return given.pop() if shape_of(placeholders[min(given)]) == shape else Refused("its input is broadcast")


def prologue_refusal(task: Task, conv: Conv) -> str | None:
    """Why the convolution cannot compute its input."""
    if not conv.pointwise or conv.groups != 1 or prod(a.out for a in conv.axes) == 1:
        return "only 1x1 convolutions of images read each pixel once"
    if has_pairs(conv, task):
        return "pairs of bfloat16 are multiplied as they lie in memory"
    if 4 * conv.channels > L2_BYTES // 4:
        return f"{conv.channels} channels of a few pixels do not fit the cache"
    return None


@dataclass(frozen=True)
class _Filled:
    """before(x) of some pixels, read as if it were all of it: x[n, block, 0, 0, pixel, lane]."""

    buffer: Buffer
    first: Expr

    def __getitem__(self, index: tuple[Expr, ...]) -> Expr:
        """A lane of a pixel."""
        _, block, _, _, pixel, lane = index
        return self.buffer[block, pixel - self.first, lane]


class PrologueKernel(DirectKernel):
    """The kernel of one task, for one tile; `fill` are tiles of pixels in the buffer, `parts` of the channels apart."""

    def __init__(
        self, task: Task, conv: Conv, tile: Tile, walk: Walk = UNTUNED, cut: tuple[int, int] | None = None
    ) -> None:
        """`cut` is (fill, parts); where it is not given, the fewest cycles of the busiest thread."""
        super().__init__(task, conv, tile, Walk("rows", True, walk.ahead))
        self.fill, self.parts = self.cuts()[0] if cut is None else cut

    @property
    def choice(self) -> Choice:
        """What was chosen."""
        return {**super().choice, "share": "fills", "fill": self.fill, "parts": self.parts}

    def cuts(self) -> Sequence[tuple[int, int]]:
        """(fill, parts), those of fewest cycles first."""
        most = max(1, L2_BYTES // 2 // (4 * self.in_blocks * self.task.target.block * self.tile.rows))
        fills = sorted({-(-self.rows.count // n) for n in range(1, self.rows.count + 1)})
        every = [
            (fill, parts)
            for fill in fills
            if fill <= most or fill == 1
            for parts in range(1, self.chunks + 1)
            if self.chunks % parts == 0
        ]
        return sorted(every, key=self._cycles)

    def _cycles(self, cut: tuple[int, int]) -> float:
        """Cycles of the busiest thread."""
        fill, parts = cut
        tasks = self.conv.batch * -(-self.rows.count // fill) * parts
        vectors = self.chunks // parts * self.tile.blocks
        pixels = fill * self.tile.rows
        each = self.conv.channels * vectors * (pixels + _WEIGHT) + self.in_blocks * pixels * _FILL
        return -(-tasks // self.task.target.threads) * each

    def _emit(self) -> None:
        """The parallel loop over batch, ranges of pixels and parts of the output channels."""
        f, block = self.f, self.task.target.block
        grid = [self.conv.batch, -(-self.rows.count // self.fill), self.parts]
        with f.parallel(prod(grid)) as task:
            n, number, part = f.unravel(task, grid)
            first = f.let(number * self.fill, self.rows.count)
            tiles = f.let(tirx.min(self.fill, self.rows.count - first)) if self.rows.count % self.fill else self.fill
            start, end = f.let(self._start(first)), f.let(self._start(first + tiles))
            buffer = f.scratch((self.in_blocks, self.fill * self.rows.tiles[0].width, block))
            self._fill(buffer, n, start, end)
            self.x = _Filled(buffer, start)
            each = self.chunks // self.parts
            with f.serial(each) as c, f.serial(tiles) as i:
                place = Place(f.let(part * each + c, self.chunks), n, 0, 0)
                self.rows.tile(f, f.let(first + i), partial(self._tile, place))

    def _start(self, tile: Expr) -> Expr:
        """First pixel of a tile; those after the first run are narrower by one pixel."""
        run = self.rows.tiles[0]
        begin = tile * run.width
        return begin if len(self.rows.tiles) == 1 else begin - tirx.max(0, tile - run.count)

    def _fill(self, buffer: Buffer, n: Expr, start: Expr, end: Expr) -> None:
        """before(x) of the pixels from `start` to `end`; lanes past the channels are never read."""
        f, block = self.f, self.task.target.block
        anchor = self.task.region.anchor_node
        assert anchor is not None
        source: fx.Node = anchor.all_input_nodes[0]

        def blocks(low: int, high: int, lanes: int) -> None:
            with f.serial(high, low) as c, f.serial(f.let(end - start)) as i, f.lanes(lanes) as v:
                index = [n, c * block + v, *self._space(0, 0, start + i)]
                f.store(buffer, self.epilogue.at(source, index), [c, i, v])

        whole, rest = divmod(self.conv.channels, block)
        if whole:
            blocks(0, whole, block)
        if rest:
            blocks(whole, whole + 1, rest)


def prologue_choices(task: Task, conv: Conv, tiles: Sequence[Tile]) -> Sequence[Choice]:
    """Register tiles, how pixels and channels are cut, and looking ahead; the default first."""
    default = PrologueKernel(task, conv, tiles[0])
    return distinct(
        PrologueKernel(task, conv, tile, Walk(ahead=ahead), cut).choice
        for ahead in ((default.ahead, 0) if default.ahead else (0,))
        for tile in tiles
        for cut in PrologueKernel(task, conv, tile).cuts()[:3]
    )
