"""A residual network in integers by hand: how far the result is from float64."""

from __future__ import annotations

import pytest
import torch
from zoo.integer_network import integer_network


@pytest.mark.parametrize("count_include_pad", [False, True])
def test_a_residual_network(count_include_pad: bool) -> None:
    program, x, exact = integer_network(count_include_pad)
    y = program(x)
    noise = float((y - exact).square().mean() / exact.square().mean())
    assert noise < 1e-3  # 30 dB: four roundings to 8 bits, and weights of 8 bits

    again = program(x.flip(0)).flip(0)
    assert torch.equal(again, y)
