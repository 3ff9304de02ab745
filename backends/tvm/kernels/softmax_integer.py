"""Softmax of codes or accumulators over the last axis, row by row: a row's powers of two stay in the first-level cache.

    most = max(x)      p = 2^-(octaves of most - x), kept      total = sum(p)      y = upper half of p · 2^61 / total

The arithmetic is that of `ir/quantized/rows.py`, with its bits, in the least width that holds it: distances that give
0 are cut to the least of them, the results need only the upper halves of their products, because 2^61 / total is
rounded at a bit above these.
"""

from __future__ import annotations

from math import prod
from typing import Any

import torch
from torch import fx

from ....ir.ops import integer_name
from ....ir.quantized.fixed import EXP2, EXP2_FRACTION
from ..compat import tirx
from ..epilogue import Epilogue, plan_operands, wants_plain
from ..generic.region import PARALLEL_ELEMENTS
from ..ops.fixed import bit_length, product, reciprocal, wide
from ..ops.integer import as_int
from ..ops.lanes import once
from ..ops.math import const, select
from ..plan import PLAIN
from ..template import Choice, Lowered, Refused, Task, Wants
from ..views import broadcast_index, shape_of
from .ahead import look_ahead_rows
from .emit import Buffer, Expr, Function
from .linear import views_to_placeholder

LEAST = -(2**31)
"""Below every code: what the largest of a row starts from, and what stands where nothing is seen."""
FARTHEST = 2**31 - 1
"""As in the reference: codes this far below are as far as any."""
MOST_BITS = 28
"""Of a result: then 2^61 / total is rounded above the lower 32 bits."""


def read_integer_softmax(task: Task) -> fx.Node | Refused:
    """The region's softmax, or why this template cannot take it."""
    anchor = task.region.anchor_node
    if anchor is None or integer_name(anchor) != "softmax":
        return Refused("not a softmax of codes")
    x, mask, _, by, dim, bits, _ = _arguments(anchor)
    shape = shape_of(anchor)
    if int(dim) % len(shape) != len(shape) - 1:
        return Refused("not over the last axis")
    if shape[-1] < task.target.lanes or not prod(shape):
        return Refused(f"rows of {shape[-1]} do not fill a vector")
    if not all(views_to_placeholder(task, node) for node in (x, mask) if node is not None):
        return Refused("an operand is computed inside the region")
    if not 1 <= by <= 62 or not 1 <= bits <= MOST_BITS:
        return Refused(f"a shift by {by} to {bits} bits")
    return anchor


def _arguments(anchor: fx.Node) -> Any:
    return anchor.args


class SoftmaxInteger:
    """The template: `planish::softmax` of rows."""

    name = "softmax_integer"

    def wants(self, task: Task) -> Wants | Refused:
        """Everything PLAIN."""
        anchor = read_integer_softmax(task)
        return anchor if isinstance(anchor, Refused) else wants_plain(task)

    def space(self, task: Task) -> list[Choice]:
        """Nothing to choose."""
        return []

    def emit(self, task: Task, choice: Choice | None = None) -> Lowered:
        """A parallel loop over rows."""
        anchor = read_integer_softmax(task)
        assert isinstance(anchor, fx.Node)
        with Function(task, PLAIN, plan_operands(task, PLAIN, [])) as f:
            kernel = _Kernel(f, anchor)
            rows = shape_of(anchor)[:-1]
            loop = f.parallel if prod(shape_of(anchor)) > PARALLEL_ELEMENTS else f.serial
            with loop(prod(rows)) as index:
                look_ahead_rows(f, index, rows)
                kernel.row(f.unravel(index, rows))
        return Lowered(f.func, f.args, PLAIN)


