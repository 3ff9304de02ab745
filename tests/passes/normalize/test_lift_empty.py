"""lift_empty: nothing is computed where there is nothing."""

from __future__ import annotations

import pytest
from spelling import calls, checked, spelled

from planish.passes.normalize.lift_empty import LiftEmpty

INPUTS = "%x: f32[2, 0], %v: f32[2, 3]"


@pytest.mark.parametrize(
    ("call", "wanted"),
    [
        ("relu(%x)", []),
        ("slice.Tensor(%v, 1, 3)", []),
        ("mm(%v, %w)", ["mm(%v, %w)"]),
        ("sum.dim_IntList(%x, [1])", ["sum.dim_IntList(@empty, [1])"]),
        ("cat([%x, %v], 1)", []),
        ("cat([%x, %v, %x, %v], 1)", ["cat([%v, %v], 1)"]),
        ("relu(%v)", ["relu(%v)"]),
    ],
)
def test_spelling(call: str, wanted: list[str]) -> None:
    assert spelled(LiftEmpty(), f"{INPUTS}, %w: f32[3, 4]", call) == wanted


def test_an_operand_that_widens_the_result_stays() -> None:
    after = checked(LiftEmpty(), "program(%x: f64[0], %y: f32[2]) { %z: f64[2] = cat([%x, %y], 0) return %z }")
    assert calls(after) == ["cat([@empty, %y], 0)"]


def test_an_operand_read_twice_is_one_constant() -> None:
    after = checked(LiftEmpty(), "program(%x: f32[0]) { %s: f32[] = dot(%x, %x) return %s }")
    assert calls(after) == ["dot(@empty, @empty)"]
