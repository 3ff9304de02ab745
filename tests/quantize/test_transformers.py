"""Transformers in integers: rules for what attention and norms are made of, and whole networks against float64."""

from __future__ import annotations

import copy
import math
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, fx, nn
from torch.utils._pytree import tree_leaves
from zoo import language, vit

from planish.errors import NoIntegerForm
from planish.ir.capture import capture
from planish.ir.program import Program
from planish.ir.text import parse_program
from planish.passes.manager import run_passes
from planish.passes.pipelines import INTEGER, pipeline
from planish.passes.quantize.calibrate import calibrate
from planish.passes.quantize.integerize import Settings, integerize
from planish.passes.quantize.observers import MeanSquare, MinMax
from planish.passes.quantize.rules.attention import bits_of_shares, codes_of_shares
from planish.passes.quantize.widths import symmetric_bytes
from planish.quantization import Quantization
from planish.quantizing import observers_by_use

U8, S8, S16 = torch.uint8, torch.int8, torch.int16


def randoms(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))


def integers(text: str, *inputs: Tensor, weights: dict[str, Tensor] | None = None) -> tuple[Program, float]:
    """(the integer program of a text, its signal to noise on the calibration data in dB)."""
    program = parse_program(text, weights or {})
    made = integerize(program, calibrate(program, [inputs], MinMax))
    only_integers(made)
    return made, decibel(program(*inputs), made(*inputs))


def only_integers(program: Program) -> None:
    """No float between `quantize` and `dequantize`."""
    for node in program.graph.nodes:
        value = node.meta.get("val")
        if node.op == "call_function" and isinstance(value, Tensor) and value.dtype.is_floating_point:
            assert str(node.target) == "planish.dequantize.default", node.format_node()


def decibel(exact: Any, got: Any) -> float:
    first, second = (torch.cat([t.double().flatten() for t in tree_leaves(v)]) for v in (exact, got))
    return 10 * math.log10(float(first.square().sum() / (first - second).square().sum()))


def called(program: Program, name: str) -> list[fx.Node]:
    return [node for node in program.graph.nodes if str(node.target) == f"planish.{name}.default"]


def dtypes(nodes: list[fx.Node]) -> list[torch.dtype]:
    return [node.meta["val"].dtype for node in nodes]


def test_scores_are_not_rounded_before_a_softmax() -> None:
    text = """program(%q: f32[2, 9, 8], %k: f32[2, 8, 9], %v: f32[2, 9, 5]) {
      %s = matmul(%q, %k) %t = mul.Tensor(%s, 0.25) %u = div.Tensor(%t, 2.0) %p = _softmax(%u, 2, false)
      %y = matmul(%p, %v) return %y }"""
    made, noise = integers(text, randoms(2, 9, 8), randoms(2, 8, 9, seed=1), randoms(2, 9, 5, seed=2))
    (shares,) = called(made, "softmax")
    (scores, _) = called(made, "matmul")
    assert shares.args[0] is scores
    assert dtypes([shares, scores]) == [S16, torch.int32]
    assert [node.args[5] for node in called(made, "quantize")] == [U8, S8, S8]
    assert not called(made, "requantize")
    assert noise > 35


def test_scores_with_a_bias_have_16_bits() -> None:
    text = """program(%q: f32[2, 3, 9, 8], %k: f32[2, 3, 8, 9]) {
      @b: f32[3, 9, 9]
      %s = matmul(%q, %k) %t = add.Tensor(%s, @b) %p = _softmax(%t, 3, false) return %p }"""
    weights = {"b": randoms(3, 9, 9, seed=3)}
    made, noise = integers(text, randoms(2, 3, 9, 8), randoms(2, 3, 8, 9, seed=1), weights=weights)
    assert dtypes(called(made, "add")) == [S16]
    assert dtypes(called(made, "softmax")) == [S16]  # nothing multiplies the shares: they are the result
    assert noise > 35


def test_masks_are_masks() -> None:
    text = """program(%s: f32[2, 4, 4], %m: i64[2, 1, 4]) {
      %n = ne.Scalar(%m, 0) %p = planish::masked_softmax(%s, %n, 2) return %p }"""
    mask = torch.tensor([[[1, 1, 1, 0]], [[0, 0, 0, 0]]])
    made, noise = integers(text, randoms(2, 4, 4), mask)
    got = made(randoms(2, 4, 4), mask)
    assert not bool(got[0, :, 3].any())
    assert not bool(got[1].any())
    assert noise > 60


