"""Softmax and log softmax over the last axis of a PLAIN value, with pointwise operations before and after, float32.

    kept, again:  y = e^(x - max) / sum(e^(x - max))                 three passes: max, sum, result
    pairs:        y = 2^(n - N) m / M    with e^x = m 2^n            two passes: sum, result

"kept" stores the exponentials of the second pass for the third, "again" computes them once more. "pairs" is The
Two-Pass Softmax Algorithm (Dukhan and Ablavatski 2020): mantissas are summed beside their exponents, so that nothing
overflows and no maximum has to be known; (M, N) is the pair of the sum. It reads less and computes more. Rows whose
largest element lies beyond what pairs can say (|x| of 400), or that hold NaN or inf, take three passes after all.

Many rows are shared among threads as they are. Few long ones are cut into parts, by their shape alone: the same bits
for every number of threads.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import nullcontext
from math import inf, prod
from typing import Any, NamedTuple

import torch
from torch import fx

from ..compat import tirx
from ..generic.region import PARALLEL_ELEMENTS, RegionBuilder
from ..generic.template import field_of
from ..ops import math
from ..ops.exponential import PAIR_LIMIT, exp_pair, power_down
from ..ops.lanes import once
from ..ops.pointwise import is_pointwise
from ..plan import PLAIN, computed_dtype
from ..template import Choice, Lowered, Refused, Task, Wants
from ..views import shape_of
from .ahead import look_ahead_rows
from .emit import Buffer, Expr, Function, Operands, const

aten = torch.ops.aten

WIDE = (4, 2, 8, 1)
"""Vector registers that one step fills; the first is the default."""

_FEW, _PART, _PARTS = 8, 4096, 64
"""Fewer rows than this are cut into parts, of so many elements at least and of so many parts in all at most."""

_CACHED = 48 << 20
"""Bytes read and written beyond which memory is waited for, so that passes cost more than computing twice.

Measured, microseconds kept and pairs: 64 x 32000 459 and 512, 64 x 128256 2339 and 2305, 4096 x 8192 11100 and 9290.
"""

_LOWEST = -3.4028234663852886e38
"""Where a maximum begins: not at -inf, so that a part of a row that holds nothing but -inf adds 0."""

_HIGH_PAIR, _LOW_PAIR = 721, -571
"""Exponents of e^500, which may stand for more, and of what is 2^150 times e^-500, which may stand for less."""


def read_softmax(task: Task) -> fx.Node | Refused:
    """The region's softmax, or why this template cannot take it."""
    anchor = task.region.anchor_node
    if anchor is None or anchor.target not in (aten._softmax.default, aten._log_softmax.default):
        return Refused("not a softmax")
    shape, source = shape_of(anchor), anchor.all_input_nodes[0]
    if not shape or int(anchor.args[1]) % len(shape) != len(shape) - 1:  # type: ignore[call-overload]
        return Refused("not over the last axis")
    if shape[-1] < task.target.lanes or not prod(shape):
        return Refused(f"rows of {shape[-1]} do not fill a vector")
    if any(computed_dtype(str(n.meta["val"].dtype).removeprefix("torch.")) != "float32" for n in (anchor, source)):
        return Refused("not float32 or bfloat16")
    if shape_of(task.region.result) != shape:
        return Refused("its result is moved")
    for node in task.region.body.nodes:
        if node.op == "call_function" and node is not anchor and not (is_pointwise(node) or _keeps_rows(node)):
            return Refused(f"{node.target} changes rows")
    return anchor


def _keeps_rows(node: fx.Node) -> bool:
    """Whether elements of a row of the result lie side by side in the source."""
    if node.target in (aten.expand.default, aten.slice.Tensor):
        return True
    source = shape_of(node.all_input_nodes[0])
    return node.target is aten.reshape.default and shape_of(node)[-1:] == source[-1:]


class Softmax:
    """The template."""

    name = "softmax"

    def wants(self, task: Task) -> Wants | Refused:
        """Everything PLAIN."""
        anchor = read_softmax(task)
        if isinstance(anchor, Refused):
            return anchor
        return Wants({i: (PLAIN,) for i in range(len(task.inputs)) if i not in task.constants}, PLAIN)

    def space(self, task: Task) -> Sequence[Choice]:
        """The algorithm, and how many vectors go side by side."""
        anchor = read_softmax(task)
        assert isinstance(anchor, fx.Node)
        return [{"algorithm": a, "wide": wide} for wide in WIDE for a in algorithms(anchor)]

    def emit(self, task: Task, choice: Choice | None = None) -> Lowered:
        """Rows, or parts of rows."""
        anchor = read_softmax(task)
        assert isinstance(anchor, fx.Node)
        chosen = {"algorithm": algorithms(anchor)[0], "wide": WIDE[0]} if choice is None else choice
        used = tuple(i for i, p in enumerate(task.region.placeholders) if p.users)
        with Function(task, PLAIN, Operands(used, {})) as f:
            kernel = _Kernel(f, anchor, str(chosen["algorithm"]), int(chosen["wide"]))
            if parts_of(anchor) == 1:
                kernel.emit_rows()
            else:
                kernel.emit_parts()
        return Lowered(f.func, f.args, PLAIN, chosen)


