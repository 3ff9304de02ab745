"""Dyadic numbers against exact rational arithmetic."""

from __future__ import annotations

import math
from fractions import Fraction

import pytest
import torch
from hypothesis import assume, example, given
from hypothesis import strategies as st

from planish.errors import QuantizationError
from planish.ir.dyadic import INT64, Dyadic, integer, multipliers, requantized, scaled, shifted, sum_multipliers

RATIOS = st.floats(min_value=2.0**-60, max_value=2.0**40)
CODES = st.integers(-(2**31), 2**31 - 1)
INT8 = (0, -128, 127)


def half_up(value: Fraction) -> int:
    return math.floor(value + Fraction(1, 2))


def one(x: int, b: int, c: int) -> int:
    return int(scaled(torch.tensor(x), b, c))


@given(RATIOS)
@example(1 - 2.0**-40)
@example(0.5)
@example(1.0)
@example(1 / 3)
def test_the_nearest_of_31_bits(ratio: float) -> None:
    number = Dyadic.of(ratio)
    assert 2**30 <= number.multiplier < 2**31
    exact = Fraction(number.multiplier) / Fraction(2) ** number.shift
    assert abs(exact - Fraction(ratio)) <= Fraction(ratio) / 2**31
    assert float(number) == exact


def test_known_ratios() -> None:
    assert Dyadic.of(0.5) == Dyadic(2**30, 31)
    assert Dyadic.of(1.0) == Dyadic(2**30, 30)
    # (1 - 2^-40) 2^31 rounds to 2^31, which has 32 bits: the same value with one shift less
    assert Dyadic.of(1 - 2.0**-40) == Dyadic(2**30, 30)
    assert Dyadic.of(3.0) == Dyadic(3 * 2**29, 29)
    # 2^30 + 1/2 is a tie, and goes up
    assert Dyadic.of(math.ldexp(2**30 + 0.5, -35)) == Dyadic(2**30 + 1, 35)
    assert Dyadic.of(math.ldexp(2**30 + 0.5 - 2.0**-22, -35)) == Dyadic(2**30, 35)


@pytest.mark.parametrize("ratio", [0.0, -0.5, math.nan, math.inf, -math.inf])
def test_what_is_no_ratio_is_refused(ratio: float) -> None:
    with pytest.raises(QuantizationError, match="must be positive and finite"):
        Dyadic.of(ratio)
    with pytest.raises(QuantizationError, match="must be positive and finite"):
        sum_multipliers(1.0, ratio if not ratio < 0 else math.nan)


def test_the_range_of_ratios() -> None:
    assert Dyadic.of(2.0**-64).shift == 94
    assert Dyadic.of(math.nextafter(2.0**62, 0) * 0.75).shift == -31
    for ratio in (2.0**-64 * 0.99, 2.0**62, 5e-324):
        with pytest.raises(QuantizationError, match="out of range"):
            Dyadic.of(ratio)
    with pytest.raises(QuantizationError, match="out of range"):
        sum_multipliers(2.0**-70, 2.0**-66)


@pytest.mark.parametrize(("multiplier", "shift"), [(2**31, 31), (2**30 - 1, 31), (0, 31), (2**30, 95), (2**30, -32)])
def test_only_normalized_numbers_exist(multiplier: int, shift: int) -> None:
    with pytest.raises(QuantizationError, match="not a normalized dyadic number"):
        Dyadic(multiplier, shift)


@given(CODES, st.integers(2**30, 2**31 - 1), st.integers(-31, 94))
@example(-(2**31), 2**31 - 1, 62)
@example(-(2**31), 2**31 - 1, 63)
@example(-(2**31), 2**31 - 1, -31)
@example(2**31 - 1, 2**31 - 1, 1)
@example(-1, 2**30, 0)
def test_scaled_is_exact_rounding_of_the_product(x: int, b: int, c: int) -> None:
    exact = half_up(Fraction(x * b) / Fraction(2) ** c)
    assert one(x, b, c) == min(max(exact, INT64[0]), INT64[1])