def test_shares_that_are_read_at_another_scale() -> None:
    """A concatenation of shares and others: 15 bits, requantized."""
    text = """program(%x: f32[2, 8]) { %p = _softmax(%x, 1, false) %c = cat([%p, %x], 1) %y = relu(%c) return %y }"""
    made, noise = integers(text, randoms(2, 8))
    assert dtypes(called(made, "softmax")) == [S16]
    assert noise > 35


def test_codes_of_shares() -> None:
    """2^-15 holds everything; 32767 codes up to 8 times the largest share where that is less than 1/2."""
    assert [codes_of_shares(0.0, most).scale for most in (1.0, 0.0625, 0.0624, 0.001, 1e-9, 0.0)] == [
        2.0**-15, 2.0**-15, 2.0**-16, 2.0**-21, 2.0**-22, 2.0**-15,
    ]  # fmt: skip
    params = codes_of_shares(0.0, 0.01)
    assert bits_of_shares(params) == 18
    assert bits_of_shares(type(params)(params.scale, 1, 0, 32767, S16)) is None
    assert bits_of_shares(type(params)(params.scale * 1.5, 0, 0, 32767, S16)) is None
    assert bits_of_shares(type(params)(params.scale, 0, 0, 32766, S16)) is None


def test_shares_of_long_rows_keep_their_bits() -> None:
    """600 codes of 16 bits times 127 leave 32 bits, but a row's shares add up to 1: 2^15 + 600 codes at most."""
    text = """program(%s: f32[2, 600], %v: f32[600, 3]) { %p = _softmax(%s, 1, false) %y = matmul(%p, %v) return %y }"""
    made, noise = integers(text, 3 * randoms(2, 600), randoms(600, 3, seed=1))
    assert dtypes(called(made, "softmax")) == [S16]
    assert noise > 35


def test_shares_that_are_moved_into_long_rows_have_8_bits() -> None:
    """Behind a concatenation, or along another axis, nobody knows what a row adds up to."""
    text = """program(%s: f32[600, 2], %v: f32[600, 3]) {
      %p = _softmax(%s, 1, false) %t = permute(%p, [1, 0]) %y = matmul(%t, %v) return %y }"""
    made, noise = integers(text, randoms(600, 2), randoms(600, 3, seed=1))
    (product,) = called(made, "matmul")
    assert product.args[0].meta["val"].dtype == U8  # type: ignore[union-attr]
    assert noise > 35


def test_observers_follow_codes() -> None:
    """Of 16 bits nothing is cut, whatever the observer; second factors are symmetric, everything else has bytes."""
    text = """program(%s: f32[2, 9], %v: f32[9, 3]) { %p = _softmax(%s, 1, false) %y = matmul(%p, %v) return %y }"""
    program = parse_program(text, {})
    special = {node.name: make() for node, make in observers_by_use(program, Quantization(observer="mse")).items()}
    assert {name: type(found) for name, found in special.items()} == {"s": MinMax, "p": MinMax, "v": MeanSquare}
    assert special["v"]._quantizer(-1.0, 3.0) == symmetric_bytes(-1.0, 3.0)


def test_sums_too_long_are_refused() -> None:
    text = "program(%a: f32[1, 70000], %b: f32[70000, 1]) { %y = matmul(%a, %b) return %y }"
    with pytest.raises(NoIntegerForm, match="a sum of 70000 products does not fit 32 bits"):
        integers(text, randoms(1, 70000).abs(), randoms(70000, 1))  # a positive factor has all 256 codes above 0


@pytest.mark.parametrize(
    "norm",
    [
        "layer_norm(%t, [6], @g, @b, 1e-5, false)",
        "layer_norm(%t, [6], none, none, 1e-5, false)",
        "layer_norm(%t, [4, 6], none, none, 1e-5, false)",
        "rms_norm(%t, [6], @g, 1e-6)",
        "group_norm(%t, 2, @c, @d, 1e-5, false)",
    ],
)
def test_norms_of_streams(norm: str) -> None:
    """A stream that is a hundred times as wide as what the norm leaves: 8 bits would lose it."""
    text = f"""program(%x: f32[2, 4, 6], %z: f32[2, 4, 6]) {{
      @g: f32[6] @b: f32[6] @c: f32[4] @d: f32[4]
      %s = add.Tensor(%x, %z) %t = add.Tensor(%s, %x) %n = {norm} %y = relu(%n) return %y }}"""
    weights = {name: randoms(size, seed=size) for name, size in (("g", 6), ("b", 6), ("c", 4), ("d", 4))}
    made, noise = integers(text, randoms(2, 4, 6), randoms(2, 4, 6, seed=1), weights=weights)
    assert dtypes(called(made, "add")) == [S16, S16]
    assert dtypes(called(made, "quantize")) == [S16, S16]
    assert noise > 40


