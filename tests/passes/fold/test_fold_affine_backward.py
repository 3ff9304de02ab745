"""fold_affine_backward: each producer, each way back, each refusal."""

from __future__ import annotations

import pytest
import torch
from rewriting import check_docstring, op_names, refusal, rewritten

from planish.ir.text import parse_program
from planish.passes.fold import fold_affine_backward
from planish.passes.fold.fold_affine_backward import LONGEST_WAY, FoldAffineBackward

FOLD = FoldAffineBackward()

BN4 = """
  @bn.weight: f64[4]
  @bn.bias: f64[4]
  @bn.mean: f64[4]
  @bn.var: f64[4] = positive(3)
"""
BN4_ARGS = "@bn.weight, @bn.bias, @bn.mean, @bn.var, false, 0.1, 1e-05, false"


def test_docstring() -> None:
    check_docstring(FOLD, fold_affine_backward)


@pytest.mark.parametrize(
    ("x", "w", "y", "arguments"),
    [
        ("2, 3, 9", "4, 3, 3", "2, 4, 4", "[2], [0], [1], false, [0], 1"),
        ("2, 3, 9, 9", "4, 3, 3, 3", "2, 4, 9, 9", "[1, 1], [1, 1], [1, 1], false, [0, 0], 1"),
        ("1, 3, 5, 6, 7", "4, 3, 3, 3, 3", "1, 4, 3, 4, 5", "[1, 1, 1], [0, 0, 0], [1, 1, 1], false, [0, 0, 0], 1"),
        ("2, 8, 9, 9", "4, 4, 3, 3", "2, 4, 5, 5", "[2, 2], [2, 2], [2, 2], false, [0, 0], 2"),
        ("2, 4, 9, 9", "4, 1, 3, 3", "2, 4, 7, 7", "[1, 1], [0, 0], [1, 1], false, [0, 0], 4"),
        ("2, 3, 5", "3, 4, 3", "2, 4, 11", "[2], [0], [1], true, [0], 1"),
        ("2, 6, 5, 5", "6, 2, 3, 3", "2, 4, 10, 10", "[2, 2], [1, 1], [1, 1], true, [1, 1], 2"),
        ("1, 4, 3, 3, 3", "4, 1, 2, 2, 2", "1, 4, 4, 4, 4", "[1, 1, 1], [0, 0, 0], [1, 1, 1], true, [0, 0, 0], 4"),
    ],
    ids=["1d", "2d", "3d", "grouped", "depthwise", "transposed1d", "transposed-grouped", "transposed-depthwise3d"],
)
@pytest.mark.parametrize("bias", [True, False])
def test_into_convolution(x: str, w: str, y: str, arguments: str, bias: bool) -> None:
    text = f"""program(%x: f64[{x}]) normalized {{
      @conv.weight: f64[{w}]
      {"@conv.bias: f64[4]" if bias else ""}
      {BN4}
      %conv: f64[{y}] = convolution(%x, @conv.weight, {"@conv.bias" if bias else "none"}, {arguments})   # conv
      %bn: f64[{y}] = batch_norm(%conv, {BN4_ARGS})   # bn
      return %bn
    }}"""
    after, applied, refused = rewritten(FOLD, text)
    assert op_names(after) == ["convolution"]
    assert len(applied) == 1
    assert set(applied[0].layers) == {"conv", "bn"}
    assert not refused


