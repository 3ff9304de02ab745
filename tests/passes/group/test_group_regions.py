"""group_regions: who goes with whom, family by family; every grouped program runs as the original, bit for bit."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from rewriting import blocks, op_names, random_inputs, run

from planish.errors import RewriteMismatch
from planish.ir.program import Program, Stage
from planish.ir.text import parse_program, print_program
from planish.ir.verify import verify
from planish.passes.group import group_regions
from planish.passes.group.group_regions import GroupRegions

GROUP = GroupRegions()


def grouped(text: str) -> Program:
    """Group, verify, and compare bits with the original; twice, for the same text."""
    before = parse_program(text)
    after, applied, refused = GROUP.run(before)
    verify(after)
    assert after.stage is Stage.GROUPED
    assert [s.node for s in applied] == list(after.regions)
    assert not refused
    assert print_program(GROUP.run(parse_program(text))[0]) == print_program(after)
    inputs = random_inputs(before)
    for old, new in zip(run(before, inputs), run(after, inputs), strict=True):
        assert torch.equal(old, new)
    return after


def cut(text: str) -> list[str]:
    """Each region as "kind: op op"."""
    return [f"{region.kind}: {' '.join(op_names(region))}" for region in grouped(text).regions.values()]


def test_docstring() -> None:
    before, after = blocks(group_regions)
    assert print_program(grouped(before)).strip() == print_program(parse_program(after)).strip()


def test_a_limit_of_zero_groups_nothing() -> None:
    before = parse_program(blocks(group_regions)[0])
    assert GROUP.run(before, limit=0) == (before, [], [])


def test_a_grouped_program_stays_as_it_is() -> None:
    after = grouped(blocks(group_regions)[0])
    assert GROUP.run(after) == (after, [], [])


def test_verify_measures_each_region(monkeypatch: pytest.MonkeyPatch) -> None:
    before = parse_program(blocks(group_regions)[0])
    assert [site.error for site in GROUP.run(before, verify=True)[1]] == [0.0]
    rebuild = group_regions._rebuild

    def broken(*arguments: Any) -> Any:
        graph, regions = rebuild(*arguments)
        (relu,) = (n for n in regions["r00_conv"].body.nodes if n.target is torch.ops.aten.relu.default)
        relu.target = torch.ops.aten.neg.default
        return graph, regions

    monkeypatch.setattr(group_regions, "_rebuild", broken)
    with pytest.raises(RewriteMismatch, match="rule group_regions at r00_conv"):
        GROUP.run(before, verify=True)


CONV = "[1, 1], [0, 0], [1, 1], false, [0, 0], 1"
HEAD = """program(%x: f32[1, 4, 6, 6]) normalized {
  @w: f32[4, 4, 1, 1]
  @v: f32[4, 4, 1, 1]
  @k: f32[4, 1, 1]
"""
A = f"%a: f32[1, 4, 6, 6] = convolution(%x, @w, none, {CONV})   # a\n"
B = f"%b: f32[1, 4, 6, 6] = convolution(%x, @v, none, {CONV})   # b\n"
AT = "f32[1, 4, 6, 6]"


def net(*lines: str, result: str = "%y") -> str:
    """HEAD, some lines, and what they return."""
    return HEAD + "\n".join(lines) + f"\nreturn {result} }}"


# convolutions and their epilogues


def test_a_run_of_pointwise_ops_follows_its_convolution() -> None:
    text = net(A, f"%m: {AT} = mul.Tensor(%a, @k)", f"%s: {AT} = add.Tensor(%m, %x)", f"%y: {AT} = clamp(%s, 0.0, 6.0)")
    assert cut(text) == ["conv: convolution mul add clamp"]


def test_inputs_in_call_order_and_layers_anchor_first() -> None:
    after = grouped(net(f"%r: {AT} = relu(%x)   # act", A, f"%y: {AT} = add.Tensor(%r, %a)   # sum"))
    region = after.regions["r01_conv"]
    assert [p.name for p in region.placeholders] == ["x", "w", "r"]
    assert region.layers == ("a", "sum")
    call = next(n for n in after.graph.nodes if n.target == "r01_conv")
    assert [str(a.target) for a in call.args] == ["x", "w", "r00_pointwise"]
    assert [origin.layer for origin in call.meta["origins"]] == ["a", "sum"]
    assert region.anchor_node is not None
    assert (region.prologue, [n.name for n in region.epilogue]) == ([], ["y"])


def test_a_residual_sum_goes_to_its_later_producer() -> None:
    assert cut(net(A, B, f"%s: {AT} = add.Tensor(%a, %b)", f"%y: {AT} = relu(%s)")) == [
        "conv: convolution",
        "conv: convolution add relu",
    ]
    assert cut(net(B, A, f"%s: {AT} = add.Tensor(%a, %b)", f"%y: {AT} = relu(%s)")) == [
        "conv: convolution",
        "conv: convolution add relu",
    ]


def test_a_diamond_that_closes_is_an_epilogue() -> None:
    text = net(
        A,
        f"%p: {AT} = add.Tensor(%a, 3.0)",
        f"%c: {AT} = clamp(%p, 0.0, 6.0)",
        f"%m: {AT} = mul.Tensor(%a, %c)",
        f"%y: {AT} = div.Tensor(%m, 6.0)",
    )
    assert cut(text) == ["conv: convolution add clamp mul div"]


def test_a_diamond_with_a_way_out_is_not() -> None:
    text = net(A, f"%s: {AT} = sigmoid(%a)", f"%y: {AT} = mul.Tensor(%a, %s)", result="(%y, %s)")
    assert cut(text) == ["conv: convolution", "pointwise: sigmoid", "pointwise: mul"]


def test_a_diamond_through_another_anchor_is_not() -> None:
    """Squeeze and excite: the gate is its own small kernels, the product reads two results."""
    text = net(
        A,
        f"%act: {AT} = relu(%a)",
        "%mean: f32[1, 4, 1, 1] = mean.dim(%act, [2, 3], true)",
        f"%fc: f32[1, 4, 1, 1] = convolution(%mean, @v, none, {CONV})",
        "%gate: f32[1, 4, 1, 1] = hardsigmoid(%fc)",
        f"%y: {AT} = mul.Tensor(%act, %gate)",
    )
    assert cut(text) == ["conv: convolution relu", "reduce: mean", "conv: convolution hardsigmoid", "pointwise: mul"]


def test_an_epilogue_keeps_the_anchors_shape() -> None:
    text = net(A, "%y: f32[5, 4, 6, 6] = add.Tensor(%a, @big)").replace("  @k", "  @big: f32[5, 4, 6, 6]\n  @k")
    assert cut(text) == ["conv: convolution", "pointwise: add"]


def test_a_value_with_several_users_ends_the_epilogue() -> None:
    text = net(A, f"%r: {AT} = relu(%a)", f"%n: {AT} = neg(%a)", result="(%r, %n)")
    assert cut(text) == ["conv: convolution", "pointwise: relu", "pointwise: neg"]


def test_a_value_that_is_returned_ends_the_epilogue() -> None:
    assert cut(net(A, f"%y: {AT} = relu(%a)", result="(%y, %a)")) == ["conv: convolution", "pointwise: relu"]


def test_a_sum_with_itself() -> None:
    assert cut(net(A, f"%y: {AT} = add.Tensor(%a, %a)")) == ["conv: convolution add"]


def test_a_view_before_a_convolution_or_a_pool_is_stored() -> None:
    text = net(
        f"%p: {AT} = permute(%x, [0, 1, 3, 2])",
        f"%c: {AT} = convolution(%p, @w, none, {CONV})",
        f"%f: {AT} = flip(%c, [2])",
        f"%y: {AT} = max_pool2d(%f, [3, 3], [1, 1], [1, 1], [1, 1], false)",
    )
    assert cut(text) == ["view: permute", "conv: convolution", "view: flip", "pool: max_pool2d"]


def test_pointwise_ops_before_a_convolution_are_stored_with_their_views() -> None:
    text = net(
        f"%r: {AT} = relu(%x)", f"%p: {AT} = permute(%r, [0, 1, 3, 2])", f"%y: {AT} = convolution(%p, @w, none, {CONV})"
    )
    assert cut(text) == ["pointwise: relu permute", "conv: convolution"]


# linear, matmul, attention


def test_views_are_copied_into_the_linear_layers_that_read_them() -> None:
    text = """program(%x: f32[2, 4, 6]) normalized {
      @w: f32[3, 4]
      @v: f32[5, 4]
      %r: f32[2, 4, 6] = relu(%x)
      %p: f32[2, 6, 4] = permute(%r, [0, 2, 1])
      %f: f32[12, 4] = reshape(%p, [12, 4])
      %a: f32[12, 3] = linear(%f, @w, none)
      %g: f32[12, 3] = gelu(%a, approximate="none")
      %b: f32[12, 5] = linear(%f, @v, none)
      return (%g, %b)
    }"""
    assert cut(text) == ["pointwise: relu", "linear: permute reshape linear gelu", "linear: permute reshape linear"]


def test_a_view_of_an_epilogue_operand_is_stored() -> None:
    text = """program(%x: f32[4, 4], %r: f32[4, 4]) normalized {
      @w: f32[4, 4]
      %a: f32[4, 4] = linear(%x, @w, none)
      %p: f32[4, 4] = permute(%r, [1, 0])
      %y: f32[4, 4] = add.Tensor(%a, %p)
      return %y
    }"""
    assert cut(text) == ["view: permute", "linear: linear add"]


def test_a_view_of_a_weight_position_is_stored() -> None:
    text = """program(%x: f32[4, 4], %w: f32[4, 4]) normalized {
      %p: f32[4, 4] = permute(%w, [1, 0])
      %y: f32[4, 4] = linear(%x, %p, none)
      return %y
    }"""
    assert cut(text) == ["view: permute", "linear: linear"]


def test_attention_takes_the_views_on_both_sides() -> None:
    text = """program(%qkv: f32[2, 5, 24]) normalized {
      %r: f32[2, 5, 3, 2, 4] = reshape(%qkv, [2, 5, 3, 2, 4])
      %p: f32[3, 2, 2, 5, 4] = permute(%r, [2, 0, 3, 1, 4])
      %q0: f32[1, 2, 2, 5, 4] = slice.Tensor(%p, 0, 0, 1, 1)
      %k0: f32[1, 2, 2, 5, 4] = slice.Tensor(%p, 0, 1, 2, 1)
      %v0: f32[1, 2, 2, 5, 4] = slice.Tensor(%p, 0, 2, 3, 1)
      %q: f32[2, 2, 5, 4] = reshape(%q0, [2, 2, 5, 4])
      %k: f32[2, 2, 5, 4] = reshape(%k0, [2, 2, 5, 4])
      %v: f32[2, 2, 5, 4] = reshape(%v0, [2, 2, 5, 4])
      %a: f32[2, 2, 5, 4] = scaled_dot_product_attention(%q, %k, %v, none, 0.0, false)
      %t: f32[2, 5, 2, 4] = permute(%a, [0, 2, 1, 3])
      %y: f32[2, 5, 8] = reshape(%t, [2, 5, 8])
      return %y
    }"""
    views = "reshape permute slice slice slice reshape reshape reshape"
    assert cut(text) == [f"attention: {views} scaled_dot_product_attention permute reshape"]


@pytest.mark.parametrize(
    ("view", "follows"),
    [
        ("reshape(%a, [2, 2, 3, 4])", True),
        ("permute(%a, [0, 2, 1, 3])", True),
        ("permute(%a, [0, 3, 1, 2])", False),
        ("roll(%a, [1], [2])", True),
        ("roll(%a, [1], [-1])", False),
        ("roll(%a, [1], [])", False),
        ("flip(%a, [1])", True),
        ("flip(%a, [3])", False),
        ("slice.Tensor(%a, 1, 0, 1, 1)", False),
    ],
)
def test_a_linear_layer_stores_through_views_that_keep_its_rows(view: str, follows: bool) -> None:
    """Swin: windows are put back in place where the projection stores them."""
    shape = {"resha": "2, 2, 3, 4", "permu": "2, 3, 2, 4", "slice": "2, 1, 3, 4"}.get(view[:5], "2, 2, 3, 4")
    shape = "2, 4, 2, 3" if "3, 1, 2" in view else shape
    text = f"""program(%x: f32[2, 2, 3, 4], %r: f32[{shape}]) normalized {{
      @w: f32[4, 4]
      %a: f32[2, 2, 3, 4] = linear(%x, @w, none)
      %v: f32[{shape}] = {view}
      %y: f32[{shape}] = add.Tensor(%r, %v)
      return %y
    }}"""
    name = view.partition("(")[0].partition(".")[0]
    assert cut(text) == ([f"linear: linear {name} add"] if follows else ["linear: linear", f"pointwise: {name} add"])


def test_scores_scale_and_mask_go_with_the_product_and_not_with_the_softmax() -> None:
    text = """program(%q: f32[2, 5, 4], %k: f32[2, 5, 4]) normalized {
      @mask: f32[5, 5]
      %t: f32[2, 4, 5] = permute(%k, [0, 2, 1])
      %s: f32[2, 5, 5] = matmul(%q, %t)
      %d: f32[2, 5, 5] = div.Tensor(%s, 2.0)
      %m: f32[2, 5, 5] = add.Tensor(%d, @mask)
      %y: f32[2, 5, 5] = _softmax(%m, 2, false)
      return %y
    }"""
    assert cut(text) == ["matmul: permute matmul div add", "softmax: _softmax"]


# reductions and norms


def test_a_reduction_takes_what_only_it_reads() -> None:
    text = """program(%x: f32[2, 4, 6]) normalized {
      %s: f32[2, 4, 6] = mul.Tensor(%x, %x)
      %e: f32[2, 4, 6] = exp(%s)
      %p: f32[2, 6, 4] = permute(%e, [0, 2, 1])
      %m: f32[2, 6, 1] = mean.dim(%p, [2], true)
      %r: f32[2, 6, 1] = rsqrt(%m)
      %y: f32[2, 6] = reshape(%r, [2, 6])
      return %y
    }"""
    assert cut(text) == ["reduce: mul exp permute mean rsqrt reshape"]


@pytest.mark.parametrize(("op", "fused"), [("add.Tensor(%x, 1.0)", True), ("exp(%x)", False)])
def test_a_norm_reads_twice_so_costly_ops_stay_before_it(op: str, fused: bool) -> None:
    text = f"""program(%x: f32[2, 6]) normalized {{
      @w: f32[6]
      %e: f32[2, 6] = {op}
      %y: f32[2, 6] = layer_norm(%e, [6], @w, none, 1e-05, false)
      return %y
    }}"""
    assert len(cut(text)) == (1 if fused else 2)


def test_convnext_block_head() -> None:
    """conv -> permute -> layer norm -> linear: the norm reads the convolution's channels in place."""
    text = """program(%x: f32[1, 4, 6, 6]) normalized {
      @w: f32[4, 1, 3, 3]
      @g: f32[4]
      @fc: f32[8, 4]
      %c: f32[1, 4, 6, 6] = convolution(%x, @w, none, [1, 1], [1, 1], [1, 1], false, [0, 0], 4)
      %p: f32[1, 6, 6, 4] = permute(%c, [0, 2, 3, 1])
      %n: f32[1, 6, 6, 4] = layer_norm(%p, [4], @g, @g, 1e-06, false)
      %f: f32[1, 6, 6, 8] = linear(%n, @fc, none)
      %y: f32[1, 6, 6, 8] = gelu(%f, approximate="none")
      return %y
    }"""
    assert cut(text) == ["conv: convolution", "normalize: permute layer_norm", "linear: linear gelu"]


def test_residual_into_norm_is_stored_once() -> None:
    text = """program(%x: f32[2, 6], %r: f32[2, 6]) normalized {
      @w: f32[6]
      %s: f32[2, 6] = add.Tensor(%x, %r)
      %n: f32[2, 6] = layer_norm(%s, [6], @w, none, 1e-05, false)
      %y: f32[2, 6] = add.Tensor(%n, %s)
      return %y
    }"""
    assert cut(text) == ["pointwise: add", "normalize: layer_norm add"]


# concat, embedding, others


def test_densenet_joint() -> None:
    text = net(
        A,
        "%c: f32[1, 8, 6, 6] = cat([%x, %a], 1)",
        "%m: f32[1, 8, 6, 6] = mul.Tensor(%c, 2.0)",
        "%y: f32[1, 8, 6, 6] = relu(%m)",
    )
    assert cut(text) == ["conv: convolution", "concat: cat mul relu"]


def test_cat_operands_are_stored() -> None:
    text = net(f"%r: {AT} = relu(%x)", f"%f: {AT} = flip(%x, [3])", "%y: f32[1, 8, 6, 6] = cat([%r, %f], 1)")
    assert cut(text) == ["pointwise: relu", "view: flip", "concat: cat"]


def test_embeddings_are_summed_in_the_later_one() -> None:
    text = """program(%i: i64[2, 5], %j: i64[2, 5]) normalized {
      @words: f32[7, 4]
      @kinds: f32[2, 4]
      @places: f32[5, 4]
      %a: f32[2, 5, 4] = embedding(@words, %i, -1, false, false)
      %b: f32[2, 5, 4] = embedding(@kinds, %j, -1, false, false)
      %s: f32[2, 5, 4] = add.Tensor(%a, %b)
      %y: f32[2, 5, 4] = add.Tensor(%s, @places)
      return %y
    }"""
    assert cut(text) == ["embedding: embedding", "embedding: embedding add add"]


def test_unknown_families_stand_alone() -> None:
    text = net(f"%c: {AT} = cumsum(%x, 3)", f"%y: {AT} = relu(%c)")
    assert cut(text) == ["other: cumsum", "pointwise: relu"]


def test_each_result_of_an_op_with_several_is_a_region() -> None:
    text = """program(%x: f32[3, 8]) normalized {
      %t: (f32[3, 2], i64[3, 2]) = topk(%x, 2, -1, true, true)
      %v: f32[3, 2] = getitem(%t, 0)
      %i: i64[3, 2] = getitem(%t, 1)
      %y: f32[3, 2] = relu(%v)
      return (%y, %i)
    }"""
    assert cut(text) == ["other: topk getitem", "other: topk getitem", "pointwise: relu"]


# pointwise and view regions


def test_a_dag_of_pointwise_ops_is_one_region() -> None:
    text = """program(%x: f32[2, 6], %z: f32[2, 6]) normalized {
      %a: f32[2, 6] = add.Tensor(%x, %z)
      %s: f32[2, 6] = sigmoid(%a)
      %t: f32[2, 6] = tanh(%a)
      %y: f32[2, 6] = mul.Tensor(%s, %t)
      return %y
    }"""
    assert cut(text) == ["pointwise: add sigmoid tanh mul"]


def test_a_costly_op_with_several_readers_is_stored() -> None:
    text = """program(%x: f32[2, 6]) normalized {
      %a: f32[2, 6] = exp(%x)
      %s: f32[2, 6] = sin(%a)
      %t: f32[2, 6] = cos(%a)
      return (%s, %t)
    }"""
    assert cut(text) == ["pointwise: exp", "pointwise: sin", "pointwise: cos"]


def test_one_cheap_op_is_copied_into_its_readers() -> None:
    text = """program(%x: i32[2, 6]) normalized {
      %a: f32[2, 6] = _to_copy(%x, dtype=f32)
      %s: f32[2, 6] = sin(%a)
      %t: f32[2, 6] = cos(%a)
      return (%s, %t)
    }"""
    assert cut(text) == ["pointwise: _to_copy sin", "pointwise: _to_copy cos"]


def test_small_values_are_computed_before_they_are_broadcast() -> None:
    text = """program(%x: f32[8, 6], %g: f32[8, 1]) normalized {
      %s: f32[8, 1] = sigmoid(%g)
      %e: f32[8, 6] = expand(%s, [8, 6])
      %m: f32[8, 1] = neg(%g)
      %a: f32[8, 6] = mul.Tensor(%x, %e)
      %y: f32[8, 6] = add.Tensor(%a, %m)
      return %y
    }"""
    assert cut(text) == ["pointwise: sigmoid", "pointwise: neg", "pointwise: expand mul add"]


def test_a_lone_reshape_is_a_view() -> None:
    assert cut(net("%y: f32[4, 36] = reshape(%x, [4, 36])")) == ["view: reshape"]


def test_a_run_of_views_is_one_copy() -> None:
    """Channel shuffle."""
    text = net(
        "%r: f32[1, 2, 2, 6, 6] = reshape(%x, [1, 2, 2, 6, 6])",
        "%p: f32[1, 2, 2, 6, 6] = permute(%r, [0, 2, 1, 3, 4])",
        f"%s: {AT} = reshape(%p, [1, 4, 6, 6])",
        f"%y: {AT} = convolution(%s, @w, none, {CONV})",
    )
    assert cut(text) == ["view: reshape permute reshape", "conv: convolution"]


def test_inputs_and_constants_may_be_returned() -> None:
    assert cut(
        net(f"%y: {AT} = relu(%x)", result="(%y, %x, @k)").replace("  @w: f32[4, 4, 1, 1]\n  @v: f32[4, 4, 1, 1]\n", "")
    ) == ["pointwise: relu"]


def test_prelu_with_a_slope_per_channel_is_no_broadcast() -> None:
    text = net(A, f"%y: {AT} = prelu(%a, @s)")
    assert cut(text.replace("  @k", "  @s: f32[4]\n  @k")) == ["conv: convolution", "other: prelu"]
    assert cut(text.replace("  @k", "  @s: f32[1]\n  @k")) == ["conv: convolution prelu"]


def test_names_have_room_for_all() -> None:
    lines = [f"%y0: {AT} = cumsum(%x, 3)"] + [f"%y{i}: {AT} = cumsum(%y{i - 1}, 3)" for i in range(1, 101)]
    names = list(grouped(net(*lines, result="%y100")).regions)
    assert (names[0], names[-1]) == ("r000_other", "r100_other")
    assert names == sorted(names)
