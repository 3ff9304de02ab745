"""fold_affine_forward: each reader, each way on, each refusal."""

from __future__ import annotations

import pytest
import torch
from rewriting import check_docstring, op_names, refusal, rewritten

from planish.ir.text import parse_program
from planish.passes.fold import fold_affine_forward
from planish.passes.fold.fold_affine_forward import FoldAffineForward

FOLD = FoldAffineForward()

HEAD = """program(%x: f64[2, 4, 6, 6]) normalized {
  @g: f64[4]
  @h: f64[4]
  @m: f64[4]
  @v: f64[4] = positive(3)
  @w: f64[3, 4, 1, 1]
  @p: f64[3, 4, 3, 3]
  @fc.weight: f64[5, 4]
  @fc.bias: f64[5]
  %r: f64[2, 4, 6, 6] = relu(%x)
"""
BN = "%bn: f64[2, 4, 6, 6] = batch_norm(%r, @g, @h, @m, @v, false, 0.1, 1e-05, false)   # norm\n"
SCALE = "%bn: f64[2, 4, 6, 6] = mul.Tensor(%r, 2.0)\n"
ONE = "[1, 1], [0, 0], [1, 1], false, [0, 0], 1"
PADDED = "[1, 1], [1, 1], [1, 1], false, [0, 0], 1"


def test_docstring() -> None:
    check_docstring(FOLD, fold_affine_forward)


def test_every_reader_takes_it() -> None:
    text = (
        f"{HEAD}{BN}%a: f64[2, 3, 6, 6] = convolution(%bn, @w, none, {ONE})\n"
        f"%b: f64[2, 3, 4, 4] = convolution(%bn, @p, none, {ONE})\nreturn (%a, %b) }}"
    )
    after, applied, refused = rewritten(FOLD, text)
    assert op_names(after) == ["relu", "convolution", "convolution"]
    assert len(applied) == 1
    assert not refused


@pytest.mark.parametrize(
    ("x", "w", "y", "arguments"),
    [
        ("1, 4, 6", "6, 2, 3", "1, 6, 4", "[1], [0], [1], false, [0], 2"),
        ("1, 4, 6", "4, 1, 2", "1, 4, 5", "[1], [0], [1], false, [0], 4"),
        ("1, 4, 6, 6, 6", "2, 4, 2, 2, 2", "1, 2, 3, 3, 3", "[2, 2, 2], [0, 0, 0], [1, 1, 1], false, [0, 0, 0], 1"),
    ],
    ids=["grouped", "depthwise", "3d"],
)
def test_into_convolution(x: str, w: str, y: str, arguments: str) -> None:
    text = f"""program(%x: f64[{x}]) normalized {{
      @k: f64[4{", 1" * (x.count(",") - 1)}]
      @t: f64[4{", 1" * (x.count(",") - 1)}]
      @w: f64[{w}]
      @b: f64[{w.split(",")[0]}]
      %m: f64[{x}] = mul.Tensor(%x, @k)
      %a: f64[{x}] = add.Tensor(%m, @t)
      %y: f64[{y}] = convolution(%a, @w, @b, {arguments})
      return %y
    }}"""
    assert op_names(rewritten(FOLD, text)[0]) == ["convolution"]


@pytest.mark.parametrize("padding", [0, 1])
@pytest.mark.parametrize("groups", [1, 2])
def test_a_scale_passes_padding_and_transposed_convolutions(padding: int, groups: int) -> None:
    out = 7 - 2 * padding
    text = f"""program(%x: f64[1, 4, 5]) normalized {{
      @k: f64[4, 1]
      @w: f64[4, 3, 3]
      %m: f64[1, 4, 5] = mul.Tensor(%x, @k)
      %y: f64[1, {3 * groups}, {out}] = convolution(%m, @w, none, [1], [{padding}], [1], true, [0], {groups})
      return %y
    }}"""
    after, _, _ = rewritten(FOLD, text)
    assert op_names(after) == ["convolution"]
    original = parse_program(text).weights
    assert torch.equal(after.weights["w_1"], original["w"] * original["k"].reshape(4, 1, 1))


