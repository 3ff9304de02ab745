"""merge_branches: each kind of branch, each way of adding them up, each refusal."""

from __future__ import annotations

import pytest
import torch
from rewriting import check_docstring, op_names, refusal, rewritten

from planish.ir.text import parse_program
from planish.passes.reparameterize import merge_branches
from planish.passes.reparameterize.merge_branches import MergeBranches

MERGE = MergeBranches()

HEAD = """program(%x: f64[2, 4, 7, 6]) normalized {
  @k3: f64[4, 4, 3, 3]
  @k1: f64[4, 4, 1, 1]
  @d3: f64[4, 1, 3, 3]
  @row: f64[4, 4, 1, 3]
  @column: f64[4, 4, 3, 1]
  @b: f64[4]
  @m: f64[4]
  @v: f64[4] = positive(3)
  @h: f64[7, 1]
"""
TYPE = "f64[2, 4, 7, 6]"
ONE = "[1, 1], [0, 0], [1, 1], false, [0, 0], 1"
BN = "@b, @b, @m, @v, false, 0.1, 1e-05, false"


def conv(source: str, weight: str, pad: str = "0, 0", groups: int = 1, dilation: int = 1) -> str:
    rest = f"[1, 1], [{pad}], [{dilation}, {dilation}], false, [0, 0], {groups}"
    return f"convolution({source}, {weight}, @b, {rest})"


def program(*calls: str, results: str = "") -> str:
    """Statements v0, v1, ... of the input's type; the last is returned."""
    weights = {line.split(":")[0].strip() for line in HEAD.splitlines() if "@" in line}
    used = [w for w in weights if any(f"{w}," in call or f"{w})" in call for call in calls)]
    head = "\n".join(line for line in HEAD.splitlines() if "@" not in line or line.split(":")[0].strip() in used)
    body = "\n".join(f"%v{i}: {TYPE} = {call}" for i, call in enumerate(calls))
    return f"{head}\n{body}\nreturn {results or f'%v{len(calls) - 1}'}\n}}"


K3, K1, D3 = conv("%x", "@k3", "1, 1"), conv("%x", "@k1"), conv("%x", "@d3", "1, 1", 4)
NORM = f"batch_norm(%x, {BN})"
POOL = "avg_pool2d(%x, [3, 3], [1, 1], [1, 1], false, true, none)"


def test_docstring() -> None:
    check_docstring(MERGE, merge_branches)


@pytest.mark.parametrize(
    ("calls", "kernel"),
    [
        ((K3, K1, "add.Tensor(%v0, %v1)"), [4, 4, 3, 3]),
        ((K3, "sub.Tensor(%x, %v0)"), [4, 4, 3, 3]),
        ((D3, NORM, "sub.Tensor(%v0, %v1)"), [4, 1, 3, 3]),
        ((D3, NORM, "sub.Tensor(%v0, %v1)", "mul.Tensor(%v2, -0.5)", "add.Tensor(%x, %v3)"), [4, 1, 3, 3]),
        ((K3, POOL, "add.Tensor(%v0, %v1)"), [4, 4, 3, 3]),
        ((K3, D3, "sub.Tensor(%v0, %v1)"), [4, 4, 3, 3]),
        (
            (K3, conv("%x", "@row", "0, 1"), conv("%x", "@column", "1, 0"), "add.Tensor(%v1, %v2)",
             "add.Tensor(%v3, %v0)"),
            [4, 4, 3, 3],
        ),
        ((conv("%x", "@k3", "2, 2", dilation=2), K1, "add.Tensor(%v0, %v1)"), [4, 4, 3, 3]),
        ((K3, conv("%x", "@k3", "1, 1"), "add.Tensor(%v0, %v1)"), [4, 4, 3, 3]),
        ((K1, conv("%v0", "@k1"), "add.Tensor(%x, %v1)"), [4, 4, 1, 1]),
    ],
    ids=["1x1", "identity", "norm", "scaled", "pool", "grouped", "asymmetric", "dilated", "twins", "chain"],
)  # fmt: skip
def test_branches_become_one_convolution(calls: tuple[str, ...], kernel: list[int]) -> None:
    after, applied, _ = rewritten(MERGE, program(*calls))
    assert op_names(after) == ["convolution"]
    assert applied
    assert [list(w.shape) for w in after.weights.values() if w.dim() > 1] == [kernel]


