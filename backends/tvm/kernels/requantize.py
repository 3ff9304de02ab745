"""What follows an integer sum at once: its requantization, or its sum with a residual, in vectors of 32 bits.

    requantize(x) = clamp(zero + ((high(x · b) + 2^(c-33)) >> (c-32)))                       for shifts c of 33 and more
    add(x, r)     = clamp(zero + ((high(x · 2^5 a + 2^5 (r - z) · b) + 2^(c-28)) >> (c-27)))   for c >= 28, |a| < 2^26

high(p) is the upper half of a product of 64 bits. What rounds, 2^(c-1), lies in it alone where c > 32, so that nothing
below it matters; a sum gets there by 5 more bits, which a multiplier of 26 bits and a residual of 16 have room for.
Even and odd lanes are multiplied apart, as CPUs do it. Where 32 bits hold it, the zero point is added with the half.
Same bits as the references; what does not fit the conditions is left to `ops/integer.py`.
"""

from __future__ import annotations

from dataclasses import dataclass
from math import prod
from typing import Any

import numpy as np
from torch import fx

from ....errors import CodegenError
from ....ir.ops import integer_name
from ..compat import T, tirx
from ..epilogue import anchor_chain, physical_index
from ..plan import PLAIN, Layout
from ..template import Packed, Task
from ..views import shape_of
from .emit import Buffer, Expr, Function, PackedArg

MORE = 5
"""Bits that a sum is moved up by."""

_NARROW = ("uint8", "int8", "int16")
_HIGH, _SUM = (33, 62), (33 - MORE, 62 - MORE)
"""Shifts that the formulas above are right for."""


@dataclass(frozen=True)
class Head:
    """The first node after an anchor, computed on whole vectors of sums.

    `factor` and `shift` are positions of constants, for the sum; of a residual `position` and `residual_factor`.
    """

    node: fx.Node
    factor: int
    shift: int
    residual: int | None
    residual_factor: int | None
    residual_zero: int
    bounds: tuple[int, int, int]
    most_shift: int

    @property
    def zero_fits(self) -> bool:
        """Whether the zero point is added before the shift, to the half: an upper half has 30 bits and one sign."""
        more = 0 if self.residual is None else MORE
        return (abs(self.bounds[0]) + 1) << (self.most_shift + more - 32) <= 2**29

    @property
    def taken(self) -> list[int]:
        """Positions of the constants that are packed here."""
        return [p for p in (self.factor, self.shift, self.residual_factor) if p is not None]

    def pack(self, size: int) -> list[PackedArg]:
        """Vectors over `size` channels: multipliers, halves, shifts, and multipliers of the residual."""
        more = 0 if self.residual is None else MORE
        held = [_packed(self.factor, f"m{more}", size, lambda m: m << more, 0)]
        zero = self.bounds[0] if self.zero_fits else 0

        def halves(c: Any) -> Any:
            return (np.int64(1) << (c + more - 33)) + (np.int64(zero) << (c + more - 32))

        held.append(_packed(self.shift, f"h{more}z{zero}", size, halves, 33 - more))
        held.append(_packed(self.shift, f"s{more}", size, lambda c: c + more - 32, 33 - more))
        if self.residual_factor is not None:
            held.append(_packed(self.residual_factor, "m0", size, lambda m: m, 0))
        return held

    def apply(self, f: Function, sums: Buffer, lanes: int, channel: Expr, where: list[Expr], first: int) -> None:
        """sums[lane] = code; `where` is the place of the first lane, the packed vectors are `f.weights[first:]`."""
        low, most = (tirx.Broadcast(tirx.const(b, "int32"), lanes) for b in self.bounds[1:])
        code = self.code(f, sums, lanes, channel, where, first)
        T.buffer_store(sums, tirx.max(tirx.min(code, most), low), [tirx.Ramp(0, 1, lanes)])

    def code(self, f: Function, sums: Buffer, lanes: int, channel: Expr, where: list[Expr], first: int) -> Expr:
        """The codes of all lanes before they are clamped."""
        every = tirx.Ramp(0, 1, lanes)
        held = [w[tirx.Ramp(channel, 1, lanes)] for w in f.weights[first:]]
        x = sums[every]
        if self.residual is None:
            high = _upper([(x, held[0])], lanes)
        else:
            high = _upper([(x, held[0]), (self._residual(f, lanes, where), held[3])], lanes)
        code = tirx.shift_right(high + held[1], held[2])
        if self.bounds[0] and not self.zero_fits:
            code = code + tirx.Broadcast(tirx.const(self.bounds[0], "int32"), lanes)
        return code

    def _residual(self, f: Function, lanes: int, where: list[Expr]) -> Expr:
        """(r - z) · 2^5 of all lanes."""
        assert self.residual is not None
        place = physical_index(where, f.task.inputs[self.residual].layout)
        *lead, lane = [f.simplify(i) for i in place]
        r = tirx.Cast(f"int32x{lanes}", f.inputs[self.residual][(*lead, tirx.Ramp(lane, 1, lanes))])
        if self.residual_zero:
            r = r - tirx.Broadcast(tirx.const(self.residual_zero, "int32"), lanes)
        return tirx.shift_left(r, tirx.Broadcast(tirx.const(MORE, "int32"), lanes))

    def value(self, sums: Buffer, v: Expr) -> Expr:
        """The code of a lane in the node's dtype."""
        return tirx.Cast(str(self.node.meta["val"].dtype).removeprefix("torch."), sums[v])


