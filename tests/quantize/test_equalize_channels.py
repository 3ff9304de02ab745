"""equalize_channels: scales that cancel along chains of layers, what may stand between them, and what may not."""

from __future__ import annotations

import pytest
import torch
from one_step import sqnr
from rewriting import check_docstring, refusal, rewritten

from planish.ir.capture import capture
from planish.ir.program import Program
from planish.ir.text import parse_program
from planish.passes.manager import run_passes
from planish.passes.pipelines import EXACT
from planish.passes.quantize import equalize_channels
from planish.passes.quantize.equalize_channels import EqualizeChannels
from planish.quantization import Quantization
from planish.quantizing import quantize

GEOMETRY = "[1, 1], [1, 1], [1, 1], false, [0, 0]"
TURNED = "[1, 1], [1, 1], [1, 1], true, [0, 0]"
CONVOLUTION = torch.ops.aten.convolution.default


def conv_of(program: Program) -> list[torch.Tensor]:
    """Weights in the order of their layers."""
    calls = [
        n for n in program.graph.nodes if n.op == "call_function" and n.target is torch.ops.aten.convolution.default
    ]
    return [program.weights[str(n.args[1].target)] for n in calls]  # type: ignore[union-attr]


def parsed(text: str) -> Program:
    """Random weights, each channel of a size of its own."""
    program = parse_program(text)
    generator = torch.Generator().manual_seed(0)
    for name, tensor in program.weights.items():
        sizes = torch.exp(2 * torch.randn(tensor.shape[0], *[1] * (tensor.dim() - 1), generator=generator))
        program.weights[name] = sizes.double() * torch.randn(tensor.shape, generator=generator, dtype=torch.float64)
    return program


def test_the_docstring() -> None:
    check_docstring(EqualizeChannels(), equalize_channels)


def test_a_chain_through_a_depthwise_layer() -> None:
    """After it every channel is written by weights as large as those that read it, on both links."""
    program = parsed(f"""program(%x: f64[1, 3, 6, 6]) optimized {{
      @a: f64[8, 3, 1, 1] @ab: f64[8] @d: f64[8, 1, 3, 3] @db: f64[8] @c: f64[4, 8, 1, 1]
      %a = convolution(%x, @a, @ab, {GEOMETRY}, 1)
      %r = relu(%a)
      %d = convolution(%r, @d, @db, {GEOMETRY}, 8)
      %p = max_pool2d(%d, [2, 2], [2, 2], [0, 0], [1, 1], false)
      %q = leaky_relu(%p, 0.1)
      %c = convolution(%q, @c, none, {GEOMETRY}, 1)
      return %c
    }}""")
    after, applied, _ = rewritten(EqualizeChannels(), program)
    assert len(applied) == 1
    expand, depthwise, project = (weight.abs() for weight in conv_of(after))
    written, between = expand.flatten(1).amax(1), depthwise.flatten(1).amax(1)
    assert torch.allclose(written, between, rtol=1e-2)
    assert torch.allclose(between, project.amax((0, 2, 3)), rtol=1e-2)


@pytest.mark.parametrize("kind", ["grouped", "transposed", "flattened", "averaged"])
def test_layers_of_other_kinds(kind: str) -> None:
    """Groups, turned weights, and a linear layer that reads a channel at several places."""
    weight, layer = {
        "grouped": ("[4, 4, 3, 3]", f"%y = convolution(%r, @c, none, {GEOMETRY}, 2)"),
        "transposed": ("[8, 2, 3, 3]", f"%y = convolution(%r, @c, none, {TURNED}, 2)"),
        "flattened": ("[4, 128]", "%f = reshape(%r, [1, 128]) %y = linear(%f, @c, none)"),
        "averaged": ("[4, 8]", "%m = mean.dim(%r, [2, 3], false) %y = linear(%m, @c, none)"),
    }[kind]
    program = parsed(f"""program(%x: f64[1, 4, 4, 4]) optimized {{ @a: f64[4, 4, 3, 3] @b: f64[8] @c: f64{weight}
      %a = convolution(%x, @a, @b, {TURNED}, 2) %r = relu(%a) {layer} return %y }}""")
    assert len(rewritten(EqualizeChannels(), program)[1]) == 1


def test_channels_of_zeros_keep_their_scale() -> None:
    program = parse_program("""program(%x: f64[2, 1]) optimized {
      @a: f64[3, 1] = [[0.0], [4.0], [8.0]]
      @b: f64[1, 3] = [[1.0, 1.0, 0.0]]
      %a = linear(%x, @a, none) %r = relu(%a) %y = linear(%r, @b, none) return %y }""")
    after, _, _ = rewritten(EqualizeChannels(), program)
    assert [weight.flatten().tolist() for weight in after.weights.values()] == [[0.0, 2.0, 8.0], [1.0, 2.0, 0.0]]


def test_a_weight_that_another_layer_has_too_is_copied() -> None:
    """The layer apart keeps it."""
    program = parsed("""program(%x: f64[2, 3], %z: f64[2, 3]) optimized { @a: f64[3, 3] @b: f64[3, 3]
      %a = linear(%x, @a, none) %r = relu(%a) %y = linear(%r, @b, none) %o = linear(%z, @a, none) return (%y, %o) }""")
    held = program.weights["a"].clone()
    after, _, _ = rewritten(EqualizeChannels(), program)
    assert torch.equal(after.weights["a"], held)
    assert len(after.weights) == 3


HEAD = """program(%x: f64[2, 2]) optimized {
  @a: f64[2, 2] = [[8.0, 1.0], [1.0, 1.0]]
  @b: f64[2, 2] = [[1.0, 2.0], [1.0, 3.0]]
  %a = linear(%x, @a, none)"""


@pytest.mark.parametrize(
    ("between", "returned", "reason"),
    [
        ("%r = clamp(%a, 0.0, 6.0)", "%y", "clamp of a scaled value is not the scaled clamp"),
        ("%r = hardswish(%a)", "%y", "hardswish of a scaled value is not the scaled hardswish"),
        ("%r = relu(%a)", "(%y, %r)", "others read the values before it, too"),
        ("%r = relu(%a)", "(%y, %a)", "others read the values before it, too"),
    ],
)
def test_refusals(between: str, returned: str, reason: str) -> None:
    text = f"{HEAD} {between} %y = linear(%r, @b, none) return {returned} }}"
    assert refusal(EqualizeChannels(), text).startswith(reason)


def test_it_is_asked_for_and_brings_back_what_scales_took_away() -> None:
    """Channels of one value at 1 to 1/512: that of 1/256 has one code of 8 bits. The ledger names the layers."""
    torch.manual_seed(0)
    model = torch.nn.Sequential(torch.nn.Linear(8, 10), torch.nn.ReLU(), torch.nn.Linear(10, 4)).eval()
    factors = 2.0 ** -torch.arange(10.0)
    with torch.no_grad():
        model[0].weight.mul_(factors[:, None])
        model[0].bias.mul_(factors)
        model[2].weight.div_(factors)
    data = [(torch.randn(16, 8),) for _ in range(4)]
    program = run_passes(capture(model, data[0]), EXACT)
    plain, alike = (quantize(program, Quantization(equalize=on), data) for on in (False, True))
    assert sqnr(program, alike.integer, *data) > sqnr(program, plain.integer, *data) + 12
    (site,) = next(entry for entry in alike.prepared.report if entry.name == "equalize_channels").applied
    assert set(site.layers) == {"0", "1", "2"}
    assert not [entry for entry in plain.prepared.report if entry.name == "equalize_channels"]
