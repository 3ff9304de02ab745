"""carry_affine_over_sum: one sum, a whole stream, and each thing that bars the way."""

from __future__ import annotations

import pytest
import torch
from rewriting import check_docstring, op_names, rewritten

from planish.ir.report import Site
from planish.ir.text import parse_program
from planish.passes.norms import carry_affine_over_sum
from planish.passes.norms.carry_affine_over_sum import CarryAffineOverSum

CARRY = CarryAffineOverSum()
BN = "@g, @h, @m, @v, false, 0.1, 1e-05, false"
HEAD = """program(%x: f64[3, 4]) normalized {
  @g: f64[4] = positive(5)
  @h: f64[4]
  @m: f64[4]
  @v: f64[4] = positive(3)
  @w: f64[4, 4]
  %r: f64[3, 4] = relu(%x)
  %n: f64[3, 4] = batch_norm(%r, @g, @h, @m, @v, false, 0.1, 1e-05, false)   # norm
"""


def body(text: str, result: str = "%y") -> str:
    return f"{HEAD}{text}\nreturn {result} }}"


BRANCH = "%a: f64[3, 4] = linear(%n, @w, none)\n%b: f64[3, 4] = relu(%a)\n%f: f64[3, 4] = linear(%b, @w, none)\n"


def test_docstring() -> None:
    check_docstring(CARRY, carry_affine_over_sum)


@pytest.mark.parametrize(
    "sum_", ["add.Tensor(%n, %f)", "add.Tensor(%f, %n)", "sub.Tensor(%n, %f)", "sub.Tensor(%f, %n)"]
)
def test_a_stream_of_two_norms_ends_in_the_head(sum_: str) -> None:
    text = body(
        f"{BRANCH}%s: f64[3, 4] = {sum_}\n%n2: f64[3, 4] = batch_norm(%s, {BN})\n"
        "%c: f64[3, 4] = linear(%n2, @w, none)\n%d: f64[3, 4] = relu(%c)\n%e: f64[3, 4] = linear(%d, @w, none)\n"
        "%t: f64[3, 4] = add.Tensor(%n2, %e)\n%y: f64[3, 4] = linear(%t, @w, none)"
    )
    after, _, refused = rewritten(CARRY, text)
    names = op_names(after)
    assert not {"batch_norm", "mul"} & set(names)
    assert (names.count("linear"), names.count("add") + names.count("sub")) == (5, 2)
    assert not refused


def test_layers_keep_their_own_names() -> None:
    text = body(
        BRANCH.replace("linear(%b, @w, none)", "linear(%b, @w, none)   # out") + "%y: f64[3, 4] = add.Tensor(%n, %f)"
    )
    after, _, _ = rewritten(CARRY, text)
    layers = {n.name: [o.layer for o in n.meta["origins"]] for n in after.graph.nodes if n.op == "call_function"}
    assert [found for found in layers.values() if found] == [["norm"], ["out"], ["norm"]]


def reasons(text: str) -> list[str | None]:
    """Why nothing was carried."""
    _, applied, refused = rewritten(CARRY, text)
    assert not [s for s in applied if s.rule == "carry_affine_over_sum"]
    return [s.reason for s in refused if s.rule == "carry_affine_over_sum"]


def test_refuses_readers_that_are_not_linear() -> None:
    assert reasons(body(f"{BRANCH}%s: f64[3, 4] = add.Tensor(%n, %f)\n%y: f64[3, 4] = mul.Tensor(%s, %n)")) == [
        "its reader y is not linear in it"
    ]


def test_refuses_a_branch_that_ends_without_weights() -> None:
    (reason,) = reasons(body("%e: f64[3, 4] = gelu(%x)\n%y: f64[3, 4] = add.Tensor(%e, %n)"))
    assert reason == "the other term of y cannot take its inverse: its producer e is not linear"


def test_refuses_to_read_it_twice() -> None:
    assert reasons(body("%y: f64[3, 4] = add.Tensor(%n, %n)")) == ["y reads it twice"]


def test_refuses_a_scale_of_zero() -> None:
    text = body(f"{BRANCH}%y: f64[3, 4] = add.Tensor(%n, %f)").replace("= positive(5)", "= [1.0, 0.0, 2.0, 1.0]")
    assert reasons(text) == ["a channel has scale zero, which no change of units undoes"]


def test_refuses_scales_that_cost_range() -> None:
    text = body(f"{BRANCH}%y: f64[3, 4] = add.Tensor(%n, %f)").replace("= positive(5)", "= [1.0, 1e9, 2.0, 1.0]")
    (reason,) = reasons(text.replace("= positive(3)", "= [1.0, 1.0, 1.0, 1.0]"))
    assert reason == "its scales reach from 1 to 1e+09, which would cost range"


def test_sixteen_bits_have_less_range() -> None:
    text = body(f"{BRANCH}%y: f64[3, 4] = add.Tensor(%n, %f)").replace("f64", "bf16")
    program = parse_program(text.replace("= positive(5)", "= [1.0, 1000.0, 2.0, 1.0]"))
    sites: list[Site] = CARRY.run(program)[2]
    assert any("which would cost range" in str(s.reason) for s in sites)


def test_a_tied_embedding_is_copied() -> None:
    text = """program(%i: i64[3]) normalized {
      @table: f64[9, 4]
      @g: f64[4] = positive(1)
      %e: f64[3, 4] = embedding(@table, %i, -1, false, false)
      %r: f64[3, 4] = relu(%e)
      %n: f64[3, 4] = mul.Tensor(%r, @g)
      %y: f64[3, 9] = linear(%n, @table, none)
      return %y
    }"""
    program = parse_program(text)
    kept = program.weights["table"].clone()
    after, _, _ = CARRY.run(program)
    assert op_names(after) == ["embedding", "relu", "linear"]
    assert torch.equal(after.weights["table"], kept)
    assert torch.equal(after.weights["table_1"], kept * program.weights["g"])
