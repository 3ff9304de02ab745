"""lower_to_bfloat16: what is kept in bfloat16, what stays float32 and why, and that the program still runs."""

from __future__ import annotations

import pytest
import torch
from rewriting import op_names, random_inputs, relative_error, run

from planish.ir.program import Program
from planish.ir.report import Site
from planish.ir.text import parse_program, print_program
from planish.passes.manager import run_passes
from planish.passes.precision.lower_to_bfloat16 import LARGEST, LowerToBfloat16

LOWER = LowerToBfloat16()
ROUNDED = 2.0**-6
"""A few values, each rounded to eight bits."""


def lowered(text: str) -> tuple[Program, list[Site], list[Site]]:
    """Run the pass on text; the result verifies, computes the same up to rounding, and has no more to do."""
    before = parse_program(text)
    after = run_passes(before, [LOWER])
    assert relative_error(before, after) <= ROUNDED
    _, applied, refused = LOWER.run(before)
    again, more, _ = LOWER.run(after)
    assert not more
    assert print_program(again) == print_program(after)
    return after, applied, refused


def dtypes(program: Program) -> dict[str, torch.dtype]:
    return {node.name: node.meta["val"].dtype for node in program.graph.nodes if node.op != "output"}


def test_products_are_rounded_and_inputs_and_outputs_are_not() -> None:
    after, applied, refused = lowered(
        """program(%x: f32[2, 4]) optimized {
          @w: f32[4, 4]
          @b: f32[4]
          %fc: f32[2, 4] = linear(%x, @w, @b)   # fc
          %y: f32[2, 4] = relu(%fc)
          %z: f32[2, 4] = add.Tensor(%x, %y)
          return (%z, %y)
        }"""
    )
    assert op_names(after) == ["_to_copy", "linear", "relu", "add", "_to_copy", "_to_copy", "_to_copy"]
    assert {name: tensor.dtype for name, tensor in after.weights.items()} == dict.fromkeys("wb", torch.bfloat16)
    assert dtypes(after)["y"] == torch.bfloat16
    assert dtypes(after)["z"] == torch.float32  # of bfloat16 and float32: rounded afterwards, and read once
    assert [site.node for site in applied] == ["fc", "y", "z"]
    assert not refused
    assert [node.meta["val"].dtype for node in after.graph.output_node().args[0]] == [torch.float32] * 2  # type: ignore[union-attr]


@pytest.mark.parametrize(
    ("line", "reason"),
    [
        ("%y: f32[2, 1] = mean.dim(%h, [1], true)", "it is a statistic"),
        ("%y: f32[2, 4] = cumsum(%h, 1)", "it is a running sum"),
    ],
)
def test_sums_stay(line: str, reason: str) -> None:
    after, _, refused = lowered(
        f"""program(%x: f32[2, 4]) optimized {{
          @w: f32[4, 4]
          %h: f32[2, 4] = linear(%x, @w, none)   # fc
          {line}   # sums
          %z: f32[2, 4] = sub.Tensor(%h, %y)
          return %z
        }}"""
    )
    assert dtypes(after)["y"] == torch.float32
    (site,) = refused
    assert site.layers == ("sums",)
    assert str(site.reason).startswith(reason)


def test_whole_numbers_stay() -> None:
    """Position 257 times a frequency: in bfloat16 it would be position 256."""
    text = """program(%ids: i64[1, 3], %x: f32[3, 1]) optimized {
      @frequency: f32[1, 2] = [[1.0, 0.5]]
      @w: f32[1, 1] = [[1.0]]
      %position: f32[1, 3] = _to_copy(%ids, dtype=f32)
      %column: f32[3, 1] = reshape(%position, [3, 1])
      %angle: f32[3, 2] = matmul(%column, @frequency)
      %c: f32[3, 2] = cos(%angle)
      %h: f32[3, 1] = linear(%x, @w, none)
      %y: f32[3, 2] = mul.Tensor(%h, %c)
      return %y
    }"""
    after, _, refused = lowered(text)
    assert {s.node for s in refused} == {"position", "column", "angle", "c"}
    assert all("whole numbers" in str(site.reason) for site in refused)
    assert after.weights["frequency"].dtype is torch.float32
    ids, x = torch.tensor([[0, 257, 1001]]), torch.ones(3, 1)
    exact = torch.cos(ids.reshape(3, 1) * torch.tensor([[1.0, 0.5]]))
    torch.testing.assert_close(run(after, [ids, x])[0], exact.bfloat16().float(), rtol=0, atol=0)


