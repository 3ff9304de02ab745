"""Softmax and norms in integers: every step of their fixed-point functions, the bits of the reference."""

from __future__ import annotations

from math import prod

import pytest
import torch
from integer_case import S8, S16, S32, U8, codes, exact, hostile, planish

from planish.ir.quantized.constants import norm, softmax_scale
from planish.ir.types import QuantParams

ROWS = [(U8, 8, U8, 0.05), (S8, 15, S16, 3.0), (S16, 8, U8, 1e-6), (S32, 15, S16, 0.05), (S32, 8, U8, 1e-6)]


@pytest.mark.parametrize(("dtype", "bits", "out", "scale"), ROWS)
def test_softmax(dtype: torch.dtype, bits: int, out: torch.dtype, scale: float) -> None:
    """All distances from far to none; an accumulator, whose distances leave 32 bits."""
    number = softmax_scale(scale)
    sets = [(x,) for x in hostile((2, 7, 67), dtype)]
    rest = (number.multiplier, number.shift)
    exact(lambda x: planish.softmax.default(x, None, *rest, -1, bits, out), *sets)
    exact(lambda x: planish.softmax.default(x, None, *rest, 1, bits, out), *sets)


def test_softmax_of_every_distance() -> None:
    x = torch.arange(256).to(U8)
    rows = torch.stack([torch.full_like(x, 255), x], 1)
    number = softmax_scale(0.03)
    exact(lambda v: planish.softmax.default(v, None, number.multiplier, number.shift, 1, 8, U8), (rows,))


def test_long_rows() -> None:
    """Sums of up to 2^43: shifts of more than 62 bits."""
    number = softmax_scale(0.001)
    sets = [(x,) for x in (*hostile((2, 9000)), codes(3, 9000, dtype=S8)[:2].to(U8))]
    exact(lambda v: planish.softmax.default(v, None, number.multiplier, number.shift, 1, 8, U8), *sets)


def test_more_bits_than_the_dtype_saturate() -> None:
    """Shares of one of the largest are 2^11, and become 255."""
    number = softmax_scale(0.3)
    sets = [(x,) for x in hostile((3, 40))]
    exact(lambda v: planish.softmax.default(v, None, number.multiplier, number.shift, 1, 11, U8), *sets)


def test_masked_softmax() -> None:
    """A mask that broadcasts; a row that is masked wholly is 0."""
    number = softmax_scale(0.1)
    mask = torch.ones(4, 1, 9, dtype=torch.bool)
    mask[1, 0, ::2] = False
    mask[2] = False
    sets = [(x, mask) for x in hostile((2, 4, 3, 9))]
    exact(lambda x, m: planish.softmax.default(x, m, number.multiplier, number.shift, 3, 8, U8), *sets)


@pytest.mark.parametrize("name", ["layer_norm", "rms_norm"])
@pytest.mark.parametrize(
    ("dtype", "zero", "shape", "dims"), [(U8, 131, (2, 3, 4, 5), 2), (S8, 0, (3, 1), 1), (S16, 0, (6, 48), 1)], ids=str
)
def test_norms(name: str, dtype: torch.dtype, zero: int, shape: tuple[int, ...], dims: int) -> None:
    """Rows without variance, of the largest there is, and of one element."""
    limits = torch.iinfo(dtype)
    x, y = QuantParams(0.02, zero, limits.min, limits.max, dtype), QuantParams(0.01, 120, 0, 255, U8)
    row = shape[len(shape) - dims :]
    gamma = torch.randn(row, generator=torch.Generator().manual_seed(1))
    beta = torch.linspace(-1, 1, prod(row)).reshape(row)
    made = norm(gamma, beta, 1e-5, prod(row), x, y)
    operator = getattr(planish, name).default
    sets = [(v, made.weight, made.bias) for v in hostile(shape, dtype)]
    exact(lambda v, w, b: operator(v, w, b, dims, zero, made.eps, made.shift, 120, 0, 255, U8), *sets, constants=(1, 2))


@pytest.mark.parametrize("eps", [0, 2**61 - 1])
def test_norms_with_any_eps(eps: int) -> None:
    """Without eps a row without variance is its bias; the largest eps makes everything it."""
    one = torch.ones(1, dtype=torch.int64)
    sets = [(v, one * 2**20, one * -3) for v in hostile((4, 33))]
    for name in ("layer_norm", "rms_norm"):
        operator = getattr(planish, name).default
        exact(lambda v, w, b, f=operator: f(v, w, b, 1, 7, eps, 30, 3, 0, 255, U8), *sets)  # type: ignore[misc]


def test_a_norm_to_16_bits() -> None:
    x, y = QuantParams.symmetric(50.0, 16), QuantParams.symmetric(4.0, 16)
    made = norm(torch.rand(40) + 0.5, torch.randn(40), 1e-6, 40, x, y)
    sets = [(v, made.weight, made.bias) for v in hostile((5, 40), S16)]
    bounds = (0, y.low, y.high, S16)
    exact(lambda v, w, b: planish.layer_norm.default(v, w, b, 1, 0, made.eps, made.shift, *bounds), *sets)
