"""Simulation: the float program with its values rounded to the codes that the integer program gives them.

fake(x) = scale · (code(x) - zero)         simulate(program)(x) = program(x) with fake weights and every value faked

Besides the simulation it measures where noise arises: what a value is off by when its operands are exact, but for their
codes, and what it is off by in the integer program, where all noise before it has come along.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, fx
from torch.utils._pytree import tree_map_only

from ...ir.fidelity import LayerNoise, decibels
from ...ir.interpret import run_graph
from ...ir.ops import arguments, is_call
from ...ir.program import Program
from ...ir.scales import moves
from ...ir.types import QuantParams
from .bias import Means, corrected
from .imported.given_plan import is_imported
from .weights import quantize_weight

aten = torch.ops.aten


@dataclass(frozen=True)
class Simulated:
    """Outputs of the float program, of its simulation and of the integer program, and the noise of each value."""

    exact: tuple[Tensor, ...]
    fake: tuple[Tensor, ...]
    integer: tuple[Tensor, ...]
    layers: tuple[LayerNoise, ...]


@dataclass(eq=False)
class _Value:
    """One value three times: exact, in the simulation, and made in codes from exact operands."""

    exact: Any
    fake: Any
    own: Any


def simulate(program: Program, integer: Program, inputs: Sequence[Tensor], means: Means | None = None) -> Simulated:
    """Run the float program that `integer` was made of, its simulation, and `integer` itself.

    `means` are those that biases were corrected with.
    """
    codes, results = _codes(integer, inputs)
    noise: list[LayerNoise] = []

    def seen(node: fx.Node, value: _Value) -> _Value:
        """A value with codes is rounded to them, and looked at; what reads it starts from exact values again."""
        if node.name not in codes:
            return value
        held, params = codes[node.name]
        if moves(node):  # the noise is that of what is moved
            return _Value(value.exact, _fake(value.fake, params), _fake(value.exact, params))
        own = _decibels(value.exact, _fake(value.own, params))
        carried = _decibels(value.exact, params.values(held).reshape(value.exact.shape))
        layers = dict.fromkeys(origin.layer for origin in node.meta.get("origins", ()) if origin.layer)
        noise.append(LayerNoise(node.name, tuple(layers), own, carried))
        return _Value(value.exact, _fake(value.fake, params), _fake(value.exact, params))

    def call(node: fx.Node, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        assert callable(node.target)
        bias = biases.get(node)
        rounded = args if bias is None else (*args[:2], bias, *args[3:])
        given = {"exact": args, "fake": rounded, "own": rounded}
        parts = (_part((given[which], kwargs), which) for which in given)
        return seen(node, _Value(*(node.target(*own_args, **own_kwargs) for own_args, own_kwargs in parts)))

    with torch.no_grad():
        holders = [node for node in program.graph.nodes if node.op == "placeholder"]
        given = [seen(node, _Value(x, x, x)) for node, x in zip(holders, inputs, strict=True)]
        weights, biases = _fakes(program, integer, codes, means)
        outputs = run_graph(program.graph, given, weights, call)
    exact, fake = (tuple(_part(outputs, which)) for which in ("exact", "fake"))
    return Simulated(exact, fake, results, tuple(noise))


def _part(values: Any, which: str) -> Any:
    """One of the three runs."""
    return tree_map_only(_Value, lambda value: getattr(value, which), values)


def _codes(integer: Program, inputs: Sequence[Tensor]) -> tuple[dict[str, tuple[Tensor, QuantParams]], Any]:
    """The codes of each float node's value that has some, and the integer program's outputs."""
    codes: dict[str, tuple[Tensor, QuantParams]] = {}

    def call(node: fx.Node, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        assert callable(node.target)
        value = node.target(*args, **kwargs)
        if "quant" in node.meta and node.meta["of"] not in codes:
            codes[node.meta["of"]] = (value, node.meta["quant"])
        return value

    with torch.no_grad():
        return codes, run_graph(integer.graph, inputs, integer.weights, call)


def _fakes(
    program: Program, integer: Program, codes: dict[str, tuple[Tensor, QuantParams]], means: Means | None
) -> tuple[dict[str, Any], dict[fx.Node, Tensor]]:
    """Each constant, as its codes stand for it where a layer reads it as integers; and biases that were corrected."""
    weights: dict[str, Any] = {name: _Value(tensor, tensor, tensor) for name, tensor in program.weights.items()}
    biases: dict[fx.Node, Tensor] = {}
    given_codes = is_imported(program)  # weights are values of their codes
    quantized = {name.rpartition(".codes")[0] for name in integer.weights}
    for node in program.graph.nodes:
        if not is_call(node, aten.convolution.default, aten.linear.default):
            continue
        given = list(node.args[:3])
        name, source = str(given[1].target), given[0].name
        if name in quantized and not given_codes:
            tensor = program.weights[name]
            bias = program.weights.get(str(given[2].target)) if given[2] is not None else None
            scale = codes[source][1].scale if source in codes else 1.0  # bytes of an image are codes of scale 1
            fake = fake_weight(node, tensor, bias, scale)
            weights[name] = _Value(tensor, fake.to(tensor.dtype), fake.to(tensor.dtype))
            if means and given[0] in means:
                made = corrected(node, means[given[0]], fake - tensor.to(torch.float64), bias)
                biases[node] = made.to(tensor.dtype)
    return weights, biases


def fake_weight(node: fx.Node, weight: Tensor, bias: Tensor | None, scale: float) -> Tensor:
    """What the codes of a weight stand for; those of a transposed convolution have their output channels first."""
    given = arguments(node)
    if not given.get("transposed"):
        return quantize_weight(weight, bias, scale, node.name).values()
    groups = int(given["groups"])
    split = weight.reshape(groups, weight.shape[0] // groups, *weight.shape[1:]).transpose(1, 2)
    rows = split.reshape(groups * weight.shape[1], -1)
    values = quantize_weight(rows, bias, scale, node.name).values()
    return values.reshape(split.shape).transpose(1, 2).reshape(weight.shape)


def _fake(values: Tensor, params: QuantParams) -> Tensor:
    return params.values(params.codes(values)).to(values.dtype)


def _decibels(exact: Tensor, other: Tensor) -> float:
    wide = exact.to(torch.float64)
    return decibels(float(wide.square().sum()), float((other.to(torch.float64) - wide).square().sum()))