def test_what_products_read_has_8_bits() -> None:
    text = """program(%x: f32[3, 6], %z: f32[3, 6]) {
      @w: f32[6, 6] %t = add.Tensor(%x, %z) %n = layer_norm(%t, [6], none, none, 1e-5, false)
      %l = linear(%t, @w, none) %y = add.Tensor(%n, %l) return %y }"""
    made, _ = integers(text, randoms(3, 6), randoms(3, 6, seed=1), weights={"w": randoms(6, 6, seed=2)})
    assert dtypes(called(made, "add")) == [U8, S16]


def test_embeddings_are_gathers_of_codes() -> None:
    text = """program(%i: i64[2, 3]) { @w: f32[9, 4] @p: f32[3, 4]
      %e = embedding(@w, %i, -1, false, false) %s = add.Tensor(%e, @p)
      %y = layer_norm(%s, [4], none, none, 1e-5, false) return %y }"""
    weights = {"w": randoms(9, 4), "p": randoms(3, 4, seed=1)}
    made, noise = integers(text, torch.tensor([[0, 8, 3], [1, 1, 1]]), weights=weights)
    assert made.weights["w.codes"].dtype is S16
    assert noise > 60


def seeded(make: Callable[[], nn.Module]) -> nn.Module:
    """A network whose gains, offsets, class token and positions are not those of the beginning."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        model = make().eval()
        with torch.no_grad():
            for parameter in model.parameters():
                if parameter.dim() == 1 or not bool(parameter.any()):
                    parameter.add_(torch.randn_like(parameter) * 0.1)
    return model


def ids(seed: int) -> Tensor:
    return torch.randint(0, 60, (2, 12), generator=torch.Generator().manual_seed(seed))


def padded(seed: int) -> tuple[Tensor, ...]:
    mask = torch.ones(2, 12, dtype=torch.int64)
    mask[1, 7:] = 0
    return ids(seed), mask, torch.zeros(2, 12, dtype=torch.int64)


NETWORKS: dict[str, tuple[Callable[[], nn.Module], Callable[[int], tuple[Tensor, ...]]]] = {
    "vit": (
        lambda: vit.vit(dim=48, depth=3, heads=3, image=40, patch=8, classes=10),
        lambda seed: (randoms(2, 3, 40, 40, seed=seed),),
    ),
    "bert": (lambda: language.bert(60, 12, 32, 2, 4), padded),
    "gpt by hand": (lambda: language.gpt(60, 12, 32, 2, 4, True), lambda seed: (ids(seed),)),
}


@pytest.mark.parametrize("name", NETWORKS)
def test_whole_networks(name: str) -> None:
    """Weights and activations of 8 bits, 20 roundings in a row; inputs that calibration has not seen."""
    make, inputs = NETWORKS[name]
    model = seeded(make)
    program = run_passes(capture(model, inputs(0)), (*pipeline("exact"), *INTEGER))
    made = integerize(program, calibrate(program, [inputs(seed) for seed in range(4)], MinMax))
    only_integers(made)
    assert S16 in dtypes(called(made, "add"))
    given = inputs(9)
    wide = [x.double() if x.dtype.is_floating_point else x for x in given]
    with torch.no_grad():
        assert decibel(copy.deepcopy(model).double()(*wide), made(*given)) > 25


def test_a_masked_softmax_in_float_is_atens() -> None:
    """Kernels of floats know no `masked_softmax`; a row that sees nothing is still 0."""
    text = """program(%s: f32[2, 4, 4], %m: bool[2, 1, 4]) {
      %p = planish::masked_softmax(%s, %m, 2) %y = relu(%p) return %y }"""
    program, scores = parse_program(text), randoms(2, 4, 4)
    mask = torch.tensor([[[True, True, True, False]], [[False] * 4]])
    name = called(program, "masked_softmax")[0].name
    settings = Settings(integer_only=False, keep={name: "asked for"})
    made = integerize(program, calibrate(program, [(scores, mask)], MinMax), settings)
    assert not called(made, "masked_softmax")
    assert decibel(program(scores, mask), made(scores, mask)) > 40
    assert not bool(made(scores, mask)[1].any())
