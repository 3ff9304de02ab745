"""How NORMALIZED calls are written:  every positional argument present, keyword-only ones where they differ.

    conv2d(x, w)  is written  conv2d(x, w, None, [1, 1], [0, 0], [1, 1], 1)

`OpPass` is the base of the passes in this folder: a table from op to a function that respells a call of it.
"""

from __future__ import annotations

import operator
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from torch import fx

from ...ir.match import equal_literals
from ...ir.program import Program, Stage
from ...ir.rules import Call, Expr, Refused, Replacement, Rule
from ..base import Numerics, Pass

aten = torch.ops.aten

Verdict = Replacement | Refused | None
Respell = Callable[[fx.Node, Program], Verdict]


@dataclass(frozen=True)
class OpPass(Pass):
    """A pass that looks up each call's op in `table`."""

    requires: ClassVar[Stage] = Stage.CAPTURED
    numerics: ClassVar[Numerics] = Numerics.EXACT
    table: ClassVar[Mapping[Any, Respell]]

    def rules(self) -> Sequence[tuple[str, Rule]]:
        """One rule: the table."""
        return ((self.name, self.respell),)

    def respell(self, node: fx.Node, program: Program) -> Verdict:
        """What the table's function says about this node."""
        function = self.table.get(node.target) if node.op == "call_function" else None
        return function(node, program) if function is not None else None


def call(op: Any, *args: Any, **kwargs: Any) -> Call:
    """A call in full spelling."""
    return Call(op, *complete(op, args, kwargs))


def replace_by(node: fx.Node, value: Expr, *covers: fx.Node) -> Replacement | None:
    """Replace one node by an expression; None where that would change nothing."""
    if isinstance(value, Call) and value.op is node.target and same_arguments(value, node):
        return None
    return Replacement({node: value}, covers)


def complete(op: Any, args: Sequence[Any], kwargs: Mapping[str, Any]) -> tuple[tuple[Any, ...], dict[str, Any]]:
    """All positional arguments with defaults filled in, and the keyword-only ones that differ from theirs."""
    positional: list[Any] = []
    keyword: dict[str, Any] = {}
    for index, argument in enumerate(op._schema.arguments):
        has_default = argument.has_default_value()
        if index < len(args):
            value = args[index]
        elif argument.name in kwargs:
            value = kwargs[argument.name]
        elif has_default:
            value = argument.default_value
        else:
            raise TypeError(f"{op} needs {argument.name}")
        if not argument.kwarg_only:
            positional.append(value)
        elif not has_default or not equal_literals(value, argument.default_value):
            keyword[argument.name] = value
    return tuple(positional), keyword


def same_arguments(one: Call | fx.Node, other: Call | fx.Node) -> bool:
    """Whether two calls pass identical arguments."""
    return _same(tuple(one.args), tuple(other.args)) and _same(dict(one.kwargs), dict(other.kwargs))


def _same(left: Any, right: Any) -> bool:
    if isinstance(left, list | tuple) and isinstance(right, list | tuple):
        return len(left) == len(right) and all(map(_same, left, right))
    if isinstance(left, Mapping) and isinstance(right, Mapping):
        return left.keys() == right.keys() and all(_same(left[key], right[key]) for key in left)
    if isinstance(left, fx.Node | Call) or isinstance(right, fx.Node | Call):
        return left is right
    return equal_literals(left, right)


def args_of(node: Any) -> tuple[Any, ...]:
    """The positional arguments of a call, defaults filled in."""
    if isinstance(node.target, torch._ops.OpOverload):
        return complete(node.target, node.args, node.kwargs)[0]
    args: tuple[Any, ...] = node.args
    return args


def value_of(node: fx.Node) -> torch.Tensor:
    """The fake tensor of a node that has exactly one."""
    value: torch.Tensor = node.meta["val"]
    return value


def shape_of(node: fx.Node) -> list[int]:
    """The extents of a node's value."""
    return [int(extent) for extent in value_of(node).shape]


def is_tensor(node: Any) -> bool:
    """Whether this is a node with one tensor as its value."""
    return isinstance(node, fx.Node) and isinstance(node.meta.get("val"), torch.Tensor)


def positive_dim(dim: int, rank: int) -> int:
    """A dimension counted from the front."""
    return dim % rank if rank else 0


def positive_dims(dims: Any, rank: int) -> list[int]:
    """Dimensions counted from the front, ascending; None and [] mean all of them."""
    if dims is None or dims == []:
        return list(range(rank))
    return sorted(positive_dim(dim, rank) for dim in ([dims] if isinstance(dims, int) else dims))


def full_length(value: int | Sequence[int], count: int) -> list[int]:
    """One entry for each spatial dimension."""
    items = [value] if isinstance(value, int) else list(value)
    return items * count if len(items) == 1 else items


def parts_of(node: fx.Node) -> dict[int, fx.Node]:
    """The used `getitem`s of a call with several results, by index; other readers appear as index -1."""
    parts: dict[int, fx.Node] = {}
    for user in node.users:
        if user.target is not operator.getitem:
            parts[-1] = user
        elif user.users:
            parts[args_of(user)[1]] = user
    return parts


def first_result_only(node: fx.Node, value: Expr, unused: str) -> Verdict:
    """Replace the first of several results, where nobody reads the others."""
    parts = parts_of(node)
    if parts and set(parts) != {0}:
        verb = "are" if unused.endswith("s") or unused == "indices" else "is"
        return Refused(f"its {unused} {verb} used", node)
    return Replacement({parts[0]: value}, (node,)) if parts else None
