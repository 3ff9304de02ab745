"""Integer programs as ONNX models: what is written, and that ONNX Runtime computes the same codes, one off at most."""

from __future__ import annotations

from typing import Any

import onnx
import pytest
import torch
import zoo
from onnx import numpy_helper
from onnx_case import assert_within_one_code, run_onnx
from torch import Tensor, nn
from zoo.random_integers import random_integers

from planish.backends.onnx.export import INTEGERS, model_of
from planish.errors import NoOnnxForm
from planish.ir.capture import capture
from planish.ir.interpret import eager
from planish.ir.ops import integer_name
from planish.ir.program import Program
from planish.ir.quantized.operators import OPERATORS
from planish.ir.text import parse_program
from planish.passes.manager import run_passes
from planish.passes.pipelines import EXACT, INTEGER
from planish.passes.quantize.calibrate import calibrate
from planish.passes.quantize.integerize import Settings, integerize
from planish.passes.quantize.observers import MinMax

LONG = ("mobilenet_v2", "mobilenet_v3_small", "densenet121", "inception_v3", "swin_tiny", "bert_base", "gpt2")


def integers(model: nn.Module, batches: list[tuple[Any, ...]], settings: Settings | None = None) -> Program:
    """The integer program of a model in float32."""
    program = run_passes(run_passes(capture(model.eval(), batches[0]), EXACT), INTEGER)
    return integerize(program, calibrate(program, batches, MinMax), settings)


def of_zoo(name: str, full: bool = False, count: int = 3) -> tuple[Program, list[list[Tensor]]]:
    """A network of the zoo, and inputs: two that calibration saw, one that it did not."""
    entry = zoo.find(name)
    model, args, kwargs = entry.full() if full else entry.small()
    generator = torch.Generator().manual_seed(1)
    size = entry.full_size if full else entry.small_size
    seen = [size.inputs(generator, 1) for _ in range(count)]
    captured = capture(model, *seen[0])
    flat = [captured.signature.flatten(*given) for given in (*seen, (args, kwargs))]
    program = run_passes(run_passes(captured, EXACT), INTEGER)
    return integerize(program, calibrate(program, [tuple(x) for x in flat[:-1]], MinMax)), [flat[0], flat[-1]]


def assert_outputs_agree(made: Program, inputs: list[Tensor], codes: int = 1) -> None:
    """A whole run in ONNX Runtime against the reference: results within so many codes of 256 over their range."""
    found = run_onnx(model_of(made), inputs)
    for got, exact in zip(found.values(), eager(made, inputs), strict=True):
        step = float(exact.double().max() - exact.double().min()) / 255
        assert float((got.double() - exact.double()).abs().max()) <= codes * step


def test_every_operator_is_written() -> None:
    assert set(INTEGERS) == {operator.name for operator in OPERATORS}


HAND = """program(%x: f32[1, 1, 2, 2]) quantized {
  @w: i8[2, 1, 1, 1] = [[[[127]]], [[[-64]]]]
  @b: i32[2] = [4, -8]
  @m: i64[2, 1, 1] = [[[1073741824]], [[1610612736]]]
  @c: i64[2, 1, 1] = [[[31]], [[31]]]
  @s: f32[] = 4.0
  %q: u8[1, 1, 2, 2] = planish::quantize(%x, 0.5, 3, 0, 255, u8)   # stem
  %a: i32[1, 2, 2, 2] = planish::convolution(%q, @w, @b, 3, [1, 1], [0, 0], [1, 1], false, [0, 0], 1)   # stem
  %r: u8[1, 2, 2, 2] = planish::requantize(%a, @m, @c, 0, 7, 7, 255, u8)   # stem.relu
  %y: f32[1, 2, 2, 2] = planish::dequantize(%r, @s, 7)
  return %y
}"""


def test_a_layer_by_hand() -> None:
    """Ratios 1/2 and 3/4 to codes of the scale 1, since nothing says another: the scales of weights are these by 0.5,
    those of biases these. Bounds from the zero point on are a ReLU; 4.0 is another scale than 1: a Mul stays."""
    model = model_of(parse_program(HAND))
    kinds = [node.op_type for node in model.graph.node]
    assert kinds == [
        "QuantizeLinear", "DequantizeLinear", "DequantizeLinear", "DequantizeLinear", "Conv", "Relu", "QuantizeLinear",
        "DequantizeLinear", "Mul", "Identity",
    ]  # fmt: skip
    held = {tensor.name: numpy_helper.to_array(tensor) for tensor in model.graph.initializer}
    x, weight, bias = ([held.get(name) for name in model.graph.node[i].input] for i in (1, 2, 3))
    assert [float(x[1]), int(x[2])] == [0.5, 3]
    assert (weight[0].flatten().tolist(), weight[1].tolist(), weight[2].tolist()) == ([127, -64], [1.0, 1.5], [0, 0])
    assert (bias[0].tolist(), bias[0].dtype, bias[1].tolist()) == ([4, -8], "int32", [0.5, 0.75])
    assert model.graph.node[4].name == "stem/a/Conv"
    assert model.graph.node[6].output == ["r"]
    assert (model.opset_import[0].version, model.graph.input[0].name) == (21, "x")


