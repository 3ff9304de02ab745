"""Products of four bytes at a time: what an integer sum is made of, on any CPU with the same bits.

    sum[v] += x[0] w[0, v] + x[1] w[1, v] + x[2] w[2, v] + x[3] w[3, v]        x uint8, w int8, sums int32

The four x lie side by side and are read as one int32, a quad. A CPU with VNNI does this in one instruction. One with
vectors of int16 multiplies the even and the odd bytes, widened, in two (multiplying bytes directly, as vpmaddubsw
does, would saturate: 255 · 127 · 2 does not fit 16 bits). Any other multiplies byte by byte. int32 wraps alike.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

import numpy as np

from ..compat import T, tirx
from ..target import Target
from .emit import Buffer, Expr

QUAD = 4
"""Bytes that lie side by side in x."""


class Products(Protocol):
    """How one CPU multiplies quads."""

    @property
    def name(self) -> str:
        """What packings call it."""

    @property
    def dims(self) -> tuple[int, ...]:
        """Shape of the packed weights of one quad and vector."""

    @property
    def dtype(self) -> str:
        """Their dtype."""

    def pack(self, weights: np.ndarray) -> np.ndarray:
        """int8 weights [..., quad, lane] as [..., *dims]."""

    def parts(self, quad: Sequence[Expr]) -> list[tuple[tuple[int, ...], Expr]]:
        """The same for four int8 of one lane in a kernel: (place before the lane, what to store there)."""

    def add(self, total: Buffer, quad: Expr, weights: Buffer, place: Sequence[Expr]) -> None:
        """total[v] += quad · weights[place, v]; one quad for all lanes, or a vector with one for each."""


def wrapped(a: Expr, b: Expr) -> Expr:
    """a + b in 32 bits that wrap, scalars or vectors.

    TVM promises LLVM that sums of 32 bits overflow neither as signed nor as unsigned numbers, and LLVM builds on it: so
    they are written in 64 bits, of which LLVM keeps the lower half.
    """
    narrow = str(a.ty.dtype)
    wide = narrow.replace("32", "64")
    return tirx.Cast(narrow, tirx.Cast(wide, a) + tirx.Cast(wide, b))


def words(buffer: Buffer, shape: Sequence[int]) -> Buffer:
    """A buffer of bytes as int32: a fourth of the elements."""
    return T.decl_buffer(tuple(shape), "int32", data=buffer.data, align=buffer.data_alignment)


def products(target: Target, lanes: int) -> Products:
    """The fastest way for sums in vectors of `lanes`."""
    features = target.features
    if lanes == 16 and "avx512vnni" in features:
        return Vnni(lanes)
    if lanes in (4, 8) and ({"avx512vnni", "avx512vl"} <= features or "avxvnni" in features):
        return Vnni(lanes)
    if (lanes == 16 and "avx512bw" in features) or (lanes == 8 and "avx2" in features):
        return Halves(lanes)
    return Single(lanes)


@dataclass(frozen=True)
class Vnni:
    """vpdpbusd: all four products at once, added without saturation."""

    lanes: int
    name = "q"
    dtype = "int32"

    @property
    def dims(self) -> tuple[int, ...]:
        """A quad of each lane."""
        return (self.lanes,)

    def pack(self, weights: np.ndarray) -> np.ndarray:
        """[..., lane, quad] as int32."""
        return np.ascontiguousarray(np.moveaxis(weights, -2, -1)).view(np.int32)[..., 0]

    def parts(self, quad: Sequence[Expr]) -> list[tuple[tuple[int, ...], Expr]]:
        """One word of four bytes."""
        return [((), joined([tirx.Cast("uint8", byte) for byte in quad], 8))]

    def add(self, total: Buffer, quad: Expr, weights: Buffer, place: Sequence[Expr]) -> None:
        """One instruction."""
        lanes, every = self.lanes, tirx.Ramp(0, 1, self.lanes)
        bytes_of = tirx.reinterpret(f"uint8x{4 * lanes}", _for_each(quad, lanes))
        held = tirx.reinterpret(f"int8x{4 * lanes}", weights[(*place, every)])
        call = T.llvm_lookup_intrinsic_id(f"llvm.x86.avx512.vpdpbusd.{32 * lanes}")
        value = T.call_llvm_pure_intrin(call, total[every], bytes_of, held, dtype=f"int32x{lanes}")
        T.buffer_store(total, value, [every])


MULTIPLY = {16: "llvm.x86.avx512.pmaddw.d.512", 8: "llvm.x86.avx2.pmadd.wd"}


@dataclass(frozen=True)
class Halves:
    """vpmaddwd on the even bytes and on the odd ones, both as int16."""

    lanes: int
    name = "h"
    dtype = "int32"

    @property
    def dims(self) -> tuple[int, ...]:
        """Two weights of each lane, even and odd."""
        return (2, self.lanes)

    def pack(self, weights: np.ndarray) -> np.ndarray:
        """[..., even or odd, lane, two] in int16, as int32."""
        halves = weights.reshape(*weights.shape[:-2], 2, 2, weights.shape[-1]).astype(np.int16)
        return np.ascontiguousarray(np.moveaxis(halves, -3, -1)).view(np.int32)[..., 0]

    def parts(self, quad: Sequence[Expr]) -> list[tuple[tuple[int, ...], Expr]]:
        """Words of the even bytes and of the odd ones, as int16."""
        halves = [tirx.Cast("uint16", tirx.Cast("int16", byte)) for byte in quad]
        return [((odd,), joined(halves[odd::2], 16)) for odd in (0, 1)]

    def add(self, total: Buffer, quad: Expr, weights: Buffer, place: Sequence[Expr]) -> None:
        """Two products of pairs."""
        lanes, every = self.lanes, tirx.Ramp(0, 1, self.lanes)
        words = tirx.reinterpret(f"uint16x{2 * lanes}", _for_each(quad, lanes))
        even = tirx.bitwise_and(words, tirx.Broadcast(tirx.const(0xFF, "uint16"), 2 * lanes))
        odd = tirx.shift_right(words, tirx.Broadcast(tirx.const(8, "uint16"), 2 * lanes))
        call, value = T.llvm_lookup_intrinsic_id(MULTIPLY[lanes]), total[every]
        for number, half in enumerate((even, odd)):
            held = tirx.reinterpret(f"int16x{2 * lanes}", weights[(*place, number, every)])
            x = tirx.reinterpret(f"int16x{2 * lanes}", half)
            value = wrapped(value, T.call_llvm_pure_intrin(call, x, held, dtype=f"int32x{lanes}"))
        T.buffer_store(total, value, [every])


@dataclass(frozen=True)
class Single:
    """Byte by byte in int32."""

    lanes: int
    name = "s"
    dtype = "int8"

    @property
    def dims(self) -> tuple[int, ...]:
        """Four weights of each lane."""
        return (QUAD, self.lanes)

    def pack(self, weights: np.ndarray) -> np.ndarray:
        """As they are."""
        return np.ascontiguousarray(weights)

    def parts(self, quad: Sequence[Expr]) -> list[tuple[tuple[int, ...], Expr]]:
        """As they are."""
        return [((number,), byte) for number, byte in enumerate(quad)]

    def add(self, total: Buffer, quad: Expr, weights: Buffer, place: Sequence[Expr]) -> None:
        """Four multiplications."""
        every = tirx.Ramp(0, 1, self.lanes)
        value = total[every]
        for number in range(QUAD):
            byte = tirx.bitwise_and(quad >> _like(8 * number, quad), _like(255, quad))
            held = tirx.Cast(f"int32x{self.lanes}", weights[(*place, number, every)])
            value = wrapped(value, _for_each(byte, self.lanes) * held)
        T.buffer_store(total, value, [every])


def joined(parts: Sequence[Expr], bits: int) -> Expr:
    """Unsigned parts as one int32, the first lowest."""
    whole = tirx.Cast("uint32", parts[0])
    for number, part in enumerate(parts[1:], 1):
        shifted = tirx.shift_left(tirx.Cast("uint32", part), tirx.const(bits * number, "uint32"))
        whole = tirx.bitwise_or(whole, shifted)
    return tirx.Cast("int32", whole)


def _for_each(quad: Expr, lanes: int) -> Expr:
    """A vector of quads, from one or as it is."""
    return quad if str(quad.ty.dtype) != "int32" else tirx.Broadcast(quad, lanes)


def _like(value: int, quad: Expr) -> Expr:
    """A constant as wide as a quad or a vector of them."""
    dtype = str(quad.ty.dtype)
    number = tirx.const(value, "int32")
    return number if dtype == "int32" else tirx.Broadcast(number, int(dtype.removeprefix("int32x")))
