"""Operands that are nodes or Python numbers, and how numbers are spelled: on the right, floats among floats."""

from __future__ import annotations

from typing import Any

import torch
from torch import fx

from ...ir.ops import is_call
from ...ir.program import Program
from ...ir.rules import Weight
from .spelling import args_of, aten, call, is_tensor, shape_of, value_of

Operand = Any
"""A node or a Python number."""


def sides(node: fx.Node, program: Program) -> tuple[Operand, Operand]:
    """The operands of a commutative op, a number on the right."""
    left, right = args_of(node)[:2]
    number = number_of(left, right, node, program)
    if not isinstance(number, fx.Node):
        return right, number
    return left, number_of(right, left, node, program)


def number_of(operand: Operand, other: Operand, node: fx.Node, program: Program) -> Operand:
    """A Python number for a number or a constant without dimensions; any other operand as it is."""
    if not isinstance(operand, fx.Node):
        return like(operand, other) if is_tensor(other) else operand
    if not is_tensor(other) or not isinstance(node.meta["val"], torch.Tensor):
        return operand
    source: Any = args_of(operand)[0] if is_call(operand, aten.expand.default) else operand
    if not isinstance(source, fx.Node) or source.op != "get_attr" or value_of(source).dim() != 0:
        return operand
    same = value_of(other).dtype == value_of(source).dtype and shape_of(other) == shape_of(node)
    if not same or value_of(source).dtype.is_complex:
        return operand
    return program.weights[str(source.target)].item()


def like(number: Any, tensor: fx.Node) -> Any:
    """The number as float where it meets a floating tensor."""
    floating = value_of(tensor).dtype.is_floating_point
    return float(number) if floating and isinstance(number, int) and not isinstance(number, bool) else number


def times(operand: Operand, factor: float) -> Operand:
    """The product with a number."""
    return call(aten.mul.Tensor, operand, factor) if isinstance(operand, fx.Node) else operand * factor


def constant(value: Operand, node: fx.Node) -> Operand:
    """A number as a constant of the result's dtype."""
    if isinstance(value, fx.Node):
        return value
    return Weight("constant", torch.tensor(value, dtype=value_of(node).dtype))