def test_into_linear_in_float64_rounded_once() -> None:
    after, _, _ = rewritten(
        FOLD,
        """program(%x: f64[5, 3]) normalized {
          @fc.weight: f64[2, 3] = [[1.0, 2.0, 3.0], [4.0, 5.0, 6.0]]
          @fc.bias: f64[2] = [10.0, 20.0]
          @g: f64[2] = [2.0, -1.0]
          @b: f64[2] = [0.5, 0.25]
          %fc: f64[5, 2] = linear(%x, @fc.weight, @fc.bias)
          %mul: f64[5, 2] = mul.Tensor(%fc, @g)
          %half: f64[5, 2] = div.Tensor(%mul, 2.0)
          %sub: f64[5, 2] = sub.Tensor(@b, %half)
          %neg: f64[5, 2] = neg(%sub)
          return %neg
        }""",
    )
    # y = -(b - g (W x + c) / 2) = [1, -0.5] * (W x + c) - b
    assert op_names(after) == ["linear"]
    weight, bias = after.weights.values()
    assert torch.equal(weight, torch.tensor([[1.0, 2.0, 3.0], [-2.0, -2.5, -3.0]], dtype=torch.float64))
    assert torch.equal(bias, torch.tensor([9.5, -10.25], dtype=torch.float64))


def test_weight_arithmetic_is_float64_cast_once() -> None:
    text = """program(%x: f32[1, 3]) normalized {
      @w: f32[4, 3]
      @m: f32[4]
      @v: f32[4] = positive(1)
      %fc: f32[1, 4] = linear(%x, @w, none)
      %bn: f32[1, 4] = batch_norm(%fc, none, none, @m, @v, false, 0.1, 0.001, false)
      %y: f32[1, 4] = mul.Tensor(%bn, 0.1)
      return %y
    }"""
    program = parse_program(text)
    after, _, _ = FOLD.run(program)
    w, m, v = (program.weights[n].double() for n in "wmv")
    scale = 0.1 / torch.sqrt(v + 0.001)
    assert torch.equal(after.weights["w_1"], (w * scale[:, None]).float())
    assert torch.equal(after.weights["bias"], (-m * scale).float())


def test_tied_weights_are_copied() -> None:
    text = f"""program(%x: f64[1, 3, 6, 6]) normalized {{
      @conv.weight: f64[4, 3, 1, 1]
      {BN4}
      %a: f64[1, 4, 6, 6] = convolution(%x, @conv.weight, none, [1, 1], [0, 0], [1, 1], false, [0, 0], 1)
      %b: f64[1, 4, 6, 6] = convolution(%x, @conv.weight, none, [1, 1], [0, 0], [1, 1], false, [0, 0], 1)
      %bn: f64[1, 4, 6, 6] = batch_norm(%a, {BN4_ARGS})
      %relu: f64[1, 4, 6, 6] = relu(%b)
      return (%bn, %relu)
    }}"""
    before = parse_program(text)
    kept = before.weights["conv.weight"].clone()
    after, _, _ = rewritten(FOLD, before)
    assert torch.equal(before.weights["conv.weight"], kept)
    assert torch.equal(after.weights["conv.weight"], kept)
    assert set(after.weights) == {"conv.weight", "conv.weight_1", "conv.bias"}


def test_module_called_twice_shares_the_folded_weight() -> None:
    conv = "convolution({}, @w, none, [1], [0], [1], false, [0], 1)"
    text = f"""program(%x: f64[1, 4, 6]) normalized {{
      @w: f64[4, 4, 1]
      {BN4}
      %a: f64[1, 4, 6] = {conv.format("%x")}
      %an: f64[1, 4, 6] = batch_norm(%a, {BN4_ARGS})
      %b: f64[1, 4, 6] = {conv.format("%an")}
      %bn: f64[1, 4, 6] = batch_norm(%b, {BN4_ARGS})
      return %bn
    }}"""
    after, _, _ = rewritten(FOLD, text)
    assert op_names(after) == ["convolution", "convolution"]
    assert len(after.weights) == 2


def test_layer_scale_on_the_last_axis_of_a_linear() -> None:
    after, _, _ = rewritten(
        FOLD,
        """program(%x: f64[2, 5, 3]) normalized {
          @w: f64[4, 3]
          @b: f64[4]
          @gamma: f64[4]
          %fc: f64[2, 5, 4] = linear(%x, @w, @b)
          %y: f64[2, 5, 4] = mul.Tensor(%fc, @gamma)
          return %y
        }""",
    )
    assert op_names(after) == ["linear"]


