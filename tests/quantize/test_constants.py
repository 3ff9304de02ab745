"""Integer constants from scales: tables and curves over every code, norms, interpolation."""

from __future__ import annotations

import math
from collections.abc import Callable

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from planish.errors import QuantizationError
from planish.ir.dyadic import multipliers
from planish.ir.quantized.constants import (
    CURVE_SHIFT,
    curve_coefficients,
    divisors,
    interpolation,
    norm,
    softmax_scale,
    table,
)
from planish.ir.quantized.pointwise import curve, lookup, requantize
from planish.ir.quantized.windows import AVERAGE, sum_pool
from planish.ir.types import QuantParams

FUNCTIONS: dict[str, tuple[Callable[[Tensor], Tensor], float, float]] = {
    "gelu": (F.gelu, -0.2, 1.0),
    "gelu tanh": (lambda v: F.gelu(v, approximate="tanh"), -0.2, 1.0),
    "silu": (F.silu, -0.3, 1.0),
    "sigmoid": (torch.sigmoid, 0.0, 1.0),
    "tanh": (torch.tanh, -1.0, 1.0),
    "mish": (F.mish, -0.35, 1.0),
}


@pytest.mark.parametrize("name", FUNCTIONS)
@pytest.mark.parametrize("bound", [1.0, 4.0, 12.0])
def test_tables_are_right_to_half_a_code(name: str, bound: float) -> None:
    function, least, most = FUNCTIONS[name]
    y = QuantParams.asymmetric(least * bound, most * bound)
    for x in (QuantParams.asymmetric(-bound, bound), QuantParams.symmetric(bound)):
        limits = torch.iinfo(x.dtype)
        codes = torch.arange(limits.min, limits.max + 1)
        got = lookup(codes.to(x.dtype), table(function, x, y)).double()
        exact = function(x.values(codes.clamp(x.low, x.high))) / y.scale + y.zero
        assert float((got - exact.clamp(y.low, y.high)).abs().max()) <= 0.5


@pytest.mark.parametrize(("name", "bound"), [("gelu", 1.0), ("gelu", 20.0), *((name, 8.0) for name in FUNCTIONS)])
def test_curves_are_right_to_one_code_at_every_code(name: str, bound: float) -> None:
    function, _, most = FUNCTIONS[name]
    x = QuantParams.symmetric(bound, 16)
    y = QuantParams.symmetric(most if name in ("sigmoid", "tanh") else bound, 16)
    codes = torch.arange(-(2**15) + 1, 2**15).to(torch.int16)
    coefficients = curve_coefficients(function, x, y)
    got = curve(codes, coefficients, CURVE_SHIFT, y.low, y.high, y.dtype).double()
    exact = function(x.values(codes)) / y.scale
    assert float((got - exact.clamp(y.low, y.high)).abs().max()) <= 0.75


def test_what_bends_too_sharply_is_no_curve() -> None:
    params = QuantParams.symmetric(8.0, 16)
    assert curve_coefficients(F.relu, params, params).shape == (512, 3)  # it bends where two parabolas meet
    with pytest.raises(QuantizationError, match=r"off by .* codes"):
        curve_coefficients(lambda v: (v - 0.011).abs(), params, params)
    with pytest.raises(QuantizationError, match="off by"):
        curve_coefficients(lambda v: (v - 0.011).sign(), params, QuantParams.symmetric(1.0, 16))
    with pytest.raises(QuantizationError, match="NaN"):
        curve_coefficients(torch.log, params, params)


def test_a_table_needs_eight_bits_and_numbers() -> None:
    byte, wide = QuantParams.symmetric(1.0), QuantParams.symmetric(1.0, 16)
    with pytest.raises(QuantizationError, match="8 bits"):
        table(F.gelu, wide, byte)
    with pytest.raises(QuantizationError, match="NaN or infinite"):
        table(torch.log, byte, byte)


def test_the_ratio_of_a_softmax() -> None:
    assert math.isclose(float(softmax_scale(0.1)), 0.1 / math.log(2) * 2**24, rel_tol=2.0**-31)


def test_norm_constants() -> None:
    x, y = QuantParams(0.25, 0, -127, 127, torch.int8), QuantParams(0.5, 0, -127, 127, torch.int8)
    found = norm(torch.tensor([3.0, -1.5]), torch.tensor([0.0, 4.0]), 2.0, 2, x, y)
    # two elements: F = 30 - 1 = 29, and 3 / (0.5 · 2^29) = 0.75 · 2^-26 has the exponent -26: the shift is 30 + 26
    assert found.shift == 56
    assert found.weight.tolist() == [3 * 2**28, -3 * 2**27]
    assert found.bias.tolist() == [0, 2**59]
    # (2 · 255)² has 18 bits, so 42 of 61 are spare (an even number): 2 · (2 / 0.25)² = 128
    assert found.eps == 128 * 2**42


def test_norms_with_broken_parameters_are_refused() -> None:
    x = QuantParams(1.0, 0, -127, 127, torch.int8)
    tiny = QuantParams(2.0**-60, 0, -127, 127, torch.int8)
    one = torch.ones(1)
    for gamma, beta, eps, source, target in (
        (one * math.nan, one, 0.0, x, x),
        (one, one * math.inf, 0.0, x, x),
        (one, one, -1.0, x, x),
        (one, one * 1e30, 0.0, x, tiny),
        (one, one, 1.0, tiny, x),
    ):
        with pytest.raises(QuantizationError, match="norm's gain"):
            norm(gamma, beta, eps, 4, source, target)


def test_interpolation_keeps_what_is_constant() -> None:
    matrix = torch.tensor([[1.0, 0.0, 0.0], [1 / 3, 2 / 3, 0.0], [0.0, 0.1, 0.9], [-0.1, 1.2, -0.1]]).double()
    places, weights = interpolation(matrix, 11)
    assert places.shape == weights.shape == (3, 4)
    assert weights.sum(0).tolist() == [2048] * 4
    rebuilt = torch.zeros(4, 3, dtype=torch.float64)
    rebuilt.scatter_add_(1, places.T, weights.T.double() / 2048)
    assert float((rebuilt - matrix).abs().max()) <= 2.0**-11
    assert weights.dtype == torch.int32


@pytest.mark.parametrize("ceil_mode", [False, True])
@pytest.mark.parametrize("include", [False, True])
@pytest.mark.parametrize("rank", [1, 2, 3])
def test_an_average_pool_is_sums_and_a_ratio_a_place(rank: int, include: bool, ceil_mode: bool) -> None:
    extents, kernel, stride, padding = (6, 5, 4)[:rank], [3, 2, 3][:rank], [2, 2, 1][:rank], [1, 1, 0][:rank]
    counts = divisors(extents, kernel, stride, padding, ceil_mode, include)
    x = torch.randint(0, 256, (2, 3, *extents), generator=torch.Generator().manual_seed(0)).to(torch.uint8)
    sums = sum_pool(x, 100, kernel, stride, padding, ceil_mode)
    multiplier, shift = multipliers((1 / counts).flatten().tolist())
    got = requantize(sums, multiplier.reshape(counts.shape), shift.reshape(counts.shape), 0, 100, 0, 255, torch.uint8)
    exact = AVERAGE[rank](x.double() - 100, kernel, stride, padding, ceil_mode, include)
    assert float((got.double() - 100 - exact).abs().max()) <= 0.5 + 1e-6
