"""Comparisons and choices between values.

x > 0 ? f(x) : g(x) → one table      x > 0 ? x : w[c] x → max(x, 0) + w[c] min(x, 0)      c ? x : y → codes, chosen
"""

from __future__ import annotations

import math

import torch
from torch import Tensor, fx

from ....ir.ops import is_call
from ..builder import Builder
from ..forms import Constant, Form, Pointwise, Sum, Target, Term, one
from . import pointwise
from .moves import move

aten = torch.ops.aten


def condition(node: fx.Node, builder: Builder) -> Form | str:
    """A comparison of functions of one value with numbers, or what is made of such: a function, too."""
    return pointwise.function(node, builder)


def choice(node: fx.Node, builder: Builder) -> Form | str:
    """where(condition, a, b)."""
    sloped = _slopes(node, builder)
    if sloped is not None:
        return _two_slopes(node, builder, *sloped)
    made = pointwise.function(node, builder)
    return made if isinstance(made, Pointwise) else move(node, builder)


def _slopes(node: fx.Node, builder: Builder) -> tuple[fx.Node, Tensor] | None:
    """(x, slopes) of where(x > 0, x, x · slopes), if there is more than one slope."""
    test, above, below = node.args
    if not is_call(test, aten.gt.Scalar, aten.ge.Scalar) or not is_call(below, aten.mul.Tensor):
        return None
    assert isinstance(test, fx.Node)
    assert isinstance(below, fx.Node)
    factors = [arg for arg in below.args[:2] if arg is not above]
    if test.args[0] is not above or float(test.args[1]) != 0 or len(factors) != 1:  # type: ignore[arg-type]
        return None
    weight = builder.forms.get(factors[0])  # type: ignore[arg-type]
    if not isinstance(above, fx.Node) or not isinstance(weight, Constant) or weight.tensor.numel() == 1:
        return None
    return above, weight.tensor.detach().to(torch.float64)


def _two_slopes(node: fx.Node, builder: Builder, source: fx.Node, slopes: Tensor) -> Form:
    """A sum of two clamps of the same codes: one of the two is 0."""
    x = builder.params(source)
    with builder.stand_for(node):
        above = builder.read(source, Target.of(x).clamped(0.0, math.inf))
        below = builder.read(source, Target.of(x).clamped(-math.inf, 0.0))
    return Sum(Term(above, one(x.scale), x.zero), Term(below, x.scale * slopes, x.zero))
