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
from math import prod

import torch
from torch import fx

from ..compat import tirx
from ..generic.region import PARALLEL_ELEMENTS
from ..ops import math
from ..ops.pointwise import is_pointwise
from ..plan import PLAIN, computed_dtype, itemsize
from ..template import Choice, Lowered, Refused, Task, Wants
from ..views import dtype_of, shape_of
from .ahead import look_ahead_rows
from .emit import Expr, Function, Operands, const
from .softmax_passes import LOWEST, Kept, Passes, Piece, sound

aten = torch.ops.aten

WIDE = (4, 2, 8, 1)
"""Vector registers that one step fills; the first is the default."""

_FEW, _PART, _PARTS = 8, 4096, 64
"""Fewer rows than this are cut into parts, of so many elements at least and of so many parts in all at most."""

_CACHED = 48 << 20
"""Bytes read and written beyond which memory is waited for, so that passes cost more than computing twice.

Measured, microseconds kept and pairs: 64 x 32000 459 and 512, 64 x 128256 2339 and 2305, 4096 x 8192 11100 and 9290.
"""


def read_softmax(task: Task) -> fx.Node | Refused:
    """The region's softmax, or why this template cannot take it."""
    anchor = task.region.anchor_node
    if anchor is None or anchor.target not in (aten._softmax.default, aten._log_softmax.default):
        return Refused("not a softmax")
    shape, source = shape_of(anchor), anchor.all_input_nodes[0]
    if not shape or int(anchor.args[1]) % len(shape) != len(shape) - 1:  # type: ignore[arg-type]
        return Refused("not over the last axis")
    if shape[-1] < task.target.lanes or not prod(shape):
        return Refused(f"rows of {shape[-1]} do not fill a vector")
    if any(computed_dtype(dtype_of(n)) != "float32" for n in (anchor, source)):
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
        chosen: Choice = {"algorithm": algorithms(anchor)[0], "wide": WIDE[0]} if choice is None else choice
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
    moved = 2 * itemsize(dtype_of(anchor)) * prod(shape_of(anchor))
    return ("pairs", "kept", "again") if moved > _CACHED else ("kept", "again", "pairs")


class _Kernel:
    """The kernel of one task."""

    def __init__(self, f: Function, anchor: fx.Node, algorithm: str, wide: int) -> None:
        """`wide` vectors go side by side."""
        self.f, self.algorithm = f, algorithm
        self.passes = Passes(f, anchor, wide)
        *self.rows, self.length = shape_of(anchor)
        self.size = -(-self.length // parts_of(anchor) // self.passes.width) * self.passes.width
        self.parts = -(-self.length // self.size)

    def emit_rows(self) -> None:
        """Each row at once."""
        f, count = self.f, prod(self.rows)
        loop = f.parallel if count * self.length > PARALLEL_ELEMENTS else f.serial
        with loop(count) as index:
            piece = Piece(f.unravel(index, self.rows), 0, self.length)
            look_ahead_rows(f, index, self.rows)
            if self.algorithm == "pairs":
                mantissa, exponent = self.passes.sum_pairs(piece)
                cases = [(sound(mantissa, exponent), lambda: self.passes.finish_pairs(piece, mantissa, exponent))]
                f.branches([*cases, (True, lambda: self._three_passes(piece))])
            else:
                self._three_passes(piece)

    def _three_passes(self, piece: Piece) -> None:
        kept = Kept(self.f.scratch((self.length,))) if self.algorithm == "kept" else None
        largest = self.passes.largest(piece)
        total = self.passes.sum(piece, largest, kept)
        self.passes.finish(piece, largest, total, kept)

    def emit_parts(self) -> None:
        """Sums of all parts, then the results of all parts."""
        f, shape = self.f, (prod(self.rows), self.parts)
        if self.algorithm != "pairs":
            self._three_passes_in_parts()
            return
        mantissas, exponents = f.scratch(shape), f.scratch(shape, "int32")
        totals, tops, fine = f.scratch(shape[:1]), f.scratch(shape[:1], "int32"), f.scratch((1,), "int32")

        def keep(row: Expr, part: Expr, piece: Piece) -> None:
            mantissa, exponent = self.passes.sum_pairs(piece)
            f.store(mantissas, mantissa, [row, part])
            f.store(exponents, exponent, [row, part])

        self._each_part(keep)
        f.store(fine, const(1, "int32"), [0])
        with f.serial(shape[0]) as row:
            mantissa, exponent = self.passes.pair(1)
            with f.serial(self.parts) as part:
                self.passes.join(mantissa, exponent, 0, mantissas[row, part], exponents[row, part])
            f.store(totals, mantissa[0], [row])
            f.store(tops, exponent[0], [row])
            held = tirx.Select(sound(mantissa[0], exponent[0]), fine[0], const(0, "int32"))
            f.store(fine, held, [0])

        def finish(row: Expr, _: Expr, piece: Piece) -> None:
            self.passes.finish_pairs(piece, totals[row], tops[row])

        cases = [(fine[0] == 1, lambda: self._each_part(finish)), (True, self._three_passes_in_parts)]
        f.branches(cases)

    def _three_passes_in_parts(self) -> None:
        """Each part's sum is relative to its own maximum."""
        f, shape = self.f, (prod(self.rows), self.parts)
        tops, sums = f.scratch(shape), f.scratch(shape)
        memory = f.scratch((shape[0] * self.length,)) if self.algorithm == "kept" else None

        def keep(row: Expr, part: Expr, piece: Piece) -> None:
            largest = self.passes.largest(piece)
            kept = None if memory is None else Kept(memory, row * self.length)
            f.store(tops, largest, [row, part])
            f.store(sums, self.passes.sum(piece, largest, kept), [row, part])

        def finish(row: Expr, part: Expr, piece: Piece) -> None:
            largest, total = self.passes.named(const(LOWEST)), self.passes.named(const(0.0))
            with f.serial(self.parts) as each:
                f.store(largest, math.larger(tops[row, each], largest[0]), [0])
            with f.serial(self.parts) as each:
                addend = sums[row, each] * math.exp_flushed(tops[row, each] - largest[0])
                f.store(total, total[0] + addend, [0])
            share = math.exp_flushed(tops[row, part] - largest[0])
            kept = None if memory is None else Kept(memory, row * self.length, share)
            self.passes.finish(piece, largest[0], total[0], kept)

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
