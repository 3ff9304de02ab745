"""bfloat16 in memory, float32 in registers: a kernel loads, computes in float32, and rounds once, as it stores.

    load(bits) = float32(bits << 16)        store(x) = the nearest bfloat16, ties to even; NaN stays NaN

Buffers hold the bits as uint16, because LLVM's bfloat type does not come through TVM. `Narrow` is such a buffer as all
kernels see it: an index gives float32. CPUs with AVX512-BF16 round in one instruction, and multiply pairs:

    dot(acc, x, w)[v] = acc[v] + x[0] w[v, 0] + x[1] w[v, 1]        sixteen lanes; denormals count as zero
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import numpy as np

from ..compat import T, tirx, tvm
from ..ops.lanes import once, open_lanes
from ..ops.scalar import const, isnan, select
from ..target import Target

Expr = Any
Buffer = Any

DOT_FEATURE = "avx512bf16"
"""What the CPU needs for `dot` and for rounding in one instruction."""

_ROUND = {16: "llvm.x86.avx512bf16.cvtneps2bf16.512", 8: "llvm.x86.avx512bf16.cvtneps2bf16.256"}

DOT_LANES = (16, 8, 4)
"""Vectors that `dot` adds to."""

_DOT = "planish_dot_bfloat16_{n}"
_DOT_SOURCE = """
declare <{n} x float> @llvm.x86.avx512bf16.dpbf16ps.{bits}(<{n} x float>, <{m} x bfloat>, <{m} x bfloat>)
define linkonce_odr hidden <{n} x float> @{name}(<{n} x float> %acc, <{n} x i32> %x, <{n} x i32> %w) alwaysinline {{
  %a = bitcast <{n} x i32> %x to <{m} x bfloat>
  %b = bitcast <{n} x i32> %w to <{m} x bfloat>
  %r = call <{n} x float> @llvm.x86.avx512bf16.dpbf16ps.{bits}(<{n} x float> %acc, <{m} x bfloat> %b, <{m} x bfloat> %a)
  ret <{n} x float> %r
}}
define linkonce_odr hidden i32 @planish_pair_bfloat16(ptr %place) alwaysinline {{
  %pair = load i32, ptr %place, align 2
  ret i32 %pair
}}
"""
"""TVM cannot call the intrinsic, since it has no LLVM type for bfloat16; so the call is LLVM's own text, inlined.
The pair comes second: that operand of the instruction may be broadcast from memory."""


def has_dot(target: Target) -> bool:
    """Whether the CPU multiplies pairs of bfloat16."""
    return DOT_FEATURE in target.features and target.lanes == 16


@dataclass(frozen=True, eq=False)
class Narrow:
    """A buffer of bfloat16 bits that is read as float32; `Function.store` rounds what is written."""

    bits: Buffer
    native: bool
    """Whether the CPU rounds in one instruction."""
    dtype: str = "float32"

    def __getitem__(self, index: Any) -> Expr:
        """One element, widened."""
        return widen(self.bits[index])

    @property
    def shape(self) -> Sequence[Any]:
        """As of the buffer in memory."""
        extents: Sequence[Any] = self.bits.shape
        return extents

    def narrow(self, value: Expr) -> Expr:
        """The bits of a float32, to be stored at once: to TVM they are uint16, to LLVM bfloat."""
        known = _widened(value)
        return known if known is not None else narrow(value, self.native)


def widen(stored: Expr) -> Expr:
    """bfloat16 bits as float32."""
    return tirx.reinterpret("float32", tirx.shift_left(tirx.Cast("uint32", stored), const(16, "uint32")))


def _widened(value: Expr) -> Expr | None:
    """What `widen` was given, if `value` is its result: a copy moves bits."""
    shifted = value.args[0] if isinstance(value, tvm.ir.Call) and value.op.name == "tirx.reinterpret" else None
    wide = shifted.a if isinstance(shifted, tirx.LShift) else None
    return wide.value if isinstance(wide, tirx.Cast) and str(wide.value.ty.dtype) == "uint16" else None


def narrow(value: Expr, native: bool) -> Expr:
    """The bits of the nearest bfloat16, in the open lane loop or in scalar code.

    The value is named first: what TVM computes lane by lane (a choice that depends on the lane) is a vector then.
    """
    if native and open_lanes() in _ROUND:
        return T.call_llvm_pure_intrin(T.llvm_lookup_intrinsic_id(_ROUND[open_lanes()]), once(value), dtype="uint16")
    high = tirx.shift_right(tirx.reinterpret("uint32", rounded(value)), const(16, "uint32"))
    return tirx.Cast("uint16", high)


def rounded(value: Expr) -> Expr:
    """The nearest bfloat16 as float32: half of a unit less what is odd is added, then the low bits are cut."""
    x = once(value)
    b = once(tirx.reinterpret("uint32", x))
    odd = tirx.bitwise_and(tirx.shift_right(b, const(16, "uint32")), const(1, "uint32"))
    nearest = b + const(0x7FFF, "uint32") + odd
    quiet = tirx.bitwise_or(b, const(0x400000, "uint32"))
    chosen = select(isnan(x), quiet, nearest)
    return tirx.reinterpret("float32", tirx.bitwise_and(chosen, const(0xFFFF0000, "uint32")))


@contextmanager
def dot_products(lanes: int = 16) -> Iterator[None]:
    """What is emitted inside may call `dot` on vectors of `lanes`."""
    name = _DOT.format(n=lanes)
    source = _DOT_SOURCE.format(name=name, n=lanes, m=2 * lanes, bits=32 * lanes)
    with T.attr(tirx.const(0, "int32"), "pragma_import_llvm", source):
        yield


def dot(acc: Buffer, lanes: int, pair: Expr, weights: Buffer, place: Sequence[Expr]) -> None:
    """acc[v] += pair . weights[place, v]; `pair` is an int32, `weights` holds one for each lane."""
    every = tirx.Ramp(0, 1, lanes)
    operands = acc[every], tirx.Broadcast(pair, lanes), weights[(*place, every)]
    T.buffer_store(acc, tirx.call_pure_extern(f"float32x{lanes}", _DOT.format(n=lanes), *operands), [every])


def pair_of(low: Expr | None, high: Expr | None) -> Expr:
    """Two bfloat16 that lie side by side, by their bits, as one int32; None is zero. Within `dot_products` only."""
    if low is not None and high is not None:
        return tirx.call_pure_extern("int32", "planish_pair_bfloat16", T.address_of(low))
    part = tirx.shift_left(tirx.Cast("uint32", high), const(16, "uint32")) if low is None else tirx.Cast("uint32", low)
    return tirx.reinterpret("int32", part)


def pack_pairs(array: np.ndarray, axis: int) -> np.ndarray:
    """Neighbours along `axis` of an array of bits as one int32 each, the first in the low half."""
    low, high = (np.take(array, range(k, array.shape[axis], 2), axis).astype(np.uint32) for k in (0, 1))
    return (low | high << np.uint32(16)).view(np.int32)