@pytest.mark.parametrize("constant", ["f64[4, 1, 1]", "f64[1, 4, 1, 1]", "f64[1, 1, 1, 1]", "f64[]"])
@pytest.mark.parametrize("op", ["mul.Tensor(%c, @k)", "add.Tensor(@k, %c)", "sub.Tensor(%c, @k)", "div.Tensor(%c, @k)"])
def test_constants_along_the_channel_axis(constant: str, op: str) -> None:
    text = f"""program(%x: f64[1, 3, 5, 5]) normalized {{
      @w: f64[4, 3, 3, 3]
      @k: {constant} = positive(1)
      %c: f64[1, 4, 3, 3] = convolution(%x, @w, none, [1, 1], [0, 0], [1, 1], false, [0, 0], 1)
      %y: f64[1, 4, 3, 3] = {op}
      return %y
    }}"""
    assert op_names(rewritten(FOLD, text)[0]) == ["convolution"]


LINEAR = "%x: f64[2, 6, 3]) normalized {\n @w: f64[4, 3]\n @b: f64[4]\n"


@pytest.mark.parametrize(
    ("body", "left"),
    [
        # BatchNorm1d over the flattened tokens, as LeViT does it
        (f"%r: f64[12, 4] = reshape(%fc, [12, 4])\n%y: f64[12, 4] = batch_norm(%r, {BN4_ARGS})", ["linear", "reshape"]),
        (
            f"%p: f64[2, 4, 6] = permute(%fc, [0, 2, 1])\n%y: f64[2, 4, 6] = batch_norm(%p, {BN4_ARGS})",
            ["linear", "permute"],
        ),
        # channels split into two heads: the map is per head element
        (
            "@k: f64[2]\n%r: f64[2, 6, 2, 2] = reshape(%fc, [2, 6, 2, 2])\n%y: f64[2, 6, 2, 2] = mul.Tensor(%r, @k)",
            ["linear", "reshape"],
        ),
        # and per head
        (
            "@k: f64[2, 1]\n%r: f64[2, 6, 2, 2] = reshape(%fc, [2, 6, 2, 2])\n%y: f64[2, 6, 2, 2] = add.Tensor(%r, @k)",
            ["linear", "reshape"],
        ),
        (
            "@k: f64[2]\n%s: f64[2, 6, 2] = slice.Tensor(%fc, 2, 1, 3, 1)\n%y: f64[2, 6, 2] = add.Tensor(%s, @k)",
            ["linear", "slice"],
        ),
        (
            "%s: f64[2, 3, 4] = slice.Tensor(%fc, 1, 0, 6, 2)\n@k: f64[4]\n%y: f64[2, 3, 4] = mul.Tensor(%s, @k)",
            ["linear", "slice"],
        ),
        (
            "@k: f64[4]\n%e: f64[3, 2, 6, 4] = expand(%fc, [3, 2, 6, 4])\n%y: f64[3, 2, 6, 4] = mul.Tensor(%e, @k)",
            ["linear", "expand"],
        ),
    ],
    ids=["flatten", "permute", "head-element", "head", "slice-channels", "slice-tokens", "expand"],
)
def test_through_views(body: str, left: list[str]) -> None:
    declarations = [line for line in body.split("\n") if line.startswith("@")]
    statements = "\n".join(line for line in body.split("\n") if not line.startswith("@"))
    head = f"program({LINEAR} {BN4} {' '.join(declarations)}\n %fc: f64[2, 6, 4] = linear(%x, @w, @b)"
    text = f"{head}\n{statements}\nreturn %y }}"
    assert op_names(rewritten(FOLD, text)[0]) == left


