"""Fixed-point functions by 64-bit multiply, add and shift: what integer softmax and norms need.

    exp2_below(t) ≈ 2^30 · 2^(-t / 2^24)     reciprocal(m) ≈ 2^61 / m     (e, k) = inverse_root(w):  e · 2^-k ≈ w^(-1/2)

Each is within 2^-21, 2^-28 and 2^-27 of the true value, relative (the first within one unit more). Int64 in and out;
these functions are the specification: a kernel has the same bits.
"""

from __future__ import annotations

import torch
from torch import Tensor

from ..dyadic import shifted

ONE = 1 << 30
"""1.0 with 30 bits after the point."""
EXP2_FRACTION = 24
"""Bits after the point of the argument of `exp2_below`."""
EXP2 = (1073741764, -744256774, 257890191, -59375904, 9888282, -1016701)
"""2^-f for f in [0, 1) as a polynomial in f: coefficients with 30 bits after the point, the constant first."""


def exp2_below(t: Tensor) -> Tensor:
    """2^30 · 2^(-t / 2^24) for t >= 0, rounded; 0 from 31 on."""
    whole, fraction = t >> EXP2_FRACTION, (t & ((1 << EXP2_FRACTION) - 1)) << (30 - EXP2_FRACTION)
    result = torch.full_like(t, EXP2[-1])
    for coefficient in reversed(EXP2[:-1]):
        result = coefficient + ((result * fraction + (1 << 29)) >> 30)
    return torch.where(whole > 30, 0, shifted(result, whole.clamp(0, 31)))


def reciprocal(m: Tensor) -> Tensor:
    """2^61 / m for m in [2^30, 2^31): a line, then three steps of Newton's method, each squaring the error 1/17."""
    x = 48 * ONE // 17 - ((m * (32 * ONE // 17)) >> 31)  # (48 - 32 d) / 17 for d = m / 2^31
    for _ in range(3):
        error = (1 << 61) - m * x
        x = x + ((x * (error >> 30)) >> 31)
    return x


def inverse_root(w: Tensor) -> tuple[Tensor, Tensor]:
    """(e, k) with e · 2^-k ≈ 1 / sqrt(w) and e in [2^30, 2^31], for w in [1, 2^63); e = 0 for w = 0.

    A line over d = m / 2^32 in [1/4, 1), then four steps x (3 - d x²) / 2 of Newton's method; the first is 9 % off.
    """
    half = (bit_length(w) - 31) >> 1  # w ≈ m · 4^half with m in [2^30, 2^32)
    m = torch.where(half >= 0, w >> (2 * half).clamp(0, 62), w << (-2 * half).clamp(0, 62))
    x = 214 * ONE // 100 - ((m * (122 * ONE // 100)) >> 32)  # 2.14 - 1.22 d
    for _ in range(4):
        square = ((x * x) >> 32) * m  # d x² with 60 bits after the point
        x = (x * (((3 << 60) - square) >> 31)) >> 30
    return torch.where(w > 0, x, 0), 46 + half


def bit_length(w: Tensor) -> Tensor:
    """Bits of w >= 0 without its leading zeros; 0 for 0."""
    bits = torch.zeros_like(w)
    for step in (32, 16, 8, 4, 2, 1):
        wide = w >> step > 0
        bits = torch.where(wide, bits + step, bits)
        w = torch.where(wide, w >> step, w)
    return bits + w
