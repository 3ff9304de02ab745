"""canonicalize_linear: linear with constant matrices, matmul with activations."""

from __future__ import annotations

import pytest
from spelling import calls, checked, spelled

from planish.passes.normalize.canonicalize_linear import CanonicalizeLinear

INPUTS = "%x: f64[4, 3], %y2: f64[3, 5], %a: f64[2, 4, 3], %b: f64[2, 3, 5], %v: f64[3], %c: f64[4, 5]"
CONSTANTS = ("@w: f64[5, 3]", "@k: f64[3, 5]", "@bias: f64[5]", "@u: f64[3]", "@one: f64[1, 3, 5]")


@pytest.mark.parametrize(
    ("call", "wanted"),
    [
        ("mm(%x, %y2)", ["matmul(%x, %y2)"]),
        ("bmm(%a, %b)", ["matmul(%a, %b)"]),
        ("mv(%x, %v)", ["matmul(%x, %v)"]),
        ("dot(%v, %v)", ["matmul(%v, %v)"]),
        ("mm(%x, @k)", ["permute(@k, [1, 0])", "linear(%x, #0, none)"]),
        ("matmul(%a, @k)", ["permute(@k, [1, 0])", "linear(%a, #0, none)"]),
        ("matmul(%v, @k)", ["matmul(%v, @k)"]),
        ("matmul(%x, @u)", ["matmul(%x, @u)"]),
        ("addmm(@bias, %x, @k)", ["permute(@k, [1, 0])", "linear(%x, #0, @bias)"]),
        ("addmm(%c, %x, @k)", ["permute(@k, [1, 0])", "linear(%x, #0, none)", "add.Tensor(#1, %c)"]),
        (
            "addmm(@bias, %x, @k, beta=2, alpha=3)",
            [
                "permute(@k, [1, 0])",
                "linear(%x, #0, none)",
                "mul.Tensor(#1, 3)",
                "mul.Tensor(@bias, 2)",
                "add.Tensor(#2, #3)",
            ],
        ),
        ("addmm(%c, %x, %y2, beta=0)", ["matmul(%x, %y2)"]),
        ("baddbmm(%c, %a, %b)", ["matmul(%a, %b)", "add.Tensor(#0, %c)"]),
        ("addbmm(%c, %a, %b)", ["matmul(%a, %b)", "sum.dim_IntList(#0, [0], false)", "add.Tensor(#1, %c)"]),
        ("linear(%a, @w)", ["linear(%a, @w, none)"]),
        ("linear(%x, @u)", ["matmul(%x, @u)"]),
        ("matmul(%a, @one)", ["reshape(@one, [3, 5])", "permute(#0, [1, 0])", "linear(%a, #1, none)"]),
        ("matmul(%x, @one)", ["matmul(%x, @one)"]),
        ("outer(%v, %v)", ["reshape(%v, [3, 1])", "mul.Tensor(#0, %v)"]),
    ],
)
def test_spelling(call: str, wanted: list[str]) -> None:
    weights = [c for c in CONSTANTS if c.split(":")[0] in call]
    assert spelled(CanonicalizeLinear(), INPUTS, call, *weights) == wanted


@pytest.mark.parametrize(
    "turn", ["t(@w)", "transpose.int(@w, 0, 1)", "transpose.int(@w, -1, -2)", "permute(@w, [-1, 0])"]
)
def test_transposed_constants_are_read_through(turn: str) -> None:
    text = f"program(%x: f64[4, 3]) {{ @w: f64[5, 3] %t = {turn} %y = mm(%x, %t) return %y }}"
    assert calls(checked(CanonicalizeLinear(), text)) == ["linear(%x, @w, none)"]


def test_a_transposition_that_turns_nothing_is_not_read_through() -> None:
    text = "program(%x: f64[4, 3]) { @w: f64[3, 3] %t = transpose.int(@w, 1, -1) %y = mm(%x, %t) return %y }"
    assert calls(checked(CanonicalizeLinear(), text)) == ["transpose.int(@w, 1, -1)", "matmul(%x, #0)"]


HEAD = "program(%a: f64[2, 4, 3]) { @w: f64[6, 3] @v: f64[3, 6] %r = reshape(%a, [8, 3]) %y = linear(%r, @w) "
WHOLE = "linear(%a, @w, none)"
BACK = "%z = reshape(%y, [2, 4, 6])"


def rows(end: str) -> list[str]:
    text = HEAD + end + " }"
    return calls(checked(CanonicalizeLinear(), text if "@v" in end else text.replace("@v: f64[3, 6] ", "")))


def test_rows_that_were_flattened_for_linear_layers_and_get_their_shape_back() -> None:
    assert WHOLE in rows(f"{BACK} return %z")
    two = rows(f"{BACK} %u = linear(%y, @v) %t = reshape(%u, [2, 4, 3]) return (%z, %t)")
    assert [c.split("(")[0] for c in two].count("linear") == 2
    assert two[-1].startswith("reshape")
    assert WHOLE in two


@pytest.mark.parametrize("end", ["return %y", "%z = reshape(%y, [8, 2, 3]) return %z", f"{BACK} return (%y, %z)"])
def test_rows_that_stay_flat(end: str) -> None:
    assert WHOLE not in rows(end)


def test_rows_of_another_length_are_not_flattened_ones() -> None:
    head = HEAD.replace("%a: f64[2, 4, 3]", "%a: f64[2, 3, 4]").replace("@v: f64[3, 6] ", "")
    text = head + "%z = reshape(%y, [2, 4, 6]) return %z }"
    assert "linear(#0, @w, none)" in calls(checked(CanonicalizeLinear(), text))
