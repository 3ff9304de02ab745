"""Sums of products with constant weights: codes in, an accumulator out.

conv(x, w) + b ≈ s_x s_w[o] · (Σ (x_q - z_x) w_q[o] + b_q[o])
"""

from __future__ import annotations

import torch
from torch import Tensor, fx

from ....ir.ops import arguments
from ....ir.quantized.bounds import accumulator_bounds, prove_accumulators
from ..bias import corrected
from ..builder import Builder, constant_of
from ..forms import Accumulator, Form, Term, one
from ..plan import layer_of
from ..weights import QuantizedWeight
from . import pixels

planish = torch.ops.planish


def convolution(node: fx.Node, builder: Builder) -> Form | str:
    """Any convolution of an activation by constant weights."""
    if form := pixels.convolution(node, builder):
        return form
    given = arguments(node)
    transposed, groups = bool(given["transposed"]), int(given["groups"])
    weight = constant_of(builder, given["weight"], "weight")
    bias = None if given["bias"] is None else constant_of(builder, given["bias"], "bias")
    codes, x = builder.bytes_of(given["input"])
    made = _quantized(node, builder, weight, bias, x.scale, groups if transposed else 0)
    prove_accumulators(*accumulator_bounds(made.weight, made.bias, x, transposed, groups), layer_of(node))
    geometry = [given[name] for name in ("stride", "padding", "dilation", "transposed", "output_padding", "groups")]
    with builder.stand_for(node):
        weights = _constants(builder, given["weight"], made)
        total = builder.call(planish.convolution.default, codes, *weights, x.zero, *geometry)
    return Accumulator(Term(total, (x.scale * made.scales).reshape(-1, *[1] * (weight.dim() - 2)), 0))


def linear(node: fx.Node, builder: Builder) -> Form | str:
    """x @ w.T + b with constant w."""
    given = arguments(node)
    weight = constant_of(builder, given["weight"], "weight")
    bias = None if given["bias"] is None else constant_of(builder, given["bias"], "bias")
    if weight.dim() != 2:
        return f"its weight has {weight.dim()} dimensions"
    codes, x = builder.bytes_of(given["input"])
    made = _quantized(node, builder, weight, bias, x.scale)
    prove_accumulators(*accumulator_bounds(made.weight, made.bias, x), layer_of(node))
    with builder.stand_for(node):
        total = builder.call(planish.linear.default, codes, *_constants(builder, given["weight"], made), x.zero)
    return Accumulator(Term(total, x.scale * made.scales, 0))


def product(node: fx.Node, builder: Builder, a: fx.Node, b: fx.Node) -> Form:
    """The product of two activations, element by element."""
    first, x = builder.summands(a)
    second, y = builder.summands(b)
    with builder.stand_for(node):
        total = builder.call(planish.mul.default, first, second, x.zero, y.zero)
    return Accumulator(Term(total, one(x.scale * y.scale), 0))


def _quantized(
    node: fx.Node, builder: Builder, weight: Tensor, bias: Tensor | None, x_scale: float, transposed: int = 0
) -> QuantizedWeight:
    """Codes of a layer's weight and bias, corrected where its input's mean is known; `transposed` by so many groups."""
    rows = by_output(weight, transposed) if transposed else weight
    made = builder.quantizer(rows, bias, x_scale, layer_of(node))
    mean = builder.means.get(node.args[0])  # type: ignore[arg-type]
    if mean is not None:
        error = made.values() - rows.detach().to(torch.float64)
        error = by_input(error, transposed) if transposed else error
        made = builder.quantizer(rows, corrected(node, mean, error, bias), x_scale, layer_of(node))
    return QuantizedWeight(by_input(made.weight, transposed) if transposed else made.weight, made.bias, made.scales)


def _constants(builder: Builder, weight: fx.Node, made: QuantizedWeight) -> tuple[fx.Node, fx.Node | None]:
    """Codes of a weight and a bias as constants, named after the weight."""
    name = str(weight.target)
    codes = builder.constant(f"{name}.codes", made.weight)
    return codes, None if made.bias is None else builder.constant(f"{name}.bias_codes", made.bias)


def by_output(weight: Tensor, groups: int) -> Tensor:
    """A transposed weight (inputs, outputs / groups, ...) with all its outputs first."""
    parts = weight.reshape(groups, weight.shape[0] // groups, *weight.shape[1:]).transpose(1, 2)
    return parts.reshape(groups * weight.shape[1], -1, *weight.shape[2:])


def by_input(rows: Tensor, groups: int) -> Tensor:
    """The inverse of `by_output`."""
    parts = rows.reshape(groups, rows.shape[0] // groups, *rows.shape[1:]).transpose(1, 2)
    return parts.reshape(groups * rows.shape[1], -1, *rows.shape[2:]).contiguous()
