"""fold_constants: what is computed once, how exactly, and what must stay."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch
from rewriting import check_docstring, op_names, refusal, relative_error, rewritten

from planish.ir.text import parse_program
from planish.passes.fold import fold_constants
from planish.passes.fold.fold_constants import REPEATS_FROM, FoldConstants, distinct

FOLD = FoldConstants()


def test_docstring() -> None:
    check_docstring(FOLD, fold_constants)


def test_weight_standardization_with_a_training_mode_batch_norm() -> None:
    """NFNet's and timm's scaled standardized convolution: batch norm of the weight itself."""
    text = """program(%x: f64[1, 2, 5, 5]) normalized {
      @conv.weight: f64[3, 2, 3, 3]
      @gain: f64[3]
      %r: f64[1, 3, 18] = reshape(@conv.weight, [1, 3, 18])
      %bn: f64[1, 3, 18] = batch_norm(%r, @gain, none, none, none, true, 0.0, 1e-06, false)
      %w: f64[3, 2, 3, 3] = reshape(%bn, [3, 2, 3, 3])
      %y: f64[1, 3, 3, 3] = convolution(%x, %w, none, [1, 1], [0, 0], [1, 1], false, [0, 0], 1)
      return %y
    }"""
    after, applied, refused = rewritten(FOLD, text)
    assert op_names(after) == ["convolution"]
    assert len(applied) == 1
    assert not refused
    weights = parse_program(text).weights
    flat = weights["conv.weight"].reshape(3, 18)
    standard = (flat - flat.mean(1, keepdim=True)) / (flat.var(1, correction=0, keepdim=True) + 1e-6).sqrt()
    expected = (standard * weights["gain"][:, None]).reshape(3, 2, 3, 3)
    torch.testing.assert_close(after.weights["conv.weight_1"], expected, rtol=1e-13, atol=1e-13)


def test_an_op_with_several_results() -> None:
    text = """program(%x: f64[1, 4]) normalized {
      @v: f64[3, 4]
      @g: f64[3, 1]
      %wn: (f64[3, 4], f64[3, 1]) = _weight_norm_interface(@v, @g, 0)
      %w: f64[3, 4] = getitem(%wn, 0)
      %y: f64[1, 3] = linear(%x, %w, none)
      return %y
    }"""
    assert op_names(rewritten(FOLD, text)[0]) == ["linear"]


def test_gathers_are_exact() -> None:
    """Swin's relative position bias."""
    text = """program(%x: f32[1, 2, 4, 4]) normalized {
      @table: f32[9, 2]
      @index: i64[16] = [4, 3, 1, 0, 5, 4, 2, 1, 7, 6, 4, 3, 8, 7, 5, 4]
      %g: f32[16, 2] = index.Tensor(@table, [@index])
      %r: f32[4, 4, 2] = reshape(%g, [4, 4, 2])
      %p: f32[2, 4, 4] = permute(%r, [2, 0, 1])
      %y: f32[1, 2, 4, 4] = add.Tensor(%x, %p)
      return %y
    }"""
    program = parse_program(text)
    after, _, _ = rewritten(FOLD, program)
    assert op_names(after) == ["add"]
    table, index = program.weights["table"], program.weights["index"]
    assert torch.equal(after.weights["table_1"], table[index].reshape(4, 4, 2).permute(2, 0, 1))


def test_float_arithmetic_rounds_once() -> None:
    """1 + 2**-24 is 1 in float32: only float64 has a 1 left of (1 + 2**-24) * 2**24 - 2**24."""
    text = """program(%x: f32[2]) normalized {
      @w: f32[2] = [1.0, 3.0]
      %tiny: f32[2] = add.Tensor(@w, 5.9604644775390625e-08)
      %big: f32[2] = mul.Tensor(%tiny, 16777216.0)
      %rest: f32[2] = sub.Tensor(%big, 16777216.0)
      %y: f32[2] = add.Tensor(%x, %rest)
      return %y
    }"""
    after, _, _ = FOLD.run(parse_program(text))
    assert after.weights["w_1"].dtype == torch.float32
    assert after.weights["w_1"].tolist() == [1.0, 33554432.0]


def test_integers_are_exact() -> None:
    text = """program(%x: i64[2]) normalized {
      @w: i64[2] = [9007199254740993, 3]
      %s: i64[2] = mul.Tensor(@w, 3)
      %y: i64[2] = add.Tensor(%x, %s)
      return %y
    }"""
    after, _, _ = FOLD.run(parse_program(text))
    assert after.weights["w_1"].tolist() == [27021597764222979, 9]


def test_discrete_decisions_are_taken_in_the_models_own_types() -> None:
    """0.7f * 10 is 7 in float32 and 6.9999998 in float64: the bucket must be eager's."""
    text = """program(%x: f32[1, 1]) normalized {
      @w: f32[1] = [0.7]
      @table: f32[9, 1] = [[0.0], [1.0], [2.0], [3.0], [4.0], [5.0], [6.0], [7.0], [8.0]]
      %scaled: f32[1] = mul.Tensor(@w, 10.0)
      %bucket: i64[1] = _to_copy(%scaled, dtype=i64)
      %row: f32[1, 1] = index.Tensor(@table, [%bucket])
      %y: f32[1, 1] = add.Tensor(%x, %row)
      return %y
    }"""
    program = parse_program(text)
    assert math.floor(program.weights["w"].double().item() * 10) == 6  # float64 would take the bucket below
    after, _, _ = FOLD.run(program)
    assert relative_error(program, after) == 0.0
    assert after.weights["table_1"].tolist() == [[7.0]]


