"""merge_chains: each exact chain, and each that must stay."""

from __future__ import annotations

import pytest
import torch
from rewriting import check_docstring, op_names, refusal, rewritten

from planish.ir.text import parse_program, print_program
from planish.passes.reparameterize import merge_chains
from planish.passes.reparameterize.merge_chains import MergeChains

MERGE = MergeChains()


def test_docstring() -> None:
    check_docstring(MERGE, merge_chains)


def chain(*links: tuple[str, str, str], x: str = "2, 4, 8, 8") -> str:
    """Convolutions in a row, each (weight type, output type, arguments); those with `+` have a bias."""
    lines = [f"program(%x: f64[{x}]) normalized {{"]
    lines += [f"@w{i}: f64[{weight.strip('+')}]" for i, (weight, _, _) in enumerate(links)]
    lines += [f"@b{i}: f64[{weight.split(',')[0]}]" for i, (weight, _, _) in enumerate(links) if "+" in weight]
    source = "%x"
    for i, (weight, out, rest) in enumerate(links):
        bias = f"@b{i}" if "+" in weight else "none"
        lines.append(f"%v{i}: f64[{out}] = convolution({source}, @w{i}, {bias}, {rest})")
        source = f"%v{i}"
    return "\n".join([*lines, f"return {source}", "}"])


def rest(stride: int = 1, pad: int = 0, groups: int = 1, dilation: int = 1) -> str:
    return f"[{stride}, {stride}], [{pad}, {pad}], [{dilation}, {dilation}], false, [0, 0], {groups}"


@pytest.mark.parametrize(
    "links",
    [
        (("9, 4, 3, 3+", "2, 9, 4, 4", rest(2, 1)), ("3, 9, 1, 1+", "2, 3, 4, 4", rest())),
        (("9, 4, 1, 1", "2, 9, 8, 8", rest()), ("3, 9, 3, 3+", "2, 3, 8, 8", rest(1, 1))),
        (("9, 4, 1, 1+", "2, 9, 8, 8", rest()), ("3, 9, 3, 3", "2, 3, 6, 6", rest())),
        (("9, 4, 1, 1", "2, 9, 4, 4", rest(2)), ("3, 9, 3, 3", "2, 3, 2, 2", rest(2, 1, 1, 1))),
        (("8, 2, 3, 3", "2, 8, 6, 6", rest(1, 0, 2)), ("4, 4, 1, 1", "2, 4, 6, 6", rest(1, 0, 2))),
        (("4, 1, 3, 3", "2, 4, 8, 8", rest(1, 1, 4)), ("4, 1, 1, 1+", "2, 4, 8, 8", rest(1, 0, 4))),
        (("4, 4, 1, 1", "2, 4, 8, 8", rest()), ("4, 4, 1, 1", "2, 4, 8, 8", rest()),
         ("4, 4, 1, 1+", "2, 4, 8, 8", rest())),
    ],
    ids=["3x3-1x1", "1x1-padded", "1x1-bias-unpadded", "strides", "grouped", "depthwise-gain", "three"],
)  # fmt: skip
def test_chains_become_one(links: tuple[tuple[str, str, str], ...]) -> None:
    after, _, _ = rewritten(MERGE, chain(*links))
    assert op_names(after) == ["convolution"]


@pytest.mark.parametrize(
    ("links", "reason"),
    [
        (
            (("4, 1, 3, 3", "2, 4, 8, 8", rest(1, 1, 4)), ("4, 4, 1, 1", "2, 4, 8, 8", rest())),
            "one operator would take 18432 multiply-adds where v1 after v0 take 6656",
        ),
        (
            (("4, 4, 3, 3", "2, 4, 8, 8", rest(1, 1)), ("1, 4, 3, 3", "2, 1, 8, 8", rest(1, 1))),
            "the second pads what the first computes, where a kernel that spans both would see more of the input",
        ),
        (
            (("4, 4, 1, 5", "2, 4, 8, 4", rest()), ("4, 4, 5, 1", "2, 4, 4, 4", rest())),
            "one operator would take 12800 multiply-adds where v1 after v0 take 7680",
        ),
    ],
    ids=["separable", "padded", "spatial"],
)  # fmt: skip
def test_chains_that_stay(links: tuple[tuple[str, str, str], ...], reason: str) -> None:
    assert refusal(MERGE, chain(*links)) == reason


