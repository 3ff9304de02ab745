"""carry_scale_over_product: gated layers, their gates, and each thing that bars the way."""

from __future__ import annotations

import pytest
from rewriting import check_docstring, op_names, refusal, rewritten

from planish.passes.norms import carry_scale_over_product
from planish.passes.norms.carry_scale_over_product import CarryScaleOverProduct

CARRY = CarryScaleOverProduct()
ONE = "[1, 1], [0, 0], [1, 1], false, [0, 0], 1"
IMAGE = "f64[2, 4, 3, 3]"


def excited(gain: str, scale: str = "f64[4, 1, 1] = positive(1)", middle: str = "", gate: str = "%m") -> str:
    """A convolution, its gate, their product, a gain."""
    return f"""program(%x: {IMAGE}) normalized {{
      @w: f64[4, 4, 1, 1]
      @b: f64[4]
      {f"@s: {scale}" if "@s" in gain else ""}
      %y: {IMAGE} = convolution(%x, @w, @b, {ONE})
      %m: f64[2, 4, 1, 1] = mean.dim(%y, [2, 3], true)
      {middle}
      %c: f64[2, 4, 1, 1] = convolution({gate}, @w, @b, {ONE})
      %g: f64[2, 4, 1, 1] = sigmoid(%c)
      %p: {IMAGE} = mul.Tensor(%g, %y)
      %r: {IMAGE} = {gain}
      return %r
    }}"""


def test_docstring() -> None:
    check_docstring(CARRY, carry_scale_over_product)


@pytest.mark.parametrize("gain", ["mul.Tensor(%p, 0.3)", "mul.Tensor(%p, @s)", "div.Tensor(@s, %p)", "neg(%p)"])
def test_the_gate_takes_the_inverse(gain: str) -> None:
    after, applied, refused = rewritten(CARRY, excited(gain))
    kept = gain.startswith("div")  # s / p is no gain
    assert op_names(after) == ["convolution", "mean", "convolution", "sigmoid", "mul", *(["div"] if kept else [])]
    assert (len(applied), refused) == (0 if kept else 1, [])


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        (
            excited("mul.Tensor(%p, @s)", "f64[4, 1, 1] = [[[0.0]], [[1.0]], [[2.0]], [[3.0]]]"),
            "a channel has scale zero, which no change of units undoes",
        ),
        (excited("mul.Tensor(%p, 1e-9)"), "its scales reach from 1e-09 to 1e-09, which would cost range"),
        (
            excited("mul.Tensor(%p, @s)", "f64[3, 1] = positive(1)"),
            "it lies along axis 2 of y, whose channels are axis 1",
        ),
        (
            excited("mul.Tensor(%p, 0.3)", middle="%a: f64[2, 4, 1, 1] = abs(%m)", gate="%a"),
            "another reader of y cannot take its inverse: its reader a is not linear in it",
        ),
        (
            excited("mul.Tensor(%p, 0.3)", middle="%a: f64[2, 4, 1, 1] = add.Tensor(%m, 1.0)", gate="%a").replace(
                "convolution(%a, @w, @b, " + ONE + ")", "abs(%a)"
            ),
            "another reader of y cannot take its inverse: its reader a would take two ops where one does",
        ),
    ],
    ids=["zero", "range", "axis", "non-linear", "work"],
)
def test_refuses(text: str, reason: str) -> None:
    assert refusal(CARRY, text) == reason


@pytest.mark.parametrize(
    "text",
    [
        excited("add.Tensor(%p, 0.3)"),
        excited("mul.Tensor(%p, 0.3)").replace("return %r", "return (%r, %p)"),
        excited("mul.Tensor(%p, 0.3)").replace("mul.Tensor(%g, %y)", "mul.Tensor(%y, %y)"),
        excited("mul.Tensor(%p, 0.3)").replace("mul.Tensor(%g, %y)", "div.Tensor(%g, %y)"),
    ],
    ids=["shift", "returned", "square", "quotient"],
)
def test_is_no_candidate(text: str) -> None:
    after, applied, refused = rewritten(CARRY, text)
    assert (applied, refused) == ([], [])
    assert len(op_names(after)) == 6
