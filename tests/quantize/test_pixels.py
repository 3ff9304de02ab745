"""Bytes of images in integers: nothing of an input is rounded, and padding stands for a pixel of the mean."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, fx

from planish.ir.interpret import eager, reference
from planish.ir.program import Program
from planish.ir.quantized.operators import OPERATORS
from planish.ir.text import parse_program
from planish.passes.quantize.calibrate import calibrate
from planish.passes.quantize.integerize import Settings, integerize
from planish.passes.quantize.observers import MinMax

HEAD = """program(%x: u8[2, 3, 7, 6]) optimized {
  @scale: f32[3, 1, 1] = [[[0.01]], [[0.02]], [[0.015]]]
  @shift: f32[3, 1, 1] = [[[-1.13]], [[-2.0]], [[-1.7]]]
  @w: f32[4, 3, 3, 3]
  @b: f32[4]
  %f: f32[2, 3, 7, 6] = _to_copy(%x, dtype=f32)
"""
AFFINE = """  %m: f32[2, 3, 7, 6] = mul.Tensor(%f, @scale)
  %a: f32[2, 3, 7, 6] = add.Tensor(%m, @shift)
"""


def images(seed: int = 0) -> Tensor:
    """Every channel has both ends, so that no range is too narrow."""
    assert OPERATORS
    made = torch.randint(0, 256, (2, 3, 7, 6), dtype=torch.uint8, generator=torch.Generator().manual_seed(seed))
    made[:, :, 0, 0], made[:, :, 6, 5] = 0, 255
    return made


def integers(text: str, settings: Settings | None = None) -> tuple[Program, Program]:
    """(float, integer) program."""
    program = parse_program(f"{HEAD}{text}\n}}")
    return program, integerize(program, calibrate(program, [images(1)], MinMax), settings)


def nodes(program: Program, name: str) -> list[fx.Node]:
    return [node for node in program.graph.nodes if f"{node.target}".split(".")[1:2] == [name]]


def convolution(stride: int, padding: int, dilation: int = 1) -> str:
    geometry = f"[{stride}, {stride}], [{padding}, {padding}], [{dilation}, {dilation}], false, [0, 0], 1"
    return f"{AFFINE}  %y = convolution(%a, @w, @b, {geometry})\n  return %y"


@pytest.mark.parametrize(("stride", "padding", "dilation"), [(1, 0, 1), (1, 1, 1), (2, 2, 1), (1, 3, 2)])
def test_a_convolution_is_exact_but_for_its_weights(stride: int, padding: int, dilation: int) -> None:
    """The accumulator is what the codes of the weights give for normalized, padded pixels, to half a unit a tap."""
    _, program = integers(convolution(stride, padding, dilation))
    (conv,) = nodes(program, "convolution")
    scale = torch.tensor([0.01, 0.02, 0.015], dtype=torch.float32).double()
    shift = torch.tensor([-1.13, -2.0, -1.7], dtype=torch.float32).double()
    given = parse_program(f"{HEAD}{convolution(1, 0)}\n}}").weights
    rows = given["w"].double() * scale.reshape(3, 1, 1)
    unit = rows.abs().amax((1, 2, 3)) / 127
    codes = program.weights[str(conv.args[1].target)][:, :3].double()  # type: ignore[union-attr]
    assert float((codes * unit.reshape(-1, 1, 1, 1) - rows).abs().max() / unit.max()) <= 0.5 + 1e-9
    bytes_ = images(2).double() + (shift / scale).reshape(3, 1, 1)
    exact = F.conv2d(bytes_, codes, given["b"].double() / unit, stride, padding, dilation)
    got = eager(program, [images(2)])[0].double() / unit.reshape(-1, 1, 1)
    assert float((got - exact).abs().max()) <= 9 * 0.5 + 0.5 + 1e-3
    inside = (slice(None), slice(None), slice(padding, -padding or None), slice(padding, -padding or None))
    if stride == 1 and dilation == 1:
        assert float((got - exact)[inside].abs().max()) <= 0.5 + 1e-3
    assert len(nodes(program, "cat")) == bool(padding)
    assert not nodes(program, "quantize")


def test_digits_of_any_length() -> None:
    """Three weights of 127 times a mean of 250 are 95,250 units: two channels of 255 more."""
    text = """  %s: f32[2, 3, 7, 6] = sub.Tensor(%f, 250.0)
  %y = convolution(%s, @ones, none, [1, 1], [1, 1], [1, 1], false, [0, 0], 1)
  return %y"""
    program = parse_program(f"{HEAD}{text}\n}}".replace("  @b: f32[4]", "  @ones: f32[2, 3, 3, 3]"))
    program.weights["ones"] = torch.ones(2, 3, 3, 3)
    made = integerize(program, calibrate(program, [images(1)], MinMax))
    (conv,) = nodes(made, "convolution")
    assert made.weights[str(conv.args[1].target)].shape == (2, 3 + 3 + 1, 3, 3)  # type: ignore[union-attr]
    want = reference(program, [images(2)])[0]
    assert float((eager(made, [images(2)])[0] - want).abs().max()) <= 1e-4 * float(want.abs().max())


@pytest.mark.parametrize(
    ("body", "least"),
    [
        (f"{AFFINE}  %y = relu(%a)\n  return %y", 40),
        (f"{AFFINE}  %r = reshape(%a, [2, 126])\n  %y = linear(%r, @v, none)\n  return %y", 35),
        (f"{AFFINE}  %y = mean.dim(%a, [2, 3], true)\n  return %y", 30),
        ("  %d = div.Tensor(%f, 255.0)\n  %y = sub.Tensor(1.0, %d)\n  return %y", 40),
        ("  %d = div.Tensor(%f, 255.0)\n  %s = sub.Tensor(%d, 0.5, alpha=0.5)\n  %y = relu(%s)\n  return %y", 40),
        ("  %d = mul.Tensor(%f, %f)\n  return %d", 35),
        ("  %d = mul.Tensor(@scale, %f)\n  return %d", 100),
    ],
    ids=["relu", "linear", "mean", "reversed", "alpha", "square", "scale"],
)
def test_other_readers_get_codes(body: str, least: float) -> None:
    """Of 8 bits, and where only a scale changed no rounding at all."""
    text = f"{HEAD}{body}\n}}".replace("  @b: f32[4]", "  @v: f32[5, 126]")
    program = parse_program(text)
    made = integerize(program, calibrate(program, [images(1)], MinMax))
    want, got = reference(program, [images(2)])[0], eager(made, [images(2)])[0]
    noise = (got - want).square().sum() / want.square().sum()
    assert float(-10 * noise.log10()) > least


def test_a_layer_in_float_reads_unrounded_pixels() -> None:
    program, made = integers(convolution(1, 1), Settings(integer_only=False, keep={"y": "it was asked for"}))
    want, got = reference(program, [images(2)])[0], eager(made, [images(2)])[0]
    assert float((got - want).abs().max()) <= 1e-5 * float(want.abs().max())
    assert not nodes(made, "quantize")
