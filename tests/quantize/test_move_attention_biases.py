"""move_attention_biases: through heads and repeated keys; what must stay."""

from __future__ import annotations

import pytest
from rewriting import check_docstring, rewritten
from spelling import calls

from planish.ir.program import Program
from planish.ir.text import parse_program
from planish.passes.quantize import move_attention_biases
from planish.passes.quantize.decompose_attention import MASKED
from planish.passes.quantize.move_attention_biases import MoveAttentionBiases

HEAD = """program(%x: f64[2, 5, 6], %q: f64[2, 3, 5, 2], %m: bool[5, 5]) {
  @w: f64[6, 6] @b: f64[6] @o: f64[4, 6] @c: f64[4] @n: bool[5, 5] = SEEN
  %l = linear(%x, @w, @b) %h = reshape(%l, [2, 5, 3, 2])"""
KEYS = "%k = permute(%h, [0, 2, 3, 1]) %a = matmul(%q, %k) %d = div.Tensor(%a, 1.5)"
VALUES = """%p = permute(%h, [0, 2, 1, 3]) %e = matmul(%q, %q2) %f = _softmax(%e, 3, false) %g = matmul(%f, %p)
  %i = permute(%g, [0, 2, 1, 3]) %j = reshape(%i, [2, 5, 6])"""
TURN = "%q2 = permute(%q, [0, 1, 3, 2])"
SOME = str([[True, i == 1, False, False, True] for i in range(5)]).lower()
NONE = str([[i != 1] * 5 for i in range(5)]).lower()
assert MASKED


def program(body: str, seen: str = SOME) -> Program:
    return parse_program(f"{HEAD.replace('SEEN', seen)} {body} return %y }}")


def moved(body: str, seen: str = SOME) -> list[str]:
    """The linear layers after the pass, whose numbers stay."""
    return [c for c in calls(rewritten(MoveAttentionBiases(), program(body, seen))[0]) if c.startswith("linear")]


def test_the_docstring() -> None:
    check_docstring(MoveAttentionBiases(), move_attention_biases)


@pytest.mark.parametrize("end", ["_softmax(%d, 3, false)", "planish::masked_softmax(%d, @n, 3)"])
def test_keys_of_heads(end: str) -> None:
    assert moved(f"{KEYS} %y = {end}") == ["linear(%x, @w, none)"]


@pytest.mark.parametrize("bias", ["@c", "none"])
def test_values_of_heads(bias: str) -> None:
    found = moved(f"{TURN} {VALUES} %y = linear(%j, @o, {bias})")
    name = "@c_moved" if bias == "@c" else "@o_bias"
    assert [c.rpartition(", ")[2] for c in found] == ["none)", f"{name})"]


def test_values_under_a_mask() -> None:
    """A row that sees nothing gives 0, not the bias."""
    masked = VALUES.replace("_softmax(%e, 3, false)", "planish::masked_softmax(%e, MASK, 3)")
    body = f"{TURN} {masked} %y = linear(%j, @o, @c)"
    assert len(moved(body.replace("MASK", "@n"))) == 2
    assert not MoveAttentionBiases().run(program(body.replace("MASK", "@n"), NONE))[1]
    assert not MoveAttentionBiases().run(program(body.replace("MASK", "%m")))[1]


def test_a_context_that_others_read_stays() -> None:
    body = f"{TURN} {VALUES} %z = linear(%j, @o, @c) %u = sum.dim_IntList(%g, [0, 1, 2, 3], false)"
    assert not MoveAttentionBiases().run(program(f"{body} %y = add.Tensor(%z, %u)"))[1]


@pytest.mark.parametrize(
    "body",
    [
        f"{KEYS} %y = _softmax(%d, 2, false)",  # over queries
        f"{KEYS} %s = _softmax(%d, 3, false) %y = add.Tensor(%s, %a)",  # scores are read by others
        f"{KEYS} %t = mul.Tensor(%d, %d) %y = _softmax(%t, 3, false)",  # not multiplied by a number
        "%k = reshape(%h, [2, 3, 2, 5]) %a = matmul(%q, %k) %y = _softmax(%a, 3, false)",  # features along keys
        f"{TURN} {VALUES} %y = relu(%j)",  # no layer behind
    ],
)
def test_what_stays(body: str) -> None:
    assert not MoveAttentionBiases().run(program(body))[1]
