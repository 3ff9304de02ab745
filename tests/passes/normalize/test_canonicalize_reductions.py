"""canonicalize_reductions: explicit dimensions from the front, one op for each result."""

from __future__ import annotations

import pytest
from spelling import calls, checked, spelled

from planish.passes.normalize.canonicalize_reductions import CanonicalizeReductions

X = "%x: f64[2, 3, 4]"


@pytest.mark.parametrize(
    ("call", "wanted"),
    [
        ("sum(%x)", ["sum.dim_IntList(%x, [0, 1, 2], false)"]),
        ("sum.dim_IntList(%x, [-1, 0], true)", ["sum.dim_IntList(%x, [0, 2], true)"]),
        ("sum(%x, dtype=f32)", ["_to_copy(%x, dtype=f32)", "sum.dim_IntList(#0, [0, 1, 2], false)"]),
        ("mean(%x)", ["mean.dim(%x, [0, 1, 2], false)"]),
        ("mean.dim(%x, none, true)", ["mean.dim(%x, [0, 1, 2], true)"]),
        ("mean.dim(%x, [-2], false, dtype=f64)", ["mean.dim(%x, [1], false)"]),
        ("amax(%x)", ["amax(%x, [0, 1, 2], false)"]),
        ("amin(%x, [-1])", ["amin(%x, [2], false)"]),
        ("any.dim(%x, -1)", ["any.dims(%x, [2], false)"]),
        ("all(%x)", ["all.dims(%x, [0, 1, 2], false)"]),
        ("max(%x)", ["amax(%x, [0, 1, 2], false)"]),
        ("prod(%x)", ["reshape(%x, [24])", "prod.dim_int(#0, 0, false)"]),
        ("prod.dim_int(%x, -1, true)", ["prod.dim_int(%x, 2, true)"]),
        ("cumsum(%x, -1)", ["cumsum(%x, 2)"]),
        ("argmax(%x)", ["reshape(%x, [24])", "argmax(#0, 0, false)"]),
        ("argmin(%x, -1, true)", ["argmin(%x, 2, true)"]),
        ("var(%x)", ["var.correction(%x, [0, 1, 2], correction=1)"]),
        ("var.dim(%x, [1], false, true)", ["var.correction(%x, [1], correction=0, keepdim=true)"]),
        ("softmax.int(%x, -1)", ["_softmax(%x, 2, false)"]),
        ("softmax.int(%x, 0, f32)", ["_to_copy(%x, dtype=f32)", "_softmax(#0, 0, false)"]),
        ("log_softmax.int(%x, 1)", ["_log_softmax(%x, 1, false)"]),
        (
            "linalg_vector_norm(%x, 2, [-1], true)",
            ["mul.Tensor(%x, %x)", "sum.dim_IntList(#0, [2], true)", "sqrt(#1)"],
        ),
        ("linalg_vector_norm(%x, 1)", ["abs(%x)", "sum.dim_IntList(#0, [0, 1, 2], false)"]),
        ("linalg_vector_norm(%x, inf)", ["abs(%x)", "amax(#0, [0, 1, 2], false)"]),
        ("linalg_vector_norm(%x, -inf, [0])", ["abs(%x)", "amin(#0, [0], false)"]),
        (
            "linalg_vector_norm(%x, 4)",
            [
                "abs(%x)",
                "pow.Tensor_Scalar(#0, 4)",
                "sum.dim_IntList(#1, [0, 1, 2], false)",
                "pow.Tensor_Scalar(#2, 0.25)",
            ],
        ),
        (
            "linalg_vector_norm(%x, 0, [0])",
            ["ne.Scalar(%x, 0.0)", "sum.dim_IntList(#0, [0], false)", "_to_copy(#1, dtype=f64)"],
        ),
    ],
)
def test_spelling(call: str, wanted: list[str]) -> None:
    assert spelled(CanonicalizeReductions(), X, call) == wanted


@pytest.mark.parametrize(
    ("call", "read", "wanted"),
    [
        ("max.dim(%x, -1, true)", (0,), ["amax(%x, [2], true)"]),
        ("min.dim(%x, 1)", (1,), ["argmin(%x, 1, false)"]),
        ("max.dim(%x, 0)", (0, 1), ["amax(%x, [0], false)", "argmax(%x, 0, false)"]),
        ("aminmax(%x, dim=-1)", (1, 0), ["amax(%x, [2], false)", "amin(%x, [2], false)"]),
        (
            "var_mean.correction(%x, [0], correction=0)",
            (0, 1),
            ["var.correction(%x, [0], correction=0)", "mean.dim(%x, [0], false)"],
        ),
        ("std_mean(%x)", (0,), ["var.correction(%x, [0, 1, 2], correction=1)", "sqrt(#0)"]),
    ],
)
def test_several_results(call: str, read: tuple[int, ...], wanted: list[str]) -> None:
    parts = " ".join(f"%r{i} = getitem(%m, {i})" for i in read)
    returned = ", ".join(f"%r{i}" for i in read)
    text = f"program({X}) {{ %m = {call} {parts} return ({returned},) }}"
    assert calls(checked(CanonicalizeReductions(), text)) == wanted


def test_a_safe_softmax_gives_zeros_for_an_empty_row() -> None:
    text = """
    program(%x: f64[2, 3]) {
      @m: f64[2, 1] = [[1.0], [-inf]]
      %row: f64[2, 3] = abs(%x)
      %s: f64[2, 3] = mul.Tensor(%row, @m)
      %y: f64[2, 3] = _safe_softmax(%s, -1)
      return %y
    }
    """
    after = checked(CanonicalizeReductions(), text)
    assert calls(after)[2:] == [
        "_softmax(#1, 1, false)",
        "amax(#1, [1], true)",
        "eq.Scalar(#3, -inf)",
        "masked_fill.Scalar(#2, #4, 0.0)",
    ]
