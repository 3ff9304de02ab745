"""decompose_attention: two products and a softmax; which masks are places, and which are added."""

from __future__ import annotations

import pytest
import torch
from rewriting import check_docstring, relative_error, rewritten
from spelling import calls

from planish.ir.quantized.rows import masked_softmax
from planish.ir.text import parse_program
from planish.passes.quantize import decompose_attention
from planish.passes.quantize.decompose_attention import DecomposeAttention

QKV = "%q: f64[2, 3, 4, 8], %k: f64[2, 3, 5, 8]"
SCORES = "%s: f64[2, 3, 4, 5]"
AWAY = "@away: f64[] = -inf"


def masked(inputs: str, body: str, declared: str = "") -> list[str]:
    """The calls that a softmax of `body`'s %t becomes; the numbers must stay."""
    text = f"program({inputs}) {{ {declared} {body} %y = _softmax(%t, 3, false) return %y }}"
    after, applied, _ = rewritten(DecomposeAttention(), text)
    assert len(applied) == 1
    return calls(after)


def test_the_docstring() -> None:
    check_docstring(DecomposeAttention(), decompose_attention)


@pytest.mark.parametrize("mask", ["none", "%m", "%f"])
def test_attention_is_two_products(mask: str) -> None:
    inputs = f"{QKV}, %m: bool[4, 5], %f: f64[2, 1, 4, 5]"
    call = f"scaled_dot_product_attention(%q, %k, %k, {mask}, 0.0, false, scale=0.25)"
    text = f"program({inputs}) {{ %y = {call} return %y }}"
    found = calls(rewritten(DecomposeAttention(), text)[0])
    assert found[:3] == ["permute(%k, [0, 1, 3, 2])", "matmul(%q, #0)", "mul.Tensor(#1, 0.25)"]
    middle = {
        "none": ["_softmax(#2, 3, false)"],
        "%m": ["planish::masked_softmax(#2, %m, 3)"],
        "%f": ["add.Tensor(#2, %f)", "_softmax(#3, 3, false)"],  # any numbers: they are added
    }[mask]
    assert found[3:-1] == middle


def test_a_causal_mask_starts_at_the_first_key() -> None:
    text = f"program({QKV}) {{ %y = scaled_dot_product_attention(%q, %k, %k, none, 0.0, true, scale=0.5) return %y }}"
    after, _, _ = rewritten(DecomposeAttention(), text)
    (mask,) = after.weights.values()
    assert mask.tolist() == [[key <= query for key in range(5)] for query in range(4)]


@pytest.mark.parametrize(
    ("body", "seen"),
    [
        ("%t = where.self(%m, @away, %s)", "logical_not(%m)"),
        ("%t = where.self(%m, %s, @away)", None),
        ("%f = where.self(%m, @none, @away) %t = add.Tensor(%s, %f)", None),
        ("%f = where.self(%m, @away, @none) %t = add.Tensor(%f, %s)", "logical_not(%m)"),
    ],
)
def test_masks_that_are_filled_in(body: str, seen: str | None) -> None:
    found = masked(f"{SCORES}, %m: bool[4, 5]", body, f"{AWAY} @none: f64[] = 0.0")
    name = "#0" if seen else "%m"
    assert found == [*([seen] if seen else []), f"planish::masked_softmax(%s, {name}, 3)"]


