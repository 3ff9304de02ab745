"""Elementary functions as TIR expressions that vectorize: argument reduction and a polynomial, no libm.

    math.f(x) == f(x) to 2 ulp in float32

float32 results are within 2 ulp of the exact value over the whole range: NaN, infinities, signed zeros, denormals
and overflow included (4 ulp for the inverse trigonometric and hyperbolic functions and tan). float64 calls libm.
Polynomials are minimax fits, lowest power first. Values used twice are named by `let`, which emits statements: see
`lanes`. This file only gathers the names; the formulas lie in `scalar`, `exponential`, `trigonometric` and `wide`.
"""

from __future__ import annotations

from .exponential import erf, exp, exp2, exp_flushed, expm1, ln, log1p, log2, sigmoid, tanh
from .scalar import absolute, clip, const, copysign, dtype_of, isnan, larger, maximum, minimum, negate, poly, select
from .trigonometric import acos, asin, atan, atan2, cos, sin, tan
from .wide import acosh, asinh, atanh, cosh, fmod, log10, power, sinh

__all__ = [
    "absolute",
    "acos",
    "acosh",
    "asin",
    "asinh",
    "atan",
    "atan2",
    "atanh",
    "clip",
    "const",
    "copysign",
    "cos",
    "cosh",
    "dtype_of",
    "erf",
    "exp",
    "exp2",
    "exp_flushed",
    "expm1",
    "fmod",
    "isnan",
    "larger",
    "ln",
    "log1p",
    "log2",
    "log10",
    "maximum",
    "minimum",
    "negate",
    "poly",
    "power",
    "select",
    "sigmoid",
    "sin",
    "sinh",
    "tan",
    "tanh",
]  # fmt: skip
