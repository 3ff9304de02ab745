"""Graphs that others quantized, written in PyTorch's own Q/DQ operators: codes, what follows, what is refused."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
import torch.ao.quantization.fx._decomposed  # registers the operators
from one_step import assert_every_step
from rewriting import check_docstring
from torch import Tensor, nn
from written_codes import IMAGE, S8, U8, Written, floats_of, integers_of, program_of, qd, qdq

from planish.errors import NoIntegerForm, NotImported, QuantizationError
from planish.ir.capture import capture
from planish.ir.types import QuantParams
from planish.passes.quantize.calibrate import calibrate
from planish.passes.quantize.imported import expand_codes, read_codes
from planish.passes.quantize.imported.expand_codes import ExpandCodes
from planish.passes.quantize.imported.read_codes import ReadCodes
from planish.passes.quantize.integerize import Settings
from planish.passes.quantize.observers import MinMax
from planish.passes.quantize.trim import trimmed, words_of_curve
from planish.passes.quantize.weights import grid_weight


@pytest.mark.parametrize("module", [read_codes, expand_codes])
def test_the_docstrings(module: Any) -> None:
    check_docstring((ReadCodes if module is read_codes else ExpandCodes)(), module)


def test_codes_of_a_weight_and_of_activations_are_those_of_the_graph() -> None:
    """int8 becomes uint8 by a zero point that is larger by 128; the bias is at the accumulator's scale."""
    program = program_of(lambda m, x: qdq(m.conv(qdq(x, 0.02, -5, *S8), m.bias).relu(), 0.05, -128, *S8))
    made = integers_of(program)
    quantized, convolution, rounded, _ = (node for node in made.graph.nodes if node.op == "call_function")
    assert quantized.args[1:] == (0.02, 123, 0, 255, torch.uint8)
    own = Written(lambda m, x: x)
    assert torch.equal(made.weights[str(convolution.args[1].target)], own.codes)
    expected = own.bias.double() / (own.scales.double() * 0.02)
    assert (made.weights[str(convolution.args[2].target)] - expected).abs().max() < 0.51
    assert rounded.args[4:] == (0, 0, 255, torch.uint8)
    assert assert_every_step(program, made, IMAGE) == 2


def per_tensor(m: Any, x: Tensor) -> Tensor:
    weight = qd.dequantize_per_tensor(m.codes, 0.004, 0, -127, 127, torch.int8)
    return qdq(nn.functional.conv2d(qdq(x, 0.02, 120), weight), 0.1, 128)


def with_tensors(m: Any, x: Tensor) -> Tensor:
    scale, zero = torch.tensor(0.02), torch.tensor(120)
    return m.conv(qd.dequantize_per_tensor.tensor(qd.quantize_per_tensor.tensor(x, scale, zero, *U8), scale, zero, *U8))


def with_tensor_ends(m: Any, x: Tensor) -> Tensor:
    given = (torch.tensor(0.02), torch.tensor(120), torch.tensor(0), torch.tensor(255), torch.uint8)
    return m.conv(qd.dequantize_per_tensor.tensor2(qd.quantize_per_tensor.tensor2(x, *given), *given))


def unfolded(m: Any, x: Tensor) -> Tensor:
    """Weights in float, quantized in the graph."""
    wide = m.codes.float() * 0.01
    codes = qd.quantize_per_channel(wide, m.scales * 3, m.zeros, 0, -127, 127, torch.int8)
    weight = qd.dequantize_per_channel(codes, m.scales * 3, m.zeros, 0, -127, 127, torch.int8)
    return nn.functional.conv2d(qdq(x, 0.02, 120), weight)


def moved_codes(m: Any, x: Tensor) -> Tensor:
    codes = qd.quantize_per_tensor(x, 0.02, 120, *U8)
    return m.conv(qd.dequantize_per_tensor(codes.flip(2).reshape(1, 3, 5, 6), 0.02, 120, *U8))


def narrow(m: Any, x: Tensor) -> Tensor:
    """Seven bits, as for CPUs whose products of bytes saturate; and four."""
    return qdq(m.conv(qdq(x, 0.04, 60, 0, 127)), 0.5, 1, -8, 7, torch.int8)