def parts_of(anchor: fx.Node) -> int:
    """How many parts a row is cut into."""
    *rows, length = shape_of(anchor)
    return max(1, min(_PARTS // prod(rows), length // _PART)) if prod(rows) < _FEW else 1


def algorithms(anchor: fx.Node) -> tuple[str, ...]:
    """The default first. A logarithm keeps no exponentials, and digits of its pair would cancel."""
    if anchor.target is aten._log_softmax.default:
        return ("again",)
    size = anchor.meta["val"].dtype.itemsize
    return ("pairs", "kept", "again") if 2 * size * prod(shape_of(anchor)) > _CACHED else ("kept", "again", "pairs")


class Piece(NamedTuple):
    """Elements [start, start + count) of a row."""

    row: list[Expr]
    start: Expr
    count: int


class Kept(NamedTuple):
    """Exponentials of a row, from `start` on in `memory`; the result is `share` of them by now."""

    memory: Buffer
    start: Expr = 0
    share: Expr = 1.0


class _Kernel:
    """The kernel of one task."""

    def __init__(self, f: Function, anchor: fx.Node, algorithm: str, wide: int) -> None:
        """`wide` vectors go side by side."""
        self.f, self.algorithm = f, algorithm
        self.log = anchor.target is aten._log_softmax.default
        *self.rows, self.length = shape_of(anchor)
        self.lanes = f.task.target.lanes
        self.width = self.lanes * wide if self.length >= 2 * self.lanes * wide else self.lanes
        self.parts = parts_of(anchor)
        self.size = -(-self.length // self.parts // self.width) * self.width
        self.parts = -(-self.length // self.size)
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

    def emit_rows(self) -> None:
        """Each row at once."""
        f, count = self.f, prod(self.rows)
        loop = f.parallel if count * self.length > PARALLEL_ELEMENTS else f.serial
        with loop(count) as index:
            piece = Piece(f.unravel(index, self.rows), 0, self.length)
            look_ahead_rows(f, index, self.rows)
            if self.algorithm == "pairs":
                mantissa, exponent = self._sum_pairs(piece)
                cases = [(_sound(mantissa, exponent), lambda: self._finish_pairs(piece, mantissa, exponent))]
                f.branches([*cases, (True, lambda: self._three_passes(piece))])
            else:
                self._three_passes(piece)

    def _three_passes(self, piece: Piece) -> None:
        kept = Kept(self.f.scratch((self.length,))) if self.algorithm == "kept" else None
        largest = self._largest(piece)
        total = self._sum(piece, largest, kept)
        self._finish(piece, largest, total, kept)

    def emit_parts(self) -> None:
        """Sums of all parts, then the results of all parts."""
        f, shape = self.f, (prod(self.rows), self.parts)
        if self.algorithm != "pairs":
            self._three_passes_in_parts()
            return
        mantissas, exponents = f.scratch(shape), f.scratch(shape, "int32")
        totals, tops, sound = f.scratch(shape[:1]), f.scratch(shape[:1], "int32"), f.scratch((1,), "int32")

        def keep(row: Expr, part: Expr, piece: Piece) -> None:
            mantissa, exponent = self._sum_pairs(piece)
            f.store(mantissas, mantissa, [row, part])
            f.store(exponents, exponent, [row, part])

        self._each_part(keep)
        f.store(sound, const(1, "int32"), [0])
        with f.serial(shape[0]) as row:
            mantissa, exponent = self._pair(1)
            with f.serial(self.parts) as part:
                self._join(mantissa, exponent, 0, mantissas[row, part], exponents[row, part])
            f.store(totals, mantissa[0], [row])
            f.store(tops, exponent[0], [row])
            held = tirx.Select(_sound(mantissa[0], exponent[0]), sound[0], const(0, "int32"))
            f.store(sound, held, [0])

        def finish(row: Expr, _: Expr, piece: Piece) -> None:
            self._finish_pairs(piece, totals[row], tops[row])

        cases = [(sound[0] == 1, lambda: self._each_part(finish)), (True, self._three_passes_in_parts)]
        f.branches(cases)

    def _three_passes_in_parts(self) -> None:
        """Each part's sum is relative to its own maximum."""
        f, shape = self.f, (prod(self.rows), self.parts)
        tops, sums = f.scratch(shape), f.scratch(shape)
        memory = f.scratch((shape[0] * self.length,)) if self.algorithm == "kept" else None

        def keep(row: Expr, part: Expr, piece: Piece) -> None:
            largest = self._largest(piece)
            kept = None if memory is None else Kept(memory, row * self.length)
            f.store(tops, largest, [row, part])
            f.store(sums, self._sum(piece, largest, kept), [row, part])

        def finish(row: Expr, part: Expr, piece: Piece) -> None:
            largest, total = self._named(const(_LOWEST)), self._named(const(0.0))
            with f.serial(self.parts) as each:
                f.store(largest, math.larger(tops[row, each], largest[0]), [0])
            with f.serial(self.parts) as each:
                addend = sums[row, each] * math.exp_flushed(tops[row, each] - largest[0])
                f.store(total, total[0] + addend, [0])
            share = math.exp_flushed(tops[row, part] - largest[0])
            kept = None if memory is None else Kept(memory, row * self.length, share)
            self._finish(piece, largest[0], total[0], kept)

        self._each_part(keep)
        self._each_part(finish)

    def _each_part(self, body: Callable[[Expr, Expr, Piece], None]) -> None:
        """`body(row, part, piece)` in parallel; the last part may be shorter."""
        f = self.f
        with f.parallel(prod(self.rows) * self.parts) as index:
            row, part = f.unravel(index, [prod(self.rows), self.parts])
            place, start = f.unravel(row, self.rows), f.let(part * self.size, self.length)
            rest = self.length - (self.parts - 1) * self.size
            cases: list[tuple[Expr, Callable[[], None]]] = [(True, lambda: body(row, part, Piece(place, start, rest)))]
            if rest != self.size:
                whole = Piece(place, start, self.size)
                cases.insert(0, (part < self.parts - 1, lambda: body(row, part, whole)))
            f.branches(cases)

    def _largest(self, piece: Piece) -> Expr:
        """The maximum. NaN need not win here: it makes the sum NaN."""
        most = self._filled(self.width, _LOWEST)

        def step(index: Sequence[Expr], v: Expr) -> None:
            self.f.store(most, math.larger(self.source.at(index), most[v]), [v])

        self._walk(piece, step)
        self._fold(lambda v, far: self.f.store(most, math.larger(most[far], most[v]), [v]))
        return most[0]

    def _sum(self, piece: Piece, largest: Expr, kept: Kept | None = None) -> Expr:
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

    def _finish(self, piece: Piece, largest: Expr, total: Expr, kept: Kept | None = None) -> None:
        """The third pass."""
        share = const(1.0) if kept is None else kept.share
        shift = self._named(math.ln(total) if self.log else share / total)[0]

        def value(index: Sequence[Expr]) -> Expr:
            if kept is not None:
                return kept.memory[kept.start + index[-1]] * shift
            below = self.source.at(index) - largest
            return below - shift if self.log else math.exp_flushed(below) * shift

        self._store(piece, value)

    def _sum_pairs(self, piece: Piece) -> tuple[Expr, Expr]:
        """The sum of all exponentials as mantissa and exponent."""
        mantissa, exponent = self._pair(self.width)
        self._walk(piece, lambda index, v: self._join(mantissa, exponent, v, *self._power(index)))
        self._fold(lambda v, far: self._join(mantissa, exponent, v, mantissa[far], exponent[far]))
        return mantissa[0], exponent[0]

    def _finish_pairs(self, piece: Piece, mantissa: Expr, exponent: Expr) -> None:
        """The second pass."""
        inverse = self._named(const(1.0) / mantissa)[0]

        def value(index: Sequence[Expr]) -> Expr:
            m, n = self._power(index)
            return m * inverse * power_down(n - exponent)

        self._store(piece, value)

    def _power(self, index: Sequence[Expr]) -> tuple[Expr, Expr]:
        """e^x of an element as mantissa and exponent."""
        return exp_pair(math.clip(self.source.at(index), -PAIR_LIMIT, PAIR_LIMIT))

    def _pair(self, count: int) -> tuple[Buffer, Buffer]:
        """Sums of nothing."""
        exponent = self.f.vector(count, "int32")
        with self.f.lanes(count) as v:
            self.f.store(exponent, const(-2048, "int32"), [v])
        return self._filled(count, 0.0), exponent

    def _join(self, mantissa: Buffer, exponent: Buffer, v: Expr, m: Expr, n: Expr) -> None:
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
        for n in dict.fromkeys((self.width, self.lanes, piece.count % self.lanes)):
            count = (piece.count - done) // n if n else 0
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

    def _named(self, value: Expr) -> Any:
        """A scalar that is computed once."""
        name = self.f.vector(1)
        self.f.store(name, value, [0])
        return name


def _sound(mantissa: Expr, exponent: Expr) -> Expr:
    """Whether a pair says what the sum is: neither clipped nor NaN nor a sum of nothing."""
    within = tirx.And(exponent < _HIGH_PAIR, exponent > _LOW_PAIR)
    return tirx.And(within, mantissa < const(inf))
