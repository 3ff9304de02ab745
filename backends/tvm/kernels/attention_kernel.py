"""The kernel of attention: scores, mask, softmax and values of a tile of queries at a time.

    scores[l, i] = scale q[i] . k[l] + mask[i, l]     result[d, i] = sum over l: exp(scores - top) v[l, d] / total

The lanes of every vector are queries (see `attention`). A task takes one tile of them, or some that share their values.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from math import prod
from typing import Any

import numpy as np
import torch
from torch import fx

from ..compat import tirx
from ..epilogue import Epilogue, plan_operands
from ..generic.turned import transposed
from ..ops.math import exp_flushed
from ..plan import PLAIN, from_memory
from ..template import Lowered, Packed, Task
from ..views import broadcast_index, shape_of
from .accumulate import Accumulators, part_end, parts_of
from .emit import Buffer, Expr, Function, PackedArg, const
from .tiles import accumulators

_SUM = 64
"""Exponentials that are added up in one accumulator."""


@dataclass(frozen=True)
class Sdpa:
    """An attention's operands and geometry: `batch` includes the heads; `group` query heads share a key head."""

    q: fx.Node
    k: fx.Node
    v: fx.Node
    mask: fx.Node | None
    causal: bool
    scale: float
    batch: tuple[int, ...]
    queries: int
    keys: int
    depth: int
    width: int
    group: int


def tile_width(length: int, limit: int) -> int:
    """How many keys (or channels) are accumulated at once: whole tiles and a remainder cost the least."""

    def cycles(width: int) -> int:
        full, rest = divmod(length, width)
        return full * max(width, 8) + (max(rest, 8) if rest else 0)

    return min(range(min(limit, length), 0, -1), key=cycles)