def joined(m: Any, x: Tensor) -> Tensor:
    """A concatenation of values of different scales."""
    x = qdq(x, 0.02, 120)
    return qdq(torch.cat([qdq(m.conv(x), 0.05, 128), qdq(x * 2, 0.031, 100)], 1), 0.0607, 120)


def shared(m: Any, x: Tensor) -> Tensor:
    """Sums with several readers, none of which gives them codes: each makes its own."""
    y = m.conv(qdq(x, 0.02, 120), m.bias)
    z = y.relu() + qdq(y, 0.05, 128)
    return torch.cat([qdq(z, 0.07, 10), qdq(z - y, 0.03, 128)], 1)


def averaged(m: Any, x: Tensor) -> Tensor:
    """Averages of sums that have no codes."""
    y = m.conv(qdq(x, 0.02, 120)).relu()
    return qdq(
        nn.functional.avg_pool2d(y, 2).mean((2, 3)) + nn.functional.adaptive_avg_pool2d(y, 1).flatten(1), 0.01, 3
    )


def bent(m: Any, x: Tensor) -> Tensor:
    """Functions of sums that have no codes."""
    y = m.conv(qdq(x, 0.02, 120), m.bias)
    return torch.cat([qdq(nn.functional.gelu(y), 0.02, 9), qdq(nn.functional.hardswish(y), 0.02, 19)], 1)


def bent_twice(m: Any, x: Tensor) -> Tensor:
    """Codes of 8 bits see less of a function's argument than those of 16, which the product reads."""
    h = nn.functional.hardswish(m.conv(qdq(x, 0.02, 120), m.bias))
    return torch.cat([qdq(h, 0.003, 100), qdq(h * m.bias.reshape(4, 1, 1), 0.05, 128)], 1)


def normalized(m: Any, x: Tensor) -> Tensor:
    """A batch norm that was not folded: a number a channel, and a sum."""
    y = m.conv(qdq(x, 0.02, 120))
    mean, var = torch.zeros(4), torch.full((4,), 0.8)
    return qdq(nn.functional.batch_norm(y, mean, var, m.scales * 90, m.bias), 0.04, 99)


@pytest.mark.parametrize(
    ("compute", "more"),
    [(f, 0.0) for f in (per_tensor, with_tensors, with_tensor_ends, unfolded, moved_codes, narrow, joined, normalized)]
    + [(f, 0.1) for f in (shared, averaged, bent, bent_twice)],  # 16 bits over intervals, rounded before
)
def test_values_with_and_without_codes(compute: Callable[[Any, Tensor], Any], more: float) -> None:
    program = program_of(compute)
    made = integers_of(program)
    assert not floats_of(made)
    assert assert_every_step(program, made, IMAGE, more) >= 1


def test_products_of_activations() -> None:
    """The second factor is symmetric: its codes less their zero point, where these are codes of int8."""
    x = (torch.randn(2, 5, 6, generator=torch.Generator().manual_seed(1)),)

    def product(zero: int) -> Callable[[Any, Tensor], Tensor]:
        return lambda m, x: qdq(torch.matmul(y := qdq(x, 0.02, 100), qdq(y.mT * 2, 0.04, zero)), 0.05, 128)

    for zero, exact in ((128, True), (90, False)):
        program = program_of(product(zero), x)
        made = integers_of(program)
        (factor,) = (n for n in made.graph.nodes if n.meta.get("quant") and n.meta["val"].dtype is torch.int8)
        high = torch.iinfo(torch.int8).max
        scale = 0.04 if exact else (255 - zero) * 0.04 / high
        assert factor.meta["quant"] == QuantParams(scale, 0, -128 if exact else -high, high, torch.int8)
        assert_every_step(program, made, x, 0.0 if exact else 1.0)