def test_a_bias_before_zero_padding_leaves_a_map() -> None:
    links = (("4, 4, 1, 1+", "2, 4, 8, 8", rest()), ("4, 4, 3, 3", "2, 4, 8, 8", rest(1, 1)))
    after, _, _ = rewritten(MERGE, chain(*links))  # one addition costs less than the 1x1 convolution
    assert op_names(after) == ["convolution", "add"]
    assert list(after.weights["map"].shape) == [4, 8, 8]


def test_a_map_that_costs_what_it_saves_is_refused() -> None:
    links = (("4, 1, 1, 1+", "2, 4, 8, 8", rest(1, 0, 4)), ("4, 1, 3, 3", "2, 4, 8, 8", rest(1, 1, 4)))
    assert refusal(MERGE, chain(*links)) == (
        "its bias differs from place to place, and adding that costs what is saved"
    )


LINEARS = """program(%x: f64[3, 5, 8]) normalized {{
  @a: f64[{r}, 8]
  @b: f64[{r}]
  @c: f64[6, {r}]
  %p: f64[3, 5, {r}] = linear(%x, @a, @b)
  %y: f64[3, 5, 6] = linear(%p, @c, none)
  return {out}
}}"""


def test_linear_layers() -> None:
    assert op_names(rewritten(MERGE, LINEARS.format(r=4, out="%y"))[0]) == ["linear"]


def test_low_rank_factors_stay() -> None:
    # 8 * 6 = 48 against 3 * (8 + 6) = 42, for 15 rows
    assert refusal(MERGE, LINEARS.format(r=3, out="%y")) == (
        "one operator would take 720 multiply-adds where y after p take 630"
    )


def test_a_value_with_other_readers_stays() -> None:
    after, applied, refused = rewritten(MERGE, LINEARS.format(r=4, out="(%y, %p)"))
    assert (applied, refused) == ([], [])
    assert op_names(after) == ["linear", "linear"]


def test_affines_between_go_with_them() -> None:
    text = LINEARS.format(r=8, out="%y").replace("%y: ", "%q: f64[3, 5, 8] = mul.Tensor(%p, @b)\n%y: ")
    after, _, _ = rewritten(MERGE, text.replace("linear(%p, @c", "linear(%q, @c"))
    assert op_names(after) == ["linear"]


@pytest.mark.parametrize(
    ("ceil", "size", "left"),
    [("false", 2, ["convolution"]), ("true", 3, ["convolution", "avg_pool1d", "convolution"])],
)
def test_a_pool_goes_with_them_unless_it_rounds_its_size_up(ceil: str, size: int, left: list[str]) -> None:
    text = f"""program(%x: f64[1, 2, 5]) normalized {{
      @a: f64[2, 2, 1]
      %v: f64[1, 2, 5] = convolution(%x, @a, none, [1], [0], [1], false, [0], 1)
      %p: f64[1, 2, {size}] = avg_pool1d(%v, [2], [2], [0], {ceil}, true)
      %y: f64[1, 2, {size}] = convolution(%p, @a, none, [1], [0], [1], false, [0], 1)
      return %y
    }}"""
    assert op_names(rewritten(MERGE, text)[0]) == left


def test_a_norm_of_a_wider_type_between_them_stays() -> None:
    text = """program(%x: bf16[1, 2, 4]) normalized {
      @a: bf16[2, 2, 1]
      @g: f32[2] = positive(1)
      %v: bf16[1, 2, 4] = convolution(%x, @a, none, [1], [0], [1], false, [0], 1)
      %n: bf16[1, 2, 4] = batch_norm(%v, @g, @g, @g, @g, false, 0.1, 1e-05, false)
      %y: bf16[1, 2, 4] = convolution(%n, @a, none, [1], [0], [1], false, [0], 1)
      return %y
    }"""
    _, applied, refused = MERGE.run(parse_program(text))
    assert not applied
    assert [s.reason for s in refused] == ["it would lose precision: float32 constants do not fit a bfloat16 weight"]


