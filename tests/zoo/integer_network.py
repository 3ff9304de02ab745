"""A residual network in integers by hand: what every hop's nodes look like.

x ─ conv3x3 relu ─┬─ conv3x3 ─ + ─ relu ─ avg pool ─ linear ─ y
                  └────────────┘
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from planish.ir.dyadic import multipliers, sum_multipliers
from planish.ir.program import Program
from planish.ir.quantized.bounds import accumulator_bounds, prove_accumulators
from planish.ir.quantized.constants import divisors
from planish.ir.quantized.operators import OPERATORS
from planish.ir.text import parse_program
from planish.ir.types import QuantParams
from planish.passes.quantize.observers import MinMax
from planish.passes.quantize.weights import quantize_weight

TEXT = """program(%x: f32[2, 3, 8, 8]) quantized {{
  @w1: i8[6, 3, 3, 3]
  @b1: i32[6]
  @m1: i64[6, 1, 1]
  @c1: i64[6, 1, 1]
  @w2: i8[6, 6, 3, 3]
  @b2: i32[6]
  @ma: i64[6, 1, 1]
  @mb: i64[6, 1, 1]
  @cs: i64[6, 1, 1]
  @mp: i64[3, 3]
  @cp: i64[3, 3]
  @w3: i8[4, 54]
  @b3: i32[4]
  @sy: f32[4]
  %q = planish::quantize(%x, {sx!r}, {zx}, 0, 255, u8)
  %a1 = planish::convolution(%q, @w1, @b1, {zx}, [1, 1], [1, 1], [1, 1], false, [0, 0], 1)
  %h = planish::requantize(%a1, @m1, @c1, 0, {zh}, {zh}, 255, u8)
  %a2 = planish::convolution(%h, @w2, @b2, {zh}, [1, 1], [1, 1], [1, 1], false, [0, 0], 1)
  %r = planish::add(%a2, %h, @ma, @mb, @cs, 0, {zh}, {zr}, {zr}, 255, u8)
  %s = planish::sum_pool(%r, {zr}, [3, 3], [3, 3], [1, 1], true)
  %p = planish::requantize(%s, @mp, @cp, 0, {zr}, 0, 255, u8)
  %f: u8[2, 54] = reshape(%p, [2, 54])
  %a3 = planish::linear(%f, @w3, @b3, {zr})
  %y = planish::dequantize(%a3, @sy, 0)
  return %y
}}"""


def random(*shape: int, seed: int) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed)).double()


W1, W2, W3 = random(6, 3, 3, 3, seed=1), random(6, 6, 3, 3, seed=2), random(4, 54, seed=3)
B1, B2, B3 = (random(n, seed=4) for n in (6, 6, 4))


def float_network(x: Tensor, count_include_pad: bool) -> tuple[Tensor, Tensor, Tensor]:
    """What the first convolution makes, what is pooled, and the result, in float64."""
    h = F.conv2d(x.double(), W1, B1, padding=1).relu()
    r = (F.conv2d(h, W2, B2, padding=1) + h).relu()
    return h, r, F.linear(F.avg_pool2d(r, 3, 3, 1, True, count_include_pad).flatten(1), W3, B3)


def integer_network(count_include_pad: bool) -> tuple[Program, Tensor, Tensor]:
    """The program, its input, and what the float network makes of it in float64."""
    assert OPERATORS
    x = random(2, 3, 8, 8, seed=0).float()
    h, r, exact = float_network(x, count_include_pad)
    qx, qh, qr = (params_of(value) for value in (x, h, r))
    q1 = quantize_weight(W1, B1, qx.scale, "conv1")
    q2 = quantize_weight(W2, B2, qh.scale, "conv2")
    q3 = quantize_weight(W3, B3, qr.scale, "fc")
    for q, source, layer in ((q1, qx, "conv1"), (q2, qh, "conv2"), (q3, qr, "fc")):
        prove_accumulators(*accumulator_bounds(q.weight, q.bias, source), layer)
    m1, c1 = multipliers((qx.scale * q1.scales / qh.scale).tolist())
    sums = [sum_multipliers(qh.scale * s / qr.scale, qh.scale / qr.scale) for s in q2.scales.tolist()]
    counts = divisors((8, 8), [3, 3], [3, 3], [1, 1], True, count_include_pad)
    mp, cp = multipliers((1 / counts).flatten().tolist())
    channel = (6, 1, 1)
    weights = {
        "w1": q1.weight, "b1": q1.bias, "m1": m1.reshape(channel), "c1": c1.reshape(channel),
        "w2": q2.weight, "b2": q2.bias,
        "ma": torch.tensor([m[0] for m, _ in sums]).reshape(channel),
        "mb": torch.tensor([m[1] for m, _ in sums]).reshape(channel),
        "cs": torch.tensor([c for _, c in sums]).reshape(channel),
        "mp": mp.reshape(3, 3), "cp": cp.reshape(3, 3),
        "w3": q3.weight, "b3": q3.bias, "sy": (qr.scale * q3.scales).float(),
    }  # fmt: skip
    text = TEXT.format(sx=qx.scale, zx=qx.zero, zh=qh.zero, zr=qr.zero)
    program = parse_program(text, {name: value for name, value in weights.items() if value is not None})
    return program, x, exact


def params_of(value: Tensor) -> QuantParams:
    observer = MinMax()
    observer.add(value)
    return QuantParams.asymmetric(*observer.range())