@pytest.mark.parametrize(
    ("way", "left"),
    [
        (
            "%p: f64[2, 6, 6, 4] = permute(%bn, [0, 2, 3, 1])\n%f: f64[72, 4] = reshape(%p, [72, 4])\n"
            "%y: f64[72, 5] = linear(%f, @fc.weight, @fc.bias)\n",
            ["relu", "permute", "reshape", "linear"],
        ),
        (
            "%p: f64[2, 4] = mean.dim(%bn, [2, 3], false)\n%y: f64[2, 5] = linear(%p, @fc.weight, @fc.bias)\n",
            ["relu", "mean", "linear"],
        ),
        (
            "%p: f64[2, 4, 1, 1] = mean.dim(%bn, [-1, -2], true)\n"
            f"%y: f64[2, 3, 1, 1] = convolution(%p, @w, none, {ONE})\n",
            ["relu", "mean", "convolution"],
        ),
        (
            "%p: f64[2, 4, 3, 3] = avg_pool2d(%bn, [2, 2], [2, 2], [0, 0], false, true, none)\n"
            f"%y: f64[2, 3, 3, 3] = convolution(%p, @w, none, {ONE})\n",
            ["relu", "avg_pool2d", "convolution"],
        ),
        (
            "%p: f64[2, 4, 2, 2] = adaptive_avg_pool2d(%bn, [2, 2])\n"
            f"%y: f64[2, 3, 2, 2] = convolution(%p, @w, none, {ONE})\n",
            ["relu", "adaptive_avg_pool2d", "convolution"],
        ),
        (
            "%p: f64[2, 4, 3, 6] = slice.Tensor(%bn, 2, 1, 4, 1)\n"
            f"%y: f64[2, 3, 3, 6] = convolution(%p, @w, none, {ONE})\n",
            ["relu", "slice", "convolution"],
        ),
        (
            "%p: f64[7, 2, 4, 6, 6] = expand(%bn, [7, 2, 4, 6, 6])\n%q: f64[14, 4, 6, 6] = reshape(%p, [14, 4, 6, 6])\n"
            f"%y: f64[14, 3, 6, 6] = convolution(%q, @w, none, {ONE})\n",
            ["relu", "expand", "reshape", "convolution"],
        ),
    ],
    ids=["permute-reshape", "mean", "mean-keep", "avg-pool", "adaptive", "slice", "expand"],
)
def test_behind_views_and_averages(way: str, left: list[str]) -> None:
    assert op_names(rewritten(FOLD, f"{HEAD}{BN}{way}return %y }}")[0]) == left


def test_flattened_before_the_classifier() -> None:
    """VGG-like: the map spreads over all that is merged with the channels."""
    text = HEAD.replace("@fc.weight: f64[5, 4]", "@fc.weight: f64[5, 144]")
    way = "%f: f64[2, 144] = reshape(%bn, [2, 144])\n%y: f64[2, 5] = linear(%f, @fc.weight, none)\n"
    assert op_names(rewritten(FOLD, f"{text}{BN}{way}return %y }}")[0]) == ["relu", "reshape", "linear"]


def test_half_of_the_channels() -> None:
    text = """program(%x: f64[3, 4]) normalized {
      @k: f64[4] = [1.0, 2.0, 3.0, 4.0]
      @w: f64[1, 2] = [[10.0, 100.0]]
      %r: f64[3, 4] = relu(%x)
      %m: f64[3, 4] = add.Tensor(%r, @k)
      %s: f64[3, 2] = slice.Tensor(%m, 1, 1, 4, 2)
      %y: f64[3, 1] = linear(%s, @w, none)
      return %y
    }"""
    after, _, _ = rewritten(FOLD, text)
    assert torch.equal(after.weights["bias"], torch.tensor([420.0], dtype=torch.float64))  # 2 * 10 + 4 * 100


# refusals