def test_weights_keep_their_codes_under_gains() -> None:
    """A step a channel is found again, whatever it was multiplied by; a finer one of the same values is as good."""
    codes = torch.tensor([[127, -3, 5], [-128, 1, 0], [40, -20, 10], [0, 0, 0], [2, 2, -2]])
    gains = torch.tensor([[0.013], [2.7e-4], [0.5], [1.0], [-3.1]])
    made = grid_weight((codes * gains).float(), torch.tensor([1.0, 2, 3, 4, 5]), 0.5, "layer")
    assert made.weight.tolist() == [[127, -3, 5], [-128, 1, 0], [124, -62, 31], [0, 0, 0], [-127, -127, 127]]
    torch.testing.assert_close(made.values(), (codes * gains).double(), rtol=1e-6, atol=0)
    assert made.bias is not None
    assert (made.bias * made.scales * 0.5)[:3].tolist() == pytest.approx([1, 2, 3], abs=0.07)


def test_a_bias_larger_than_all_its_channel_has_room() -> None:
    """Weights of nearly nothing: their own step would make a bias of more than 30 bits."""
    made = grid_weight(torch.tensor([[1e-9, 2e-9]]), torch.tensor([1.0]), 0.5, "layer")
    assert made.bias is not None
    assert made.bias.tolist() == [2**29]


def test_where_a_function_needs_codes() -> None:
    """ReLU clamped to 0..2.55: nothing below 0 and above 2.55 is told apart, to a sample."""
    least, most = trimmed(lambda x: x.clamp(min=0), (-100.0, 60.0), QuantParams(0.01, 0, 0, 255, torch.uint8))
    assert -0.01 < least < 0.0101
    assert 2.53 < most < 2.56
    assert trimmed(lambda x: x * 0, (-1.0, 4.0), QuantParams(0.01, 0, 0, 255, torch.uint8)) == (-1.0, 4.0)
    words = words_of_curve((-1.0, 5.0))
    assert (3 / words.scale) % 128 == 0
    assert words.scale * words.high >= 5
    assert words_of_curve((0.0, 2000.0)) == QuantParams.symmetric(2000.0, 16)  # a segment is longer than 3


def dynamic(m: Any, x: Tensor) -> Tensor:
    scale, zero = qd.choose_qparams.tensor(x, 0, 255, 1e-5, torch.uint8)
    codes = qd.quantize_per_tensor.tensor(x, scale, zero, *U8)
    return m.conv(qd.dequantize_per_tensor.tensor(codes, scale, zero, *U8))


def grouped(m: Any, x: Tensor) -> Tensor:
    codes = torch.ones(4, 8, dtype=torch.int8)
    weight = qd.dequantize_per_channel_group(
        codes, torch.ones(4, 2), torch.zeros(4, 2), -8, 7, torch.int8, 4, torch.float32
    )
    return nn.functional.linear(qdq(x.reshape(-1)[:8].reshape(1, 8), 0.02, 120), weight)


def per_token(m: Any, x: Tensor) -> Tensor:
    scales, zeros = qd.choose_qparams_per_token_asymmetric(x, torch.int8)
    codes = qd.quantize_per_token(x, scales, zeros, *S8)
    return qd.dequantize_per_token(codes, scales, zeros, *S8, torch.float32)


def other_scale(m: Any, x: Tensor) -> Tensor:
    return qd.dequantize_per_tensor(qd.quantize_per_tensor(x, 0.02, 120, *U8), 0.03, 120, *U8)


def by_channel(m: Any, x: Tensor) -> Tensor:
    given = (torch.full((3,), 0.02), torch.zeros(3, dtype=torch.int64), 1, -127, 127, torch.int8)
    return qd.dequantize_per_channel(qd.quantize_per_channel(x, *given), *given)


def words(m: Any, x: Tensor) -> Tensor:
    return qdq(x, 0.001, 0, -32768, 32767, torch.int16)


def float8(m: Any, x: Tensor) -> Tensor:
    return qdq(x, 0.02, 0, -448, 448, torch.float8_e4m3fn)


def trained(m: Any, x: Tensor) -> Tensor:
    return m.conv(torch.fake_quantize_per_tensor_affine(x, 0.02, 120, 0, 255))


def trained_with_tensors(m: Any, x: Tensor) -> Tensor:
    return m.conv(torch.fake_quantize_per_tensor_affine(x, m.scales[0], m.zeros[0].int(), 0, 255))