def test_slices_of_one_value_each_take_their_own_affine() -> None:
    """As attention scales its queries, and as IBN normalizes one half of the channels."""
    text = """program(%x: f64[2, 6, 3]) normalized {
      @qkv.weight: f64[12, 3]
      @qkv.bias: f64[12]
      %qkv: f64[2, 6, 12] = linear(%x, @qkv.weight, @qkv.bias)
      %r: f64[2, 6, 3, 4] = reshape(%qkv, [2, 6, 3, 4])
      %q: f64[2, 6, 1, 4] = slice.Tensor(%r, 2, 0, 1, 1)
      %k: f64[2, 6, 1, 4] = slice.Tensor(%r, 2, 1, 2, 1)
      %v: f64[2, 6, 1, 4] = slice.Tensor(%r, 2, 2, 3, 1)
      %qs: f64[2, 6, 1, 4] = mul.Tensor(%q, 0.5)
      %va: f64[2, 6, 1, 4] = add.Tensor(%v, 1.0)
      return (%qs, %k, %va)
    }"""
    after, applied, _ = rewritten(FOLD, text)
    assert op_names(after) == ["linear", "reshape", "slice", "slice", "slice"]
    assert len(applied) == 2
    weight, bias = after.weights.values()
    original = parse_program(text).weights
    assert torch.equal(weight[:4], 0.5 * original["qkv.weight"][:4])
    assert torch.equal(weight[4:], original["qkv.weight"][4:])
    assert torch.equal(bias[8:], original["qkv.bias"][8:] + 1)


def test_overlapping_slices_are_refused() -> None:
    reason = refusal(
        FOLD,
        """program(%x: f64[2, 3]) normalized {
          @w: f64[4, 3]
          @k: f64[3]
          %fc: f64[2, 4] = linear(%x, @w, none)
          %a: f64[2, 3] = slice.Tensor(%fc, 1, 0, 3, 1)
          %b: f64[2, 2] = slice.Tensor(%fc, 1, 2, 4, 1)
          %y: f64[2, 3] = mul.Tensor(%a, @k)
          return (%y, %b)
        }""",
    )
    assert reason == "its producer fc has other users: b"


CONVS = """program(%x: f64[1, 3, 6]) normalized {
  @w: f64[2, 3, 1]
  @v: f64[2, 3, 1]
  @c: f64[2]
"""
A = "%a: f64[1, 2, 6] = convolution(%x, @w, none, [1], [0], [1], false, [0], 1)\n"
B = "%b: f64[1, 2, 6] = convolution(%x, @v, @c, [1], [0], [1], false, [0], 1)\n"


def test_cat_gives_each_part_its_share() -> None:
    after, _, _ = rewritten(
        FOLD,
        f"{CONVS}{BN4}{A}{B}%cat: f64[1, 4, 6] = cat([%a, %b], 1)\n"
        f"%y: f64[1, 4, 6] = batch_norm(%cat, {BN4_ARGS})\nreturn %y }}",
    )
    assert op_names(after) == ["convolution", "convolution", "cat"]


def test_cat_on_another_axis_gives_each_part_all() -> None:
    after, _, _ = rewritten(
        FOLD,
        f"{CONVS}@k: f64[2, 1]\n{A}{B}%cat: f64[1, 2, 12] = cat([%a, %b], 2)\n"
        f"%y: f64[1, 2, 12] = mul.Tensor(%cat, @k)\nreturn %y }}",
    )
    assert op_names(after) == ["convolution", "convolution", "cat"]


def test_cat_with_a_constant_part() -> None:
    """A class token in front of the patches."""
    text = """program(%x: f64[1, 6, 3]) normalized {
      @w: f64[4, 3]
      @cls: f64[1, 1, 4]
      @k: f64[4]
      %fc: f64[1, 6, 4] = linear(%x, @w, none)
      %cat: f64[1, 7, 4] = cat([@cls, %fc], 1)
      %y: f64[1, 7, 4] = mul.Tensor(%cat, @k)
      return %y
    }"""
    after, _, _ = rewritten(FOLD, text)
    assert op_names(after) == ["linear", "cat"]
    original = parse_program(text).weights
    assert torch.equal(after.weights["cls_1"], original["cls"] * original["k"])