def test_what_is_not_linear_stays_in_the_sum() -> None:
    calls = (K3, K1, "relu(%x)", "add.Tensor(%v0, %v2)", "sub.Tensor(%v3, %v1)")
    after, applied, _ = rewritten(MERGE, program(*calls))
    assert op_names(after) == ["relu", "convolution", "add"]
    assert len(applied) == 1


def test_two_groups_in_one_sum() -> None:
    calls = (K3, K1, "relu(%x)", conv("%v2", "@k3", "1, 1"), conv("%v2", "@k1"))
    sums = ("add.Tensor(%v0, %v3)", "add.Tensor(%v5, %v1)", "add.Tensor(%v6, %v4)")
    after, _, _ = rewritten(MERGE, program(*calls, *sums))
    assert sorted(op_names(after)) == ["add", "convolution", "convolution", "relu"]


def test_strided_blocks_merge() -> None:
    text = """program(%x: f64[1, 2, 7, 8]) normalized {
      @a: f64[3, 2, 3, 3]
      @b: f64[3, 2, 1, 1]
      %p: f64[1, 3, 4, 4] = convolution(%x, @a, none, [2, 2], [1, 1], [1, 1], false, [0, 0], 1)
      %q: f64[1, 3, 4, 4] = convolution(%x, @b, none, [2, 2], [0, 0], [1, 1], false, [0, 0], 1)
      %y: f64[1, 3, 4, 4] = add.Tensor(%p, %q)
      return %y
    }"""
    assert op_names(rewritten(MERGE, text)[0]) == ["convolution"]


def test_a_branch_that_crops_its_input() -> None:
    text = """program(%x: f64[1, 2, 7, 8]) normalized {
      @a: f64[3, 2, 3, 3]
      @b: f64[3, 2, 3, 1]
      %p: f64[1, 3, 5, 6] = convolution(%x, @a, none, [1, 1], [0, 0], [1, 1], false, [0, 0], 1)
      %s: f64[1, 2, 7, 6] = slice.Tensor(%x, 3, 1, 7, 1)
      %q: f64[1, 3, 5, 6] = convolution(%s, @b, none, [1, 1], [0, 0], [1, 1], false, [0, 0], 1)
      %y: f64[1, 3, 5, 6] = add.Tensor(%p, %q)
      return %y
    }"""
    assert op_names(rewritten(MERGE, text)[0]) == ["convolution"]


def test_a_crop_of_channels_is_none_of_positions() -> None:
    text = """program(%x: f64[1, 4, 5]) normalized {
      @a: f64[2, 4, 1]
      @b: f64[2, 2, 1]
      %p: f64[1, 2, 5] = convolution(%x, @a, none, [1], [0], [1], false, [0], 1)
      %s: f64[1, 2, 5] = slice.Tensor(%x, 1, 1, 3, 1)
      %q: f64[1, 2, 5] = convolution(%s, @b, none, [1], [0], [1], false, [0], 1)
      %y: f64[1, 2, 5] = add.Tensor(%p, %q)
      return %y
    }"""
    assert op_names(rewritten(MERGE, text)[0]) == ["convolution", "slice", "convolution", "add"]


def test_a_value_added_to_itself() -> None:
    after, _, _ = rewritten(MERGE, program(f"relu({K1})".replace(K1, "%x"), "add.Tensor(%v0, %v0)"))
    assert op_names(after) == ["relu", "mul"]


LINEAR = """program(%x: f64[3, 5, 8]) normalized {
  @w: f64[6, 8]
  @a: f64[2, 8]
  @b: f64[6, 2]
  @c: f64[2, 6]
"""


def test_low_rank_adapter_beside_a_linear_layer() -> None:
    text = f"""{LINEAR}
      %y: f64[3, 5, 6] = linear(%x, @w, none)
      %p: f64[3, 5, 2] = linear(%x, @a, none)
      %q: f64[3, 5, 6] = linear(%p, @b, none)
      %s: f64[3, 5, 6] = mul.Tensor(%q, 0.5)
      %z: f64[3, 5, 6] = add.Tensor(%y, %s)
      return %z
    }}""".replace("  @c: f64[2, 6]\n", "")
    after, _, _ = rewritten(MERGE, text)
    given = parse_program(text).weights
    assert op_names(after) == ["linear"]
    (weight,) = after.weights.values()
    assert torch.allclose(weight, given["w"] + 0.5 * given["b"] @ given["a"], rtol=1e-14)


