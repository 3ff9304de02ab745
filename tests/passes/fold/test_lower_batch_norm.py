"""lower_batch_norm: the normal form of what is left, in as few ops as the map needs."""

from __future__ import annotations

import pytest
import torch
from rewriting import check_docstring, op_names, random_inputs, relative_error, rewritten, run

from planish.ir.text import parse_program
from planish.passes.fold import lower_batch_norm
from planish.passes.fold.lower_batch_norm import LowerBatchNorm

LOWER = LowerBatchNorm()
ARGUMENTS = "false, 0.1, 0.0, false"


def test_docstring() -> None:
    check_docstring(LOWER, lower_batch_norm)


@pytest.mark.parametrize(
    ("run", "left"),
    [
        ("%y: f64[1, 2, 6] = batch_norm(%x, none, none, @zeros, @ones, false, 0.1, 0.0, false)", []),
        ("%y: f64[1, 2, 6] = batch_norm(%x, @k, none, @zeros, @ones, false, 0.1, 0.0, false)", ["mul"]),
        ("%y: f64[1, 2, 6] = batch_norm(%x, none, @k, @zeros, @ones, false, 0.1, 0.0, false)", ["add"]),
        ("%a: f64[1, 2, 6] = add.Tensor(%x, @c)\n%y: f64[1, 2, 6] = mul.Tensor(%a, @c)", ["mul", "add"]),
        ("%a: f64[1, 2, 6] = mul.Tensor(%x, @c)\n%y: f64[1, 2, 6] = add.Tensor(%a, @c)", ["mul", "add"]),
        ("%a: f64[1, 2, 6] = mul.Tensor(%x, @c)\n%y: f64[1, 2, 6] = mul.Tensor(%a, 3.0)", ["mul"]),
        ("%a: f64[1, 2, 6] = mul.Tensor(%x, 4.0)\n%y: f64[1, 2, 6] = div.Tensor(%a, 4.0)", []),
        ("%y: f64[1, 2, 6] = div.Tensor(%x, @c)", ["mul"]),
        ("%y: f64[1, 2, 6] = div.Tensor(%x, 3.0)", ["div"]),
        ("%y: f64[1, 2, 6] = sub.Tensor(1.0, %x)", ["sub"]),
        ("%y: f64[1, 2, 6] = neg(%x)", ["neg"]),
    ],
)
def test_as_few_ops_as_needed(run: str, left: list[str]) -> None:
    text = f"""program(%x: f64[1, 2, 6]) normalized {{
      @k: f64[2] = [3.0, 5.0]
      @c: f64[2, 1] = [[3.0], [5.0]]
      @zeros: f64[2] = [0.0, 0.0]
      @ones: f64[2] = [1.0, 1.0]
      {run}
      return %y
    }}"""
    assert op_names(rewritten(LOWER, text)[0]) == left


def test_a_run_that_is_read_inside_is_not_merged() -> None:
    text = """program(%x: f64[1, 2, 6]) normalized {
      @c: f64[2, 1] = [[3.0], [5.0]]
      %a: f64[1, 2, 6] = mul.Tensor(%x, @c)
      %y: f64[1, 2, 6] = mul.Tensor(%a, @c)
      return (%a, %y)
    }"""
    assert rewritten(LOWER, text)[1] == []


def test_half_precision_is_computed_wide_and_cast_once() -> None:
    program = parse_program(
        f"""program(%x: bf16[4, 2, 6]) normalized {{
          @g: f32[2] = [1.5, 0.75]
          @b: f32[2] = [-100.0, 7.0]
          @m: f32[2] = [100.0, -7.0]
          @v: f32[2] = [0.25, 4.0]
          %y: bf16[4, 2, 6] = batch_norm(%x, @g, @b, @m, @v, {ARGUMENTS})
          return %y
        }}"""
    )
    after, _, _ = LOWER.run(program)
    assert op_names(after) == ["mul", "add", "_to_copy"]
    assert {t.dtype for t in after.weights.values()} == {torch.float32}
    assert relative_error(program, after) <= 2**-8


def test_what_is_infinite_or_no_number_stands_where_pytorch_has_it() -> None:
    program = parse_program(
        f"""program(%x: f64[1, 4, 6]) normalized {{
          @m: f64[4] = [0.0, 3.0, nan, 0.0]
          @v: f64[4] = [0.0, 0.0, 1.0, -1.0]
          %y: f64[1, 4, 6] = batch_norm(%x, none, none, @m, @v, {ARGUMENTS})
          return %y
        }}"""
    )
    after, applied, refused = LOWER.run(program)
    assert len(applied) == 1
    assert not refused
    values = random_inputs(program)
    for old, new in zip(run(program, values), run(after, values), strict=True):
        assert torch.equal(old.isinf(), new.isinf())
        assert torch.equal(old.isnan(), new.isnan())
    assert bool(new[0, 1].isinf().any())


def test_batch_norm_in_training_mode_is_left_alone() -> None:
    text = """program(%x: f64[3, 2, 6]) normalized {
      %y: f64[3, 2, 6] = batch_norm(%x, none, none, none, none, true, 0.1, 1e-05, false)
      return %y
    }"""
    assert rewritten(LOWER, text)[1] == []
