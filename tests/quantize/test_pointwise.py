"""Codes of floats, other scales, sums, tables and curves against exact rational arithmetic."""

from __future__ import annotations

import math
from fractions import Fraction

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from planish.errors import QuantizationError
from planish.ir.dyadic import Dyadic, multipliers, sum_multipliers
from planish.ir.quantized import pointwise

U8, S8, S16, S32 = torch.uint8, torch.int8, torch.int16, torch.int32


def half_up(value: Fraction) -> int:
    return math.floor(value + Fraction(1, 2))


def test_quantize() -> None:
    x = torch.tensor([0.0, 0.5, 1.5, 2.5, -0.5, -1.5, 126.4, 1e9, math.inf, -1e9, -math.inf, math.nan])
    ties_to_even = [128, 128, 130, 130, 128, 126, 254, 255, 255, 0, 0, 0]
    assert pointwise.quantize(x, 1.0, 128, 0, 255, U8).tolist() == ties_to_even
    assert pointwise.quantize(x[:7] * 0.25, 0.25, 128, 0, 255, U8).tolist() == ties_to_even[:7]
    assert pointwise.quantize(x, 1.0, 5, 5, 9, S8).tolist() == [5, 5, 7, 7, 5, 5, 9, 9, 9, 5, 5, 5]
    assert pointwise.quantize(x.to(torch.bfloat16)[:6], 1.0, 0, -9, 9, S16).tolist() == [0, 0, 2, 2, 0, -2]
    # 16,777,217 is no float32: values are float32 before they are divided
    assert pointwise.quantize(torch.tensor([16777217.0]).double(), 2.0**10, 0, -99, 2**30, S32).tolist() == [2**14]


@given(st.floats(-1e4, 1e4, width=32), st.floats(2.0**-20, 2.0**5, width=32))
def test_quantize_divides_in_float32(x: float, scale: float) -> None:
    steps = (torch.tensor(x) / torch.tensor(scale)).item()
    expected = min(max(round(steps) + 7, -128), 127)  # Python rounds to even
    assert pointwise.quantize(torch.tensor(x), scale, 7, -128, 127, S8).item() == expected


def test_dequantize() -> None:
    x = torch.tensor([[0, 128], [255, 3]], dtype=U8)
    assert pointwise.dequantize(x, torch.tensor(0.5), 128).tolist() == [[-64.0, 0.0], [63.5, -62.5]]
    assert pointwise.dequantize(x, torch.tensor([0.5, 2.0]), 128).tolist() == [[-64.0, 0.0], [63.5, -250.0]]
    logits = torch.tensor([2**24 + 1, -(2**31)], dtype=S32)
    assert pointwise.dequantize(logits, torch.tensor(2.0**-8), 0).tolist() == [2.0**16, -(2.0**23)]


@given(st.lists(st.integers(-(2**31), 2**31 - 1), min_size=3, max_size=3), st.floats(2.0**-40, 8.0))
def test_requantize(xs: list[int], ratio: float) -> None:
    number = Dyadic.of(ratio)
    b, c = multipliers([ratio])
    got = pointwise.requantize(torch.tensor(xs, dtype=S32), b, c, 0, 100, 0, 255, U8)
    exact = [half_up(Fraction(x * number.multiplier) / 2**number.shift) + 100 for x in xs]
    assert got.dtype == U8
    assert got.tolist() == [min(max(v, 0), 255) for v in exact]


def test_requantize_every_byte() -> None:
    """From one zero point to another, a channel each: 2 (x - 130) and (x - 130) / 2, ties up."""
    x = torch.arange(256, dtype=torch.int32).to(U8).expand(2, 256)
    b, c = multipliers([2.0, 0.5])
    got = pointwise.requantize(x, b[:, None], c[:, None], 130, -5, -128, 127, S8)
    for channel, ratio in enumerate((Fraction(2), Fraction(1, 2))):
        assert got[channel].tolist() == [min(max(half_up((v - 130) * ratio) - 5, -128), 127) for v in range(256)]


def test_multipliers_must_fit_the_value() -> None:
    b, c = multipliers([0.5, 1.0])
    with pytest.raises(QuantizationError, match=r"\(2,\) do not broadcast to \(3, 1\)"):
        pointwise.requantize(torch.zeros(3, 1, dtype=S32), b, c, 0, 0, 0, 255, U8)