class _Kernel:
    """The kernel of one task."""

    def __init__(self, f: Function, anchor: fx.Node) -> None:
        """Everything that a row needs."""
        self.f, self.epilogue = f, Epilogue(f, anchor)
        self.x, self.mask, self.multiplier, self.by, _, self.bits, dtype = _arguments(anchor)
        self.limit = min(2**self.bits - 1, torch.iinfo(dtype).max)
        self.length, self.lanes = shape_of(anchor)[-1], f.task.target.lanes
        self.whole, self.rest = divmod(self.length, self.lanes)
        far = -(-((31 << EXP2_FRACTION) << self.by) // self.multiplier)
        self.far = min(FARTHEST, far)
        """The least distance whose octaves are 31 or more: its power is 0."""

    def row(self, place: list[Expr]) -> None:
        """Three passes."""
        f = self.f
        powers = f.scratch((self.length,), "int32")
        largest, totals = f.vector(self.lanes, "int32"), f.vector(self.lanes, "int64")
        self._fill(largest, "int32", LEAST)
        self._fill(totals, "int64", 0)
        self._each(lambda column, v: self._larger(largest, place, column, v))
        most = self._joined(largest, "int32", LEAST, tirx.max)
        self._each(lambda column, v: self._power(powers, totals, place, column, v, most))
        total = once(tirx.max(self._joined(totals, "int64", 0, lambda a, b: a + b), wide(1)))
        excess = once(bit_length(total) - wide(31))
        down, up = tirx.max(excess, wide(0)), tirx.max(wide(0) - excess, wide(0))
        mantissa = once(select(excess >= wide(0), total >> down, tirx.shift_left(total, up)))
        inverse = once(tirx.Cast("uint32", reciprocal(mantissa)))
        # the shift less 32: 1 at least, as where nothing is seen, and 31 already makes everything 0
        places = once(tirx.Cast("int32", tirx.max(tirx.min(excess + wide(61 - 32 - self.bits), wide(31)), wide(1))))
        half = once(tirx.shift_left(const(1, "int32"), places - const(1, "int32")))
        self._each(lambda column, v: self._share(powers, place, column, inverse, half, places))

    def _fill(self, vector: Buffer, dtype: str, value: int) -> None:
        with self.f.lanes(self.lanes) as v:
            self.f.store(vector, const(value, dtype), [v])

    def _each(self, body: Any) -> None:
        """`body(column, lane)` for whole vectors, then for what is left."""
        f = self.f
        with f.serial(self.whole) as k, f.lanes(self.lanes) as v:
            body(k * self.lanes + v, v)
        if self.rest:
            with f.lanes(self.rest) as v:
                body(self.whole * self.lanes + v, v)

    def _joined(self, vector: Buffer, dtype: str, start: int, join: Any) -> Expr:
        """All lanes as one."""
        f = self.f
        result = f.scratch((1,), dtype)
        f.store(result, const(start, dtype), [0])
        with f.serial(self.lanes) as lane:
            f.store(result, join(result[0], vector[lane]), [0])
        return result[0]

    def _seen(self, index: list[Expr], value: Expr, otherwise: int) -> Expr:
        if self.mask is None:
            return value
        seen = self.epilogue.at(self.mask, broadcast_index(index, shape_of(self.mask)))
        return select(seen, value, const(otherwise, "int32"))

    def _larger(self, largest: Buffer, place: list[Expr], column: Expr, v: Expr) -> None:
        index = [*place, column]
        code = self._seen(index, tirx.Cast("int32", self.epilogue.at(self.x, index)), LEAST)
        self.f.store(largest, tirx.max(largest[v], code), [v])

    def _power(self, powers: Buffer, totals: Buffer, place: list[Expr], column: Expr, v: Expr, most: Expr) -> None:
        """The power of one place, kept, and added to the lane's total."""
        index = [*place, column]
        code = tirx.Cast("int32", self.epilogue.at(self.x, index))
        near = tirx.min(as_int(most) - as_int(code), wide(self.far))
        if self.mask is not None:  # a code above the largest is not seen
            near = tirx.max(near, wide(0))
        scaled = product(near, wide(self.multiplier)) + wide(1 << (self.by - 1))
        power = once(self._seen(index, _exp2(once(scaled >> wide(self.by))), 0))
        self.f.store(powers, power, [column])
        self.f.store(totals, totals[v] + as_int(power), [v])

    def _share(self, powers: Buffer, place: list[Expr], column: Expr, inverse: Expr, half: Expr, places: Expr) -> None:
        high = (tirx.Cast("uint64", tirx.Cast("uint32", powers[column])) * tirx.Cast("uint64", inverse)) >> const(
            32, "uint64"
        )
        result = (tirx.Cast("int32", high) + half) >> places
        self.epilogue.store([*place, column], self._result(tirx.min(result, const(self.limit, "int32"))))

    def _result(self, value: Expr) -> Expr:
        anchor = self.f.task.region.anchor_node
        assert anchor is not None
        return tirx.Cast(str(anchor.meta["val"].dtype).removeprefix("torch."), value)


def _exp2(octaves: Expr) -> Expr:
    """2^30 · 2^-octaves, rounded, as int32; 0 from 31 on. Nothing rounds where the whole part is 0."""
    whole = once(tirx.Cast("int32", octaves >> wide(EXP2_FRACTION)))
    rest = once(tirx.bitwise_and(octaves, wide((1 << EXP2_FRACTION) - 1)))
    result = wide(EXP2[-1])
    for coefficient in reversed(EXP2[:-1]):  # the argument has 24 bits: what the reference adds below them is 0
        added = (coefficient << EXP2_FRACTION) + (1 << (EXP2_FRACTION - 1))  # before the shift: no narrow sum between
        result = (product(result, rest) + wide(added)) >> wide(EXP2_FRACTION)
    one = const(1, "int32")
    narrow = once(tirx.Cast("int32", result))
    by = once(tirx.min(whole, const(30, "int32")))
    rounded = (narrow + (tirx.shift_left(one, by) >> one)) >> by
    return select(whole > const(30, "int32"), const(0, "int32"), rounded)
