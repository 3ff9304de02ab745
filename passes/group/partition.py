"""Which ops run together: a cut of the graph into groups with one output each.

    group = tip + every op in it is read inside the group only, except the tip

Because nothing but the tip leaves a group, no path can leave and come back: contracting the groups gives no
cycle, and the groups in the order of their tips are a valid order of calls. Three sweeps decide:

1. backwards over the anchors, each takes the pointwise ops after it (its epilogue): a run, or a diamond that
   closes again, of ops of the anchor's shape. Backwards, so that a residual sum goes to its later producer.
2. backwards over everything else: a view is copied into every reader that maps indices; a pointwise op joins
   the one group that reads it; what cannot join is the tip of a group of its own.
"""

from __future__ import annotations

import operator
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

from torch import Tensor, fx

from .families import POINTWISE, Family, family, is_cheap, is_costly, is_pointwise, is_view, may_follow

DIAMOND = 12
"""Ops that a branching epilogue may take before its branches meet again."""


@dataclass(eq=False)
class Group:
    """Ops of one kernel: `tip` is its output, `after` the anchor's epilogue, `before` everything else."""

    family: Family
    anchor: fx.Node | None
    tip: fx.Node
    before: set[fx.Node] = field(default_factory=set)
    after: set[fx.Node] = field(default_factory=set)

    @property
    def members(self) -> set[fx.Node]:
        """Every op of the group."""
        return self.before | self.after | ({self.anchor} if self.anchor else set())

    @property
    def kind(self) -> str:
        """The region's kind: the anchor's, else "view" if nothing is computed."""
        views = self.anchor is None and all(is_view(n) for n in self.before)
        return "view" if views else self.family.kind


def partition(graph: fx.Graph) -> list[Group]:
    """Cut a graph into groups, in the order in which they are called."""
    order = {node: i for i, node in enumerate(graph.nodes)}
    groups: list[Group] = []
    holders: dict[fx.Node, list[Group]] = {}
    for node in reversed(graph.nodes):
        anchor = _anchor(node)
        if anchor is not None:
            groups.append(_grow(anchor, node, order, holders))
    for node in reversed(graph.nodes):
        if node.op != "call_function" or node in holders or not isinstance(node.meta["val"], Tensor):
            continue
        found = _homes(node, holders)
        if found is None:
            found = [Group(POINTWISE, None, node)]
            groups += found
        holders[node] = found
        for group in found:
            group.before.add(node)
    return sorted(groups, key=lambda group: order[group.tip])


def _anchor(node: fx.Node) -> Family | None:
    """Return the family if `node` is an anchor; of an op with several results, each result is one."""
    if node.op != "call_function" or not isinstance(node.meta["val"], Tensor):
        return None
    if node.target is operator.getitem:
        return family(node.args[0])  # type: ignore[arg-type]
    return family(node)


def _grow(kind: Family, node: fx.Node, order: dict[fx.Node, int], holders: dict[fx.Node, list[Group]]) -> Group:
    """Make the group of an anchor and its epilogue."""
    group = Group(kind, node, node)
    if node.target is operator.getitem:
        source: Any = node.args[0]
        group.anchor = source
        group.after.add(node)
    else:
        holders[node] = [group]
    while kind.epilogue and (taken := _next(group, order, holders)):
        group.after.update(taken)
        group.tip = taken[-1]
    for member in group.after:
        holders[member] = [group]
    return group


def _next(group: Group, order: dict[fx.Node, int], holders: dict[fx.Node, list[Group]]) -> list[fx.Node] | None:
    """Return the ops between the tip and the next op that all of its readers meet in, that op last."""
    tip, shape = group.tip, group.tip.meta["val"].shape
    taken: list[fx.Node] = []
    pending = set(tip.users)
    while pending and len(taken) < DIAMOND:
        user = min(pending, key=order.__getitem__)
        meets = len(pending) == 1
        pending.remove(user)
        after_view = meets and not taken and may_follow(group.family, user)
        fits = is_pointwise(user) and user.meta["val"].shape == shape
        if user in holders or not (fits or after_view):
            return None
        taken.append(user)
        if meets:
            return taken
        pending |= set(user.users)
    return None


def _homes(node: fx.Node, holders: dict[fx.Node, list[Group]]) -> list[Group] | None:
    """Return the groups that `node` is computed inside of, None if it must be stored."""
    homes: dict[Group, None] = {}
    for user in node.users:
        if user.op == "output":
            return None
        for group in holders[user]:
            if not _accepts(group, user, node):
                return None
            homes[group] = None
    return list(homes) if len(homes) == 1 or is_view(node) or is_cheap(node) else None


def _accepts(group: Group, user: fx.Node, node: fx.Node) -> bool:
    """Say whether `node`, read by the member `user`, may be computed inside `group`."""
    kind = group.family
    if user in group.after:
        return False
    if user is group.anchor and kind.operands is not None and not set(_positions(user, node)) <= set(kind.operands):
        return False
    if is_view(node):
        return node.target in kind.views
    if not kind.pointwise or (kind.rereads and is_costly(node)):
        return False
    return user is group.anchor or user.meta["val"].numel() <= node.meta["val"].numel()


def _positions(user: fx.Node, node: fx.Node) -> Iterator[int]:
    """Yield the argument positions where `user` reads `node`; -1 inside a list or a keyword argument."""
    yield from (i for i, argument in enumerate(user.args) if argument is node)
    nested: list[fx.Node] = []
    inner = [a for a in user.args if not isinstance(a, fx.Node)]
    fx.map_arg((inner, user.kwargs), lambda n: nested.append(n) if n is node else None)
    yield from [-1] * len(nested)
