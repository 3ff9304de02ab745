"""canonicalize_pointwise: numbers on the right, one op for each function; -0.0, NaN and infinities too."""

from __future__ import annotations

import math

import pytest
import torch
from rewriting import run
from spelling import calls, checked, spelled

from planish.ir.text import parse_program
from planish.passes.normalize.canonicalize_pointwise import CanonicalizePointwise

INPUTS = "%x: f64[2, 3], %z: f64[2, 3], %i: i64[2, 3], %m: bool[2, 3]"
CONSTANTS = ("@c: f64[] = 0.5", "@f: f32[] = 0.5", "@three: i64[] = 3", "@w: f64[3] = [0.25, 2.0, -1.0]")


@pytest.mark.parametrize(
    ("call", "wanted"),
    [
        ("add.Scalar(%x, 2)", ["add.Tensor(%x, 2.0)"]),
        ("add.Tensor(%i, 2)", ["add.Tensor(%i, 2)"]),
        ("add.Tensor(%i, 2.0)", ["add.Tensor(%i, 2.0)"]),
        ("add.Tensor(%x, %z, alpha=3)", ["mul.Tensor(%z, 3.0)", "add.Tensor(%x, #0)"]),
        ("add.Scalar(%x, 2, 3)", ["add.Tensor(%x, 6.0)"]),
        ("add.Tensor(@c, %x)", ["add.Tensor(%x, 0.5)"]),
        ("add.Tensor(%x, @f)", ["add.Tensor(%x, @f)"]),
        ("add.Tensor(%x, @w)", ["add.Tensor(%x, @w)"]),
        ("sub.Tensor(%x, 2)", ["sub.Tensor(%x, 2.0)"]),
        ("sub.Tensor(%x, %z, alpha=2)", ["mul.Tensor(%z, 2.0)", "sub.Tensor(%x, #0)"]),
        ("sub.Tensor(@c, %x)", ["neg(%x)", "add.Tensor(#0, 0.5)"]),
        ("rsub.Scalar(%x, 1)", ["neg(%x)", "add.Tensor(#0, 1.0)"]),
        ("rsub.Scalar(%x, 1, 2)", ["mul.Tensor(%x, 2.0)", "neg(#0)", "add.Tensor(#1, 1.0)"]),
        ("rsub.Tensor(%x, %z)", ["sub.Tensor(%z, %x)"]),
        ("mul.Tensor(@c, %x)", ["mul.Tensor(%x, 0.5)"]),
        ("mul.Scalar(%i, 3)", ["mul.Tensor(%i, 3)"]),
        ("div.Scalar(%x, 3)", ["div.Tensor(%x, 3.0)"]),
        ("div.Tensor(@c, %x)", ["div.Tensor(@c, %x)"]),
        ("div.Tensor_mode(%x, 2, rounding_mode=none)", ["div.Tensor(%x, 2.0)"]),
        ("floor_divide(%i, @three)", ['div.Tensor_mode(%i, 3, rounding_mode="floor")']),
        ("max.other(%x, %z)", ["maximum(%x, %z)"]),
        ("minimum(%x, @c)", ["clamp(%x, none, 0.5)"]),
        ("maximum(@c, %x)", ["clamp(%x, 0.5, none)"]),
        ("gt.Tensor(%x, @c)", ["gt.Scalar(%x, 0.5)"]),
        ("gt.Scalar(%x, 0)", ["gt.Scalar(%x, 0.0)"]),
        ("eq.Tensor(%x, %z)", ["eq.Tensor(%x, %z)"]),
        ("__and__.Tensor(%m, %m)", ["bitwise_and.Tensor(%m, %m)"]),
        ("__or__.Scalar(%i, 4)", ["bitwise_or.Scalar(%i, 4)"]),
        ("remainder.Tensor(%x, @c)", ["remainder.Scalar(%x, 0.5)"]),
        ("square(%x)", ["pow.Tensor_Scalar(%x, 2.0)"]),
        ("pow.Tensor_Tensor(%z, @c)", ["pow.Tensor_Scalar(%z, 0.5)"]),
        ("pow.Tensor_Scalar(%i, 2)", ["pow.Tensor_Scalar(%i, 2)"]),
        ("relu6(%x)", ["clamp(%x, 0.0, 6.0)"]),
        ("hardtanh(%x)", ["clamp(%x, -1.0, 1.0)"]),
        ("clamp_min(%x, 0)", ["clamp(%x, 0.0, none)"]),
        ("clamp_max(%i, 5)", ["clamp(%i, none, 5)"]),
        ("clip(%x, -1, 2)", ["clamp(%x, -1.0, 2.0)"]),
        ("clamp.Tensor(%x, %z, %x)", ["maximum(%x, %z)", "minimum(#0, %x)"]),
        ("clamp_max.Tensor(%x, %z)", ["minimum(%x, %z)"]),
        ("where.ScalarOther(%m, %x, 3)", ["where.self(%m, %x, @constant)"]),
        ("where.Scalar(%m, 1.0, 2.0)", ["where.self(%m, @constant, @constant_1)"]),
        ("masked_fill.Scalar(%x, %m, -inf)", ["where.self(%m, @constant, %x)"]),
        ("masked_fill.Tensor(%x, %m, @c)", ["where.self(%m, @c, %x)"]),
        ("threshold(%x, 0.1, 2)", ["le.Scalar(%x, 0.1)", "where.self(#0, @constant, %x)"]),
        (
            "prelu(%x, @w)",
            ["gt.Scalar(%x, 0.0)", "reshape(@w, [3])", "mul.Tensor(%x, #1)", "where.self(#0, %x, #2)"],
        ),
        ("rrelu(%x, 0.1, 0.3)", ["leaky_relu(%x, 0.2)"]),
        ("leaky_relu(%x, 1)", ["leaky_relu(%x, 1.0)"]),
        ("elu(%x)", ["elu(%x, 1.0, 1.0, 1.0)"]),
        ("celu(%x, 2)", ["elu(%x, 2.0, 1.0, 0.5)"]),
        ("selu(%x)", ["elu(%x, 1.6732632423543772, 1.0507009873554805, 1.0)"]),
        ("softplus(%x)", ["softplus(%x, 1.0, 20.0)"]),
        (
            "log_sigmoid(%x)",
            ["clamp(%x, none, 0.0)", "abs(%x)", "neg(#1)", "exp(#2)", "log1p(#3)", "sub.Tensor(#0, #4)"],
        ),
    ],
)
def test_spelling(call: str, wanted: list[str]) -> None:
    weights = [c for c in CONSTANTS if c.split(":")[0] in call]
    assert spelled(CanonicalizePointwise(), INPUTS, call, *weights) == wanted