def refused_bn(rest: str) -> str:
    """The reason why HEAD's batch norm stays in front of `rest`."""
    return refusal(FOLD, f"{HEAD}{BN}{rest} }}")


def test_refuses_padding_for_a_shift() -> None:
    reason = refused_bn(f"%y: f64[2, 3, 6, 6] = convolution(%bn, @p, none, {PADDED})   # conv\nreturn %y")
    assert reason == "y (conv) pads with zeros, which the shift would have to change"


def test_refuses_transposed_convolutions_for_a_shift() -> None:
    arguments = "[1, 1], [0, 0], [1, 1], true, [0, 0], 1"
    text = HEAD.replace("  %r", "  @t: f64[4, 3, 3, 3]\n  %r")
    reason = refusal(FOLD, f"{text}{BN}%y: f64[2, 3, 8, 8] = convolution(%bn, @t, none, {arguments})\nreturn %y }}")
    assert reason == "a transposed convolution sums fewer taps at its border, so y cannot take the shift"


def test_refuses_a_non_linear_reader() -> None:
    reason = refused_bn(
        f"%a: f64[2, 3, 6, 6] = convolution(%bn, @w, none, {ONE})\n"
        "%y: f64[2, 4, 6, 6] = relu(%bn)   # act\nreturn (%a, %y)"
    )
    assert reason == "its reader y (act) is not linear in it"


def test_refuses_a_residual_reader() -> None:
    assert refused_bn("%y: f64[2, 4, 6, 6] = add.Tensor(%bn, %r)\nreturn %y") == "its reader y is not linear in it"


def test_refuses_being_returned() -> None:
    assert refused_bn(f"%a: f64[2, 3, 6, 6] = convolution(%bn, @w, none, {ONE})\nreturn (%a, %bn)") == (
        "the program returns it"
    )


def test_refuses_being_a_weight() -> None:
    reason = refusal(
        FOLD,
        """program(%x: f64[2, 4], %w: f64[3, 4]) normalized {
          @k: f64[4]
          %m: f64[3, 4] = mul.Tensor(%w, @k)
          %y: f64[2, 3] = linear(%x, %m, none)
          return %y
        }""",
    )
    assert reason == "its reader y is not linear in it"


def test_refuses_another_axis() -> None:
    reason = refusal(
        FOLD,
        """program(%x: f64[2, 4, 4]) normalized {
          @k: f64[4, 1]
          @w: f64[3, 4]
          %m: f64[2, 4, 4] = mul.Tensor(%x, @k)
          %y: f64[2, 4, 3] = linear(%m, @w, none)
          return %y
        }""",
    )
    assert reason == "it lies along axis 1 of the input of y, whose channels are axis 2"


@pytest.mark.parametrize(
    "way",
    [
        "%z: f64[2, 6, 6] = mean.dim(%bn, [1], false)",
        "%z: f64[2, 6, 24] = reshape(%bn, [2, 6, 24])",
        "%z: f64[2, 4, 6, 6] = avg_pool2d(%bn, [3, 3], [1, 1], [1, 1], false, true, none)",
        "%z: f64[2, 4, 6, 6] = avg_pool2d(%bn, [1, 1], [1, 1], [0, 0], false, true, 2)",
    ],
    ids=["mean", "reshape", "counted-padding", "divisor"],
)
def test_refuses_ways_that_lose_the_channels(way: str) -> None:
    assert refused_bn(f"{way}\nreturn %z") == "its reader z does not keep the channel axis whole"


def test_refuses_to_lose_precision() -> None:
    program = parse_program(
        """program(%x: bf16[1, 2, 6]) normalized {
          @k: f32[2] = [1.0, 2.0]
          @w: bf16[4, 2, 1]
          %r: bf16[1, 2, 6] = relu(%x)
          %bn: bf16[1, 2, 6] = batch_norm(%r, @k, @k, @k, @k, false, 0.1, 1e-05, false)
          %c: bf16[1, 4, 6] = convolution(%bn, @w, none, [1], [0], [1], false, [0], 1)
          return %c
        }"""
    )
    _, applied, refused = FOLD.run(program)
    assert not applied
    assert [s.reason for s in refused] == ["c would lose precision: a float32 affine does not fit a bfloat16 weight"]


