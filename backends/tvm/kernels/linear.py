"""What the kernels of linear layers have in common: the space, the walk over rows and columns, and its order.

    y[m, n] = epilogue(sum over k:  x[view(m, k)] * w[n, k])        a task: one tile of rows, one chunk of columns

How a tile is multiplied, in floats or in codes, is the business of `gemm` and `gemm_integer`.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from math import prod

from torch import fx

from ..epilogue import wants_plain
from ..template import Choice, Lowered, Refused, Task, Wants, distinct
from ..views import is_view
from .ahead import AHEAD
from .emit import Expr, Function
from .rows import Rows
from .tiles import L2_BYTES, ORDERS, Product, Tile, choose, tiles_to_try
from .window import Axis, Run

_L3_SHARE = 8 * L2_BYTES
"""Weights that every core may read once for each of its tiles of rows, from the cache that all share."""


@dataclass(frozen=True)
class Linear:
    """A linear layer's geometry: `rows` by `inner` times `inner` by `columns`."""

    rows: int
    inner: int
    columns: int
    x: fx.Node
    w: int
    bias: int | None
    itemsize: int
    x_zero: int = 0

    @property
    def weight_bytes(self) -> int:
        """Size of the weights."""
        return self.itemsize * self.inner * self.columns


def views_to_placeholder(task: Task, node: fx.Node) -> bool:
    """Whether `node` is a placeholder under views alone."""
    while is_view(node):
        node = node.all_input_nodes[0]
    return node in task.region.placeholders


class LinearKernel(ABC):
    """The matrix product of one task, for one tile; what is not given beside the tile is chosen."""

    f: Function

    def __init__(
        self, task: Task, linear: Linear, tile: Tile, order: str | None = None, ahead: int | None = None
    ) -> None:
        """`order` is one of ORDERS; weights are asked for `ahead` cache lines before they are read."""
        self.task, self.linear, self.tile = task, linear, tile
        self.chunks = -(-linear.columns // tile.block) // tile.blocks
        self.rows = Rows.plan(Axis(linear.rows, linear.rows), tile.rows, tile.blocks)
        self.weights_first = self._keep_weights() if order is None else order == ORDERS[0]
        self.ahead = self._distance() if ahead is None else ahead

    @property
    def choice(self) -> Choice:
        """What was chosen."""
        return {"tile": self.tile.name, "order": ORDERS[not self.weights_first], "ahead": self.ahead}

    @abstractmethod
    def lower(self) -> Lowered:
        """Emit everything."""

    @abstractmethod
    def _tile(self, chunk: Expr, start: Expr, run: Run | None) -> None:
        """Accumulate one tile and store it."""

    def _emit(self) -> None:
        """The parallel loop over tiles of rows and chunks of columns."""
        parts = [self.chunks, self.rows.count]
        order = [0, 1] if self.weights_first else [1, 0]
        with self.f.parallel(prod(parts)) as task:
            where: list[Expr] = [0, 0]
            for axis, index in zip(order, self.f.unravel(task, [parts[a] for a in order]), strict=True):
                where[axis] = index
            self.rows.tile(self.f, where[1], lambda start, run: self._tile(where[0], start, run))

    def _on_last(self, chunk: Expr, write: Callable[[bool], None]) -> None:
        """Two versions of `write` where the last column block is narrower."""
        if self.linear.columns % self.tile.block:
            self.f.branches([(chunk < self.chunks - 1, lambda: write(False)), (True, lambda: write(True))])
        else:
            write(False)

    def _width(self, block: int, last: bool) -> int:
        """Columns of a block of the last chunk, or of another one."""
        rest = self.linear.columns % self.tile.block
        return rest if last and block == self.tile.blocks - 1 and rest else self.tile.block

    def _distance(self) -> int:
        """A single row reads its weights as fast as memory gives them; there a longer way ahead is worth less."""
        if self.linear.weight_bytes <= L2_BYTES:
            return 0
        return AHEAD if self.linear.rows > 1 else AHEAD // 4

    def _keep_weights(self) -> bool:
        """Whether each chunk of weights is read once and x once a chunk, or the other way round.

        Many rows stay on the core that makes them: the next kernel, a norm or another product, finds them there.
        """
        weights, x = self.linear.weight_bytes, self.linear.itemsize * self.linear.inner * self.linear.rows
        if self.rows.count >= 4 * self.task.target.threads and weights <= _L3_SHARE:
            return False
        chunk_first = weights + x * (self.chunks if x > L2_BYTES else 1)
        row_first = x + weights * (self.rows.count if weights > L2_BYTES else 1)
        return chunk_first <= row_first


class LinearTemplate(ABC):
    """A template of linear layers: what is read of a region, the product a tile is chosen for, and the kernel."""

    @property
    @abstractmethod
    def kernel(self) -> type[LinearKernel]:
        """What multiplies."""

    @abstractmethod
    def read(self, task: Task) -> Linear | Refused:
        """Geometry of the region's linear layer, or why this template cannot take it."""

    @abstractmethod
    def product(self, linear: Linear, task: Task) -> Product:
        """What a tile is chosen for."""

    def wants(self, task: Task) -> Wants | Refused:
        """Everything PLAIN."""
        linear = self.read(task)
        return linear if isinstance(linear, Refused) else wants_plain(task)

    def space(self, task: Task) -> Sequence[Choice]:
        """Register tiles, what the parallel loop walks along, and looking ahead."""
        linear = self._taken(task)
        product = self.product(linear, task)
        default = self.kernel(task, linear, choose(product, task.target, task.target.block))
        orders = ORDERS if default.weights_first else ORDERS[::-1]
        tiles = tiles_to_try(product, task.target, default.tile)
        distances = (default.ahead, 0) if default.ahead else (0,)
        return distinct(
            self.kernel(task, linear, tile, order, ahead).choice
            for ahead in distances
            for tile in tiles
            for order in orders
        )

    def emit(self, task: Task, choice: Choice | None = None) -> Lowered:
        """Choose the tile, then write the kernel."""
        linear = self._taken(task)
        if choice is None:
            tile = choose(self.product(linear, task), task.target, task.target.block)
            return self.kernel(task, linear, tile).lower()
        tile = Tile.parse(choice["tile"], task.target.block)
        return self.kernel(task, linear, tile, str(choice["order"]), int(choice["ahead"])).lower()

    def _taken(self, task: Task) -> Linear:
        linear = self.read(task)
        assert isinstance(linear, Linear)
        return linear