def test_low_rank_adapter_behind_a_linear_layer() -> None:
    # y + B C y takes 6*6 alone, more than 2*6*2 + 6; with the layer that made y it is 8*6
    text = f"""{LINEAR}
      %y: f64[3, 5, 6] = linear(%x, @w, none)
      %p: f64[3, 5, 2] = linear(%y, @c, none)
      %q: f64[3, 5, 6] = linear(%p, @b, none)
      %z: f64[3, 5, 6] = add.Tensor(%y, %q)
      return %z
    }}""".replace("  @a: f64[2, 8]\n", "")
    assert op_names(rewritten(MERGE, text)[0]) == ["linear"]


def frame(value: str, width: int = 6) -> list[str]:
    """Statements that put a border of a constant around %v1 of shape [2, 4, 7, 6], as written models do."""
    return [
        "%p: f64[2, 4, 9, 8] = constant_pad_nd(%v1, [1, 1, 1, 1], 0.0)",
        f"%e: f64[2, 4, 1, 8] = expand({value}, [2, 4, 1, 8])",
        f"%f: f64[2, 4, 9, 1] = expand({value}, [2, 4, 9, 1])",
        "%s1: f64[2, 4, 8, 8] = slice.Tensor(%p, 2, 1, 9, 1)",
        "%c1: f64[2, 4, 9, 8] = cat([%e, %s1], 2)",
        "%s2: f64[2, 4, 8, 8] = slice.Tensor(%c1, 2, 0, 8, 1)",
        "%c2: f64[2, 4, 9, 8] = cat([%s2, %e], 2)",
        "%s3: f64[2, 4, 9, 7] = slice.Tensor(%c2, 3, 1, 8, 1)",
        "%c3: f64[2, 4, 9, 8] = cat([%f, %s3], 3)",
        "%s4: f64[2, 4, 9, 7] = slice.Tensor(%c3, 3, 0, 7, 1)",
        "%c4: f64[2, 4, 9, 8] = cat([%s4, %f], 3)",
    ]


def framed(value: str, bias: str) -> str:
    lines = [
        HEAD.replace("  @d3: f64[4, 1, 3, 3]\n  @row: f64[4, 4, 1, 3]\n  @column: f64[4, 4, 3, 1]\n", "")
        .replace("  @m: f64[4]\n  @v: f64[4] = positive(3)\n", ""),
        "@t: f64[4, 1, 1] = [[[1.0]], [[-2.0]], [[0.5]], [[0.0]]]",
        "@u: f64[4] = [1.0, -2.0, 0.5, 0.0]",
        f"%v0: {TYPE} = {K3}",
        f"%v1: {TYPE} = convolution(%x, @k1, {bias}, {ONE})",
        *frame(value),
        f"%v2: {TYPE} = avg_pool2d(%c4, [3, 3], [1, 1], [0, 0], false, true, none)",
        f"%v3: {TYPE} = add.Tensor(%v0, %v2)",
        "return %v3",
    ]  # fmt: skip
    text = "\n".join(lines) + "\n}"
    return text if "@u" in bias else text.replace("@u: f64[4] = [1.0, -2.0, 0.5, 0.0]\n", "")


def test_a_border_of_the_bias_makes_a_padded_chain_exact() -> None:
    after, applied, _ = rewritten(MERGE, framed("@t", "@u"))
    assert op_names(after) == ["convolution"]
    assert len(applied) == 1


def test_a_border_of_anything_else_leaves_a_map() -> None:
    after, _, _ = rewritten(MERGE, framed("@t", "@b"))
    assert op_names(after) == ["convolution", "add"]


def test_refuses_more_work() -> None:
    rows, columns = conv("%x", "@row", "0, 1"), conv("%x", "@column", "1, 0")
    reason = refusal(MERGE, program(rows, columns, "add.Tensor(%v0, %v1)"))
    # 2 * 42 places, 4x4 channels, 9 taps against 3 + 3
    assert reason == "one operator would take 12096 multiply-adds where its branches take 8064"


def test_refuses_dense_and_depthwise_of_larger_kernel() -> None:
    reason = refusal(MERGE, program(K1, D3, "add.Tensor(%v0, %v1)"))
    assert reason == "one operator would take 12096 multiply-adds where its branches take 4368"


