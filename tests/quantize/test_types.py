"""What a value's integers mean."""

from __future__ import annotations

import math

import pytest
import torch
from hypothesis import assume, given
from hypothesis import strategies as st

from planish.errors import QuantizationError
from planish.ir.types import QuantParams

ENDS = st.floats(-1e6, 1e6)


def test_a_range_uses_all_codes_and_holds_zero() -> None:
    assert QuantParams.asymmetric(-50.0, 77.5) == QuantParams(0.5, 100, 0, 255, torch.uint8)
    assert QuantParams.asymmetric(1.0, 127.5) == QuantParams(0.5, 0, 0, 255, torch.uint8)
    assert QuantParams.asymmetric(-127.5, -1.0) == QuantParams(0.5, 255, 0, 255, torch.uint8)
    assert QuantParams.symmetric(63.5) == QuantParams(0.5, 0, -127, 127, torch.int8)
    assert QuantParams.symmetric(-7.0, 4) == QuantParams(1.0, 0, -7, 7, torch.int8)
    assert QuantParams.symmetric(32767.0, 16) == QuantParams(1.0, 0, -32767, 32767, torch.int16)


@given(ENDS, ENDS)
def test_values_in_the_range_are_right_to_a_step(a: float, b: float) -> None:
    assume(max(abs(a), abs(b)) > 1e-6)
    params = QuantParams.asymmetric(min(a, b), max(a, b))
    inside = torch.linspace(min(a, b, 0.0), max(a, b, 0.0), 100, dtype=torch.float64)
    codes = params.codes(inside)
    assert codes.dtype == torch.uint8
    # half a step, and at the ends another half because the zero point is whole
    assert float((params.values(codes) - inside).abs().max()) <= params.scale * (1 + 1e-9)
    assert params.values(params.codes(torch.zeros(1))).item() == 0.0


def test_codes_are_clamped_and_round_up_at_ties() -> None:
    params = QuantParams(0.5, 3, 0, 7, torch.uint8)
    assert params.codes(torch.tensor([-9.0, -0.25, 0.25, 0.24, 9.0])).tolist() == [0, 3, 4, 3, 7]
    assert params.values(torch.tensor([0, 3, 7])).tolist() == [-1.5, 0.0, 2.0]


@pytest.mark.parametrize("bad", [math.nan, math.inf])
def test_what_is_no_number_is_refused(bad: float) -> None:
    for make in (lambda: QuantParams.asymmetric(0.0, bad), lambda: QuantParams.symmetric(bad)):
        with pytest.raises(QuantizationError, match="NaN or an infinity"):
            make()
    with pytest.raises(QuantizationError, match="NaN or infinite"):
        QuantParams.symmetric(1.0).codes(torch.tensor([bad]))


def test_a_range_of_zero_is_refused() -> None:
    for make in (lambda: QuantParams.asymmetric(0.0, 0.0), lambda: QuantParams.symmetric(0.0)):
        with pytest.raises(QuantizationError, match="range is zero"):
            make()


@pytest.mark.parametrize("scale", [0.0, -1.0, math.nan, math.inf, 2.0**-101, 2.0**101])
def test_scales_are_positive_float32_numbers(scale: float) -> None:
    with pytest.raises(QuantizationError, match="is no scale"):
        QuantParams(scale, 0, 0, 255, torch.uint8)


@pytest.mark.parametrize(("zero", "low", "high"), [(0, -1, 255), (0, 0, 256), (10, 20, 30), (40, 20, 30), (0, 9, 0)])
def test_codes_must_fit(zero: int, low: int, high: int) -> None:
    with pytest.raises(QuantizationError, match="do not fit"):
        QuantParams(1.0, zero, low, high, torch.uint8)


@pytest.mark.parametrize("bits", [1, 17])
def test_widths_that_do_not_exist(bits: int) -> None:
    with pytest.raises(QuantizationError, match="no width"):
        QuantParams.symmetric(1.0, bits)
