"""What a rule is, and what it may say: pure descriptions of new nodes, which `rewrite` makes.

rule(node, program) -> Replacement | Refused | None        (None: this node is no candidate)
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import fx

from .program import Program


@dataclass(frozen=True, eq=False)
class Weight:
    """A new constant. `name` is a wish (made unique); equal bytes under an equal name are stored once."""

    name: str
    tensor: torch.Tensor


@dataclass(frozen=True, eq=False)
class Call:
    """A new call of an ATen op (or `operator.getitem`, or a `Region`).

    Arguments may hold `Call`, `Weight` and `fx.Node` at any depth. The same `Call` object used twice makes one node.
    `of` are the nodes whose origins it keeps, where those are not all that the replacement replaces.
    """

    op: Any
    args: tuple[Any, ...] = ()
    kwargs: Mapping[str, Any] = field(default_factory=dict)
    of: tuple[fx.Node, ...] = ()


Expr = Call | Weight | fx.Node


@dataclass(frozen=True)
class Replacement:
    """For each replaced node, the expression that takes over its users.

    `covers` are the other nodes the rewrite makes dead (their origins are kept on the new nodes).
    """

    values: Mapping[fx.Node, Expr]
    covers: tuple[fx.Node, ...] = ()


@dataclass(frozen=True)
class Refused:
    """A candidate that must not be rewritten: why (one clause), and at which node."""

    reason: str
    at: fx.Node


Rule = Callable[[fx.Node, Program], Replacement | Refused | None]


def parts_of(expr: Call | Weight) -> list[Call | Weight]:
    """The expressions an expression is made of."""
    if isinstance(expr, Weight):
        return []
    return [part for part in _leaves((expr.args, expr.kwargs)) if isinstance(part, Call | Weight)]


def reads_of(value: Any) -> list[fx.Node]:
    """The nodes among its leaves."""
    return [p for p in _leaves(value) if isinstance(p, fx.Node)]


def resolve(value: Any, memo: dict[int, fx.Node]) -> Any:
    """Put the made nodes in the places of their expressions."""
    if isinstance(value, list | tuple):
        items = [resolve(item, memo) for item in value]
        return tuple(items) if isinstance(value, tuple) else items
    if isinstance(value, Mapping):
        return {key: resolve(item, memo) for key, item in value.items()}
    return memo[id(value)] if isinstance(value, Call | Weight) else value


def _leaves(value: Any) -> Iterable[Any]:
    """The leaves of nested tuples, lists and dicts."""
    if isinstance(value, list | tuple):
        return [leaf for item in value for leaf in _leaves(item)]
    if isinstance(value, Mapping):
        return [leaf for item in value.values() for leaf in _leaves(item)]
    return [value]
