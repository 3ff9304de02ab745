"""Weighted sums along one axis: interpolation, and average pools whose windows differ in size.

    y[i] = Σ_k m[i, k] (x[k] - z)      m by its few non-zero places, weights times 2^bits      one axis after the other

Nothing is rounded between axes while 32 bits hold the sums, else to 16 bits; weights get the bits that are left.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, fx

from ....ir.dyadic import INT32
from ....ir.ops import arguments, is_call
from ....ir.quantized.constants import interpolation
from ....ir.types import QuantParams
from ..builder import Builder
from ..forms import Accumulator, Constant, Form, Target, Term, one, requantize

aten = torch.ops.aten
planish = torch.ops.planish
BITS = 11
"""Bits of weights where another axis follows: two axes of 8-bit codes fit 32 bits."""
MOST_BITS = 16
"""Bits of weights at most: more would not be seen in 8 or 16 bits."""


@dataclass(frozen=True)
class Resized(Accumulator):
    """Sums along axes, which are read by the sums along the next axis as they are."""

    most: int
    """No sum is farther from 0."""


@dataclass(frozen=True)
class Along:
    """y = matrix @ x along one axis of `source`."""

    source: fx.Node
    dim: int
    matrix: Tensor


def interpolated(node: fx.Node, builder: Builder) -> Form | None:
    """The form of a sum of gathered neighbours times weights, where a node is one."""
    found = _along(node, builder)
    return None if found is None else _resized(node, builder, [found])


def adaptive_average(node: fx.Node, builder: Builder) -> Form | str:
    """Each output is the mean of the inputs from ⌊i n / m⌋ to ⌈(i + 1) n / m⌉."""
    given = arguments(node)
    x: fx.Node = given["self"]
    sizes = list(given["output_size"])
    rank = x.meta["val"].dim()
    steps = []
    for dim, size in zip(range(rank - len(sizes), rank), sizes, strict=True):
        steps.append(Along(x, dim, _windows(int(x.meta["val"].shape[dim]), int(size))))
    made = _resized(node, builder, steps)
    return "sums over its windows do not fit 32 bits" if made is None else made


def _windows(before: int, after: int) -> Tensor:
    """The matrix of an adaptive average pool along an axis."""
    matrix = torch.zeros(after, before, dtype=torch.float64)
    for i in range(after):
        start, end = i * before // after, -(-(i + 1) * before // after)
        matrix[i, start:end] = 1 / (end - start)
    return matrix


def _resized(node: fx.Node, builder: Builder, steps: list[Along]) -> Form | None:
    """One `planish::resize` a step; None where 32 bits do not hold the sums."""
    source = steps[0].source
    form = builder.forms[source]
    if isinstance(form, Resized):
        term, most = form.term, form.most
    else:
        codes, x = builder.summands(source)
        term, most = Term(codes, one(x.scale), x.zero), max(x.high - x.zero, x.zero - x.low)
    for number, step in enumerate(steps, 1):
        last = number == len(steps) and not _continues(node)
        if _room(most, step.matrix) < BITS:
            params = QuantParams.symmetric(most * float(term.scale), 16)
            with builder.stand_for(node):
                term = Term(requantize(builder, term, Target.of(params)), one(params.scale), 0)
            most = params.high
        bits = min(_room(most, step.matrix), MOST_BITS if last else BITS)
        if bits < 1:
            return None
        places, weights = interpolation(step.matrix, bits)
        most *= int(weights.abs().sum(0).max())
        with builder.stand_for(node):
            constants = (builder.weight("places", places), builder.weight("weights", weights))
            made = builder.call(planish.resize.default, term.node, *constants, step.dim, term.zero)
        term = Term(made, term.scale * 2.0**-bits, 0)
    return Resized(term, most)


def _room(most: int, matrix: Tensor) -> int:
    """Bits that weights may have: sums of integers up to `most` times them fit 32, with a code for each rounding."""
    heaviest = float(matrix.abs().sum(1).max()) + matrix.shape[1] * 2.0**-BITS
    return math.floor(math.log2(INT32[1] / (most * heaviest)))


def _continues(node: fx.Node) -> bool:
    """Whether a node is read by gathers alone, as the next axis reads it."""
    return len(node.users) > 1 and all(is_call(user, aten.index_select.default) for user in node.users)


def _along(node: Any, builder: Builder) -> Along | None:
    """A node as a matrix along one axis of another node."""
    if is_call(node, aten.add.Tensor) and arguments(node)["alpha"] == 1:
        first, second = (_along(part, builder) for part in node.args[:2])
        if first and second and (first.source, first.dim) == (second.source, second.dim):
            return Along(first.source, first.dim, first.matrix + second.matrix)
    if is_call(node, aten.mul.Tensor):
        gathered, weights = node.args[:2]
        if is_call(gathered, aten.index_select.default) and len(gathered.users) == 1:
            return _weighted(gathered, weights, builder)
    return None


def _weighted(gathered: fx.Node, weights: Any, builder: Builder) -> Along | None:
    """index_select(x, dim, places) · weights, if the weights lie along that axis alone."""
    x, dim, places = gathered.args[:3]
    form = builder.forms.get(weights) if isinstance(weights, fx.Node) else None
    indices = builder.program.weights.get(str(places.target)) if isinstance(places, fx.Node) else None
    if not isinstance(x, fx.Node) or not isinstance(dim, int) or not isinstance(form, Constant) or indices is None:
        return None
    shape = gathered.meta["val"].shape
    if tuple(form.tensor.shape) != (shape[dim], *[1] * (len(shape) - 1 - dim)):
        return None
    matrix = torch.zeros(shape[dim], x.meta["val"].shape[dim], dtype=torch.float64)
    matrix[torch.arange(len(indices)), indices] = form.tensor.flatten().to(torch.float64)
    return Along(x, dim, matrix)
