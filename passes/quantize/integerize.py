"""integerize: a calibrated float program becomes one of integer operators, between `quantize` and `dequantize`.

    program(x)  ≈  integerize(program, calibrate(program, loader, MinMax), Settings())(x)

`ranges` is what `calibrate` returns for this very program, at stage OPTIMIZED. One rule an operator
(`rules/table.py`) says which form stands for its value; codes are made when a reader asks for them (`forms.py`,
`builder.py`), so that bounds, sums and functions go into the requantization before them. The result runs in PyTorch.
Its nodes have `meta["quant"]`, what their codes mean, and `meta["of"]`, the float node they are the value of; calls
have `meta["stands_for"]`, all the float nodes that they compute.

An operator without an integer form is an error that lists all of them, or with `integer_only=False` it stays in
float between a `dequantize` and a `quantize`; `Settings.keep` says by name which nodes stay so in any case. Nodes in
float have `meta["float"]`, the reason.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import fx

from ...errors import NoIntegerForm, QuantizationError, UnsupportedOp
from ...ir.ops import integer_name, is_call
from ...ir.program import Program, Stage
from ...ir.quantized.operators import OPERATORS
from .bias import Means
from .builder import Builder, is_floating
from .forms import Constant, Floating, Form
from .imported.given_plan import GivenPlan, is_imported
from .plan import Codes, Plan, Ranges, layer_of
from .rules import attention
from .rules.moves import order
from .rules.table import rule_of
from .weights import grid_weight
from .widths import codes_by_use

aten = torch.ops.aten


@dataclass(frozen=True)
class Settings:
    """How to integerize: what may stay in float, and which values get other codes than uint8.

    `keep` maps names of float nodes to the reason why they stay in float; `codes` maps a node of a scale group to the
    codes of the group for a range (`QuantParams.symmetric`, 16 bits...). `means` are of `bias.InputMeans`: biases of
    layers whose input's mean is known are corrected.
    """

    integer_only: bool = True
    keep: Mapping[str, str] = field(default_factory=dict)
    codes: Mapping[fx.Node, Codes] = field(default_factory=dict)
    means: Means = field(default_factory=dict)


def integerize(program: Program, ranges: Ranges, settings: Settings | None = None) -> Program:
    """The integer program, at stage QUANTIZED."""
    return _Integerize(program, ranges, settings or Settings()).run()


class _Integerize:
    """A walk over the float graph that writes the integer graph."""

    def __init__(self, program: Program, ranges: Ranges, settings: Settings) -> None:
        assert OPERATORS
        _starts_from_float32(program)
        self.program, self.settings = program, settings
        if is_imported(program):
            self.builder = Builder(program, GivenPlan(program, ranges), quantizer=grid_weight)
        else:
            plan = Plan(program.graph, ranges, codes_by_use(program.graph, settings.codes))
            self.builder = Builder(program, plan, settings.means)
        self.refused: list[UnsupportedOp] = []

    def run(self) -> Program:
        """Every node in order, then the outputs as the signature has them."""
        for node in self.program.graph.nodes:
            if node.op == "placeholder":
                self._input(node)
            elif node.op == "get_attr":
                self._constant(node)
            elif node.op == "call_function":
                self._call(node)
        given: Any = self.program.graph.output_node().args[0]
        results = [self.builder.floats(node) for node in given]
        if self.refused:
            raise NoIntegerForm(self.refused)
        return self.builder.finish(results).evolve(stage=Stage.QUANTIZED)

    def _input(self, node: fx.Node) -> None:
        made = self.builder.graph.node_copy(node)
        if is_floating(node):
            self.builder.forms[node] = Floating(made)
        else:
            self.builder.plain[node] = made

    def _constant(self, node: fx.Node) -> None:
        name, tensor = str(node.target), self.program.weights[str(node.target)]
        if is_floating(node):
            self.builder.forms[node] = Constant(name, tensor)
        else:
            self.builder.plain[node] = self.builder.constant(name, tensor)

    def _call(self, node: fx.Node) -> None:
        """A call by its rule; in float where it has none, or should stay so."""
        builder = self.builder
        if not is_floating(node) and not any(is_floating(source) for source in node.all_input_nodes):
            self._in_float(node, None)
        elif node.name in self.settings.keep and integer_name(node) != "rounded":
            self._in_float(node, self.settings.keep[node.name])
        elif is_call(node, aten.argmax.default, aten.argmin.default):
            builder.plain[node] = order(node, builder)
        else:
            made = self._form(node)
            if isinstance(made, Form):
                builder.forms[node] = made
                return
            self._in_float(node, made)
            if self.settings.integer_only:
                self.refused.append(_unsupported(node, made))

    def _form(self, node: fx.Node) -> Form | str:
        """What a node's rule says."""
        rule = rule_of(node)
        if rule is None:
            return "it has no integer form"
        try:
            return rule(node, self.builder)
        except QuantizationError as error:
            return error.what

    def _in_float(self, node: fx.Node, reason: str | None) -> None:
        """The call as it is; without a reason it is one of integers already."""
        masked = integer_name(node) == "masked_softmax"
        made = attention.in_float(node, self.builder) if masked else self.builder.as_float(node)
        if reason is not None:
            made.meta["float"] = reason
        if is_floating(node):
            self.builder.forms[node] = Floating(made)
        else:
            self.builder.plain[node] = made


def _starts_from_float32(program: Program) -> None:
    """Inputs and outputs are float32: what `quantize` reads and `dequantize` gives."""
    for node in program.graph.nodes:
        value = node.meta.get("val")
        if is_floating(node) and value.dtype is not torch.float32:
            raise QuantizationError(
                f"{node.name} is {str(value.dtype).removeprefix('torch.')}: integers are made of float32 programs.",
                "Convert the model to float32 first: model.float().",
            )


def _unsupported(node: fx.Node, reason: str) -> UnsupportedOp:
    origins = node.meta.get("origins", ())
    layer = layer_of(node) if origins else ""
    source = next((origin.source for origin in origins if origin.source), "")
    return UnsupportedOp(str(node.target), reason, layer, source)
