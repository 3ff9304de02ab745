"""positive: scales that a ReLU and a maximum leave as they are, taken back and forward; and those they do not."""

from __future__ import annotations

import pytest
import torch
from rewriting import op_names, rewritten

from planish.passes.base import Pass
from planish.passes.fold.fold_affine_backward import FoldAffineBackward
from planish.passes.fold.fold_affine_forward import FoldAffineForward

T = "f64[1, 2, 4, 4]"
ONE = "[1, 1], [0, 0], [1, 1], false, [0, 0], 1"
CONV = f"%c: {T} = convolution(%x, @w, none, {ONE})\n"
POOL = "max_pool2d({}, [3, 3], [1, 1], [1, 1], [1, 1], false)"
WEIGHTS = "@w: f64[2, 2, 1, 1] = [[[[1.0]], [[2.0]]], [[[3.0]], [[4.0]]]]\n"


def program(scale: str, *calls: str, shift: str = "") -> str:
    given = f"@s: f64[2, 1, 1] = {scale}\n" + (f"@t: f64[2, 1, 1] = {shift}\n" if shift else "")
    body = "".join(f"%v{i}: {T} = {call}\n" for i, call in enumerate(calls))
    return f"program(%x: {T}) normalized {{\n{WEIGHTS}{given}{body}return %v{len(calls) - 1}\n}}"


PLUS, MINUS, SHIFT = "[[[2.0]], [[0.5]]]", "[[[2.0]], [[-0.5]]]", "[[[3.0]], [[4.0]]]"
FIRST, LAST = f"convolution(%x, @w, none, {ONE})", f"convolution(%v2, @w, none, {ONE})"
SCALED, MOVED = "mul.Tensor(%v1, @s)", "add.Tensor(%v2, @t)"


@pytest.mark.parametrize("between", ["relu(%v0)", "leaky_relu(%v0, 0.1)", POOL.format("%v0")])
def test_back_into_the_convolution_before(between: str) -> None:
    after, applied, _ = rewritten(FoldAffineBackward(), program(PLUS, FIRST, between, SCALED))
    assert len(op_names(after)) == 2
    assert len(applied) == 1
    (weight,) = (w for name, w in after.weights.items() if name != "s")
    assert torch.equal(weight.flatten(), torch.tensor([2.0, 4.0, 1.5, 2.0], dtype=torch.float64))


def test_a_maximum_takes_a_shift_too() -> None:
    text = program(PLUS, FIRST, POOL.format("%v0"), SCALED, MOVED, shift=SHIFT)
    assert op_names(rewritten(FoldAffineBackward(), text)[0]) == ["convolution", "max_pool2d"]


@pytest.mark.parametrize(
    ("scale", "shift", "between"),
    [(MINUS, "", "relu(%v0)"), (MINUS, "", POOL.format("%v0")), (PLUS, SHIFT, "relu(%v0)")],
    ids=["negative", "turned", "shift"],
)
def test_refuses_what_they_would_decide_otherwise(scale: str, shift: str, between: str) -> None:
    calls = (FIRST, between, SCALED, *([MOVED] if shift else []))
    _, applied, refused = rewritten(FoldAffineBackward(), program(scale, *calls, shift=shift))
    assert not applied
    (place,) = {site.reason for site in refused}
    assert place is not None
    assert place.endswith("is not linear")


FORWARD = ("mul.Tensor(%x, @s)", "add.Tensor(%v0, @t)", "relu(%v1)", LAST)


def test_forward_past_a_relu_a_shift_is_left_in_units_of_the_scale() -> None:
    after, _, _ = rewritten(FoldAffineForward(), program(PLUS, *FORWARD, shift=SHIFT))
    assert op_names(after) == ["add", "relu", "convolution"]
    (shift,) = (w for w in after.weights.values() if w.dim() == 3)
    assert shift.flatten().tolist() == [1.5, 8.0]  # 3 / 2 and 4 / 0.5


@pytest.mark.parametrize(
    ("pass_", "scale", "shift", "calls"),
    [
        (FoldAffineForward(), MINUS, SHIFT, FORWARD),
        (FoldAffineForward(), "[[[0.0]], [[1.0]]]", SHIFT, FORWARD),
        (FoldAffineForward(), PLUS, SHIFT, (*FORWARD[:3], "gelu(%v2)")),
        (FoldAffineForward(), "[[[1e-200]], [[1.0]]]", "[[[1e200]], [[1.0]]]", FORWARD),
    ],
    ids=["negative", "zero", "non-linear", "exploding"],
)
def test_stays_in_front_of_a_relu(pass_: Pass, scale: str, shift: str, calls: tuple[str, ...]) -> None:
    text = program(scale, *calls, shift=shift)
    after, applied, refused = rewritten(pass_, text if "@w" in calls[-1] else text.replace(WEIGHTS, ""))
    assert not applied
    assert len(refused) == 1
    assert op_names(after)[:2] == ["mul", "add"]
