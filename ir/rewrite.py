"""The only file that edits a graph. Rules are pure: they look at a node and return what should stand there.

    rule(node, program) -> Replacement | Refused | None        (None: this node is no candidate)

A rule describes new nodes as expressions (`Call`, `Weight`, existing `fx.Node`s); `apply_rules` makes them,
fills `meta["val"]` with fake tensors and `meta["origins"]` with the union of the replaced nodes' origins,
redirects users, erases what became dead, and drops weights nobody reads any more.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import fx

from .program import Program
from .report import Site


@dataclass(frozen=True, eq=False)
class Weight:
    """A new constant. `name` is a wish (made unique); equal bytes under an equal name are stored once."""

    name: str
    tensor: torch.Tensor


@dataclass(frozen=True, eq=False)
class Call:
    """A new call of an ATen op; arguments may hold `Call`, `Weight` and `fx.Node` at any depth.

    The same `Call` object used twice makes one node.
    """

    op: Any
    args: tuple[Any, ...] = ()
    kwargs: Mapping[str, Any] = field(default_factory=dict)


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


def apply_rules(
    program: Program, rules: Sequence[tuple[str, Rule]], *, limit: int | None = None, verify: bool = False
) -> tuple[Program, list[Site], list[Site]]:
    """Apply the named rules until none fires; returns (new program, sites applied, sites refused).

    The program given is left untouched. Nodes are visited in graph order and new nodes are visited too.
    A refusal is reported once for each node and rule, and only if that node is still there at the end.
    `limit` stops after that many rewrites (bisecting). With `verify`, each site is run in float64 before
    and after on random inputs at its boundary; a difference raises `RewriteMismatch`.
    """
    raise NotImplementedError
