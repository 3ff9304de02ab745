"""The passes of softmax over a row, or over a part of one: maxima, sums, sums as pairs, and results.

    largest = max(x)      sum = sum(e^(x - largest))      (M, N) = sum of (m, n) with e^x = m 2^n
    finish:  e^(x - largest) / sum,  x - largest - ln(sum)  or  m 2^(n - N) / M, and what comes after it

Sums are lane-wide partial sums, joined in a fixed order.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import nullcontext
from math import inf
from typing import Any, NamedTuple

import torch
from torch import fx

from ..compat import tirx
from ..generic.region import RegionBuilder
from ..generic.template import field_of
from ..ops import math
from ..ops.exponential import PAIR_LIMIT, exp_pair, power_down
from ..ops.lanes import once
from ..views import shape_of
from .emit import Buffer, Expr, Function, const

LOWEST = -3.4028234663852886e38
"""Where a maximum begins: not at -inf, so that a part of a row that holds nothing but -inf adds 0."""

_HIGH_PAIR, _LOW_PAIR = 721, -571
"""Exponents of e^500, which may stand for more, and of what is 2^150 times e^-500, which may stand for less."""


class Piece(NamedTuple):
    """Elements [start, start + length) of a row."""

    row: list[Expr]
    start: Expr
    length: int


class Kept(NamedTuple):
    """Exponentials of a row, from `start` on in `memory`; the result is `share` of them by now."""

    memory: Buffer
    start: Expr = 0
    share: Expr = 1.0


class Passes:
    """Emits the passes of one kernel."""

    def __init__(self, f: Function, anchor: fx.Node, wide: int) -> None:
        """`wide` vectors go side by side, where rows are long enough."""
        self.f = f
        self.log = anchor.target is torch.ops.aten._log_softmax.default
        self.length, self.lanes = shape_of(anchor)[-1], f.task.target.lanes
        self.width = self.lanes * wide if self.length >= 2 * self.lanes * wide else self.lanes
        self.value: Callable[[Sequence[Expr]], Expr] = lambda _: const(0.0)
        self.b = b = RegionBuilder(f)
        region = f.task.region
        for position, node in enumerate(region.placeholders):
            b.fields[node] = b.placeholder(node, position)
        for node in region.body.nodes:
            if node.op == "call_function":
                own = b.field(shape_of(node), "float32", lambda i: self.value(i))
                b.fields[node] = b.once(node, own if node is anchor else field_of(b, node))
        self.source, self.result = b.fields[anchor.all_input_nodes[0]], b.fields[region.result]

    def largest(self, piece: Piece) -> Expr:
        """The maximum. NaN need not win here: it makes the sum NaN."""
        most = self._filled(self.width, LOWEST)

        def step(index: Sequence[Expr], v: Expr) -> None:
            self.f.store(most, math.larger(self.source.at(index), most[v]), [v])

        self._walk(piece, step)
        self._fold(lambda v, far: self.f.store(most, math.larger(most[far], most[v]), [v]))
        return most[0]

    def sum(self, piece: Piece, largest: Expr, kept: Kept | None = None) -> Expr:
        """The sum of all exponentials, which `kept` keeps."""
        total = self._filled(self.width, 0.0)

        def step(index: Sequence[Expr], v: Expr) -> None:
            power = math.exp_flushed(self.source.at(index) - largest)
            if kept is not None:
                power = once(power)
                self.f.store(kept.memory, power, [kept.start + index[-1]])
            self.f.store(total, total[v] + power, [v])

        self._walk(piece, step)
        self._fold(lambda v, far: self.f.store(total, total[v] + total[far], [v]))
        return total[0]

    def finish(self, piece: Piece, largest: Expr, total: Expr, kept: Kept | None = None) -> None:
        """The third pass."""
        share = const(1.0) if kept is None else kept.share
        shift = self.named(math.ln(total) if self.log else share / total)[0]

        def value(index: Sequence[Expr]) -> Expr:
            if kept is not None:
                return kept.memory[kept.start + index[-1]] * shift
            below = self.source.at(index) - largest
            return below - shift if self.log else math.exp_flushed(below) * shift

        self._store(piece, value)

    def sum_pairs(self, piece: Piece) -> tuple[Expr, Expr]:
        """The sum of all exponentials as mantissa and exponent."""
        mantissa, exponent = self.pair(self.width)
        self._walk(piece, lambda index, v: self.join(mantissa, exponent, v, *self._power(index)))
        self._fold(lambda v, far: self.join(mantissa, exponent, v, mantissa[far], exponent[far]))
        return mantissa[0], exponent[0]

    def finish_pairs(self, piece: Piece, mantissa: Expr, exponent: Expr) -> None:
        """The second pass."""
        inverse = self.named(const(1.0) / mantissa)[0]

        def value(index: Sequence[Expr]) -> Expr:
            m, n = self._power(index)
            return m * inverse * power_down(n - exponent)

        self._store(piece, value)

    def _power(self, index: Sequence[Expr]) -> tuple[Expr, Expr]:
        """e^x of an element as mantissa and exponent."""
        return exp_pair(math.clip(self.source.at(index), -PAIR_LIMIT, PAIR_LIMIT))

    def pair(self, count: int) -> tuple[Buffer, Buffer]:
        """Sums of nothing."""
        exponent = self.f.vector(count, "int32")
        with self.f.lanes(count) as v:
            self.f.store(exponent, const(-2048, "int32"), [v])
        return self._filled(count, 0.0), exponent

    def join(self, mantissa: Buffer, exponent: Buffer, v: Expr, m: Expr, n: Expr) -> None:
        """(mantissa, exponent)[v] += (m, n)."""
        top = once(tirx.max(exponent[v], n))
        total = mantissa[v] * power_down(exponent[v] - top) + m * power_down(n - top)
        self.f.store(mantissa, total, [v])
        self.f.store(exponent, top, [v])

    def _store(self, piece: Piece, value: Callable[[Sequence[Expr]], Expr]) -> None:
        """Store `value` and what comes after it."""
        self.value = value

        def step(index: Sequence[Expr], _: Expr) -> None:
            self.f.store(self.f.output, self.result.at(index), index)

        self._walk(piece, step)

    def _walk(self, piece: Piece, step: Callable[[Sequence[Expr], Expr], None]) -> None:
        """`step(index, lane)` for each element, in vectors as wide as there are elements for."""
        done = 0
        for n in dict.fromkeys((self.width, self.lanes, piece.length % self.lanes)):
            count = (piece.length - done) // n if n else 0
            if not count:
                continue
            with self.f.serial(count) if count > 1 else nullcontext(0) as k:
                start = self.f.let(piece.start + done + k * n, self.length)
                with self.f.lanes(n) as v:
                    step([*piece.row, start + v], v)
                self.b.forget()
            done += count * n

    def _fold(self, join: Callable[[Expr, Expr], None]) -> None:
        """`join(lane, other lane)` until all are in the first."""
        width = self.width
        while width > 1:
            half = (width + 1) // 2
            with self.f.lanes(width - half) as v:
                join(v, half + v)
            width = half

    def _filled(self, count: int, value: float) -> Buffer:
        vector = self.f.vector(count)
        with self.f.lanes(count) as v:
            self.f.store(vector, const(value), [v])
        return vector

    def named(self, value: Expr) -> Any:
        """A scalar that is computed once."""
        name = self.f.vector(1)
        self.f.store(name, value, [0])
        return name


def sound(mantissa: Expr, exponent: Expr) -> Expr:
    """Whether a pair says what the sum is: neither clipped nor NaN nor a sum of nothing."""
    within = tirx.And(exponent < _HIGH_PAIR, exponent > _LOW_PAIR)
    return tirx.And(within, mantissa < const(inf))
