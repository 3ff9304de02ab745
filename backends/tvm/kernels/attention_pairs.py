"""The kernel of attention for bfloat16: both products multiply pairs, of neighbours in a head and of neighbouring keys.

    scores[l, i] = scale (q[i] . k[l])     result[d, i] = sum over l: bfloat16(exp(scores - top)) v[l, d] / total

The queries keep their bits, so that the scale comes after the sum. Exponentials are rounded, as those of a softmax
that is stored would be; the largest is 1, which bfloat16 has. The values of a head are joined in pairs of keys once
for all tiles of a task. Everything else is as in float32.
"""

from __future__ import annotations

from math import prod

import torch

from ..compat import T, tirx
from ..template import Task
from .accumulate import Accumulators
from .attention_kernel import Kernel, Sdpa
from .bfloat16 import DOT_LANES, Narrow, dot_products, has_dot
from .emit import Buffer, Expr, const
from .pairs import Pairs, in_pairs

_TASKS = 2
"""Tasks for each thread, if there are so many tiles: each joins the values of its head anew."""


def multiplies_pairs(task: Task, sdpa: Sdpa) -> bool:
    """Whether queries and keys can be read in pairs, and the values are bfloat16."""
    if not has_dot(task.target) or task.target.block not in DOT_LANES:
        return False
    return sdpa.v.meta["val"].dtype is torch.bfloat16 and in_pairs(task, sdpa.q) and in_pairs(task, sdpa.k)


class PairedKernel(Kernel):
    """The attention kernel of one task where the CPU multiplies pairs."""

    def __init__(self, task: Task, sdpa: Sdpa, limit: int | None = None) -> None:
        """As of `Kernel`; the scores have a row more, of zeros behind an odd number of keys."""
        super().__init__(task, sdpa, limit)
        self.score_rows = sdpa.keys + 1

    def _emit(self) -> None:
        """Parallel over heads and shares of their tiles."""
        f, sdpa = self.f, self.sdpa
        heads = prod(sdpa.batch)
        wanted = -(-_TASKS * self.task.target.threads // heads)
        each = -(-self.tiles // min(self.tiles, wanted))
        shares = -(-self.tiles // each)
        with dot_products(self.lanes):
            self.paired = Pairs(f, [sdpa.q, sdpa.k])
            with f.parallel(heads * shares) as task:
                *batch, share = f.unravel(task, [*sdpa.batch, shares])
                self._join_values(batch)
                with f.serial(each) as t:
                    tile = f.let(share * each + t)
                    if self.tiles % each:
                        f.when(tile < self.tiles, lambda: self._tile(batch, tile))
                    else:
                        self._tile(batch, tile)

    def _join_values(self, batch: list[Expr]) -> None:
        """Values of keys 2p and 2p + 1 as one int32, [p, channel]; zero for a key past the last."""
        f, sdpa = self.f, self.sdpa
        self.values = f.scratch((-(-sdpa.keys // 2), sdpa.width), "int32")
        lead = self._operand(batch, sdpa.v, sdpa.group)

        def bits(key: Expr, d: Expr) -> Expr:
            return tirx.reinterpret("uint32", self.epilogue.at(sdpa.v, [*lead, key, d]))

        def join(p: Expr, whole: bool) -> None:
            for first in range(0, sdpa.width, self.lanes):
                with f.lanes(min(self.lanes, sdpa.width - first)) as v:
                    high = bits(2 * p + 1, first + v) if whole else const(0, "uint32")
                    pair = tirx.bitwise_or(tirx.shift_right(bits(2 * p, first + v), const(16, "uint32")), high)
                    f.store(self.values, tirx.reinterpret("int32", pair), [p, first + v])

        with f.serial(sdpa.keys // 2) as p:
            join(p, True)
        if sdpa.keys % 2:
            join(sdpa.keys // 2, False)

    def _queries(self) -> Buffer:
        return self.f.scratch((self.sdpa.depth // 2, self.lanes), "int32")

    def _load_queries(self, queries: Buffer, batch: list[Expr], first: Expr, count: Expr) -> None:
        """Pairs of queries, transposed; zeros in the lanes past the last one."""
        f, sdpa = self.f, self.sdpa
        with f.serial(sdpa.depth // 2) as p, f.lanes(self.lanes) as v:
            f.store(queries, const(0, "int32"), [p, v])
        with f.serial(count) as i, f.serial(sdpa.depth // 2) as p:
            f.store(queries, self.paired.at(sdpa.q, [*self._operand(batch, sdpa.q), first + i], p), [p, i])

    def _products(self, acc: Accumulators, queries: Buffer, batch: list[Expr], key: Expr, width: int) -> None:
        """Queries times `width` keys."""
        sdpa = self.sdpa
        lead = self._operand(batch, sdpa.k, sdpa.group)
        with self.f.serial(sdpa.depth // 2) as p:
            for i in range(width):
                acc.add_pair(i, 0, self.paired.at(sdpa.k, [*lead, key + i], p), queries, (p,))

    def _scaled(self, product: Expr) -> Expr:
        """The score of a product."""
        return product * const(self.sdpa.scale)

    def _softmax(self, scores: Buffer, top: Buffer, total: Buffer, end: Expr) -> None:
        """Then the exponentials in pairs of keys."""
        super()._softmax(scores, top, total, end)
        f = self.f
        self.weights = f.scratch((-(-self.sdpa.keys // 2), self.lanes), "int32")
        with f.lanes(self.lanes) as v:
            f.store(scores, const(0.0), [end, v])
        rounded = Narrow(T.alloc_buffer((2, self.lanes), "uint16", scope="global"), native=True)
        with f.serial(self._pairs(end)) as p:
            for k in range(2):
                with f.lanes(self.lanes) as v:
                    f.store(rounded, scores[2 * p + k, v], [k, v])
            with f.lanes(self.lanes) as v:
                low, high = (tirx.Cast("uint32", rounded.bits[k, v]) for k in range(2))
                pair = tirx.bitwise_or(low, tirx.shift_left(high, const(16, "uint32")))
                f.store(self.weights, tirx.reinterpret("int32", pair), [p, v])

    def _pairs(self, end: Expr) -> Expr:
        return -(-end // 2) if isinstance(end, int) else self.f.let(tirx.floordiv(end + 1, 2))

    def _values(
        self, scores: Buffer, result: Buffer, total: Buffer, batch: list[Expr], end: Expr, d: Expr, width: int
    ) -> None:
        """Some channels of the weighted sum of the values; `scores` lie in `weights` by now."""
        f = self.f
        acc = Accumulators(f, width, 1, self.lanes, parts=False)
        acc.start(lambda b, v: const(0.0))
        with f.serial(self._pairs(end)) as p:
            for i in range(width):
                acc.add_pair(i, 0, self.values[p, d + i], self.weights, (p,))
        for i in range(width):
            with f.lanes(self.lanes) as v:
                f.store(result, acc.total(i, 0)[v] * total[v], [d + i, v])