@pytest.mark.parametrize("op", ["add", "sub"])
def test_sum_takes_the_shift_once(op: str) -> None:
    after, _, _ = rewritten(
        FOLD,
        f"{CONVS}@k: f64[2, 1]\n@t: f64[2, 1]\n{A}{B}%sum: f64[1, 2, 6] = {op}.Tensor(%a, %b)\n"
        "%m: f64[1, 2, 6] = mul.Tensor(%sum, @k)\n%y: f64[1, 2, 6] = add.Tensor(%m, @t)\nreturn %y }",
    )
    assert op_names(after) == ["convolution", "convolution", op]


def test_average_pool_without_counted_padding() -> None:
    pool = "%p: f64[1, 2, 3] = avg_pool1d(%a, [2], [2], [0], false, true)\n"
    after, _, _ = rewritten(FOLD, f"{CONVS}@k: f64[2, 1]\n{A}{pool}%y: f64[1, 2, 3] = add.Tensor(%p, @k)\nreturn %y }}")
    assert op_names(after) == ["convolution", "avg_pool1d"]


@pytest.mark.parametrize(("count_pad", "folds"), [("false", True), ("true", False)])
def test_average_pool_with_padding(count_pad: str, folds: bool) -> None:
    text = f"""program(%x: f64[1, 3, 6, 6]) normalized {{
      @w: f64[4, 3, 1, 1]
      {BN4}
      %a: f64[1, 4, 6, 6] = convolution(%x, @w, none, [1, 1], [0, 0], [1, 1], false, [0, 0], 1)
      %p: f64[1, 4, 6, 6] = avg_pool2d(%a, [3, 3], [1, 1], [1, 1], false, {count_pad}, none)
      %y: f64[1, 4, 6, 6] = batch_norm(%p, {BN4_ARGS})
      return %y
    }}"""
    after, applied, _ = rewritten(FOLD, text)
    assert bool(applied) == folds
    assert op_names(after) == ["convolution", "avg_pool2d"] + ([] if folds else ["batch_norm"])


def test_zero_scale_folds() -> None:
    """The last batch norm of a residual block is often initialized with zeros."""
    after, _, _ = rewritten(
        FOLD, f"{CONVS}@k: f64[2, 1] = [[0.0], [1.0]]\n{A}%y: f64[1, 2, 6] = mul.Tensor(%a, @k)\nreturn %y }}"
    )
    assert op_names(after) == ["convolution"]


# refusals


def test_refuses_a_producer_with_a_second_user() -> None:
    reason = refusal(
        FOLD,
        f"{CONVS}@k: f64[2, 1]\n{A}%y: f64[1, 2, 6] = mul.Tensor(%a, @k)\n"
        "%r: f64[1, 2, 6] = relu(%a)   # side\nreturn (%y, %r) }",
    )
    assert reason == "its producer a has other users: r"


def test_refuses_one_convolution_under_two_batch_norms() -> None:
    rest = "none, @c, @s, false, 0.1, 1e-05, false)"
    first = f"%m: f64[1, 2, 6] = batch_norm(%a, none, {rest}   # first"
    second = f"%n: f64[1, 2, 6] = batch_norm(%a, @s, {rest}   # second"
    text = f"{CONVS}@s: f64[2] = positive(1)\n{A}{first}\n{second}\nreturn (%m, %n) }}"
    after, applied, refused = rewritten(FOLD, text)
    assert not applied
    assert op_names(after) == ["convolution", "batch_norm", "batch_norm"]
    assert {s.layers: s.reason for s in refused} == {
        ("first",): "its producer a has other users: n",
        ("second",): "its producer a has other users: m",
    }


def test_refuses_a_producer_that_is_returned() -> None:
    reason = refusal(FOLD, f"{CONVS}@k: f64[2, 1]\n{A}%y: f64[1, 2, 6] = mul.Tensor(%a, @k)\nreturn (%y, %a) }}")
    assert reason == "its producer a has other users: output"


