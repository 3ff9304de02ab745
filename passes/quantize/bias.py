"""Bias correction: rounded weights shift each channel's mean; the bias takes that back.

    b'[o] = b[o] - mean over places of conv(E[x], ŵ - w)[o]        E[conv(x, ŵ) - conv(x, w)] = conv(E[x], ŵ - w)

E[x] is the mean of a layer's input over the calibration batches, place by place, so that padding, strides and groups
count as they do in the layer. Memory is that of one input of each layer, however many batches there are.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, fx

from ...ir.ops import argument, is_call
from ...ir.program import Program

aten = torch.ops.aten
PRODUCTS = (aten.convolution.default, aten.linear.default)
Means = Mapping[fx.Node, Tensor]
"""The mean of a value over all batches, by its node."""


class InputMeans:
    """Means of what convolutions and linear layers read, gathered while `calibrate` runs."""

    def __init__(self, program: Program) -> None:
        """Nothing seen."""
        readers = [node for node in program.graph.nodes if is_call(node, *PRODUCTS)]
        self.wanted = {argument(node, "input") for node in readers}
        self._sums: dict[fx.Node, Tensor] = {}
        self._counts: dict[fx.Node, int] = {}

    def add(self, node: fx.Node, value: Tensor) -> None:
        """Another batch of a value."""
        if node in self.wanted:
            total = self._sums.get(node)
            self._sums[node] = value.to(torch.float64) if total is None else total.add_(value)
            self._counts[node] = self._counts.get(node, 0) + 1

    def means(self) -> Means:
        """Of all that was seen."""
        return {node: total / self._counts[node] for node, total in self._sums.items()}


def corrected(node: fx.Node, mean: Tensor, error: Tensor, bias: Tensor | None) -> Tensor:
    """The bias of a product whose weights are off by `error`, all in float64."""
    args: list[Any] = list(node.args)
    args[:3] = [mean.to(torch.float64), error, None]
    assert callable(node.target)
    shift: Tensor = node.target(*args)
    channel = shift.dim() - (error.dim() - 1)
    shift = shift.mean([dim for dim in range(shift.dim()) if dim != channel])
    return (0 if bias is None else bias.detach().to(torch.float64)) - shift