def test_an_expanded_number_is_a_number() -> None:
    text = """
    program(%x: f32[2, 3]) {
      @c: f32[] = 0.5
      %e: f32[2, 3] = expand(@c, [2, 3])
      %y: f32[2, 3] = mul.Tensor(%e, %x)
      return %y
    }
    """
    assert calls(checked(CanonicalizePointwise(), text)) == ["mul.Tensor(%x, 0.5)"]


def test_a_number_that_widens_the_shape_or_dtype_stays_a_constant() -> None:
    text = """
    program(%x: f32[3], %i: i64[3]) {
      @c: f32[] = 0.5
      %e: f32[2, 3] = expand(@c, [2, 3])
      %y: f32[2, 3] = mul.Tensor(%e, %x)
      %z: f32[3] = mul.Tensor(%i, @c)
      return (%y, %z)
    }
    """
    assert calls(checked(CanonicalizePointwise(), text)) == [
        "expand(@c, [2, 3])",
        "mul.Tensor(#0, %x)",
        "mul.Tensor(%i, @c)",
    ]


SPECIAL = torch.tensor([0.0, -0.0, math.inf, -math.inf, math.nan, 1.0, -1.0, 1e-45, 3e38])
EXACT_CALLS = [
    "rsub.Scalar(%x, 0.0)",
    "rsub.Scalar(%x, -0.0)",
    "rsub.Scalar(%x, inf)",
    "sub.Tensor(@c, %x)",
    "hardtanh(%x, 0.0, 6.0)",
    "clamp_min(%x, 0.0)",
    "threshold(%x, 0.0, 0.0)",
    "prelu(%x, @w)",
    "masked_fill.Scalar(%x, %m, -inf)",
    "maximum(%x, @c)",
    "where.ScalarSelf(%m, -0.0, %x)",
    "celu(%x, 2.0)",
    "selu(%x)",
    "pow.Tensor_Scalar(%x, 2)",
    "square(%x)",
    "div.Scalar(%x, 3)",
    "mul.Tensor(@c, %x)",
    "floor_divide.Scalar(%x, 3)",
    "log_sigmoid(%x)",
]


@pytest.mark.parametrize("call", EXACT_CALLS)
def test_special_values_keep_their_bits(call: str) -> None:
    text = f"program(%x: f32[9], %m: bool[9]) {{ @c: f32[] = 0.0 @w: f32[1] = [0.3] %y = {call} return %y }}"
    before = parse_program(text)
    after, applied, _ = CanonicalizePointwise().run(before)
    assert applied
    inputs = [SPECIAL, torch.arange(9) % 2 == 0]
    (old,), (new,) = run(before, inputs), run(after, inputs)
    assert torch.equal(old.isnan(), new.isnan())
    ordinary = ~old.isnan()
    if call.startswith("log_sigmoid"):
        assert torch.allclose(old[ordinary], new[ordinary], rtol=2e-7, atol=0)
    else:
        assert torch.equal(old[ordinary].view(torch.int32), new[ordinary].view(torch.int32))