def test_refuses_a_value_that_a_sum_reads_twice() -> None:
    reason = refusal(
        FOLD,
        f"{CONVS}@k: f64[2, 1]\n{A}%s: f64[1, 2, 6] = add.Tensor(%a, %a)\n"
        f"%y: f64[1, 2, 6] = mul.Tensor(%s, @k)\nreturn %y }}",
    )
    assert (
        reason
        == "its producer s is a sum of which one term cannot take it: its producer a has other users: it is read twice"
    )


def test_refuses_a_cat_that_reads_a_value_twice() -> None:
    reason = refusal(
        FOLD,
        f"{CONVS}{BN4}{A}%cat: f64[1, 4, 6] = cat([%a, %a], 1)\n"
        f"%y: f64[1, 4, 6] = batch_norm(%cat, {BN4_ARGS})\nreturn %y }}",
    )
    assert reason == "its producer is cat, a cat of values with other users"


def test_refuses_batch_norm_over_tokens() -> None:
    reason = refusal(
        FOLD,
        f"""program(%x: f64[2, 4, 3]) normalized {{
          @w: f64[4, 3]
          {BN4}
          %fc: f64[2, 4, 4] = linear(%x, @w, none)
          %bn: f64[2, 4, 4] = batch_norm(%fc, {BN4_ARGS})
          return %bn
        }}""",
    )
    assert reason == "it lies along axis 1 of fc, whose channels are axis 2"


def test_refuses_a_constant_along_the_width() -> None:
    reason = refusal(FOLD, f"{CONVS}@k: f64[6]\n{A}%y: f64[1, 2, 6] = mul.Tensor(%a, @k)\nreturn %y }}")
    assert reason == "it lies along axis 2 of a, whose channels are axis 1"


def test_leaves_constants_that_vary_along_two_axes_or_grow_the_value() -> None:
    for constant, y in (("f64[2, 6]", "f64[1, 2, 6]"), ("f64[5, 1, 1]", "f64[5, 2, 6]")):
        text = f"{CONVS}@k: {constant}\n{A}%y: {y} = mul.Tensor(%a, @k)\nreturn %y }}"
        assert rewritten(FOLD, text)[1:] == ([], [])


def test_refuses_a_non_linear_producer() -> None:
    reason = refusal(
        FOLD,
        f"{CONVS}{BN4}{A}%cat: f64[1, 4, 6] = cat([%a, %a], 1)\n%r: f64[1, 4, 6] = relu(%cat)   # act\n"
        f"%y: f64[1, 4, 6] = batch_norm(%r, {BN4_ARGS})\nreturn %y }}",
    )
    assert reason == "its producer r (act) is not linear"


def test_refuses_preactivation() -> None:
    """DenseNet: cat -> BN -> ReLU, the cat's parts being read by later cats too."""
    after, applied, refused = rewritten(
        FOLD,
        f"{CONVS}{BN4}{A}{B}%cat: f64[1, 4, 6] = cat([%a, %b], 1)   # block\n"
        f"%bn: f64[1, 4, 6] = batch_norm(%cat, {BN4_ARGS})   # block.norm\n%r: f64[1, 4, 6] = relu(%bn)\n"
        "%later: f64[1, 8, 6] = cat([%a, %b, %r], 1)\nreturn %later }",
    )
    assert not applied
    assert op_names(after).count("batch_norm") == 1
    assert [(s.layers, s.reason) for s in refused] == [
        (("block.norm",), "its producer is cat (block), a cat of values with other users (later)")
    ]


def test_refuses_an_input() -> None:
    assert (
        refusal(
            FOLD,
            "program(%x: f64[1, 2, 6]) normalized { @k: f64[2, 1]\n%y: f64[1, 2, 6] = mul.Tensor(%x, @k)\nreturn %y }",
        )
        == "it reads an input"
    )


def test_refuses_to_lose_precision() -> None:
    program = parse_program(
        f"""program(%x: bf16[1, 3, 6]) normalized {{
          @w: bf16[4, 3, 1]
          {BN4.replace("f64", "f32")}
          %c: bf16[1, 4, 6] = convolution(%x, @w, none, [1], [0], [1], false, [0], 1)   # conv
          %bn: bf16[1, 4, 6] = batch_norm(%c, {BN4_ARGS})
          return %bn
        }}"""
    )
    _, applied, refused = FOLD.run(program)
    assert not applied
    assert [s.reason for s in refused] == [
        "c (conv) would lose precision: a float32 affine does not fit a bfloat16 weight"
    ]


