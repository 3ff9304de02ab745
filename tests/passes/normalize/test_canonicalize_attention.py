"""canonicalize_attention: the scale as a number, grouped keys repeated."""

from __future__ import annotations

import pytest
from rewriting import refusal
from spelling import calls, checked, spelled

from planish.passes.normalize.canonicalize_attention import CanonicalizeAttention

INPUTS = "%q: f64[1, 4, 5, 16], %k: f64[1, 4, 6, 16], %m: bool[5, 6]"


@pytest.mark.parametrize(
    ("call", "wanted"),
    [
        (
            "scaled_dot_product_attention(%q, %k, %k)",
            "scaled_dot_product_attention(%q, %k, %k, none, 0.0, false, scale=0.25)",
        ),
        (
            "scaled_dot_product_attention(%q, %q, %q, none, 0.0, true, scale=0.5)",
            "scaled_dot_product_attention(%q, %q, %q, none, 0.0, true, scale=0.5)",
        ),
        (
            "scaled_dot_product_attention(%q, %k, %k, %m, enable_gqa=true)",
            "scaled_dot_product_attention(%q, %k, %k, %m, 0.0, false, scale=0.25)",
        ),
    ],
)
def test_spelling(call: str, wanted: str) -> None:
    assert spelled(CanonicalizeAttention(), INPUTS, call) == [wanted]


def test_the_cpu_kernel_is_attention() -> None:
    call = "_scaled_dot_product_flash_attention_for_cpu(%q, %k, %k, scale=0.1)"
    text = f"program({INPUTS}) {{ %n = {call} %y = getitem(%n, 0) return %y }}"
    wanted = "scaled_dot_product_attention(%q, %k, %k, none, 0.0, false, scale=0.1)"
    assert calls(checked(CanonicalizeAttention(), text)) == [wanted]


def test_dropout_is_refused() -> None:
    text = f"program({INPUTS}) {{ %y = scaled_dot_product_attention(%q, %q, %q, none, 1.0) return %y }}"
    assert refusal(CanonicalizeAttention(), text) == "it has dropout inside"
