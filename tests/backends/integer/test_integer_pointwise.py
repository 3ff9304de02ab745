"""Kernels between scales: every edge of a multiplier and a shift, ties, tables, and the two doors to float."""

from __future__ import annotations

import math

import pytest
import torch
from integer_case import LAYOUTS, S8, S16, S32, U8, codes, exact, hostile, planish

from planish.backends.tvm.kernels.conv_integer import ConvInteger
from planish.ir.dyadic import Dyadic, multipliers
from planish.ir.quantized.constants import curve_coefficients
from planish.ir.types import QuantParams
from planish.passes.group.shifts import RANGES, shift_range

VALUES = [0, 1, -1, 2, -2, 3, -3, 7984, 99, -49, 2**30, -(2**30), 2**31 - 1, -(2**31), -(2**31) + 1, 123456789]
NUMBERS = [Dyadic(b, c) for b in (2**30, 2**31 - 1, 1583594044, 2**30 + 1) for c in range(-31, 95)]


def _x() -> torch.Tensor:
    """The values, and for every power of two what lies around its half: ties."""
    ties = [s * (2**k + d) for k in range(31) for d in (-1, 0, 1) for s in (1, -1)]
    return torch.tensor([*VALUES, *ties], dtype=S32)[:, None]


@pytest.mark.parametrize("bounds", RANGES, ids=str)
@pytest.mark.parametrize(("zero", "low", "high", "dtype"), [(128, 0, 255, U8), (-3, -128, 127, S8), (0, -9, 9, S32)])
def test_requantize(bounds: tuple[int, int], zero: int, low: int, high: int, dtype: torch.dtype) -> None:
    numbers = [n for n in NUMBERS if bounds[0] <= n.shift <= bounds[1]]
    b, c = (torch.tensor([getattr(n, name) for n in numbers]) for name in ("multiplier", "shift"))
    assert shift_range(c) == bounds
    x = _x().expand(-1, len(numbers)).contiguous()
    exact(lambda *a: planish.requantize.default(*a, 0, zero, low, high, dtype), (x, b, c), shifts={2: bounds})


def test_requantize_of_which_nothing_is_known() -> None:
    """All of them in one kernel, results of 32 bits: nothing is clamped away that a wider result would show."""
    b, c = (torch.tensor([getattr(n, name) for n in NUMBERS]) for name in ("multiplier", "shift"))
    x = _x().expand(-1, len(NUMBERS)).contiguous()
    exact(lambda *a: planish.requantize.default(*a, 0, 0, -(2**31), 2**31 - 1, S32), (x, b, c))


@pytest.mark.parametrize("dtype", [U8, S8, S16])
def test_requantize_by_channel(dtype: torch.dtype) -> None:
    """Blocked, with channels to spare in the last block; -1.5 and 2.5 halved are ties that go up."""
    b, c = multipliers([0.5, 1 / 3, 0.25, 1.0, 1 - 2.0**-40, 0.1, 2.5] * 3)
    b, c = b.reshape(-1, 1, 1), c.reshape(-1, 1, 1)
    zero = 7 if dtype == S16 else 100
    sets = [(x, b, c) for x in hostile((2, 21, 3, 5), dtype)]

    def fn(*a: torch.Tensor) -> torch.Tensor:
        result: torch.Tensor = planish.requantize.default(*a, zero, 5, 1, 250, U8)
        return result

    exact(fn, *sets, layouts=LAYOUTS, constants=(1, 2))


def test_edge_vectors() -> None:
    """By hand: 0.5 · -3 = -1.5 goes up to -1, 0.5 · -1 to 0; 7984 · 1583594044 · 2^-40 = 11.4991 is 11."""
    half = Dyadic.of(0.5)
    assert (half.multiplier, half.shift) == (2**30, 31)
    assert planish.requantize.default(
        torch.tensor([-3, -1, 7984], dtype=S32),
        torch.tensor([2**30, 2**30, 1583594044]),
        torch.tensor([31, 31, 40]), 0, 0, -128, 127, S8,
    ).tolist() == [-1, 0, 11]  # fmt: skip


@pytest.mark.parametrize("dtypes", [(U8, S8), (S32, U8), (S16, S16)], ids=str)
def test_add(dtypes: tuple[torch.dtype, torch.dtype]) -> None:
    """Sums and differences by channel, one operand broadcast over the image."""
    ma = torch.tensor([2**29, 2**30 - 1, 3, 0, 715827883]).reshape(5, 1, 1)
    mb = torch.tensor([-(2**29), 2**30 - 1, -(2**30 - 1), 2**29, 1]).reshape(5, 1, 1)
    c = torch.tensor([30, 31, 62, 29, 33]).reshape(5, 1, 1)
    zeros = tuple(0 if d == S32 else 120 for d in dtypes)

    def fn(*a: torch.Tensor) -> torch.Tensor:
        result: torch.Tensor = planish.add.default(*a, *zeros, 9, 3, 251, U8)
        return result

    for shape in ((2, 5, 4, 3), (5, 1, 1)):
        pairs = zip(hostile((2, 5, 4, 3), dtypes[0]), hostile(shape, dtypes[1]), strict=True)
        exact(fn, *((a, b, ma, mb, c) for a, b in pairs), layouts=LAYOUTS, constants=(2, 3, 4), shifts={4: (1, 62)})


