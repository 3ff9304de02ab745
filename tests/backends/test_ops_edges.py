"""Numbers at the edge, to the bit: division by 0, signs of zero, literals past float32, shifts past the width."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn

import planish

X = torch.tensor([1.0, -2.0, 0.0, -0.0, float("inf"), -float("inf"), float("nan"), 3e38])
INTEGERS = torch.tensor([3, -3, 0, 2**40, -(2**63)])

FLOATS: dict[str, Callable[[Tensor], Tensor]] = {
    "over zero": lambda x: x / 0.0,
    "over minus zero": lambda x: x / -0.0,
    "floor over zero": lambda x: x // 0.0,
    "trunc over zero": lambda x: torch.div(x, 0.0, rounding_mode="trunc"),
    "remainder by zero": lambda x: x % 0.0,
    "zero over": lambda x: 0.0 / x,
    "times zero": lambda x: x * 0.0,
    "times minus zero": lambda x: x * -0.0,
    "reciprocal of times zero": lambda x: (x * 0.0).reciprocal(),
    "times 1e40": lambda x: x * 1e40,
    "plus -1e40": lambda x: x - 1e40,
    "over 1e300": lambda x: x / 1e300,
    "times what rounds to the largest": lambda x: x * 3.40282350e38,
    "clamp at NaN": lambda x: x.clamp(float("nan"), 1.0),
    "clamp at NaN above": lambda x: x.clamp(0.0, float("nan")),
}
WHOLE: dict[str, Callable[[Tensor], Tensor]] = {
    "left by 70": lambda i: i << 70,
    "left by 63": lambda i: i << 63,
    "right by 64": lambda i: i >> 64,
    "left by data": lambda i: i << torch.tensor([1, 64, -1, 63, 0]),
    "right by data": lambda i: i >> torch.tensor([1, 64, -1, 63, 0]),
    "narrow left": lambda i: i.to(torch.int8) << 8,
    "unsigned right": lambda i: i.to(torch.uint8) >> 9,
    "over zero": lambda i: i / 0,
    "a number's remainder": lambda i: torch.remainder(7, i.clamp(2, 9)),
}


class Several(nn.Module):
    """All functions of one input."""

    def __init__(self, functions: dict[str, Callable[[Tensor], Tensor]]) -> None:
        super().__init__()
        self.functions = functions

    def forward(self, x: Tensor) -> dict[str, Tensor]:
        return {name: function(x) for name, function in self.functions.items()}


@pytest.fixture(scope="module", params=[(FLOATS, X), (WHOLE, INTEGERS)], ids=["floats", "integers"])
def both(request: pytest.FixtureRequest) -> tuple[Any, Any]:
    """What PyTorch says and what compiled code says."""
    functions, x = request.param
    model = Several(functions).eval()
    return model(x), planish.compile(model, (x,))(x)


def test_equals_eager_to_the_sign_of_zero(both: tuple[Any, Any]) -> None:
    wanted, got = both
    for name, want in wanted.items():
        assert got[name].dtype == want.dtype, name
        torch.testing.assert_close(
            got[name], want, rtol=0, atol=0, equal_nan=True, msg=lambda said, n=name: f"{n}: {said}"
        )
        sign = torch.where(want.isnan(), False, torch.signbit(want))
        assert torch.equal(torch.where(want.isnan(), False, torch.signbit(got[name])), sign), name