def read_head(task: Task, anchor: fx.Node, layout: Layout, lanes: int) -> Head | None:
    """The head of the anchor's epilogue, if the formulas above are right for it."""
    chain = anchor_chain(task, anchor)
    if not chain or len(anchor.users) != 1 or str(chain[0].meta["val"].dtype).removeprefix("torch.") not in _NARROW:
        return None
    node, name = chain[0], integer_name(chain[0])
    args: Any = node.args
    zero, low, most = args[-4:-1] if name in ("requantize", "add") else (0, 0, 0)
    if name == "requantize":
        found = _constants(task, layout, args[1:3])
        known = found is not None and _within(args[2], _HIGH)
        bounds = (zero, low, most)
        return Head(node, found[0], found[1], None, None, 0, bounds, _most(args[2])) if found and known else None
    if name != "add" or (layout == PLAIN and shape_of(node)[-1] % lanes):  # a residual is read in whole vectors
        return None
    return _read_sum(task, anchor, node, layout, (zero, low, most))


def _read_sum(task: Task, anchor: fx.Node, node: fx.Node, layout: Layout, bounds: tuple[int, int, int]) -> Head | None:
    """A sum with a value that lies as the result does."""
    args: Any = node.args
    sides = [(args[0], args[2], args[5]), (args[1], args[3], args[6])]
    (_, factor, _), (other, other_factor, zero) = sides if args[0] is anchor else sides[::-1]
    holders = task.region.placeholders
    if other is anchor or other not in holders or shape_of(other) != shape_of(anchor):
        return None
    value = task.inputs[holders.index(other)]
    found = _constants(task, layout, (factor, args[4], other_factor))
    fits = _within(args[4], _SUM) and factor.meta.get("small", False)
    if found is None or not fits or value.dtype not in _NARROW or value.layout != layout:
        return None
    return Head(node, found[0], found[1], holders.index(other), found[2], zero, bounds, _most(args[4]))


def _within(shift: fx.Node, bounds: tuple[int, int]) -> bool:
    """Whether all shifts are known to lie there."""
    least, most = shift.meta.get("shifts", (-1, -1))
    return bounds[0] <= int(least) and int(most) <= bounds[1]


def _most(shift: fx.Node) -> int:
    """The largest of the shifts."""
    return int(shift.meta["shifts"][1])


def _constants(task: Task, layout: Layout, nodes: Any) -> list[int] | None:
    """Positions of constants that are one or one a channel, which only this node reads; None if one is not."""
    rank = len(task.output.shape)
    axis = rank - 1 if layout == PLAIN else 1
    found = []
    for node in nodes:
        position = task.region.placeholders.index(node) if node in task.region.placeholders else -1
        shape = shape_of(node)
        along = shape[axis - rank :][:1] if len(shape) >= rank - axis else (1,)
        if position not in task.constants or len(node.users) != 1 or prod(shape) != prod(along):
            return None
        found.append(position)
    return found


def _packed(position: int, key: str, size: int, form: Any, rest: int) -> PackedArg:
    """int64 constants as a vector of int32; `rest` stands past the last channel."""

    def pack(array: np.ndarray) -> np.ndarray:
        flat = array.reshape(-1)
        held = np.full(size, rest, np.int64)
        if flat.size == 1:
            held[:] = flat
        else:
            held[: flat.size] = flat
        made = form(held)
        if np.any(made != made.astype(np.int32)):
            raise CodegenError(
                f"A multiplier or shift of a requantization does not fit 32 bits: {int(np.abs(made).max())}.",
                "Make multipliers with ir/dyadic.py, which gives 31 bits, or 30 for a sum.",
            )
        return np.asarray(made, np.int32)

    return PackedArg(Packed(position, f"{key}v{size}", pack), (size,), "int32")


def _upper(products: list[tuple[Expr, Expr]], lanes: int) -> Expr:
    """The upper halves of a sum of products of int32 vectors: even lanes and odd ones apart, then together."""
    half, wide, whole = lanes // 2, f"int64x{lanes // 2}", f"int32x{lanes}"
    by = tirx.Broadcast(tirx.const(32, "int64"), half)

    def even(x: Expr) -> Expr:
        return tirx.shift_right(tirx.shift_left(tirx.reinterpret(wide, x), by), by)

    def odd(x: Expr) -> Expr:
        return tirx.shift_right(tirx.reinterpret(wide, x), by)

    sums = []
    for part in (even, odd):
        first, *rest = (part(a) * part(b) for a, b in products)
        total = first
        for term in rest:
            total = total + term
        sums.append(tirx.reinterpret(whole, total))
    order = [index for k in range(1, lanes, 2) for index in (k, lanes + k)]
    return tirx.Shuffle(sums, [tirx.const(index, "int32") for index in order])
