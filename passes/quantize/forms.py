"""What stands for a float value in an integer graph, and how codes are made of it when somebody reads them.

    value ≈ scale · (integer - zero)            emit(form, target) = codes of the value within target.low..target.high

A form is made when its operator is met and read later, by its readers' wish: so ReLU and clamp become bounds of the
requantization before them, a sum takes an accumulator as it is, and a chain of functions becomes one table.
"""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import torch
from torch import Tensor, fx

from ...errors import QuantizationError
from ...ir.dyadic import multipliers, sum_multipliers
from ...ir.quantized.constants import CURVE_SHIFT, Function, curve_coefficients
from ...ir.quantized.constants import table as table_of
from ...ir.types import QuantParams
from .plan import naming
from .trim import trimmed, words_of_curve

if TYPE_CHECKING:
    from .builder import Builder

planish = torch.ops.planish
aten = torch.ops.aten


@dataclass(frozen=True)
class Target:
    """Codes that a reader wants: what they mean, and bounds within those of the dtype."""

    params: QuantParams
    low: int
    high: int

    @classmethod
    def of(cls, params: QuantParams) -> Target:
        """All codes."""
        return cls(params, params.low, params.high)

    def clamped(self, least: float, most: float) -> Target:
        """Within real bounds, each rounded to a code."""
        return replace(self, low=self._code(least), high=self._code(most))

    def _code(self, bound: float) -> int:
        code = self.params.zero + bound / self.params.scale
        return math.floor(min(max(code, self.low), self.high) + 0.5)


@dataclass(frozen=True)
class Term:
    """Integers that stand for scale · (node - zero), with one scale or scales that broadcast to the value."""

    node: fx.Node
    scale: Tensor
    zero: int


def truths(function: Function, x: QuantParams) -> Tensor:
    """The 256 entries of a comparison of 8-bit codes."""
    limits = torch.iinfo(x.dtype)
    if x.dtype.itemsize != 1:
        raise QuantizationError(f"A comparison cannot be looked up with {x.dtype}.", "Keep it in float.")
    return function(x.values(torch.arange(limits.min, limits.max + 1).clamp(x.low, x.high)))


def one(scale: float) -> Tensor:
    """A scale for all elements."""
    return torch.tensor([scale], dtype=torch.float64)


class Form(ABC):
    """One value of the float graph in the integer graph."""

    @abstractmethod
    def emit(self, builder: Builder, target: Target) -> fx.Node:
        """Make codes; called once for each target."""


@dataclass(frozen=True)
class Accumulator(Form):
    """Integers with scales of their own (sums of products, codes times a gain): requantized when read."""

    term: Term

    def emit(self, builder: Builder, target: Target) -> fx.Node:
        """clamp(z + (x - x_zero) · b · 2^-c)."""
        return requantize(builder, self.term, target)


@dataclass(frozen=True)
class Sum(Form):
    """a ± b, rounded once."""

    first: Term
    second: Term

    def emit(self, builder: Builder, target: Target) -> fx.Node:
        """Either operand may be an accumulator."""
        a, b = self.first, self.second
        second = torch.where(b.scale == 0, a.scale * 2.0**-40, b.scale)  # a slope of 0: its multiplier is 0, too
        ratios = torch.broadcast_tensors(a.scale / target.params.scale, second / target.params.scale)
        made = [sum_multipliers(*pair) for pair in zip(*(r.flatten().tolist() for r in ratios), strict=True)]
        shape = ratios[0].shape
        first, second = (torch.tensor([m[place] for m, _ in made]).reshape(shape) for place in (0, 1))
        shift = torch.tensor([c for _, c in made]).reshape(shape)
        named = (("ma", first), ("mb", second), ("c", shift))
        constants = [builder.weight(name, beside(t, a.node, b.node)) for name, t in named]
        zeros = (a.zero, b.zero, target.params.zero, target.low, target.high, target.params.dtype)
        return builder.call(planish.add.default, a.node, b.node, *constants, *zeros)


@dataclass(frozen=True)
class Clamped(Form):
    """min(max(source, least), most): bounds of whatever makes the source's codes."""

    source: fx.Node
    least: float
    most: float

    def emit(self, builder: Builder, target: Target) -> fx.Node:
        """The source's codes in narrower bounds."""
        return builder.read_through(self.source, target.clamped(self.least, self.most))


@dataclass(frozen=True)
class Moved(Form):
    """The same elements elsewhere: `move` makes the call for codes of the target."""

    move: Callable[[Target], fx.Node]

    def emit(self, builder: Builder, target: Target) -> fx.Node:
        """The sources' codes, moved."""
        return self.move(target)


