"""Activation functions as TIR expressions of one element. NaN in, NaN out.

silu(x) = x / (1 + e^-x);  gelu(x) = x (1 + erf(x / sqrt 2)) / 2;  hardswish(x) = x clip(x + 3, 0, 6) / 6
"""

from __future__ import annotations

from math import pi, sqrt

from ..compat import tirx
from .exponential import exp_saturated, normal_tail
from .lanes import PrimExpr, let
from .math import absolute, clip, const, dtype_of, erf, exp, expm1, ln, log1p, maximum, minimum, select


def _c(x: PrimExpr, value: float) -> PrimExpr:
    """A literal of x's dtype."""
    return const(value, dtype_of(x))


def relu(x: PrimExpr) -> PrimExpr:
    """max(x, 0)."""
    return maximum(_c(x, 0), x)


def gelu(x: PrimExpr, *, approximate: str = "none") -> PrimExpr:
    """x Phi(x) = max(x, 0) - |x| Phi(-|x|), or its approximation by tanh: x sigmoid(2 y)."""
    if approximate == "tanh":
        return let(x, lambda x: _gelu_tanh(x))
    if dtype_of(x) != "float32":
        return _c(x, 0.5) * x * (_c(x, 1.0) + erf(x * _c(x, sqrt(0.5))))

    def exact(x: PrimExpr) -> PrimExpr:
        return let(absolute(x), lambda a: relu(x) - select(a < _c(x, 6.0), a * normal_tail(a), _c(x, 0.0)))

    return let(x, exact)


def _gelu_tanh(x: PrimExpr) -> PrimExpr:
    """x (1 + tanh y) / 2 = x / (1 + e^-2y) with y = sqrt(2 / pi) (x + 0.044715 x^3); 0 where tanh y is -1."""
    twice = x * (_c(x, 2 * sqrt(2 / pi)) + _c(x, 2 * sqrt(2 / pi) * 0.044715) * x * x)

    def quotient(t: PrimExpr) -> PrimExpr:
        return select(t < _c(x, -37.0), _c(x, 0.0), x / (_c(x, 1.0) + exp_saturated(_c(x, 0.0) - t)))

    return let(twice, quotient)


def silu(x: PrimExpr) -> PrimExpr:
    """x sigmoid(x)."""
    return x / (_c(x, 1.0) + exp_saturated(_c(x, 0.0) - x))


def mish(x: PrimExpr) -> PrimExpr:
    """x tanh(log(1 + e^x)) = x n / (n + 2) with n = e (e + 2), e = e^x; the quotient is 1 from 20 on."""
    e = exp(minimum(_c(x, 20.0), x))
    n = let(e, lambda e: e * (e + _c(x, 2.0)))
    return let(n, lambda n: x * (n / (n + _c(x, 2.0))))


def softplus(x: PrimExpr, beta: float = 1.0, threshold: float = 20.0) -> PrimExpr:
    """log(1 + e^(beta x)) / beta, and x itself where beta x > threshold."""

    def both(z: PrimExpr) -> PrimExpr:
        return select(z > _c(x, threshold), x, log1p(exp(z)) * _c(x, 1 / beta))

    return let(x * _c(x, beta), both)


def log_sigmoid(x: PrimExpr) -> PrimExpr:
    """min(x, 0) - log(1 + e^-|x|)."""
    return minimum(_c(x, 0.0), x) - log1p(exp(_c(x, 0.0) - absolute(x)))


def elu(x: PrimExpr, alpha: float = 1.0, scale: float = 1.0, input_scale: float = 1.0) -> PrimExpr:
    """scale x above 0, scale alpha (e^(input_scale x) - 1) below."""
    low = expm1(minimum(_c(x, 0.0), x) * _c(x, input_scale)) * _c(x, alpha * scale)
    return let(low, lambda low: select(x > _c(x, 0.0), x * _c(x, scale), low))


def selu(x: PrimExpr) -> PrimExpr:
    """elu with the constants that keep mean 0 and variance 1."""
    return elu(x, 1.6732632423543772, 1.0507009873554805)


def celu(x: PrimExpr, alpha: float = 1.0) -> PrimExpr:
    """elu whose slope is continuous: e^(x / alpha)."""
    return elu(x, alpha, 1.0, 1.0 / alpha)


def hardsigmoid(x: PrimExpr) -> PrimExpr:
    """clip(x + 3, 0, 6) / 6."""
    return clip(x + _c(x, 3.0), 0.0, 6.0) * _c(x, 1 / 6)


def hardswish(x: PrimExpr) -> PrimExpr:
    """x clip(x + 3, 0, 6) / 6."""
    return x * clip(x + _c(x, 3.0), 0.0, 6.0) * _c(x, 1 / 6)


def leaky_relu(x: PrimExpr, slope: float = 0.01) -> PrimExpr:
    """x above 0, slope x below."""
    return select(x > _c(x, 0.0), x, x * _c(x, slope))


def prelu(x: PrimExpr, slope: PrimExpr) -> PrimExpr:
    """leaky_relu with a slope from memory."""
    return select(x > _c(x, 0.0), x, x * slope)


def threshold(x: PrimExpr, limit: PrimExpr, value: PrimExpr) -> PrimExpr:
    """x above the limit, `value` elsewhere; NaN stays."""
    return select(x <= limit, value, x)


def hardshrink(x: PrimExpr, lambd: float = 0.5) -> PrimExpr:
    """0 within [-lambd, lambd]."""
    return select(absolute(x) <= _c(x, lambd), _c(x, 0.0), x)


def softshrink(x: PrimExpr, lambd: float = 0.5) -> PrimExpr:
    """x moved towards 0 by lambd."""
    low = select(x < _c(x, -lambd), x + _c(x, lambd), _zero(x))
    return select(x > _c(x, lambd), x - _c(x, lambd), low)


def _zero(x: PrimExpr) -> PrimExpr:
    """0, and NaN for NaN."""
    return select(tirx.isnan(x), x, _c(x, 0.0))


def logit(x: PrimExpr, eps: float | None = None) -> PrimExpr:
    """log(x / (1 - x)), x clamped to [eps, 1 - eps]."""
    x = x if eps is None else clip(x, eps, 1 - eps)
    return let(x, lambda x: ln(x / (_c(x, 1.0) - x)))