@pytest.mark.parametrize(
    ("body", "seen"),
    [
        ("%a = mul.Tensor(%f, 10000.0) %b = add.Tensor(%a, -10000.0)", "ne.Scalar(%i, 0)"),
        ("%a = add.Tensor(%f, -1.0) %b = mul.Tensor(%a, 1e+30)", "ne.Scalar(%i, 0)"),
        ("%a = sub.Tensor(%f, 1.0) %b = div.Tensor(%a, 1e-09)", "ne.Scalar(%i, 0)"),
        ("%b = mul.Tensor(%f, -10000.0)", "eq.Scalar(%i, 0)"),
    ],
)
def test_masks_that_are_computed_from_integers(body: str, seen: str) -> None:
    """1 - m, far below zero: shares of hidden places vanish even in float64 beside scores of a few."""
    text = (
        f"program({SCORES}, %i: i64[2, 1, 1, 5]) {{ %f = _to_copy(%i, dtype=f64) {body} "
        "%t = add.Tensor(%s, %b) %y = _softmax(%t, 3, false) return %y }"
    )
    program = parse_program(text)
    after, applied, _ = DecomposeAttention().run(program)
    assert applied
    assert calls(after) == [seen, "planish::masked_softmax(%s, #0, 3)"]
    places = torch.tensor([1, 1, 0, 1, 0]).expand(2, 1, 1, 5).contiguous()
    scores = torch.randn(2, 3, 4, 5, dtype=torch.float64)
    torch.testing.assert_close(after(scores, places), program(scores, places), rtol=0, atol=1e-12)


def test_constant_masks_are_places() -> None:
    declared = "@mask: f64[3] = [0.0, -inf, -3.4e+38]"
    text = f"program(%s: f64[2, 3]) {{ {declared} %t = add.Tensor(%s, @mask) %y = _softmax(%t, 1, false) return %y }}"
    after, _, _ = rewritten(DecomposeAttention(), text)
    assert calls(after) == ["planish::masked_softmax(%s, @mask_seen, 1)"]
    assert [value.tolist() for value in after.weights.values()] == [[True, False, False]]


@pytest.mark.parametrize("entries", ["[0.0, -9999.0, 0.0]", "[0.5, -inf, 0.0]", "[0.0, 0.0, 0.0]"])
def test_other_constants_are_added(entries: str) -> None:
    body = "%t = add.Tensor(%s, @mask) %y = _softmax(%t, 1, false) return %y"
    text = f"program(%s: f64[2, 3]) {{ @mask: f64[3] = {entries} {body} }}"
    assert not DecomposeAttention().run(parse_program(text))[1]


def test_two_masks_let_through_what_both_do() -> None:
    body = "%f = where.self(%m, @none, @away) %r = where.self(%n, %s, @away) %t = add.Tensor(%r, %f)"
    declared = f"{AWAY} @none: f64[] = 0.0 {body} %y = _softmax(%t, 3, false)"
    text = f"program({SCORES}, %m: bool[4, 5], %n: bool[4, 5]) {{ {declared} return %y }}"
    program = parse_program(text)
    after, applied, _ = DecomposeAttention().run(program)
    assert len(applied) == 1
    assert calls(after) == ["logical_and(%n, %m)", "planish::masked_softmax(%s, #0, 3)"]
    given = (torch.randn(2, 3, 4, 5, dtype=torch.float64), torch.ones(4, 5).tril() > 0, torch.ones(4, 5).triu(-1) > 0)
    assert torch.allclose(after(*given), program(*given), rtol=0, atol=1e-12)


def test_a_mask_that_widens_the_scores_stays() -> None:
    body = "%t = where.self(%m, %s, @away) %y = _softmax(%t, 1, false) return %y"
    text = f"program(%s: f64[1, 3], %m: bool[4, 3]) {{ {AWAY} {body} }}"
    assert not DecomposeAttention().run(parse_program(text))[1]


def test_rows_that_see_nothing_are_zero() -> None:
    found = masked_softmax(torch.zeros(2, 2), torch.tensor([[True, False], [False, False]]), 1)
    assert found.tolist() == [[1.0, 0.0], [0.0, 0.0]]
    call = "scaled_dot_product_attention(%q, %k, %k, @m, 0.0, false, scale=0.5)"
    text = f"program({QKV}) {{ @m: bool[4, 5] %y = {call} return %y }}"
    program = parse_program(text, {"m": torch.tensor([[True] * 5, [False] * 5, [True] * 5, [False] * 5])})
    assert relative_error(program, DecomposeAttention().run(program)[0]) < 1e-12
