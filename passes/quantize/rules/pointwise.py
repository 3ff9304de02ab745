"""Pointwise operators: bounds, sums, products, gains, and everything else as a table.

relu, clamp → bounds        f(g(x)) → one table        x · g, g > 0 → a scale        x · sigmoid(x) → one table
"""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor, fx

from ....ir.ops import arguments
from ..builder import Builder, is_floating
from ..forms import Accumulator, Clamped, Constant, Form, Gained, Pointwise, Rounded, Term
from . import pixels
from .axes import interpolated
from .products import product
from .sums import total

aten = torch.ops.aten
planish = torch.ops.planish
HUGE = 1e30
"""Stands for infinity in tables: it becomes the outermost code."""


def bounded(node: fx.Node, builder: Builder) -> Form | str:
    """relu, relu6, hardtanh and clamp between numbers."""
    given = arguments(node)
    source: fx.Node = given["self"]
    least, most = (0.0, math.inf) if node.target is aten.relu.default else (given.get("min"), given.get("max"))
    if node.target is aten.relu6.default:
        least, most = 0.0, 6.0
    if node.target is aten.hardtanh.default:
        least, most = given["min_val"], given["max_val"]
    least, most = (-math.inf if least is None else float(least)), (math.inf if most is None else float(most))
    least = min(least, most)  # as clamp has it: where the bounds cross, the upper one is the result
    form = builder.forms[source]
    if isinstance(form, Pointwise):
        inner = form.function
        return Pointwise(form.source, lambda x: inner(x).clamp(least, most))
    return Clamped(source, least, most)


def rounded(node: fx.Node, builder: Builder) -> Form | str:
    """A value on given codes."""
    return Rounded(node.all_input_nodes[0], builder.params(node))


def same(node: fx.Node, builder: Builder) -> Form | str:
    """A cast among floats changes nothing of what codes mean, and bytes are codes."""
    source = node.all_input_nodes[0]
    if not is_floating(source):
        return pixels.cast(node, builder) or "it makes floats of integers"
    return Clamped(source, -math.inf, math.inf)


def binary(node: fx.Node, builder: Builder) -> Form | str:
    """add, sub, rsub, mul, div: of activations, of an activation and a constant, of functions of one value."""
    given = list(arguments(node).values())
    a, b = given[0], given[1]
    alpha = float(given[2]) if len(given) > 2 else 1.0
    tensors = [value for value in (a, b) if isinstance(value, fx.Node)]
    if any(not is_floating(value) for value in tensors):
        return "one of its operands is no floating value"
    if form := interpolated(node, builder) or pixels.affine(node, builder, alpha):
        return form
    moving = [value for value in tensors if not isinstance(builder.forms[value], Constant)]
    if _one_source(builder, moving, [v for v in tensors if v not in moving]):
        return _gained(node, builder, function(node, builder))
    if node.target in (aten.mul.Tensor, aten.div.Tensor):
        return _product(node, builder, a, b)
    if node.target is aten.add.Tensor:
        return total(node, builder, a, b, (1.0, alpha))
    return total(node, builder, a, b, (1.0, -alpha) if node.target is aten.sub.Tensor else (-alpha, 1.0))


def function(node: fx.Node, builder: Builder) -> Form | str:
    """Any other function: a table over the codes of the one value it depends on."""
    values = node.all_input_nodes
    moving = [value for value in values if value in builder.forms and not isinstance(builder.forms[value], Constant)]
    fixed = {value: builder.forms[value] for value in values if isinstance(builder.forms.get(value), Constant)}
    if len(moving) + len(fixed) != len(values) or not moving:
        return "it mixes floating values and others"
    if not _one_source(builder, moving, list(fixed)):
        return "it depends on several values"
    source, _ = builder.function(moving[0])
    inner = {value: builder.function(value)[1] for value in moving}

    def compute(x: Tensor) -> Tensor:
        known = {value: inner[value](x) for value in moving}
        for value, form in fixed.items():
            assert isinstance(form, Constant)
            known[value] = form.tensor.to(torch.float64).reshape([1] if form.tensor.dim() else [])
        args, kwargs = fx.map_arg((node.args, node.kwargs), known.__getitem__)
        assert callable(node.target)
        result: Tensor = node.target(*args, **kwargs)
        return result.nan_to_num(math.nan, HUGE, -HUGE) if result.dtype.is_floating_point else result

    return Pointwise(source, compute)


def _gained(node: fx.Node, builder: Builder, made: Form | str) -> Form | str:
    """A product with a positive number keeps the integers, unless it is a part of a longer function."""
    numbers = [value for value in node.args[:2] if isinstance(value, int | float)]
    if not isinstance(made, Pointwise) or node.target not in (aten.mul.Tensor, aten.div.Tensor) or not numbers:
        return made
    before = builder.forms[node.all_input_nodes[0]]
    gain = float(numbers[0]) if node.target is aten.mul.Tensor else 1 / float(numbers[0] or math.inf)
    if not 0 < gain < math.inf or (isinstance(before, Pointwise | Clamped) and not isinstance(before, Gained)):
        return made
    return Gained(made.source, made.function, gain * (before.gain if isinstance(before, Gained) else 1.0))


def _one_source(builder: Builder, moving: list[fx.Node], fixed: list[fx.Node]) -> bool:
    """Whether all activations are functions of one value, and all constants single numbers."""
    sources = {builder.function(value)[0] for value in moving}
    rank = max((value.meta["val"].dim() for value in moving), default=0)
    numbers = [value.meta["val"] for value in fixed]
    return len(sources) == 1 and all(number.numel() == 1 and number.dim() <= rank for number in numbers)


def _product(node: fx.Node, builder: Builder, a: Any, b: Any) -> Form | str:
    """A product, or a quotient by a constant."""
    divides = node.target is aten.div.Tensor
    constant = builder.forms[b]
    if not isinstance(constant, Constant) and not divides:
        a, b, constant = b, a, builder.forms[a]
    if not isinstance(constant, Constant):
        return "it divides by a value that depends on the inputs" if divides else product(node, builder, a, b)
    gain = constant.tensor.detach().to(torch.float64)
    gain = 1 / gain if divides else gain
    if not bool(gain.isfinite().all()):
        return "it divides by 0, or by what is no number"
    if bool((gain > 0).all()) and torch.broadcast_shapes(gain.shape, a.meta["val"].shape) == a.meta["val"].shape:
        term = builder.term(a)
        return Accumulator(Term(term.node, term.scale * gain.reshape(gain.shape or (1,)), term.zero))
    codes, x = builder.summands(a)
    with builder.stand_for(node):
        factor = builder.constant_term(Constant(f"{node.name}.gain", gain))
        made = builder.call(planish.mul.default, codes, factor.node, x.zero, 0)
    return Accumulator(Term(made, x.scale * factor.scale, 0))