@pytest.mark.parametrize(
    ("x", "b", "c", "expected"),
    [
        (-3, 2**30, 31, -1),  # -1.5, up
        (-1, 2**30, 31, 0),  # -0.5, up
        (1, 2**30, 31, 1),  # 0.5, up
        (7984, 1583594044, 40, 11),  # 11.4991...: two roundings make it 12
        (5, 2**30, 30, 5),  # a ratio of exactly 1
        (-(2**31), 2**30, 63, 0),  # -1/4
        (1, 2**30, 0, 2**30),
        (1, 2**30, -31, 2**61),
        (8, 2**30, -31, 2**63 - 1),
        (-9, 2**30, -31, -(2**63)),
    ],
)
def test_vectors(x: int, b: int, c: int, expected: int) -> None:
    assert one(x, b, c) == expected


@given(CODES, RATIOS)
@example(3, 0.5)
def test_it_differs_from_exact_rounding_only_near_ties(x: int, ratio: float) -> None:
    number = Dyadic.of(ratio)
    assume(number.shift > -30)
    exact = Fraction(ratio) * x
    got, wanted = one(x, number.multiplier, number.shift), half_up(exact)
    assume(abs(wanted) < 2**62)
    near = abs(exact) / 2**31
    from_tie = abs(exact + Fraction(1, 2) - round(exact + Fraction(1, 2)))
    if near < Fraction(1, 2):
        assert abs(got - wanted) <= 1
        assert got == wanted or from_tie <= near


@given(st.lists(CODES, min_size=1), st.integers(2**30, 2**31 - 1), st.integers(32, 62))
def test_from_33_on_the_high_half_of_the_product_is_enough(xs: list[int], b: int, c: int) -> None:
    """What kernels use: for c >= 33 the half to add lies in the high 32 bits, for c = 32 it carries into them."""
    x = torch.tensor(xs)
    high = ((x * b) >> 32) if c > 32 else ((x * b + 2**31) >> 32)
    kernel = (high + (1 << (c - 33))) >> (c - 32) if c > 32 else high
    assert torch.equal(kernel, scaled(x, b, c))


def test_clamps_hold_the_zero_point_and_saturate() -> None:
    x = torch.tensor([-(2**31), -300, -1, 0, 1, 300, 2**31 - 1])
    assert requantized(x, 2**30, 30, 100, 0, 255).tolist() == [0, 0, 99, 100, 101, 255, 255]
    assert requantized(x, 2**30, 31, 100, 100, 255).tolist() == [100, 100, 100, 100, 101, 250, 255]
    assert requantized(x, 2**31 - 1, -31, 255, *INT8[1:]).tolist() == [-128, -128, -128, 127, 127, 127, 127]


def test_one_number_a_channel() -> None:
    b, c = multipliers([0.5, 1.0, 2.0**-40, 2.0**33])
    assert b.dtype == c.dtype == torch.int64
    x = torch.tensor([[3, 3, 3, 3], [-3, -3, -3, 0]])
    assert requantized(x, b, c, 0, -128, 127).tolist() == [[2, 3, 0, 127], [-1, -3, 0, 0]]
    with pytest.raises(QuantizationError, match="must be positive"):
        multipliers([1.0, 0.0])


@given(st.tuples(CODES, CODES), st.tuples(RATIOS, RATIOS), st.booleans())
@example((2**31 - 1, 2**31 - 1), (1.0, 1.0), False)
@example((-(2**31), -(2**31)), (1 - 2.0**-40, 1.0), False)
def test_sums_are_rounded_once(xs: tuple[int, int], ratios: tuple[float, float], minus: bool) -> None:
    signed = (ratios[0], -ratios[1] if minus else ratios[1])
    (b1, b2), c = sum_multipliers(*signed)
    assert max(abs(b1), abs(b2)) < 2**30 <= 2 * max(abs(b1), abs(b2))
    for b, ratio in zip((b1, b2), signed, strict=True):
        assert abs(Fraction(b) / Fraction(2) ** c - Fraction(ratio)) <= Fraction(2) ** -(c + 1)
    total = xs[0] * b1 + xs[1] * b2
    assert abs(total) < 2**62
    exact = half_up(Fraction(total) / Fraction(2) ** c)
    assert int(shifted(torch.tensor(total), c)) == min(max(exact, INT64[0]), INT64[1])


@pytest.mark.parametrize(
    ("value", "expected"), [(0.5, 1), (-0.5, 0), (0.49999999999999994, 0), (-1.5, -1), (2.0**60, 2**60)]
)
def test_integers_go_up_at_ties(value: float, expected: int) -> None:
    assert integer(value) == expected