def test_refuses_a_change_of_type() -> None:
    program = parse_program(
        """program(%x: bf16[1, 3, 6]) normalized {
          @w: bf16[4, 3, 1]
          @k: f32[4, 1]
          %c: bf16[1, 4, 6] = convolution(%x, @w, none, [1], [0], [1], false, [0], 1)
          %y: f32[1, 4, 6] = mul.Tensor(%c, @k)
          return %y
        }"""
    )
    _, applied, refused = FOLD.run(program)
    assert not applied
    assert [s.reason for s in refused] == ["it turns bfloat16 into float32"]


@pytest.mark.parametrize(("weight", "var"), [("inf", "1.0"), ("nan", "1.0"), ("1.0", "0.0")])
def test_refuses_infinite_scales(weight: str, var: str) -> None:
    program = parse_program(
        f"""program(%x: f64[1, 3, 6]) normalized {{
          @w: f64[2, 3, 1]
          @g: f64[2] = [1.0, {weight}]
          @b: f64[2]
          @m: f64[2]
          @v: f64[2] = [1.0, {var}]
          %c: f64[1, 2, 6] = convolution(%x, @w, none, [1], [0], [1], false, [0], 1)
          %y: f64[1, 2, 6] = batch_norm(%c, @g, @b, @m, @v, false, 0.1, 0.0, false)
          return %y
        }}"""
    )
    _, applied, refused = FOLD.run(program)
    assert not applied
    assert [s.reason for s in refused] == ["its scale or shift is infinite or not a number"]


def test_refuses_overflow_of_the_weight_type() -> None:
    program = parse_program(
        """program(%x: f16[1, 1, 6]) normalized {
          @conv.weight: f16[2, 1, 1] = [[[60000.0]], [[1.0]]]
          @k: f16[2, 1] = [[2.0], [1.0]]
          %c: f16[1, 2, 6] = convolution(%x, @conv.weight, none, [1], [0], [1], false, [0], 1)
          %y: f16[1, 2, 6] = mul.Tensor(%c, @k)
          return %y
        }"""
    )
    _, applied, refused = FOLD.run(program)
    assert not applied
    assert [s.reason for s in refused] == ["the folded conv.weight overflows float16"]


@pytest.mark.parametrize("statistics", ["none, none", "@c, @v"], ids=["without", "with"])
def test_refuses_batch_norm_in_training_mode(statistics: str) -> None:
    norm = f"batch_norm(%a, none, none, {statistics}, true, 0.0, 1e-05, false)"  # no momentum: it writes nothing
    head = CONVS.replace("@v: f64[2, 3, 1]", "@v: f64[2] = positive(1)") if "@" in statistics else CONVS
    reason = refusal(FOLD, f"{head}{A}%y: f64[1, 2, 6] = {norm}\nreturn %y }}")
    assert reason == "batch norm in training mode normalizes by its input, so it is not affine"


def test_refuses_computed_statistics() -> None:
    text = """program(%x: f64[1, 2, 6], %m: f64[2], %v: f64[2]) normalized {
      @w: f64[2, 2, 1]
      %a: f64[1, 2, 6] = convolution(%x, @w, none, [1], [0], [1], false, [0], 1)
      %y: f64[1, 2, 6] = batch_norm(%a, none, none, %m, %v, false, 0.1, 1e-05, false)
      return %y
    }"""
    _, applied, refused = FOLD.run(parse_program(text))
    assert not applied
    assert [s.reason for s in refused] == ["its statistics or parameters are computed from inputs"]