def test_weights_computed_from_inputs_stay() -> None:
    text = """program(%x: f64[3, 4], %w: f64[4, 4]) normalized {
      @a: f64[4, 4]
      %p: f64[3, 4] = linear(%x, %w, none)
      %y: f64[3, 4] = linear(%p, @a, none)
      return %y
    }"""
    assert rewritten(MERGE, parse_program(text))[1:] == ([], [])


SLICED = """program(%x: f64[1, 2, 7]) normalized {{
  @a: f64[3, 2, 1]
  %s: f64[1, 2, {n}] = slice.Tensor(%x, 2, {picked})
  %y: f64[1, 3, {n}] = convolution(%s, @a, none, [1], [0], [1], false, [0], 1)
  return %y
}}"""


def test_a_subsampled_input_is_a_stride() -> None:
    after, _, _ = rewritten(MERGE, SLICED.format(n=4, picked="0, 7, 2"))
    (call,) = [n for n in after.graph.nodes if n.op == "call_function"]
    assert (op_names(after), call.args[3]) == (["convolution"], [2])


def test_a_crop_that_no_padding_stands_for_stays() -> None:
    after, applied, _ = rewritten(MERGE, SLICED.format(n=5, picked="1, 6, 1"))
    assert (op_names(after), applied) == (["slice", "convolution"], [])


def test_a_pad_that_would_have_to_be_made_again_stays() -> None:
    text = """program(%x: f64[1, 2, 6, 5]) normalized {
      @w: f64[1, 2, 1, 1]
      %pad: f64[1, 2, 8, 8] = constant_pad_nd(%x, [2, 1, 0, 2], 0)
      %y: f64[1, 1, 8, 8] = convolution(%pad, @w, none, [1, 1], [0, 0], [1, 1], false, [0, 0], 1)
      return %y
    }"""
    assert rewritten(MergeChains(), text)[1] == []


def test_two_uneven_pads_become_one() -> None:
    text = """program(%x: f64[1, 2, 6, 5]) normalized {
      @w: f64[1, 2, 1, 1]
      %pad: f64[1, 2, 8, 8] = constant_pad_nd(%x, [2, 1, 0, 2], 0)
      %more: f64[1, 2, 9, 8] = constant_pad_nd(%pad, [0, 0, 0, 1], 0)
      %y: f64[1, 1, 9, 8] = convolution(%more, @w, none, [1, 1], [0, 0], [1, 1], false, [0, 0], 1)
      return %y
    }"""
    assert op_names(rewritten(MergeChains(), text)[0]) == ["constant_pad_nd", "convolution"]


def test_a_crop_before_an_uneven_pad_goes_where_no_kernel_reaches_what_it_cuts() -> None:
    text = """program(%x: f64[1, 2, 6, 5]) normalized {
      @w: f64[1, 2, 2, 2]
      %cut: f64[1, 2, 6, 4] = slice.Tensor(%x, 3, 0, 4, 1)
      %pad: f64[1, 2, 8, 4] = constant_pad_nd(%cut, [0, 0, 0, 2], 0)
      %y: f64[1, 1, 4, 2] = convolution(%pad, @w, none, [2, 2], [0, 0], [1, 1], false, [0, 0], 1)
      return %y
    }"""
    after, applied, _ = rewritten(MergeChains(), text)
    assert (op_names(after), len(applied)) == (["constant_pad_nd", "convolution"], 1)
    (pad,) = (node for node in after.graph.nodes if node.target is torch.ops.aten.constant_pad_nd.default)
    assert pad.args[1] == [0, 0, 0, 2]
    assert rewritten(MergeChains(), print_program(after))[1] == []


def test_a_pad_whose_other_end_is_cut_stays() -> None:
    text = """program(%x: f64[1, 2, 6, 5]) normalized {
      @w: f64[1, 2, 1, 1]
      %cut: f64[1, 2, 6, 4] = slice.Tensor(%x, 3, 1, 5, 1)
      %pad: f64[1, 2, 8, 4] = constant_pad_nd(%cut, [0, 0, 0, 2], 0)
      %y: f64[1, 1, 8, 4] = convolution(%pad, @w, none, [1, 1], [0, 0], [1, 1], false, [0, 0], 1)
      return %y
    }"""
    assert rewritten(MergeChains(), text)[1] == []