def test_a_scalar_that_stays_is_not_worth_a_report() -> None:
    assert rewritten(FOLD, f"{HEAD}{SCALE}%y: f64[2, 4, 6, 6] = relu(%bn)\nreturn %y }}")[1:] == ([], [])


def test_through_a_cat_beside_other_parts() -> None:
    text = (
        f"{HEAD}{BN}%s: f64[2, 4, 6, 6] = sigmoid(%x)\n%c: f64[2, 8, 6, 6] = cat([%s, %bn], 1)\n"
        f"%y: f64[2, 3, 6, 6] = convolution(%c, @u, none, {ONE})\nreturn %y }}"
    ).replace("  %r:", "  @u: f64[3, 8, 1, 1]\n  %r:")
    assert op_names(rewritten(FOLD, text)[0]) == ["relu", "sigmoid", "cat", "convolution"]


def test_refuses_a_cat_along_another_axis() -> None:
    reason = refused_bn(
        f"%s: f64[2, 4, 6, 6] = sigmoid(%x)\n%c: f64[2, 4, 12, 6] = cat([%s, %bn], 2)\n"
        f"%y: f64[2, 3, 12, 6] = convolution(%c, @w, none, {ONE})\nreturn %y"
    )
    assert reason == "its reader c does not keep the channel axis whole"


def test_another_affine_takes_it_in_behind_views() -> None:
    text = (
        f"{HEAD}{BN}%p: f64[2, 6, 6, 4] = permute(%bn, [0, 2, 3, 1])\n%q: f64[2, 6, 6, 4] = mul.Tensor(%p, @h)\n"
        "%y: f64[2, 6, 6, 4] = relu(%q)\nreturn %y }"
    )
    assert op_names(rewritten(FOLD, text)[0]) == ["relu", "permute", "mul", "add", "relu"]


def test_refuses_to_split_a_product_that_two_sums_share() -> None:
    text = HEAD.replace("  @w: f64[3, 4, 1, 1]\n", "  @k: f64[4, 1, 1]\n")
    shared = (
        f"{text}%bn: f64[2, 4, 6, 6] = mul.Tensor(%r, @k)\n%p: f64[2, 4, 6, 6] = add.Tensor(%bn, @k)\n"
        "%q: f64[2, 4, 6, 6] = add.Tensor(%bn, 1.0)\nreturn (%p, %q) }"
    )
    _, applied, refused = rewritten(FOLD, shared)
    assert not applied
    assert [s.reason for s in refused if s.node == "bn"] == ["its reader p_1 would take two ops where one is shared"]


MAPPED = f"""program(%x: f64[2, 4, 6, 6]) normalized {{
  @g: f64[4]
  @h: f64[4]
  @m: f64[4]
  @v: f64[4] = positive(3)
  @p: f64[3, 4, 3, 3]
  @b: f64[3]
  %bn: f64[2, 4, 6, 6] = batch_norm(%x, @g, @h, @m, @v, false, 0.1, 1e-05, false)   # norm
  %y: f64[2, 3, 6, 6] = convolution(%bn, @p, @b, {PADDED})   # conv
  return %y
}}"""


def test_a_shift_of_the_input_becomes_a_map_behind_a_padded_convolution() -> None:
    after, applied, _ = rewritten(FOLD, MAPPED)
    assert op_names(after) == ["convolution", "add"]
    assert len(applied) == 1
    shapes = sorted(list(w.shape) for w in after.weights.values())
    assert shapes == [[3, 4, 3, 3], [3, 6, 6]]


def test_a_map_of_one_place_is_a_bias() -> None:
    text = MAPPED.replace("6, 6]", "2, 2]").replace("@p: f64[3, 4, 3, 3]", "@p: f64[3, 4, 4, 4]")
    after, _, _ = rewritten(FOLD, text.replace("%y: f64[2, 3, 2, 2]", "%y: f64[2, 3, 1, 1]"))
    assert op_names(after) == ["convolution"]