def test_masks_of_booleans() -> None:
    text = """program(%x: f32[1, 3, 3]) normalized {
      @i: i64[3] = [0, 1, 2]
      %c: i64[3, 1] = reshape(@i, [3, 1])
      %m: bool[3, 3] = gt.Tensor(@i, %c)
      %y: f32[1, 3, 3] = masked_fill.Scalar(%x, %m, 0.0)
      return %y
    }"""
    after, _, _ = rewritten(FOLD, text)
    assert op_names(after) == ["masked_fill"]
    assert after.weights["i_1"].tolist() == [[False, True, True], [False, False, True], [False, False, False]]


def test_a_returned_constant() -> None:
    after, _, _ = rewritten(
        FOLD,
        """program(%x: f32[2]) normalized {
          @w: f32[2] = [1.0, 3.0]
          %s: f32[2] = mul.Tensor(@w, 2.0)
          return (%x, %s)
        }""",
    )
    assert op_names(after) == []
    assert after.weights["w_1"].tolist() == [2.0, 6.0]


def test_a_constant_that_constants_and_inputs_read() -> None:
    text = """program(%x: f32[2]) normalized {
      @w: f32[2] = [1.0, 3.0]
      %a: f32[2] = mul.Tensor(@w, 2.0)
      %b: f32[2] = add.Tensor(%a, 1.0)
      %c: f32[2] = mul.Tensor(%x, %a)
      %y: f32[2] = mul.Tensor(%c, %b)
      return %y
    }"""
    after, _, _ = rewritten(FOLD, text)
    assert op_names(after) == ["mul", "mul"]
    assert sorted(t.tolist() for t in after.weights.values()) == [[2.0, 6.0], [3.0, 7.0]]


def test_random_ops_stay() -> None:
    text = """program(%x: f32[2]) normalized {
      @p: f32[2] = [0.5, 0.5]
      %d: f32[2] = bernoulli(@p)
      %y: f32[2] = add.Tensor(%x, %d)
      return %y
    }"""
    _, applied, refused = FOLD.run(parse_program(text))
    assert (applied, refused) == ([], [])


def test_values_that_depend_on_inputs_stay() -> None:
    text = """program(%x: f32[2]) normalized {
      @w: f32[2] = [1.0, 3.0]
      %a: f32[2] = mul.Tensor(@w, %x)
      %y: f32[2] = add.Tensor(%a, @w)
      return %y
    }"""
    assert rewritten(FOLD, text)[1] == []


def test_tied_weights_are_not_changed() -> None:
    text = """program(%x: f32[1, 2]) normalized {
      @w: f32[2, 2] = [[1.0, 2.0], [3.0, 4.0]]
      %s: f32[2, 2] = mul.Tensor(@w, 2.0)
      %a: f32[1, 2] = linear(%x, @w, none)
      %y: f32[1, 2] = linear(%a, %s, none)
      return %y
    }"""
    after, _, _ = rewritten(FOLD, text)
    assert after.weights["w"].tolist() == [[1.0, 2.0], [3.0, 4.0]]
    assert after.weights["w_1"].tolist() == [[2.0, 4.0], [6.0, 8.0]]


# repeats


def test_refuses_to_store_repeats() -> None:
    reason = refusal(
        FOLD,
        """program(%x: f32[8, 4, 64, 8]) normalized {
          @w: f32[1, 4, 1, 1] = [[[[1.0]], [[2.0]], [[3.0]], [[4.0]]]]
          %e: f32[8, 4, 64, 8] = expand(@w, [8, 4, 64, 8])
          %y: f32[8, 4, 64, 8] = maximum(%x, %e)
          return %y
        }""",
    )
    assert reason == "storing the repeats would take 65536 bytes where a broadcast does"


def test_computed_repeats_are_stored_once() -> None:
    text = """program(%x: f32[4, 64, 64]) normalized {
      @w: f32[64]
      %r: f32[4, 1, 64] = repeat(@w, [4, 1, 1])
      %e: f32[4, 64, 64] = expand(%r, [4, 64, 64])
      %s: f32[4, 64, 64] = mul.Tensor(%e, 2.0)
      %y: f32[4, 64, 64] = maximum(%x, %s)
      return %y
    }"""
    after, applied, refused = rewritten(FOLD, text)
    assert op_names(after) == ["expand", "maximum"]
    assert [tuple(t.shape) for t in after.weights.values()] == [(1, 1, 64)]
    assert len(applied) == 1
    assert len(refused) == 1


def test_small_repeats_are_stored() -> None:
    text = f"""program(%x: f32[{REPEATS_FROM // 2}, 2]) normalized {{
      @w: f32[2] = [1.0, 2.0]
      %e: f32[{REPEATS_FROM // 2}, 2] = expand(@w, [{REPEATS_FROM // 2}, 2])
      %y: f32[{REPEATS_FROM // 2}, 2] = maximum(%x, %e)
      return %y
    }}"""
    assert op_names(rewritten(FOLD, text)[0]) == ["maximum"]


@pytest.mark.parametrize(
    ("tensor", "shape"),
    [
        (torch.tensor([[1.0, 2.0], [1.0, 2.0]]), (1, 2)),
        (torch.tensor([[0.0, 0.0], [0.0, -0.0]]), (2, 2)),
        (torch.tensor([[math.nan, math.nan]]), (1, 1)),
        (torch.tensor([[True, True], [False, False]]), (2, 1)),
        (torch.zeros(3, 0), (1, 0)),
        (torch.tensor(3), ()),
    ],
)
def test_distinct_compares_bits(tensor: Any, shape: tuple[int, ...]) -> None:
    assert tuple(distinct(tensor).shape) == shape