def test_refuses_different_strides() -> None:
    text = """program(%x: f64[1, 1, 2]) normalized {
      @a: f64[1, 1, 1]
      @b: f64[1, 1, 3]
      %p: f64[1, 1, 2] = convolution(%x, @a, none, [1], [0], [1], false, [0], 1)
      %q: f64[1, 1, 2] = convolution(%x, @b, none, [2], [2], [1], false, [0], 1)
      %y: f64[1, 1, 2] = add.Tensor(%p, %q)
      return %y
    }"""
    assert refusal(MERGE, text) == "their strides [2] and [1] differ"


def test_refuses_a_chain_that_pads_what_it_computed() -> None:
    calls = (K3, conv("%v0", "@k3", "1, 1"), conv("%x", "@k1"), "add.Tensor(%v1, %v2)")
    reason = refusal(MERGE, program(*calls))
    assert reason.startswith("the second pads what the first computes")


def test_refuses_uneven_padding() -> None:
    text = """program(%x: f64[1, 1, 6]) normalized {
      @a: f64[1, 1, 4]
      @b: f64[1, 1, 3]
      %p: f64[1, 1, 5] = convolution(%x, @a, none, [1], [1], [1], false, [0], 1)
      %s: f64[1, 1, 5] = constant_pad_nd(%x, [0, -1], 0.0)
      %q: f64[1, 1, 5] = convolution(%s, @b, none, [1], [1], [1], false, [0], 1)
      %y: f64[1, 1, 5] = add.Tensor(%p, %q)
      return %y
    }"""
    after, _, _ = rewritten(MERGE, text)  # the cut reads the last element in one branch only
    assert op_names(after)[-1] == "add"


@pytest.mark.parametrize(
    "calls",
    [
        (K3, K1, "add.Tensor(%v0, %v1)", "relu(%v1)", "mul.Tensor(%v2, %v3)"),
        (f"batch_norm(%x, {BN.replace('false, 0.1', 'true, 0.1')})", K3, "add.Tensor(%v0, %v1)"),
        (K3, "avg_pool2d(%x, [3, 3], [1, 1], [1, 1], false, false, none)", "add.Tensor(%v0, %v1)"),
        (K3, "relu(%v0)", "add.Tensor(%v1, %x)"),
        ("avg_pool2d(%x, [3, 3], [1, 1], [1, 1], false, true, none)", "sub.Tensor(%v0, %x)"),
        (K3, "mul.Tensor(%x, @h)", "add.Tensor(%v0, %v1)"),
    ],
    ids=["second-user", "train-mode", "excluded-padding", "non-linear", "pool-mixer", "another-axis"],
)
def test_is_no_candidate(calls: tuple[str, ...]) -> None:
    after, applied, refused = rewritten(MERGE, program(*calls))
    assert (applied, refused) == ([], [])
    assert len(op_names(after)) == len(calls)


def test_refuses_branches_and_what_they_read_where_one_kernel_takes_more() -> None:
    calls = (K1, conv("%v0", "@d3", "1, 1", 4), conv("%v0", "@k1"), "add.Tensor(%v1, %v2)")
    reason = refusal(MERGE, program(*calls))
    # 2 * 7 * 6 places: 4 * 4 * 9 for the dense kernel; 4 * 9 and 4 * 4 for the branches
    assert reason == "one operator would take 12096 multiply-adds where its branches take 4368"


def test_numbers_without_an_axis_have_no_branches() -> None:
    text = """program(%x: f64[]) normalized {
      %p: f64[] = mul.Tensor(%x, 2.0)
      %y: f64[] = add.Tensor(%p, %x)
      return %y
    }"""
    assert op_names(rewritten(MERGE, text)[0]) == ["mul", "add"]


def test_refuses_to_lose_precision() -> None:
    text = """program(%x: bf16[1, 2, 4]) normalized {
      @w: bf16[2, 2, 1]
      @g: f32[2] = positive(1)
      %p: bf16[1, 2, 4] = convolution(%x, @w, none, [1], [0], [1], false, [0], 1)
      %n: bf16[1, 2, 4] = batch_norm(%x, @g, @g, @g, @g, false, 0.1, 1e-05, false)
      %y: bf16[1, 2, 4] = add.Tensor(%p, %n)
      return %y
    }"""
    _, applied, refused = MERGE.run(parse_program(text))
    assert not applied
    assert [s.reason for s in refused] == ["it would lose precision: float32 constants do not fit a bfloat16 weight"]