def test_mul() -> None:
    pairs = zip(hostile((2, 5, 4, 3)), hostile((2, 5, 1, 1), S8), strict=True)
    exact(lambda a, b: planish.mul.default(a, b, 130, -5), *pairs, layouts=LAYOUTS)
    wide = zip(hostile((4, 9), S16), hostile((9,), S16), strict=True)
    exact(lambda a, b: planish.mul.default(a, b, 1, 0), *wide)


@pytest.mark.parametrize(("x", "y"), [(U8, U8), (S8, S32), (U8, S16), (S8, S8)])
def test_lookup(x: torch.dtype, y: torch.dtype) -> None:
    """Every code, in a shape that has 256 channels, too: the table is none of them."""
    every = torch.arange(256).to(x).reshape(1, 256, 1, 1)
    exact(lambda a, t: planish.lookup.default(a, t), (every, codes(256, dtype=y)), layouts=LAYOUTS, constants=(1,))
    exact(lambda a, t: planish.lookup.default(a, t), (codes(3, 5, dtype=x), codes(256, dtype=y, seed=1)))


def test_curve() -> None:
    """All 65,536 codes of a GELU, and coefficients at the ends of their range."""
    x, y = QuantParams.symmetric(8.0, 16), QuantParams.symmetric(6.0, 16)
    gelu = curve_coefficients(torch.nn.functional.gelu, x, y)
    every = torch.arange(-(2**15), 2**15).to(S16).reshape(2, 512, 64)

    def fn(*a: torch.Tensor) -> torch.Tensor:
        result: torch.Tensor = planish.curve.default(*a, 14, y.low, y.high, S16)
        return result

    exact(fn, *((every, table) for table in (gelu, *hostile((512, 3), S32))), layouts=LAYOUTS, constants=(1,))


@pytest.mark.parametrize(("zero", "low", "high", "dtype"), [(3, 0, 255, U8), (0, -127, 127, S8), (-9, -30000, 7, S16)])
def test_quantize(zero: int, low: int, high: int, dtype: torch.dtype) -> None:
    """Ties to even, beyond the ends, subnormals, infinities and NaN."""
    scale = 0.0371
    ties = (torch.arange(-600, 600) + 0.5) * torch.tensor(scale)
    odd = torch.tensor([0.0, -0.0, 1e-42, 3e38, -3e38, math.inf, -math.inf, math.nan])
    near = torch.cat([torch.nextafter(ties, ties + s) for s in (1.0, -1.0)])
    x = torch.cat([ties, near, odd, torch.randn(1000) * 5]).reshape(1, 2, -1)
    exact(lambda v: planish.quantize.default(v, scale, zero, low, high, dtype), (x,), layouts=LAYOUTS)
    exact(lambda v: planish.quantize.default(v, 2.0**-3, zero, low, high, dtype), (x,))


@pytest.mark.parametrize("dtype", [U8, S8, S16, S32])
def test_dequantize(dtype: torch.dtype) -> None:
    zero = 0 if dtype == S32 else 77
    scale = torch.tensor([0.1, 3.7e-5, 1.0, 2.5e9, 1e-30]).reshape(5, 1, 1)
    sets = [(x, scale) for x in hostile((2, 5, 3, 3), dtype)]
    exact(lambda *a: planish.dequantize.default(*a, zero), *sets, layouts=LAYOUTS, constants=(1,))
    exact(lambda *a: planish.dequantize.default(*a, zero), (codes(7, dtype=dtype), torch.tensor(0.3)))


def test_a_table_as_long_as_the_channels() -> None:
    """512 parabolas after a convolution of 512 channels, whose constants are packed in blocks of channels."""
    x, weight, table = codes(1, 4, 9), codes(512, 4, 1, dtype=S8), codes(512, 3, dtype=S16).to(S32)
    geometry = ([1], [0], [1], False, [0], 1)
    b, c = torch.full((512, 1), 2**30), torch.full((512, 1), 33)

    def fn(*a: torch.Tensor) -> torch.Tensor:
        sums = planish.convolution.default(a[0], a[1], None, 3, *geometry)
        narrow = planish.requantize.default(sums, a[2], a[3], 0, 0, -(2**15), 2**15 - 1, S16)
        result: torch.Tensor = planish.curve.default(narrow, a[4], 14, -(2**15), 2**15 - 1, S16)
        return result

    inputs = (x, weight, b, c, table)
    anchor = planish.convolution.default
    exact(
        fn,
        inputs,
        layouts=("c16",),
        template=ConvInteger(),
        constants=(1, 2, 3, 4),
        anchor=anchor,
        shifts={3: (33, 62)},
    )


def test_a_computed_table() -> None:
    """Read where the codes say, not beside them."""
    x, y = codes(256), codes(256, seed=1)
    exact(lambda a, b: planish.lookup.default(a, torch.ops.aten.maximum.default(a, b)), (x, y))
