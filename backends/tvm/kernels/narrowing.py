"""Four vectors of 16 codes in int32 become one of 64 bytes: saturated, in their order, and clamped as bytes.

    bytes[16 p + v] = clamp(saturate(four[p][v]), low, most)

Two at a time are packed to 16 bits and to 8, which saturates; what comes out lies in pieces of four, which one
permutation puts in order. Only for vectors of 512 bits: there it replaces two conversions and a store of a quarter.
"""

from __future__ import annotations

from collections.abc import Sequence

from ..compat import T, tirx
from ..target import Target
from .emit import Expr

TOGETHER = 4
"""Vectors that become one."""

_LANES = 16
_LIMITS = {"uint8": (0, 255), "int8": (-128, 127)}
_LAST = {"uint8": "llvm.x86.avx512.packuswb.512", "int8": "llvm.x86.avx512.packsswb.512"}


def narrows(target: Target, lanes: int, dtype: str) -> bool:
    """Whether codes of this dtype can be stored so."""
    return lanes == _LANES and target.lanes == _LANES and "avx512bw" in target.features and dtype in _LIMITS


def narrowed(four: Sequence[Expr], dtype: str, bounds: tuple[int, int]) -> Expr:
    """One vector of `dtype`."""
    a, b, c, d = four
    low, high = (_call("llvm.x86.avx512.packssdw.512", two[0], two[1], "int16x32") for two in ((a, b), (c, d)))
    pieces = tirx.reinterpret("int32x16", _call(_LAST[dtype], low, high, "int8x64"))
    order = [tirx.const(4 * piece + p, "int32") for p in range(TOGETHER) for piece in range(4)]
    result = tirx.reinterpret(f"{dtype}x64", tirx.Shuffle([pieces], order))
    for bound, limit, nearer in zip(bounds, _LIMITS[dtype], (tirx.max, tirx.min), strict=True):
        if bound != limit:
            result = nearer(result, tirx.Broadcast(tirx.const(bound, dtype), 64))
    return result


def _call(name: str, a: Expr, b: Expr, dtype: str) -> Expr:
    return T.call_llvm_pure_intrin(T.llvm_lookup_intrinsic_id(name), a, b, dtype=dtype)