def test_refuses_a_computed_weight() -> None:
    reason = refusal(
        FOLD,
        """program(%x: f64[1, 2, 6], %w: f64[2, 2, 1]) normalized {
          @k: f64[2, 1]
          %a: f64[1, 2, 6] = convolution(%x, %w, none, [1], [0], [1], false, [0], 1)
          %y: f64[1, 2, 6] = mul.Tensor(%a, @k)
          return %y
        }""",
    )
    assert reason == "the weight of a is computed from inputs"


def test_refuses_a_reshape_that_mixes_the_channels() -> None:
    reason = refusal(
        FOLD,
        """program(%x: f64[1, 3, 6]) normalized {
          @w: f64[2, 3, 1]
          @k: f64[12]
          %a: f64[1, 2, 6] = convolution(%x, @w, none, [1], [0], [1], false, [0], 1)
          %r: f64[1, 12] = reshape(%a, [1, 12])
          %y: f64[1, 12] = mul.Tensor(%r, @k)
          return %y
        }""",
    )
    assert reason == "r does not keep the channel axis whole"


def test_refuses_an_expanded_channel_axis() -> None:
    reason = refusal(
        FOLD,
        """program(%x: f64[1, 3, 6]) normalized {
          @w: f64[1, 3, 1]
          @k: f64[4, 1]
          %a: f64[1, 1, 6] = convolution(%x, @w, none, [1], [0], [1], false, [0], 1)
          %e: f64[1, 4, 6] = expand(%a, [1, 4, 6])
          %y: f64[1, 4, 6] = mul.Tensor(%e, @k)
          return %y
        }""",
    )
    assert reason == "e does not keep the channel axis whole"


def test_refuses_a_broadcast_sum() -> None:
    reason = refusal(
        FOLD,
        f"{CONVS}@k: f64[2, 1]\n{A}{B}%m: f64[1, 2, 1] = mean.dim(%b, [2], true)\n"
        "%s: f64[1, 2, 6] = add.Tensor(%a, %m)\n%y: f64[1, 2, 6] = mul.Tensor(%s, @k)\nreturn %y }",
    )
    assert reason == "its producer s is not a sum of equal shapes"


def test_both_batch_norms_of_a_run_are_reported() -> None:
    text = f"""program(%x: f64[1, 4, 6]) normalized {{
      {BN4}
      %r: f64[1, 4, 6] = relu(%x)
      %one: f64[1, 4, 6] = batch_norm(%r, {BN4_ARGS})   # one
      %two: f64[1, 4, 6] = batch_norm(%one, {BN4_ARGS})   # two
      return %two
    }}"""
    _, _, refused = rewritten(FOLD, text)
    assert {s.layers: s.reason for s in refused} == {
        ("one",): "its producer r is not linear",
        ("two",): "its producer r is not linear",
    }


def test_a_long_run_of_affines_is_one() -> None:
    lines = ["%y0: f64[1, 2, 6] = mul.Tensor(%a, 0.999)"]
    lines += [f"%y{i}: f64[1, 2, 6] = {'mul' if i % 2 else 'add'}.Tensor(%y{i - 1}, 0.999)" for i in range(1, 400)]
    after, applied, _ = rewritten(FOLD, f"{CONVS}{A}" + "\n".join(lines) + "\nreturn %y399 }")
    assert op_names(after) == ["convolution"]
    assert len(applied) == 1


def test_refuses_a_way_that_is_too_long() -> None:
    lines, last = [], "%a"
    for i in range(LONGEST_WAY):
        lines.append(f"%c{i}: f64[1, 2, 6] = convolution(%x, @w, none, [1], [0], [1], false, [0], 1)")
        lines.append(f"%s{i}: f64[1, 2, 6] = add.Tensor({last}, %c{i})")
        last = f"%s{i}"
    text = (
        f"{CONVS}@k: f64[2, 1]\n{A}" + "\n".join(lines) + f"\n%y: f64[1, 2, 6] = mul.Tensor({last}, @k)\nreturn %y }}"
    )
    reason = refusal(FOLD, text)
    assert reason.endswith(f"the way back to the weights is longer than {LONGEST_WAY} ops")