def test_pointwise_ops_on_inputs_stay_until_the_first_product() -> None:
    after, _, refused = lowered(
        """program(%x: f32[2, 4]) optimized {
          @w: f32[4, 4]
          %y: f32[2, 4] = sub.Tensor(%x, 0.5)   # normalize
          %fc: f32[2, 4] = linear(%y, @w, none)   # fc
          return %fc
        }"""
    )
    assert dtypes(after)["y"] == torch.float32
    assert dtypes(after)["fc"] == torch.bfloat16
    assert [(s.node, s.reason) for s in refused] == [("y", "it is computed from the inputs alone, which are float32")]


def test_finite_numbers_stay_finite() -> None:
    """float32's lowest number, as masks have it, would be -inf in bfloat16, and a row of it NaN after softmax."""
    after, _, _ = lowered(
        """program(%x: f32[1, 2]) optimized {
          @w: f32[2, 2]
          @mask: f32[2] = [-3.4028234663852886e+38, -3.4028234663852886e+38]
          %fc: f32[1, 2] = linear(%x, @w, none)
          %z: f32[1, 2] = clamp(%fc, -3.4028234663852886e+38, none)
          %m: f32[1, 2] = add.Tensor(%z, @mask)
          %p: f32[1, 2] = _softmax(%m, 1, false)
          return %p
        }"""
    )
    assert after.weights["mask"].tolist() == [-LARGEST, -LARGEST]
    (clamp,) = (node for node in after.graph.nodes if node.name == "z")
    assert clamp.args[1] == -LARGEST
    assert all(out.isfinite().all() for out in run(after, random_inputs(after)))


def test_float64_and_integers_are_left_alone() -> None:
    after, applied, _ = lowered(
        """program(%x: f64[2, 4], %i: i64[2]) optimized {
          @w: f64[4, 4]
          %fc: f64[2, 4] = linear(%x, @w, none)
          %j: i64[2] = add.Tensor(%i, 1)
          return (%fc, %j)
        }"""
    )
    assert not applied
    assert op_names(after) == ["linear", "add"]


def test_rms_norm_keeps_the_epsilon_of_float32() -> None:
    after, _, _ = lowered(
        """program(%x: f32[2, 4]) optimized {
          @w: f32[4]
          %y: f32[2, 4] = rms_norm(%x, [4], @w, none)
          return %y
        }"""
    )
    (norm,) = (node for node in after.graph.nodes if node.name == "y")
    assert norm.args[3] == torch.finfo(torch.float32).eps


def test_a_limit_leaves_the_rest_in_float32() -> None:
    text = """program(%x: f32[2, 4]) optimized {
      @w: f32[4, 4]
      %a: f32[2, 4] = linear(%x, @w, none)
      %b: f32[2, 4] = linear(%a, @w, none)
      return %b
    }"""
    after, applied, refused = LOWER.run(parse_program(text), limit=1)
    assert [site.node for site in applied] == ["a"]
    assert [(site.node, site.reason) for site in refused] == [("b", "the pass was stopped before it")]
    assert (dtypes(after)["a"], dtypes(after)["b"]) == (torch.bfloat16, torch.float32)
    assert {tensor.dtype for tensor in after.weights.values()} == {torch.bfloat16, torch.float32}
    assert relative_error(parse_program(text), after) <= ROUNDED


def test_inputs_keep_their_names() -> None:
    after, _, _ = lowered("program(%input: f32[2]) optimized {\n  %y: f32[2] = relu(%input)\n  return %y\n}")
    assert [node.target for node in after.graph.nodes if node.op == "placeholder"] == ["input"]