@given(
    st.lists(st.integers(0, 255), min_size=2, max_size=2),
    st.lists(st.floats(2.0**-10, 2.0**3), min_size=2, max_size=2),
    st.booleans(),
)
def test_a_residual_sum_is_rounded_once(xs: list[int], ratios: list[float], minus: bool) -> None:
    ratios[1] = -ratios[1] if minus else ratios[1]
    (b1, b2), c = sum_multipliers(*ratios)
    a, b = (torch.tensor([x], dtype=torch.int32).to(U8) for x in xs)
    args = (torch.tensor(b1), torch.tensor(b2), torch.tensor(c), 128, 3, 10, 0, 255, U8)
    exact = Fraction(ratios[0]) * (xs[0] - 128) + Fraction(ratios[1]) * (xs[1] - 3)
    got = pointwise.add(a, b, *args).item()
    assert got == min(max(half_up(Fraction((xs[0] - 128) * b1 + (xs[1] - 3) * b2) / Fraction(2) ** c) + 10, 0), 255)
    assert abs(got - min(max(exact + 10, 0), 255)) <= Fraction(1, 2) + Fraction(1, 2**20)


def test_an_accumulator_takes_a_residual_before_it_is_rounded() -> None:
    """A channel each: x · 2^-8 + (skip - 128) · 2, and x · 2^-20 + (skip - 128) · 2."""
    x = torch.tensor([[383, -384, -(2**31)], [2**31 - 1, -(2**19), -(2**19) - 1]], dtype=S32)
    skip = torch.tensor([[129, 127, 255]], dtype=torch.int32).to(U8)
    pairs = [sum_multipliers(2.0**-8, 2.0), sum_multipliers(2.0**-20, 2.0)]
    ma, mb, c = (
        torch.tensor(v)[:, None] for v in ([p[0][0] for p in pairs], [p[0][1] for p in pairs], [p[1] for p in pairs])
    )
    got = pointwise.add(x, skip, ma, mb, c, 0, 128, 0, -(2**15), 2**15 - 1, S16)
    # 1.496 + 2, -1.5 - 2, far below; 2048 + 2, -0.5 - 2, -0.5 - 2^-20 + 254
    assert got.tolist() == [[3, -3, -(2**15)], [2050, -2, 253]]


def test_sums_broadcast_and_extremes_do_not_wrap() -> None:
    least, most = -(2**31), 2**31 - 1
    (b1, b2), c = sum_multipliers(1 - 2.0**-40, 1 - 2.0**-40)
    a, b = torch.tensor([[least], [most]], dtype=S32), torch.tensor([least, most], dtype=S32)
    args = (torch.tensor(b1), torch.tensor(b2), torch.tensor(c), 0, 0, 0, least, most, S32)
    assert pointwise.add(a, b, *args).tolist() == [[least, -1], [-1, most]]


def test_lookup() -> None:
    table = torch.arange(256, dtype=torch.int32).flip(0).to(S16)
    assert pointwise.lookup(torch.tensor([0, 255, 7], dtype=U8), table).tolist() == [255, 0, 248]
    assert pointwise.lookup(torch.tensor([-128, 127, 7], dtype=S8), table).tolist() == [255, 0, 120]
    for x, entries in ((torch.zeros(1, dtype=S16), table), (torch.zeros(1, dtype=U8), table[1:])):
        with pytest.raises(QuantizationError, match="256 entries"):
            pointwise.lookup(x, entries)


def test_curve() -> None:
    rows = torch.zeros(512, 3, dtype=S32)
    rows[0], rows[256], rows[511] = (torch.tensor(v) for v in ([8, 2, 0], [100, 0, 1], [0, 1, 0]))
    x = torch.tensor([-(2**15), -(2**15) + 127, 0, 64, 127, 2**15 - 1], dtype=S16)
    # t is -64, 63, -64, 0, 63, 63; in halves, ties up
    assert pointwise.curve(x, rows, 1, -50, 2000, S16).tolist() == [-50, 67, 2000, 50, 2000, 32]
    with pytest.raises(QuantizationError, match="512 rows"):
        pointwise.curve(x, rows[:, :2], 1, -50, 2000, S16)
    with pytest.raises(QuantizationError, match="evaluated at"):
        pointwise.curve(x.to(S32), rows, 1, -50, 2000, S16)
