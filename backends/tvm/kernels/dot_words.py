"""Products of two numbers of 16 bits at a time: sums of products for codes that 8 bits cannot hold, on any CPU.

    sum[v] += x[0] w[0, v] + x[1] w[1, v]        x and w int16, sums int32 that wrap

The two x lie side by side and are read as one int32, as the quads of bytes in `dot.py` are. x86 has an instruction for
this (vpmaddwd), and with VNNI one that adds, too. Other CPUs multiply one by one.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from ..compat import T, tirx
from ..target import Target
from .dot import MULTIPLY, Halves, Vnni, joined, products, wrapped
from .emit import Buffer, Expr

PAIR = 2
"""Numbers that lie side by side in x."""


@dataclass(frozen=True)
class Words:
    """Multiplies pairs; `way` is "add" (multiply and add in one), "multiply" (then add) or "each" (one by one)."""

    lanes: int
    way: str
    dtype = "int32"

    @property
    def dims(self) -> tuple[int, ...]:
        """A pair of each lane."""
        return (self.lanes,)

    def parts(self, pair: Sequence[Expr]) -> list[tuple[tuple[int, ...], Expr]]:
        """Two numbers of one lane as a word: (place before the lane, what to store there)."""
        return [((), joined([tirx.Cast("uint16", tirx.Cast("int16", number)) for number in pair], 16))]

    def add(self, total: Buffer, pair: Expr, weights: Buffer, place: Sequence[Expr]) -> None:
        """total[v] += pair · weights[place, v]; one pair for all lanes."""
        every = tirx.Ramp(0, 1, self.lanes)
        spread, held = tirx.Broadcast(pair, self.lanes), weights[(*place, every)]
        T.buffer_store(total, self._sum(total[every], spread, held), [every])

    def _sum(self, total: Expr, pair: Expr, held: Expr) -> Expr:
        narrow, wide = f"int16x{2 * self.lanes}", f"int32x{self.lanes}"
        if self.way == "each":
            by = tirx.Broadcast(tirx.const(16, "int32"), self.lanes)
            lows = [tirx.shift_right(tirx.shift_left(word, by), by) for word in (pair, held)]
            low, high = lows[0] * lows[1], tirx.shift_right(pair, by) * tirx.shift_right(held, by)
            return wrapped(wrapped(total, low), high)
        x, w = tirx.reinterpret(narrow, pair), tirx.reinterpret(narrow, held)
        if self.way == "add":
            call = T.llvm_lookup_intrinsic_id(f"llvm.x86.avx512.vpdpwssd.{32 * self.lanes}")
            return T.call_llvm_pure_intrin(call, total, x, w, dtype=wide)
        call = T.llvm_lookup_intrinsic_id(MULTIPLY[self.lanes])
        return wrapped(total, T.call_llvm_pure_intrin(call, x, w, dtype=wide))


def products_of_words(target: Target, lanes: int) -> Words:
    """The fastest way for sums in vectors of `lanes`: what multiplies bytes says what there is."""
    ways = {Vnni: "add", Halves: "multiply"}
    return Words(lanes, ways.get(type(products(target, lanes)), "each"))