def trained_by_channel(m: Any, x: Tensor) -> Tensor:
    wide = torch.fake_quantize_per_channel_affine(m.bias.reshape(4, 1), m.scales, m.zeros.int(), 0, -127, 127)
    return m.conv(qdq(x, 0.02, 120), wide.flatten())


def computed_codes(m: Any, x: Tensor) -> Tensor:
    codes = qd.quantize_per_tensor(x, 0.02, 120, *U8)
    return qd.dequantize_per_tensor(codes // 2, 0.02, 120, *U8)


@pytest.mark.parametrize(
    ("compute", "said"),
    [
        (dynamic, "dynamic quantization"),
        (grouped, "a scale a token or group"),
        (per_token, "a scale a token or group"),
        (other_scale, "dequantized by other parameters than it was quantized with"),
        (by_channel, "an activation has a scale a channel"),
        (words, "its codes are -32768..32767, and integers are made of int8 and uint8"),
        (computed_codes, "computes with its codes"),
        (float8, "quantize_per_tensor.default: its codes are torch.float8_e4m3fn, which are no integers"),
        (trained, "fake_quantize_per_tensor_affine_cachemask.default: it trains for codes (QAT); convert_pt2e"),
        (trained_with_tensors, "it trains for codes (QAT); convert_pt2e"),
        (trained_by_channel, "fake_quantize_per_channel_affine_cachemask.default: it trains for codes (QAT)"),
        (lambda m, x: qd.quantize_per_tensor(x, 0.02, 120, *U8), "the model gives away its codes"),
    ],
)
def test_what_is_refused(compute: Callable[[Any, Tensor], Any], said: str) -> None:
    with pytest.raises(NotImported, match="of a quantized graph cannot be imported") as caught:
        read_codes.read_codes(capture(Written(compute).eval(), IMAGE))
    assert said in str(caught.value)
    assert caught.value.ops


def test_codes_as_inputs_are_refused() -> None:
    codes = torch.zeros(1, 3, dtype=torch.uint8)
    program = capture(Written(lambda m, x: qd.dequantize_per_tensor(x, 0.1, 0, *U8)).eval(), (codes,))
    with pytest.raises(NotImported, match="its codes are an input of the model"):
        read_codes.read_codes(program)


def asymmetric_weights(m: Any, x: Tensor) -> Tensor:
    weight = qd.dequantize_per_tensor(m.codes, 0.004, 30, -127, 127, torch.int8)
    return nn.functional.conv2d(qdq(x, 0.02, 120), weight)


@pytest.mark.parametrize(
    ("compute", "said"),
    [
        (lambda m, x: nn.functional.conv2d(qdq(x, 0.02, 120), m.codes * 0.001 + m.bias[0]), "gives no codes of 8 bits"),
        (asymmetric_weights, "gives no codes of 8 bits to its weights"),
        (lambda m, x: m.conv(m.conv(qdq(x, 0.02, 120))[:, :3]), "gives no codes to its input slice"),
        (lambda m, x: qdq(torch.tanh(x), 0.02, 120), "says nothing of the range of x, which calibration= would"),
    ],
)
def test_layers_without_codes_are_named_or_stay_in_float(compute: Callable[[Any, Tensor], Any], said: str) -> None:
    program = program_of(compute)
    with pytest.raises(QuantizationError) as caught:
        integers_of(program)
    assert said in str(caught.value)
    if isinstance(caught.value, NoIntegerForm):
        made = integers_of(program, settings=Settings(integer_only=False))
        assert floats_of(made)


def test_data_choose_what_the_graph_leaves_open() -> None:
    """Given codes stay; a value between two products gets those of its range."""
    program = program_of(lambda m, x: m.conv(m.conv(qdq(x, 0.02, 120))[:, :3]))
    made = integers_of(program, calibrate(program, [IMAGE], MinMax))
    (first, *_) = (node for node in made.graph.nodes if node.op == "call_function")
    assert first.args[1:3] == (0.02, 120)
    assert assert_every_step(program, made, IMAGE) == 3