def test_a_map_needs_a_pass_over_memory_that_it_saves() -> None:
    # 2 * 2 * 4 * 6 * 6 = 576 numbers are read and written for the norm; a map of 17 channels has 612
    wide = (
        MAPPED.replace("@p: f64[3, 4", "@p: f64[17, 4")
        .replace("@b: f64[3]", "@b: f64[17]")
        .replace("[2, 3,", "[2, 17,")
    )
    assert refusal(FOLD, wide) == "y (conv) pads with zeros, which the shift would have to change"
    fused = MAPPED.replace("%bn:", "%r: f64[2, 4, 6, 6] = relu(%x)\n%bn:").replace("batch_norm(%x", "batch_norm(%r")
    assert refusal(FOLD, fused) == "y (conv) pads with zeros, which the shift would have to change"


@pytest.mark.parametrize(
    ("norm", "bare", "weight"),
    [
        ("layer_norm(%x, [4], @g, @h, 1e-05, true)", "layer_norm(%x, [4], none, none, 1e-05, true)", "@g, @h"),
        ("rms_norm(%x, [4], @g, 1e-05)", "rms_norm(%x, [4], none, 1e-05)", "@g"),
    ],
)
def test_norms_give_their_weights_to_all_their_readers(norm: str, bare: str, weight: str) -> None:
    declared = "".join(f"@{name}: f64[4]\n" for name in ("g", "h") if f"@{name}" in weight)
    text = f"""program(%x: f64[2, 5, 4]) normalized {{
      {declared}@q: f64[6, 4]
      @k: f64[3, 4]
      %n: f64[2, 5, 4] = {norm}
      %a: f64[2, 5, 6] = linear(%n, @q, none)
      %s: f64[2, 1, 4] = slice.Tensor(%n, 1, 0, 1, 1)
      %b: f64[2, 1, 3] = linear(%s, @k, none)
      return (%a, %b)
    }}"""
    after, applied, _ = rewritten(FOLD, text)
    assert len(applied) == 1
    first = next(n for n in after.graph.nodes if n.op == "call_function")
    assert bare.startswith(str(first.target).split(".")[1])
    assert [a for a in first.args[2:4] if isinstance(a, torch.fx.Node)] == []


def test_group_norm_gives_its_weights_to_unpadded_convolutions() -> None:
    text = f"""{HEAD}%n: f64[2, 4, 6, 6] = group_norm(%r, 2, @g, @h, 1e-05, true)
      %y: f64[2, 3, 6, 6] = convolution(%n, @w, none, {ONE})
      return %y }}"""
    after, applied, _ = rewritten(FOLD, text)
    assert (op_names(after), len(applied)) == (["relu", "group_norm", "convolution"], 1)


def test_a_norm_that_a_sum_reads_keeps_its_weights() -> None:
    text = """program(%x: f64[2, 4]) normalized {
      @g: f64[4]
      @q: f64[4, 4]
      %n: f64[2, 4] = layer_norm(%x, [4], @g, none, 1e-05, true)
      %a: f64[2, 4] = linear(%n, @q, none)
      %y: f64[2, 4] = add.Tensor(%n, %a)
      return %y
    }"""
    assert refusal(FOLD, text) == "its reader y is not linear in it"


def test_a_norm_keeps_its_weight_where_it_would_make_one_op_two() -> None:
    text = """program(%x: f64[2, 3]) normalized {
      @g: f64[3] = positive(1)
      @b: f64[3]
      %n: f64[2, 3] = rms_norm(%x, [3], @g, 1e-05)
      %a: f64[2, 3] = add.Tensor(%n, @b)
      return %a
    }"""
    _, applied, refused = rewritten(FoldAffineForward(), text)
    assert not applied
    assert "its reader a would take two ops where one does" in [site.reason for site in refused]
