"""Which codes each value gets: from the calibrated range of its scale group, as far as its readers look.

    range'(group) = range(group) ∩ hull of what readers tell apart         relu: [0, ∞)    hardswish: [-3, ∞)

A reader that gives the same result for everything below (or above) a bound needs no codes there.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager

import torch
from torch import fx

from ...errors import QuantizationError
from ...ir.ops import argument, is_call
from ...ir.scales import moves, scale_groups
from ...ir.types import QuantParams

aten = torch.ops.aten
Ranges = Mapping[fx.Node, tuple[float, float]]
"""What `calibrate` returns."""
Codes = Callable[[float, float], QuantParams]
"""From a range to codes, such as `QuantParams.asymmetric`."""

EVERYTHING = (-math.inf, math.inf)
TELLS_APART: Mapping[torch._ops.OpOverload, tuple[float, float]] = {
    aten.relu.default: (0.0, math.inf),
    aten.hardswish.default: (-3.0, math.inf),
    aten.hardsigmoid.default: (-3.0, 3.0),
    aten.gelu.default: (-6.0, math.inf),  # -6e-9 and less beyond
    aten.silu.default: (-14.0, math.inf),  # -1.2e-5 and less beyond
    aten.sigmoid.default: (-12.0, 12.0),  # 6e-6 and less from 0 and 1 beyond
    aten.tanh.default: (-7.0, 7.0),  # 2e-6 and less from -1 and 1 beyond
}
"""Where a function's input matters."""


class Plan:
    """Codes of every floating value, made when they are asked for: a value that never has codes needs no range."""

    def __init__(self, graph: fx.Graph, ranges: Ranges, special: Mapping[fx.Node, Codes]) -> None:
        """`special` says, by any node of a group, which codes it gets where not all of uint8."""
        self._ranges: dict[fx.Node, tuple[float, float]] = {}
        self._codes: dict[fx.Node, Codes] = {}
        self._made: dict[fx.Node, QuantParams] = {}
        for group in scale_groups(graph):
            known = [ranges[node] for node in group if node in ranges]
            if not known:
                continue
            least, most = _needed(group)
            ends = (min(max(known[0][0], least), most), max(min(known[0][1], most), least))
            makers = [special[node] for node in group if node in special]
            for node in group:
                self._ranges[node] = ends
                self._codes[node] = makers[0] if makers else QuantParams.asymmetric

    def stored(self, node: fx.Node) -> bool:
        """Whether a value with several readers has codes of its own, which all of them read."""
        return True

    def bytes(self, node: fx.Node) -> QuantParams:
        """Codes of 8 bits: the planned ones, or where these are wider, those of the same range."""
        params = self.params(node)
        return params if params.dtype.itemsize == 1 else QuantParams.asymmetric(*self.range(node))

    def factor(self, node: fx.Node) -> QuantParams:
        """Symmetric codes of 8 bits: the planned ones, or those of the same range."""
        params = self.params(node)
        if params.dtype is torch.int8 and not params.zero:
            return params
        return QuantParams.symmetric(max(map(abs, self.range(node))))

    def range(self, node: fx.Node) -> tuple[float, float]:
        """What the codes of a node have to cover."""
        if node not in self._ranges:
            raise QuantizationError(f"{node.name} was not calibrated.", "Calibrate the program that is quantized.")
        return self._ranges[node]

    def params(self, node: fx.Node) -> QuantParams:
        """The codes of a node and its group."""
        if node not in self._made:
            with naming(node):
                self._made[node] = self._codes.get(node, QuantParams.asymmetric)(*self.range(node))
        return self._made[node]


def layer_of(node: fx.Node) -> str:
    """What errors call a node: its layers, or its name."""
    layers = dict.fromkeys(origin.layer for origin in node.meta.get("origins", ()) if origin.layer)
    return ", ".join(layers) or node.name


@contextmanager
def naming(node: fx.Node) -> Iterator[None]:
    """Within, errors of constants say which layer these are made for."""
    try:
        yield
    except QuantizationError as error:
        raise QuantizationError(f"{layer_of(node)}: {error.what}", error.todo) from None


def _needed(group: tuple[fx.Node, ...]) -> tuple[float, float]:
    """The hull of what those tell apart who read a group without belonging to it."""
    readers = [reader for node in group for reader in node.users if reader not in group or not moves(reader)]
    bounds = [_tells_apart(reader) for reader in readers]
    if not bounds:
        return EVERYTHING
    return min(low for low, _ in bounds), max(high for _, high in bounds)


def _tells_apart(reader: fx.Node) -> tuple[float, float]:
    if is_call(reader, aten.clamp.default):
        low, high = argument(reader, "min"), argument(reader, "max")
        return (-math.inf if low is None else float(low)), (math.inf if high is None else float(high))
    if reader.op != "call_function" or not isinstance(reader.target, torch._ops.OpOverload):
        return EVERYTHING
    return TELLS_APART.get(reader.target, EVERYTHING)
