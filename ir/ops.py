"""The table of ATen ops we understand: family, purity, and the arguments an op is affine in. Data and lookups only.

    f in linear_in("x"), the other arguments fixed:   f(a x + b y) = a f(x) + b f(y) + (1 - a - b) f(0)

Unknown means unsafe: `info` returns None for an op that is not here, and whatever asks must then leave it
alone. Argument names come from the op's own schema (`arguments`), so nothing is numbered by hand.
"""

from __future__ import annotations

import operator
from dataclasses import dataclass
from typing import Any

import torch
from torch import fx

from .optable import AFFINE, FAMILIES, IMPURE, Op


@dataclass(frozen=True)
class OpInfo:
    """What is known of one op: its family (a key of `optable.FAMILIES`), purity, and `linear_in`.

    `pure` ops give the same values for the same arguments and do nothing else: equal calls may be merged,
    unused ones dropped, and calls on constants run ahead of time.
    """

    family: str
    pure: bool = True
    linear_in: tuple[str, ...] = ()


OPS: dict[Op, OpInfo] = {
    op: OpInfo(family, family not in IMPURE, AFFINE.get(op, ())) for family, ops in FAMILIES.items() for op in ops
}


def info(target: Any) -> OpInfo | None:
    """What is known of an op, given as overload or as a node that calls it; None means: leave it alone."""
    if isinstance(target, fx.Node):
        target = target.target if target.op == "call_function" else None
    if target is operator.getitem:
        return _GETITEM
    if not isinstance(target, torch._ops.OpOverload):
        return None
    return _INTEGER if target.namespace == "planish" else OPS.get(target)


def family(node: fx.Node) -> str | None:
    """The family of the op that a node calls, None for unknown ops and for nodes that call none."""
    known = info(node)
    return known.family if known else None


def is_pure(node: fx.Node) -> bool:
    """Whether a node may be merged with its equals, dropped when unused, and run ahead of time."""
    if node.op != "call_function":
        return node.op == "get_attr"
    known = info(node)
    return known is not None and known.pure


def is_call(node: Any, *ops: Any) -> bool:
    """Whether `node` is a call of one of these overloads."""
    return isinstance(node, fx.Node) and node.op == "call_function" and node.target in ops


def integer_name(node: Any) -> str | None:
    """Which `planish::` operator a node calls, without those being registered here; None for all others."""
    target = getattr(node, "target", None)
    if not isinstance(target, torch._ops.OpOverload) or target.namespace != "planish":
        return None
    return str(target._schema.name.partition("::")[2])


def arguments(node: fx.Node) -> dict[str, Any]:
    """A call's arguments by their schema names, defaults filled in, in schema order."""
    if node.target is operator.getitem:
        return {"self": node.args[0], "index": node.args[1]}
    if not isinstance(node.target, torch._ops.OpOverload):
        raise TypeError(f"{node.name} calls {node.target}, which has no schema")
    bound: dict[str, Any] = {}
    for position, argument in enumerate(node.target._schema.arguments):
        if not argument.kwarg_only and position < len(node.args):
            bound[argument.name] = node.args[position]
        else:
            bound[argument.name] = node.kwargs.get(argument.name, argument.default_value)
    return bound


def argument(node: fx.Node, name: str) -> Any:
    """One argument of a call by its schema name."""
    return arguments(node)[name]


_GETITEM = OpInfo("getitem")
_INTEGER = OpInfo("integer")
