"""Checks an integer program step by step: each value it has codes for, against float64 computed from the codes before.

    |value(codes) - clamp(f(values of the codes that they are made of))|  <=  (1/2 + 2^-8) scale

f is the float graph between two values with codes, with the weights and constants that their own codes stand for. So
one rounding a step is all there is, however many steps a network has; an unplanned second one, a wrong zero point,
bound, padding or multiplier is more than half a step off somewhere. A value may have several codes, one for each that
reads it: what is computed of it is compared with the ones that were read.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, fx

from planish.ir.interpret import eager, reference, run_graph, widen, widened
from planish.ir.ops import arguments, integer_name, is_call
from planish.ir.program import Program
from planish.ir.types import QuantParams
from planish.passes.quantize.imported.given_plan import GivenPlan, is_imported
from planish.passes.quantize.rules.products import by_input, by_output
from planish.passes.quantize.weights import grid_weight, quantize_weight

aten = torch.ops.aten
ROUNDING = 0.5 + 2.0**-8
"""Steps."""
SUMS = (aten.add.Tensor, aten.sub.Tensor)
Codes = tuple[Tensor, QuantParams]


def assert_every_step(program: Program, integer: Program, inputs: Sequence[Tensor], more: float = 0.0) -> int:
    """Check all codes of a run, within ROUNDING + more steps; returns how many values were checked."""
    run = _Run(program, integer, inputs)
    checked = 0
    with widened(), torch.no_grad():
        for node in program.graph.nodes:
            if node.op != "get_attr" and node.name in run.known:
                run.check(node, ROUNDING + more)
                checked += 1
        for node, result in zip(program.graph.output_node().args[0], run.results, strict=True):
            run.near = {}
            value = run.value(node)
            assert result.shape == value.shape
            off = (result - value).abs().max() / value.abs().max().clamp(min=1e-12)
            assert float(off) < (1e-3 if more else 1e-6), f"output {node.name} is off by {float(off)}"
    return checked


def sqnr(program: Program, integer: Program, *inputs: Sequence[Tensor]) -> float:
    """Signal to noise of the outputs over several runs, in dB."""
    signal = noise = 0.0
    for given in inputs:
        for y, exact in zip(eager(integer, given), reference(program, given), strict=True):
            noise += float((y.double() - exact).square().sum())
            signal += float(exact.square().sum())
    return 10 * math.log10(signal / noise)


def remade(program: Program) -> set[str]:
    """Values of imported programs that have no codes of their own, but are made for each of several readers."""
    if not is_imported(program):
        return set()
    plan = GivenPlan(program, {})
    return {node.name for node in program.graph.nodes if len(node.users) > 1 and not plan.stored(node)}


def given(program: Program) -> dict[str, QuantParams]:
    """Values on codes that an imported graph gives."""
    nodes = [node for node in program.graph.nodes if integer_name(node) == "rounded"]
    return {node.name: QuantParams(*node.args[1:], torch.uint8) for node in nodes}


def again(program: Program) -> dict[str, list[str]]:
    """For values that the graph puts on codes which they stand on already: all of them, which are one in integers."""
    chains: dict[str, list[str]] = {}
    for node in program.graph.nodes:
        if integer_name(node) == "rounded":
            before = chains.get(node.args[0].name, []) if node.args[0].args[1:] == node.args[1:] else []
            chains[node.name] = [*before, node.name]
    return chains


class _Run:
    """Codes of an integer run by the float nodes they stand for, and float64 values from the nearest of them."""

    def __init__(self, program: Program, integer: Program, inputs: Sequence[Tensor]) -> None:
        self.program = program
        self.remade, self.given, self.again = remade(program), given(program), again(program)
        self.known: dict[str, Codes] = {}
        self.made: dict[fx.Node, Codes] = {}
        self.read: dict[str, dict[str, Codes]] = {}
        self.near: dict[str, Codes] = {}
        holders = [node for node in program.graph.nodes if node.op == "placeholder"]
        self.inputs = dict(zip(holders, inputs, strict=True))
        for node in integer.graph.nodes:
            if node.op == "get_attr" and "quant" in node.meta:
                self._know(node, integer.weights[str(node.target)])

        def call(node: fx.Node, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
            assert callable(node.target)
            value = node.target(*args, **kwargs)
            if "quant" in node.meta:
                self._know(node, value)
            return value

        with torch.no_grad():
            self.results = run_graph(integer.graph, list(inputs), integer.weights, call)

    def _know(self, node: fx.Node, codes: Tensor) -> None:
        """The first codes of a value are its own; those that are made for one of several readers may be clamped."""
        params, name = node.meta["quant"], node.meta["of"]
        if params.scale != self.given.get(name, params).scale:
            return  # given codes at a reader's scale
        self.made[node] = codes, params
        if name not in self.known and (name not in self.remade or params.dtype.itemsize > 1):
            for own in self.again.get(name, (name,)):
                self.known[own], self.read[own] = (codes, params), self._read_by(node)

    def _read_by(self, node: fx.Node) -> dict[str, Codes]:
        """The codes that an integer node's are made of, by the values that they stand for."""
        found: dict[str, set[fx.Node]] = {}
        left = list(node.all_input_nodes)
        while left:
            source = left.pop()
            if source in self.made and source.meta["of"] != node.meta["of"]:
                found.setdefault(source.meta["of"], set()).add(source)
            else:
                left += source.all_input_nodes
        return {of: self.made[codes.pop()] for of, codes in found.items() if len(codes) == 1}

    def check(self, node: fx.Node, allowed: float) -> None:
        """One value with codes."""
        codes, params = self.known[node.name]
        self.near = self.read[node.name]
        ends = params.values(torch.tensor([params.low, params.high]))
        got, expected = params.values(codes), self.computed(node).clamp(ends[0], ends[1])
        off = float((got - expected).abs().max() / params.scale)
        assert off <= allowed, f"{node.format_node()} is off by {off} steps"

    def value(self, node: fx.Node) -> Tensor:
        """What codes say, or what is computed from such."""
        held = self._held(node)
        if held is not None:
            return held[1].values(held[0])
        if node.name in self.given:
            return self.given[node.name].values(self.given[node.name].codes(self.computed(node)))
        return self.computed(node)

    def _held(self, node: fx.Node) -> Codes | None:
        """The codes that were read, or those that are a value's own."""
        return self.near.get(node.name, self.known.get(node.name))

    def computed(self, node: fx.Node) -> Tensor:
        """From what stands above."""
        if node.op == "placeholder":
            return widen(self.inputs[node])
        if node.op == "get_attr":
            return widen(self.program.weights[str(node.target)])
        assert callable(node.target)
        if node.name in self.given:  # its codes are what is checked
            return self.value(node.all_input_nodes[0])
        if is_call(node, aten.convolution.default, aten.linear.default):
            result: Tensor = node.target(*self._product(node))
            return result
        args, kwargs = fx.map_arg((node.args, node.kwargs), lambda source: self._operand(node, source))
        moved: Tensor = node.target(*args, **kwargs)
        return moved

    def _operand(self, node: fx.Node, source: fx.Node) -> Tensor:
        """A constant that is added, or is a gain of either sign, has 16 bits."""
        value = self.value(source)
        gain = is_call(node, aten.mul.Tensor) and not bool((value > 0).all())
        if source.op == "get_attr" and source.name not in self.known and (is_call(node, *SUMS) or gain):
            params = QuantParams.symmetric(float(value.abs().max()), 16)
            return params.values(params.codes(value))
        return value

    def _product(self, node: fx.Node) -> list[Any]:
        """The arguments of a product, with what the codes of its weight and bias stand for."""
        given = arguments(node)
        w, groups, transposed = self.value(given["weight"]), given.get("groups", 1), given.get("transposed", False)
        b = None if given["bias"] is None else self.value(given["bias"])
        held = self._held(given["input"])
        assert held is not None
        x = held[1].scale
        codes = grid_weight if is_imported(self.program) else quantize_weight
        made = codes(by_output(w, groups) if transposed else w, b, x, node.name)
        rows = made.values()
        bias = None if made.bias is None else made.bias * made.scales * x
        return [self.value(given["input"]), by_input(rows, groups) if transposed else rows, bias, *node.args[3:]]
