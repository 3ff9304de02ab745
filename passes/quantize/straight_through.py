"""Straight-through training: values of the integer program, gradients of the float program that it was made of.

    forward:   v̂ = scale · (code - zero), the integer program's own        ŵ = s_w · w_q
    backward:  ∂v̂/∂v = 1 where low <= v <= high, else 0                    ∂ŵ/∂w = 1
               ∂v̂/∂high = 1 above, (v̂ - v) / (high - low) inside, 0 below;  ∂v̂/∂low the other way round

The float program runs beside the integer one, on what that program's codes stand for: each value is computed from
rounded operands, so that its gradients are those at the point where the integers are, and then gives way to the
integer program's. So the results are that program's bit for bit, whatever its operators round (Bengio et al.,
arXiv 1308.3432). The gradients of ranges are those of LSQ (Esser et al., arXiv 1902.08153) for both ends of a range,
1/√(count · codes) times as large, as there.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, fx

from ...ir.interpret import run_graph
from ...ir.ops import integer_name, is_call
from ...ir.program import Program
from ...ir.quantized.products import PRODUCTS
from ...ir.quantized.rows import masked_softmax
from ...ir.types import QuantParams
from .builder import is_floating
from .simulate import fake_weight

aten = torch.ops.aten
Ends = Mapping[str, tuple[Tensor, Tensor]]
"""The least and the largest value of a node's codes, where these are trained."""
See = Callable[[fx.Node, Tensor], None]


@dataclass(frozen=True)
class Held:
    """What the integer program has for a value; without codes where a layer stays in float."""

    value: Tensor
    params: QuantParams | None

    def real(self, like: Tensor) -> Tensor:
        """What the codes stand for."""
        return self.value if self.params is None else self.params.values(self.value).to(like.dtype).reshape(like.shape)


def run_integers(integer: Program, inputs: Sequence[Tensor]) -> tuple[tuple[Any, ...], dict[str, Held]]:
    """Outputs of the integer program, and what it has for each value of the float program."""
    held: dict[str, Held] = {}

    def call(node: fx.Node, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        assert callable(node.target)
        value = PRODUCTS.get(integer_name(node) or "", node.target)(*args, **kwargs)
        name = node.meta.get("of")
        if name is not None and name not in held and ("quant" in node.meta or is_floating(node)):
            held[name] = Held(value, node.meta.get("quant"))
        return value

    with torch.no_grad():
        return run_graph(integer.graph, inputs, integer.weights, call), held


def run_straight_through(
    program: Program,
    weights: Mapping[str, Tensor],
    inputs: Sequence[Tensor],
    results: tuple[tuple[Any, ...], dict[str, Held]],
    ends: Ends,
    see: See | None = None,
) -> tuple[Any, ...]:
    """The outputs of `run_integers`, with gradients to weights, inputs, ends; `see` gets values before they round."""
    outputs, held = results

    def rounded(node: fx.Node, value: Any) -> Any:
        if not is_floating(node) or node.name not in held:
            return value
        if see is not None:
            see(node, value.detach())
        found = held[node.name]
        own = ends.get(node.name) if found.params is not None else None
        return _StraightThrough.apply(value, found.real(value), found.params, *(own or (None, None)))  # type: ignore[no-untyped-call]

    def call(node: fx.Node, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        compute: Any = masked_softmax if integer_name(node) == "masked_softmax" else node.target
        return rounded(node, compute(*args, **kwargs))

    holders = [node for node in program.graph.nodes if node.op == "placeholder"]
    given = [rounded(node, x) for node, x in zip(holders, inputs, strict=True)]
    found = run_graph(program.graph, given, _rounded_weights(program, weights, held), call)
    pairs = zip(found, outputs, strict=True)
    return tuple(_instead(value, exact) if exact.dtype.is_floating_point else exact for value, exact in pairs)


def _rounded_weights(program: Program, weights: Mapping[str, Tensor], held: Mapping[str, Held]) -> dict[str, Tensor]:
    """Weights of products as their codes stand for them, others as they are.

    So are those of a layer that reads an image: its bytes are not trained, and nothing else asks for these weights.
    """
    made = dict(weights)
    for node in program.graph.nodes:
        if not is_call(node, aten.convolution.default, aten.linear.default):
            continue
        source, weight, bias = node.args[:3]
        params = held[source.name].params if source.name in held else None
        if params is None or weight.op != "get_attr":
            continue
        name = str(weight.target)
        offset = weights[str(bias.target)].detach() if bias is not None else None
        fake = fake_weight(node, weights[name].detach(), offset, params.scale)
        made[name] = _instead(weights[name], fake.to(weights[name].dtype))
    return made


def _instead(value: Tensor, exact: Tensor) -> Tensor:
    """`exact`, with the gradient of `value`."""
    made: Tensor = _StraightThrough.apply(value, exact, None, None, None)  # type: ignore[no-untyped-call]
    return made


class _StraightThrough(torch.autograd.Function):
    """v̂ instead of v; without codes the gradient passes everywhere."""

    @staticmethod
    def forward(
        ctx: Any, value: Tensor, exact: Tensor, params: QuantParams | None, low: Tensor | None, high: Tensor | None
    ) -> Tensor:
        """The exact value; what the backward pass needs of both."""
        ctx.params = params
        if params is not None:
            ctx.save_for_backward(value, exact)
        return exact.clone()

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor | None, ...]:
        """Clipped outside of the codes."""
        (gradient,) = gradients
        params: QuantParams | None = ctx.params
        if params is None:
            return gradient, None, None, None, None
        value, exact = ctx.saved_tensors
        low, high = (params.scale * (code - params.zero) for code in (params.low, params.high))
        clipped = value != exact  # a code's own value may be above `high` by a rounding to float32
        below, above = clipped & (value < low), clipped & (value > high)
        inside = torch.where(below | above, 0.0, gradient)
        if not any(ctx.needs_input_grad[3:]):
            return inside, None, None, None, None
        stretch = (inside * (exact - value)).sum() / (high - low)
        scale = 1 / math.sqrt(max(value.numel(), 1) * (params.high - params.low))
        least = torch.where(below, gradient, 0.0).sum() - stretch
        most = torch.where(above, gradient, 0.0).sum() + stretch
        return inside, None, None, least * scale, most * scale
