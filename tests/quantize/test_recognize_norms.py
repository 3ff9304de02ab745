"""recognize_norms: the ways in which norms are written out, and what is none."""

from __future__ import annotations

import pytest
from rewriting import check_docstring, rewritten
from spelling import calls

from planish.ir.text import parse_program
from planish.passes.quantize import recognize_norms
from planish.passes.quantize.recognize_norms import RecognizeNorms

LAYER = "layer_norm(%x, [5], none, none, 1e-05, false)"
MEAN = "%m = mean.dim(%x, [2], true) %c = sub.Tensor(%x, %m)"
SQUARES = "%p = mul.Tensor(%c, %c) %v = mean.dim(%p, [2], true) %e = add.Tensor(%v, 1e-05)"
VARIANCE = "%v = var.correction(%x, [2], correction=0, keepdim=true) %e = add.Tensor(%v, 1e-05)"


def program(body: str) -> str:
    return f"program(%x: f64[2, 3, 5]) {{ {body} return %y }}"


def found(body: str) -> list[str]:
    return calls(rewritten(RecognizeNorms(), program(body))[0])


def test_the_docstring() -> None:
    check_docstring(RecognizeNorms(), recognize_norms)


@pytest.mark.parametrize("spread", [SQUARES, VARIANCE], ids=["squares", "variance"])
@pytest.mark.parametrize(
    "end",
    [
        "%r = sqrt(%e) %y = div.Tensor(%c, %r)",
        "%r = rsqrt(%e) %y = mul.Tensor(%r, %c)",
        "%r = pow.Tensor_Scalar(%e, -0.5) %y = mul.Tensor(%c, %r)",
        "%r = pow.Tensor_Scalar(%e, 0.5) %y = div.Tensor(%c, %r)",
        "%s = sqrt(%e) %r = reciprocal(%s) %y = mul.Tensor(%c, %r)",
    ],
)
def test_layer_norms(spread: str, end: str) -> None:
    assert found(f"{MEAN} {spread} {end}") == [LAYER]


def test_norms_of_other_dimensions() -> None:
    body = "%p = pow.Tensor_Scalar(%x, 2) %v = mean.dim(%p, [0, 1], true) %r = sqrt(%v) %y = div.Tensor(%x, %r)"
    assert found(body) == [
        "permute(%x, [2, 0, 1])",
        "rms_norm(#0, [2, 3], none, 0.0)",
        "permute(#1, [1, 2, 0])",
    ]


@pytest.mark.parametrize(
    "body",
    [
        f"{MEAN} {SQUARES} %r = sqrt(%e) %y = mul.Tensor(%c, %r)",  # multiplied by the root
        f"{MEAN} {SQUARES} %r = rsqrt(%e) %y = div.Tensor(%c, %r)",  # divided by its inverse
        f"{MEAN} {SQUARES} %r = rsqrt(%e) %y = mul.Tensor(%x, %r)",  # another value than that of the squares
        f"%c = mul.Tensor(%x, 2.0) {VARIANCE} %r = rsqrt(%e) %y = mul.Tensor(%c, %r)",  # not centred
        f"%m = mean.dim(%x, [1], true) %c = sub.Tensor(%x, %m) {VARIANCE} %r = rsqrt(%e) %y = mul.Tensor(%c, %r)",
        f"{MEAN} {VARIANCE.replace('correction=0', 'correction=1')} %r = rsqrt(%e) %y = mul.Tensor(%c, %r)",
        f"{MEAN} {SQUARES.replace('%c, %c', '%c, %x')} %r = rsqrt(%e) %y = mul.Tensor(%c, %r)",  # no square
        "%p = pow.Tensor_Scalar(%x, 3.0) %v = mean.dim(%p, [2], true) %r = rsqrt(%v) %y = mul.Tensor(%x, %r)",
        "%p = pow.Tensor_Scalar(%x, 2.0) %v = sum.dim_IntList(%p, [2], true) %r = rsqrt(%v) %y = mul.Tensor(%x, %r)",
    ],
)
def test_what_is_no_norm(body: str) -> None:
    assert not RecognizeNorms().run(parse_program(program(body)))[1]


def test_a_centred_value_has_another_mean() -> None:
    """x - mean over other dimensions is a value like any other: its squares make an rms norm."""
    body = f"%m = mean.dim(%x, [1], true) %c = sub.Tensor(%x, %m) {SQUARES} %r = rsqrt(%e) %y = mul.Tensor(%c, %r)"
    assert found(body)[-1] == "rms_norm(#1, [5], none, 1e-05)"