class Kernel:
    """The attention kernel of one task."""

    def __init__(self, task: Task, sdpa: Sdpa, limit: int | None = None) -> None:
        """`limit` is how many vectors may be accumulated at once."""
        self.task, self.sdpa = task, sdpa
        self.lanes = task.target.block
        vectors = max(1, self.lanes // task.target.lanes)
        self.most = (task.target.registers - 4) // vectors
        self.limit = accumulators(task.target) // vectors if limit is None else limit
        self.tiles = -(-sdpa.queries // self.lanes)
        self.key_tile = tile_width(sdpa.keys, self.limit)
        self.value_tile = tile_width(sdpa.width, self.limit)
        self.score_rows = sdpa.keys
        holders = task.region.placeholders
        place = holders.index(sdpa.mask) if sdpa.mask in holders else -1
        self.mask_position = place if place in task.constants and len(task.inputs[place].shape) > 1 else None

    def lower(self) -> Lowered:
        """Emit everything."""
        weights = [] if self.mask_position is None else [self._pack_mask()]
        operands = plan_operands(self.task, PLAIN, [] if self.mask_position is None else [self.mask_position])
        anchor: Any = self.task.region.anchor_node
        with Function(self.task, PLAIN, operands, weights) as f:
            self.f, self.epilogue = f, Epilogue(f, anchor)
            self._emit()
        return Lowered(f.func, f.args, PLAIN, {"keys": self.key_tile, "values": self.value_tile})

    def _emit(self) -> None:
        """Parallel over heads and tiles of queries."""
        with self.f.parallel(prod(self.sdpa.batch) * self.tiles) as task:
            *batch, tile = self.f.unravel(task, [*self.sdpa.batch, self.tiles])
            self._tile(batch, tile)

    def _tile(self, batch: list[Expr], tile: Expr) -> None:
        """One tile of queries of one head."""
        f, sdpa = self.f, self.sdpa
        first = f.let(tile * self.lanes)
        count: Expr = self.lanes
        if sdpa.queries % self.lanes:
            count = f.let(tirx.min(self.lanes, sdpa.queries - first))
        queries = self._queries()
        scores = f.scratch((self.score_rows, self.lanes))
        result = f.scratch((sdpa.width, self.lanes))
        top, total = f.vector(self.lanes), f.vector(self.lanes)
        self._load_queries(queries, batch, first, count)
        self._fill(top, float("-inf"))
        if sdpa.mask is not None and self.mask_position is None:
            self._stage_mask(scores, batch, first, count)
        end = self._end(first)
        self._over_keys(end, lambda key, width: self._scores(queries, scores, top, [*batch, tile], first, key, width))
        self._softmax(scores, top, total, end)
        self._over(
            sdpa.width, self.value_tile, lambda d, width: self._values(scores, result, total, batch, end, d, width)
        )
        self._write(result, batch, first, count)

    def _end(self, first: Expr) -> Expr:
        """Keys that this tile looks at: whole key tiles up to the diagonal, if causal."""
        sdpa = self.sdpa
        if not sdpa.causal:
            return sdpa.keys
        tiles = tirx.floordiv(first + self.lanes + self.key_tile - 1, self.key_tile)
        return self.f.let(tirx.min(sdpa.keys, tiles * self.key_tile))

    def _fill(self, vector: Buffer, value: float) -> None:
        with self.f.lanes(self.lanes) as v:
            self.f.store(vector, const(value), [v])

    def _queries(self) -> Buffer:
        return self.f.scratch((self.sdpa.depth, self.lanes))

    def _load_queries(self, queries: Buffer, batch: list[Expr], first: Expr, count: Expr) -> None:
        """Scaled queries, transposed; zeros in the lanes past the last one."""
        f, sdpa, lanes = self.f, self.sdpa, self.lanes
        rows = f.scratch((lanes, -(-sdpa.depth // lanes) * lanes))
        with f.serial(lanes, count) as i, f.serial(int(rows.shape[1]) // lanes) as d, f.lanes(lanes) as v:
            f.store(rows, const(0.0), [i, d * lanes + v])
        with f.serial(count) as i:
            for d in range(0, sdpa.depth, lanes):
                with f.lanes(min(lanes, sdpa.depth - d)) as v:
                    index = [*self._operand(batch, sdpa.q), first + i, d + v]
                    f.store(rows, self.epilogue.at(sdpa.q, index) * const(sdpa.scale), [i, d + v])
        for d in range(0, sdpa.depth, lanes):
            self._turn([rows[i, tirx.Ramp(d, 1, lanes)] for i in range(lanes)], queries, d)

    def _turn(self, lines: Sequence[Expr], into: Buffer, first: int) -> None:
        """Rows of `into`, from `first` on, become the columns of as many lines as there are lanes."""
        f, lanes = self.f, tirx.Ramp(0, 1, self.lanes)
        vectors = [f.vector(self.lanes) for _ in lines]
        for vector, line in zip(vectors, lines, strict=True):
            f.store(vector, line, [lanes])
        turned = transposed([vector[lanes] for vector in vectors])
        for j, row in enumerate(turned[: int(into.shape[0]) - first]):
            f.store(into, row, [first + j, lanes])

    def _operand(self, batch: Sequence[Expr], node: fx.Node, group: int = 1) -> list[Expr]:
        """Batch index of an operand: broadcast, and the key head of a query head."""
        index = list(batch)
        if group > 1:
            index[-1] = tirx.floordiv(index[-1], group)
        return broadcast_index(index, shape_of(node)[:-2])

    def _stage_mask(self, scores: Buffer, batch: list[Expr], first: Expr, count: Expr) -> None:
        """The mask as numbers to add, transposed into the place of the scores."""
        f, node = self.f, self.sdpa.mask
        assert node is not None
        shape = shape_of(node)
        if len(shape) > 1 and shape[-2] > 1:
            with f.serial(count) as i, f.serial(self.sdpa.keys) as key:
                f.store(scores, self._mask_at(node, [*batch, first + i, key]), [key, i])
        else:
            with f.serial(self.sdpa.keys) as key, f.lanes(self.lanes) as v:
                f.store(scores, self._mask_at(node, [*batch, 0, key]), [key, v])

    def _mask_at(self, node: fx.Node, index: list[Expr]) -> Expr:
        value = self.epilogue.at(node, broadcast_index(index, shape_of(node)))
        if node.meta["val"].dtype == torch.bool:
            return tirx.Select(value, const(0.0), const(float("-inf")))
        return value

    def _pack_mask(self) -> PackedArg:
        """A constant mask as numbers to add, [batch..., tile of queries, key, lane]."""
        assert self.mask_position is not None
        shape, lanes, tiles, keys = self.task.inputs[self.mask_position].shape, self.lanes, self.tiles, self.sdpa.keys
        rows, dtype = self.sdpa.queries, self.task.inputs[self.mask_position].dtype

        def pack(mask: np.ndarray) -> np.ndarray:
            added = np.where(mask, 0.0, -np.inf) if mask.dtype == bool else from_memory(mask, dtype)
            padded = np.zeros((*shape[:-2], tiles * lanes, keys), np.float32)
            padded[..., :rows, :] = added
            split = padded.reshape(*shape[:-2], tiles, lanes, keys)
            return np.ascontiguousarray(np.swapaxes(split, -1, -2))

        key = f"mask{rows}x{keys}l{lanes}"
        return PackedArg(Packed(self.mask_position, key, pack), (*shape[:-2], tiles, keys, lanes), "float32")

    def _over(self, length: int, width: int, body: Any) -> None:
        """Tiles of `width` and a remainder."""
        full, rest = divmod(length, width)
        with self.f.serial(full) as t:
            body(t * width, width)
        if rest:
            body(full * width, rest)

    def _over_keys(self, end: Expr, body: Any) -> None:
        """Tiles of keys up to `end`."""
        width, keys = self.key_tile, self.sdpa.keys
        if not self.sdpa.causal:
            self._over(keys, width, body)
            return
        with self.f.serial(tirx.floordiv(end, width)) as t:
            body(t * width, width)
        if keys % width:
            self.f.when(end == keys, lambda: body(keys // width * width, keys % width))

    def _scores(
        self, queries: Buffer, scores: Buffer, top: Buffer, tile: list[Expr], first: Expr, key: Expr, width: int
    ) -> None:
        """Scores of some keys with mask, and the largest score so far; `tile` is the batch index and the tile's."""
        f, sdpa, batch = self.f, self.sdpa, tile[:-1]
        acc = Accumulators(f, width, 1, self.lanes, parts=False)
        acc.start(lambda b, v: const(0.0))
        self._products(acc, queries, batch, key, width)
        for i in range(width):
            with f.lanes(self.lanes) as v:
                score = self._masked(self._scaled(acc.total(i, 0)[v]), scores, tile, key + i, v)
                if sdpa.causal:
                    score = tirx.Select(key + i <= first + v, score, const(float("-inf")))
                f.store(scores, score, [key + i, v])
                f.store(top, tirx.max(top[v], scores[key + i, v]), [v])

    def _products(self, acc: Accumulators, queries: Buffer, batch: list[Expr], key: Expr, width: int) -> None:
        """Queries times `width` keys."""
        sdpa = self.sdpa
        with self.f.serial(sdpa.depth) as d:
            for i in range(width):
                scalar = self.epilogue.at(sdpa.k, [*self._operand(batch, sdpa.k, sdpa.group), key + i, d])
                acc.add(i, 0, scalar, queries, (d,))

    def _scaled(self, product: Expr) -> Expr:
        """The score of a product: the queries are scaled already."""
        return product

    def _masked(self, score: Expr, scores: Buffer, tile: list[Expr], key: Expr, v: Expr) -> Expr:
        """The score plus the mask, which lies packed or where the score will be."""
        if self.mask_position is not None:
            shape = self.task.inputs[self.mask_position].shape
            return score + self.f.weights[0][(*broadcast_index(tile[:-1], shape[:-2]), tile[-1], key, v)]
        return score if self.sdpa.mask is None else score + scores[key, v]

    def _softmax(self, scores: Buffer, top: Buffer, total: Buffer, end: Expr) -> None:
        """Exponentials in place of the scores; `total` becomes one over their sum, 0 for a row without scores."""
        f = self.f
        part = f.vector(self.lanes)
        self._fill(total, 0.0)
        with f.lanes(self.lanes) as v:
            masked = top[v] == const(float("-inf"))
            f.store(top, tirx.Select(masked, const(0.0), top[v]), [v])
        with f.serial(-(-self.sdpa.keys // _SUM) if isinstance(end, int) else tirx.floordiv(end + _SUM - 1, _SUM)) as p:
            self._fill(part, 0.0)
            stop = part_end(f, p, _SUM, end) if isinstance(end, int) else f.let(tirx.min((p + 1) * _SUM, end))
            with f.serial(stop, p * _SUM) as key, f.lanes(self.lanes) as v:
                f.store(scores, exp_flushed(scores[key, v] - top[v]), [key, v])
                f.store(part, part[v] + scores[key, v], [v])
            with f.lanes(self.lanes) as v:
                f.store(total, total[v] + part[v], [v])
        with f.lanes(self.lanes) as v:
            inverse = tirx.Select(total[v] == const(0.0), const(0.0), const(1.0) / total[v])
            f.store(total, inverse, [v])

    def _values(
        self, scores: Buffer, result: Buffer, total: Buffer, batch: list[Expr], end: Expr, d: Expr, width: int
    ) -> None:
        """Some channels of the weighted sum of the values."""
        f, sdpa = self.f, self.sdpa
        parts, size = parts_of(sdpa.keys)
        if not isinstance(end, int):
            parts = tirx.floordiv(end + size - 1, size)
        acc = Accumulators(f, width, 1, self.lanes, not isinstance(parts, int) or parts > 1)
        acc.start(lambda b, v: const(0.0))
        with f.serial(parts) as part, acc.part():
            stop = part_end(f, part, size, end) if isinstance(end, int) else f.let(tirx.min((part + 1) * size, end))
            with f.serial(stop, part * size) as key:
                for i in range(width):
                    value = self.epilogue.at(sdpa.v, [*self._operand(batch, sdpa.v, sdpa.group), key, d + i])
                    acc.add(i, 0, value, scores, (key,))
        for i in range(width):
            with f.lanes(self.lanes) as v:
                f.store(result, acc.total(i, 0)[v] * total[v], [d + i, v])

    def _write(self, result: Buffer, batch: list[Expr], first: Expr, count: Expr) -> None:
        """Transpose back, epilogue, store."""
        f, width, lanes = self.f, self.sdpa.width, self.lanes
        for start in range(0, width, lanes):
            rows = f.scratch((lanes, lanes))
            self._turn([result[min(start + j, width - 1), tirx.Ramp(0, 1, lanes)] for j in range(lanes)], rows, 0)
            with f.serial(count) as i, f.lanes(min(lanes, width - start)) as v:
                self.epilogue.store([*batch, first + i, start + v], rows[i, v])
