"""The plan of a graph that others quantized: which values have codes, and what stands for the others.

    rounded(x)                    the codes that it says            moves, relu of such: the same codes
    any other value               none of its own: each reader makes what it wants of the sums behind it
    if integers cannot wait       16 bits over what calibration saw, or over an interval that it never leaves

Codes of 8 bits are never made up: a product needs operands whose codes the graph says, or calibration data.
"""

from __future__ import annotations

from collections.abc import Mapping
from functools import cached_property

import torch
from torch import fx

from ....errors import QuantizationError
from ....ir.ops import integer_name, is_call
from ....ir.program import Program
from ....ir.scales import moves
from ....ir.types import QuantParams
from ..builder import is_floating
from ..plan import Plan, Ranges
from ..rules.attention import FINE
from ..widths import is_softmax
from .bounds import Interval, bounds

aten = torch.ops.aten


def is_imported(program: Program) -> bool:
    """Whether a program has values that stand on given codes."""
    return any(integer_name(node) == "rounded" for node in program.graph.nodes)


class GivenPlan(Plan):
    """Codes that the graph says, and what follows from them."""

    def __init__(self, program: Program, ranges: Ranges) -> None:
        """`ranges` are of calibration, where there was any."""
        super().__init__(program.graph, ranges, {})
        self._program = program
        self._given = _given(program.graph)

    def stored(self, node: fx.Node) -> bool:
        """Only what stands on codes is stored in codes."""
        return node in self._given

    def range(self, node: fx.Node) -> Interval:
        """What codes cover, calibration saw, or follows."""
        if node in self._given:
            return _ends(self._given[node])
        if node in self._ranges:
            return self._ranges[node]
        if node not in self._bounds:
            raise QuantizationError(
                f"the graph says nothing of the range of {node.name}, which calibration= would",
                "Quantize that value in the graph, or give calibration=loader.",
            )
        return self._bounds[node]

    def params(self, node: fx.Node) -> QuantParams:
        """Those that the graph says, or 16 bits."""
        if node in self._given:
            return self._given[node]
        if is_softmax(node):
            return FINE
        return QuantParams.symmetric(max(map(abs, self.range(node))), 16)

    def bytes(self, node: fx.Node) -> QuantParams:
        """Those that the graph says; others only where calibration saw the value."""
        if node in self._given:
            return self._given[node]
        if node not in self._ranges:
            raise QuantizationError(
                f"the graph gives no codes to its input {node.name}, which calibration= would",
                "Quantize that value in the graph, or give calibration=loader.",
            )
        return QuantParams.asymmetric(*self._ranges[node])

    def factor(self, node: fx.Node) -> QuantParams:
        """Symmetric codes: the same values less their zero point, where int8 has them all."""
        held = self.bytes(node)
        if held.low - held.zero >= -128 and held.high - held.zero <= 127:
            return QuantParams(held.scale, 0, held.low - held.zero, held.high - held.zero, torch.int8)
        return QuantParams.symmetric(max(map(abs, _ends(held))))

    @cached_property
    def _bounds(self) -> Mapping[fx.Node, Interval]:
        return bounds(self._program, {node: _ends(params) for node, params in self._given.items()})


def _ends(params: QuantParams) -> Interval:
    return (params.low - params.zero) * params.scale, (params.high - params.zero) * params.scale


def _given(graph: fx.Graph) -> dict[fx.Node, QuantParams]:
    """Values on given codes: rounded ones, and what moves or clips those without leaving their codes."""
    found: dict[fx.Node, QuantParams] = {}
    for node in graph.nodes:
        if integer_name(node) == "rounded":
            _, scale, zero, low, high = node.args
            found[node] = QuantParams(scale, zero, low, high, torch.uint8)
        elif is_floating(node) and (moves(node) or is_call(node, aten.relu.default)):
            sources = {found.get(source) for source in node.all_input_nodes if is_floating(source)}
            if len(sources) == 1 and (params := sources.pop()) is not None:
                found[node] = params
    return found