@pytest.mark.parametrize(
    "name",
    ["resnet18", "vit_small", *(pytest.param(name, marks=pytest.mark.bars) for name in LONG)],
)
def test_networks(name: str) -> None:
    """Images are equal but for ties; softmax, norms and floats' rounding may tip one code in 5,000.

    Results of ONNX Runtime's own values are compared to 1e-5, so the distance of whole runs is what such codes lead to.
    """
    made, inputs = of_zoo(name)
    for given in inputs:
        compared, _, share = assert_within_one_code(made, given)
        assert compared > 20
        assert share < 2e-4
        attends = any(integer_name(node) == "softmax" for node in made.graph.nodes)  # its ties tip what follows
        assert_outputs_agree(made, given, 2 if attends else 1)


@pytest.mark.bars
def test_resnet18_whole() -> None:
    made, (seen, _) = of_zoo("resnet18", full=True, count=2)
    compared, differing, _ = assert_within_one_code(made, seen)
    assert compared > 20
    assert differing < 100
    assert_outputs_agree(made, seen)


class Shapes(nn.Module):
    """What images rarely are: turned, cut, padded, gated, resized, of one dimension, and branches with many readers."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Conv2d(4, 8, 3, 2, 1)
        self.up = nn.ConvTranspose2d(8, 6, 3, 2, 1, 1, groups=2)
        self.lines = nn.Conv1d(6, 4, 3, padding=2, dilation=2)
        self.slopes = nn.PReLU(8, 0.3)
        self.end = nn.Linear(12, 5)

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        x = self.slopes(self.stem(x))
        y = nn.functional.avg_pool2d(x, 3, 2, 1, ceil_mode=True) - nn.functional.max_pool2d(x, 3, 2, 1, ceil_mode=True)
        y = nn.functional.interpolate(y, size=x.shape[2:], mode="bilinear") * torch.sigmoid(x.mean((2, 3), True))
        z = nn.functional.pad(self.up(y).clamp(-0.5, 0.4), (1, 0, 0, 2)).flip(3)
        lines = self.lines(z.amax(2)).roll(1, 2)
        tokens = torch.cat([z.mean(3), z.mean(3).tanh()], 1).transpose(1, 2)
        shuffled = nn.functional.pixel_shuffle(x, 2)[:, :, ::2]
        return self.end(tokens), lines.softmax(1), shuffled.argmax(1)


def test_a_net_of_all_shapes() -> None:
    torch.manual_seed(0)
    batches = [(torch.randn(2, 4, 11, 12),) for _ in range(4)]
    made = integers(Shapes(), batches)
    for given in batches[:2]:
        compared, _, share = assert_within_one_code(made, given)
        assert compared > 10
        assert share < 0.05  # means of 4 and 2 have ties


def test_images_without_a_batch() -> None:
    torch.manual_seed(0)
    layers = [nn.Conv2d(3, 4, 3, padding=1), nn.ReLU(), nn.MaxPool2d(2), nn.AvgPool2d(2), nn.Conv2d(4, 2, 1)]
    batches = [(torch.randn(3, 9, 9),) for _ in range(3)]
    assert assert_within_one_code(integers(nn.Sequential(*layers), batches), batches[0])[0] == 4


def test_layers_in_float() -> None:
    """Between dequantized and quantized values they stay what they are."""
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(8, 8), nn.GELU(), nn.LayerNorm(8), nn.Linear(8, 4), nn.SiLU(), nn.Linear(4, 2))
    batches = [(torch.randn(3, 8),) for _ in range(3)]
    program = run_passes(run_passes(capture(model.eval(), batches[0]), EXACT), INTEGER)
    floats = [n.name for n in program.graph.nodes if n.op == "call_function"][1:5]
    keep = dict.fromkeys(floats, "a test wants it")
    made = integerize(program, calibrate(program, batches, MinMax), Settings(keep=keep))
    assert sum("float" in node.meta for node in made.graph.nodes) == 4
    for given in batches:
        assert_within_one_code(made, given)
        assert_outputs_agree(made, list(given))


@pytest.mark.parametrize("seed", range(6, 12))
def test_random_programs(seed: int) -> None:
    """Multipliers and shifts of any size, which no scales stand behind, at the ends of their ranges."""
    program, sets = random_integers(seed)
    for inputs in sets:
        assert_within_one_code(program, inputs)


def test_what_onnx_cannot_say_is_listed_with_its_layers() -> None:
    program = parse_program("""program(%x: f32[4, 4], %w: f32[2, 4]) optimized {
      %a: f32[4, 4] = cumsum(%x, 1)   # first
      %b: f32[4, 4] = hypot(%a, %x)   # second
      %c: f32[4, 4] = relu(%b)   # third
      return %c
    }""")
    ranges = {node: (-128.0, 127.0) for node in program.graph.nodes}
    made = integerize(program, ranges, Settings(integer_only=False))
    with pytest.raises(NoOnnxForm) as error:
        model_of(made)
    assert [(op.op, op.layer) for op in error.value.ops] == [
        ("aten.cumsum.default", "first"),
        ("aten.hypot.default", "second"),
    ]
    assert "1 x aten.cumsum.default: planish writes it in no ONNX operator" in error.value.what


def test_weights_that_vary_are_refused() -> None:
    made = parse_program("""program(%x: u8[1, 4], %w: i8[2, 4]) quantized {
      %y: i32[1, 2] = planish::linear(%x, %w, none, 3)   # layer
      return %y
    }""")
    with pytest.raises(NoOnnxForm, match="its weights vary, and only constants have one scale a channel"):
        model_of(made)


def test_models_pass_onnx_own_check() -> None:
    onnx.checker.check_model(model_of(parse_program(HAND)), full_check=True)