@dataclass(frozen=True)
class Pointwise(Form):
    """A function of one value's codes: a table of 8 bits, a curve of 16."""

    source: fx.Node
    function: Function

    def emit(self, builder: Builder, target: Target) -> fx.Node:
        """One lookup, whatever the function is made of."""
        x, y = self._argument(builder, target), target.params
        codes = builder.read(self.source, Target.of(x))
        if x.dtype is torch.int16:
            with naming(builder.standing):
                curve = builder.weight("curve", curve_coefficients(self.function, x, y))
            return builder.call(planish.curve.default, codes, curve, CURVE_SHIFT, target.low, target.high, y.dtype)
        with naming(builder.standing):
            entries = table_of(self.function, x, y).clamp(target.low, target.high)
        return builder.call(planish.lookup.default, codes, builder.weight("table", entries))

    def _argument(self, builder: Builder, target: Target) -> QuantParams:
        """The source's codes; without any, 16 bits over where the function's codes differ."""
        if builder.plan.stored(self.source):
            return builder.params(self.source)
        return words_of_curve(trimmed(self.function, builder.plan.range(self.source), target.params))


@dataclass(frozen=True)
class Rounded(Form):
    """A value that stands on codes which the graph gives: these are made first, whatever a reader wants."""

    source: fx.Node
    params: QuantParams

    def emit(self, builder: Builder, target: Target) -> fx.Node:
        """The given codes, requantized where others are wanted."""
        codes = builder.read(self.source, Target.of(self.params))
        return requantize(builder, Term(codes, one(self.params.scale), self.params.zero), target)


@dataclass(frozen=True)
class Gained(Pointwise):
    """A function that multiplies by a positive number: another scale for the same integers."""

    gain: float

    def term(self, builder: Builder) -> Term:
        """The source's integers at the new scale."""
        source = builder.term(self.source)
        return replace(source, scale=source.scale * self.gain)

    def emit(self, builder: Builder, target: Target) -> fx.Node:
        """Requantized; nothing is rounded before."""
        return requantize(builder, self.term(builder), target)


@dataclass(frozen=True)
class Constant(Form):
    """A float constant that is read as an activation."""

    name: str
    tensor: Tensor

    def emit(self, builder: Builder, target: Target) -> fx.Node:
        """Its codes, another constant."""
        codes = target.params.codes(self.tensor).clamp(target.low, target.high)
        return builder.constant(f"{self.name}.codes", codes)


@dataclass(frozen=True)
class Pixels(Form):
    """scale · (byte - zero) of an input of bytes: zero is a real number, and both may differ by channel."""

    node: fx.Node
    scale: Tensor
    zero: Tensor

    def emit(self, builder: Builder, target: Target) -> fx.Node:
        """Codes like any other's."""
        term = Term(self.node, self.scale, 0)
        if not bool(self.zero.any()):
            return requantize(builder, term, target)
        offset = -self.scale * self.zero
        params = QuantParams.symmetric(float(offset.abs().max()), 16)  # its own rounding does not count
        codes = builder.weight("offset", params.codes(offset))
        return Sum(term, Term(codes, one(params.scale), 0)).emit(builder, target)

    def floats(self, builder: Builder) -> fx.Node:
        """The value itself, for a layer in float."""
        scale = builder.weight("scale", self.scale.to(torch.float32))
        value = builder.call(planish.dequantize.default, self.node, scale, 0)
        if not bool(self.zero.any()):
            return value
        shift = builder.weight("shift", (-self.scale * self.zero).to(torch.float32))
        return builder.call(aten.add.Tensor, value, shift)


@dataclass(frozen=True)
class Floating(Form):
    """A float value: an input, or a layer that stays in float."""

    node: fx.Node

    def emit(self, builder: Builder, target: Target) -> fx.Node:
        """Quantized."""
        y = target.params
        return builder.call(planish.quantize.default, self.node, y.scale, y.zero, target.low, target.high, y.dtype)


def beside(constant: Tensor, *nodes: fx.Node) -> Tensor:
    """A constant of one element, without dimensions where the values beside it have none."""
    return constant.reshape(()) if all(node.meta["val"].dim() == 0 for node in nodes) else constant


def requantize(builder: Builder, term: Term, target: Target) -> fx.Node:
    """Codes of a term; where the scale stays, at most a clamp."""
    y = target.params
    value = term.node.meta["val"]
    same = value.dtype == y.dtype and term.zero == y.zero and bool((term.scale == y.scale).all())
    if same and (target.low, target.high) == (y.low, y.high):
        return term.node
    if same:
        return builder.call(aten.clamp.default, term.node, target.low, target.high)
    numbers, shifts = multipliers((term.scale / y.scale).flatten().tolist())
    named = (("m", numbers.reshape(term.scale.shape)), ("c", shifts.reshape(term.scale.shape)))
    constants = [builder.weight(name, beside(t, term.node)) for name, t in named]
    bounds = (term.zero, y.zero, target.low, target.high, y.dtype)
    return builder.call(planish.requantize.default, term.node, *constants, *bounds)
