"""Images: bytes are codes already, whatever normalizes them, so that nothing of an input is rounded.

    x = s[c] (byte - m[c])     conv(x, w) + b == Σ s w byte + Σ t + b     t[o, tap] = -Σ_c s[c] w[o, c, tap] m[c]

s goes into the weights and t, of the weights as their codes stand for them, into the bias. Where the convolution pads,
its zeros stand for x = 0, a byte of m[c], which is no whole number: there t is the weight of channels that hold one
number inside and 0 in the padding, 255 and 1, as its digits in units of the accumulator:

    conv(x, w) + b == conv(cat(bytes, 255, 1), cat(s w, high, low)) + b        t = 255 high + low
"""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor, fx

from ....ir.ops import arguments
from ....ir.quantized.bounds import accumulator_bounds, prove_accumulators
from ....ir.types import QuantParams
from ..bias import corrected
from ..builder import Builder, constant_of
from ..forms import Accumulator, Constant, Form, Pixels, Term
from ..plan import layer_of
from ..weights import MOST, QuantizedWeight, quantize_weight

aten = torch.ops.aten
planish = torch.ops.planish
BYTES = QuantParams(1.0, 0, 0, 255, torch.uint8)
"""What an image's codes are."""


def cast(node: fx.Node, builder: Builder) -> Form | None:
    """float(bytes): the bytes, with a scale of 1."""
    source = node.all_input_nodes[0]
    if source.meta["val"].dtype is not torch.uint8:
        return None
    return Pixels(builder.plain[source], torch.ones(1, dtype=torch.float64), torch.zeros(1, dtype=torch.float64))


def affine(node: fx.Node, builder: Builder, alpha: float) -> Form | None:
    """Bytes times, or plus, a constant."""
    a, b = node.args[:2]
    pixels, reverse = builder.forms.get(a), False  # type: ignore[arg-type]
    if not isinstance(pixels, Pixels):
        a, b, reverse = b, a, True
        pixels = builder.forms.get(a)  # type: ignore[arg-type]
    number = _constant(b, builder)
    if not isinstance(pixels, Pixels) or number is None:
        return None
    assert isinstance(a, fx.Node)
    if torch.broadcast_shapes(number.shape, a.meta["val"].shape) != a.meta["val"].shape:
        return None
    return _scaled(node, pixels, number, reverse) or _shifted(node, pixels, number, reverse, alpha)


def _scaled(node: fx.Node, pixels: Pixels, number: Tensor, reverse: bool) -> Form | None:
    divides = node.target is aten.div.Tensor
    if node.target is not aten.mul.Tensor and not (divides and not reverse):
        return None
    gain = 1 / number if divides else number
    good = bool(gain.isfinite().all()) and bool((gain != 0).all())
    return Pixels(pixels.node, pixels.scale * gain, pixels.zero) if good else None


def _shifted(node: fx.Node, pixels: Pixels, number: Tensor, reverse: bool, alpha: float) -> Form | None:
    if node.target is aten.add.Tensor and not (reverse and alpha != 1):
        term = alpha * number
    elif node.target is aten.sub.Tensor and not reverse:
        term = -alpha * number
    else:
        return None
    return Pixels(pixels.node, pixels.scale, pixels.zero - term / pixels.scale)


def convolution(node: fx.Node, builder: Builder) -> Form | None:
    """A convolution of bytes, exact up to its weights' codes; None if it reads something else."""
    given = arguments(node)
    pixels = builder.forms[given["input"]]
    if not isinstance(pixels, Pixels) or given["transposed"] or int(given["groups"]) != 1:
        return None
    weight = constant_of(builder, given["weight"], "weight").detach().to(torch.float64)
    scale, zero = (_by_channel(v, weight) for v in (pixels.scale, pixels.zero))
    if scale is None or zero is None:
        return None
    bias = None if given["bias"] is None else constant_of(builder, given["bias"], "bias")
    made = quantize_weight(weight * scale, bias, 1.0, layer_of(node))
    mean = builder.means.get(given["input"])
    if mean is not None:
        bias = corrected(node, mean, made.values() / scale - weight, bias)
    codes, extra, planes = _with_padding(made, zero, any(given["padding"]))
    offset = extra if bias is None else bias.detach().to(torch.float64) / made.scales + extra
    offsets = (offset + 0.5).floor().to(torch.int32)
    prove_accumulators(*accumulator_bounds(codes, offsets, BYTES), layer_of(node))
    geometry = [given[name] for name in ("stride", "padding", "dilation", "transposed", "output_padding", "groups")]
    with builder.stand_for(node):
        x = _with_planes(builder, pixels.node, planes)
        name = str(given["weight"].target)
        constants = builder.constant(f"{name}.codes", codes), builder.constant(f"{name}.bias_codes", offsets)
        total = builder.call(planish.convolution.default, x, *constants, 0, *geometry)
    return Accumulator(Term(total, made.scales.reshape(-1, *[1] * (weight.dim() - 2)), 0))


def _with_padding(made: QuantizedWeight, zero: Tensor, pads: bool) -> tuple[Tensor, Tensor, list[int]]:
    """Codes of the weight with those of the planes, what is left for the bias, and the planes' bytes."""
    taps = -(made.weight.to(torch.float64) * zero).sum(1)
    whole = (taps + 0.5).floor()
    if not pads or not bool(whole.any()):
        return made.weight, taps.flatten(1).sum(1), []
    high = math.ceil(max(0.0, float(whole.abs().max()) - MOST) / (MOST * 255))
    planes, digits, rest = [255] * high + [1], [], whole
    for byte in planes:
        digit = (rest / byte).round().clamp(-MOST, MOST)
        digits.append(digit)
        rest = rest - byte * digit
    codes = torch.cat([made.weight, torch.stack(digits, 1).to(torch.int8)], 1)
    return codes, (taps - whole).flatten(1).sum(1), planes


def _with_planes(builder: Builder, image: fx.Node, planes: list[int]) -> fx.Node:
    """The image and channels of one number each."""
    if not planes:
        return image
    shape = list(image.meta["val"].shape)
    held = torch.tensor(planes, dtype=torch.uint8).reshape(1, -1, *[1] * (len(shape) - 2))
    constant = builder.weight("planes", held.expand(shape[0], len(planes), *shape[2:]).contiguous())
    return builder.call(aten.cat.default, [image, constant], 1)


def _by_channel(values: Tensor, weight: Tensor) -> Tensor | None:
    """Numbers that differ by channel at most, shaped to broadcast to the weight."""
    rank = weight.dim() - 2
    shape = [1] * (weight.dim() - values.dim()) + list(values.shape)
    if shape[0] != 1 or any(extent != 1 for extent in shape[len(shape) - rank :]):
        return None
    return values.reshape(1, -1, *[1] * rank)


def _constant(value: Any, builder: Builder) -> Tensor | None:
    """A number or a constant in float64."""
    if isinstance(value, int | float):
        return torch.tensor([float(value)], dtype=torch.float64)
    form = builder.forms.get(value)
    return form.tensor.detach().to(torch.float64) if isinstance(form, Constant) else None
