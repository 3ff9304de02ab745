"""Pure structural matching:  match(pattern, node) -> Match (what each capture is) | Failed (why, and at which node).

    BN = Op(aten.batch_norm.default, Op(CONV, X("x"), Constant("w"), X("b"), single_user=True), Constant("gamma"))
    found = match(BN, node)
    if isinstance(found, Failed): ...found.reason

Arguments that a pattern does not mention may be anything; literals in a pattern must be equal in type and value.
A capture named twice must be the same value twice. Nothing here looks at more than the node and what feeds it.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from typing import Any

import torch
from torch import fx

from .ops import arguments


@dataclass(frozen=True)
class Failed:
    """Why a pattern does not fit, and the node where that was seen (None for a plain value)."""

    reason: str
    at: fx.Node | None = None


@dataclass(frozen=True)
class Match:
    """A pattern that fits: captured values by name, and the op nodes that the pattern names, root first."""

    captures: Mapping[str, Any] = field(default_factory=dict)
    nodes: tuple[fx.Node, ...] = ()

    def __getitem__(self, name: str) -> Any:
        """The captured value."""
        return self.captures[name]

    def node(self, name: str) -> fx.Node:
        """The captured value, which is a node."""
        value = self.captures[name]
        if not isinstance(value, fx.Node):
            raise TypeError(f"capture {name} is {value!r}, not a node")
        return value


class Pattern:
    """Base of all patterns."""

    def match(self, value: Any, found: Match) -> Match | Failed:
        """`found` extended by what this pattern captures in `value`."""
        raise NotImplementedError


@dataclass(frozen=True)
class X(Pattern):
    """Anything at all; captured when it has a name."""

    name: str = ""

    def match(self, value: Any, found: Match) -> Match | Failed:
        """Always fits, unless the name already stands for something else."""
        return _capture(self.name, value, found)


@dataclass(frozen=True)
class Constant(Pattern):
    """A constant of the program: a `get_attr` node."""

    name: str = ""

    def match(self, value: Any, found: Match) -> Match | Failed:
        """Fits `get_attr` nodes only."""
        if not isinstance(value, fx.Node) or value.op != "get_attr":
            return Failed(f"{_show(value)} is not a constant", value if isinstance(value, fx.Node) else None)
        return _capture(self.name, value, found)


@dataclass(frozen=True)
class Where(Pattern):
    """`inner`, if `test(value)` holds as well; `reason` says what is missing otherwise."""

    inner: Any
    test: Callable[[Any], bool]
    reason: str

    def match(self, value: Any, found: Match) -> Match | Failed:
        """The inner pattern first, so that `test` sees only values of the right kind."""
        result = _match(self.inner, value, found)
        if isinstance(result, Failed) or self.test(value):
            return result
        return Failed(self.reason, value if isinstance(value, fx.Node) else None)


@dataclass(frozen=True)
class Either(Pattern):
    """The first alternative that fits."""

    alternatives: tuple[Any, ...]

    def __init__(self, *alternatives: Any) -> None:
        """Patterns in order of preference."""
        object.__setattr__(self, "alternatives", alternatives)

    def match(self, value: Any, found: Match) -> Match | Failed:
        """The first fit, or the last alternative's reason."""
        return _first([partial(_match, a, value, found) for a in self.alternatives])


@dataclass(frozen=True)
class Op(Pattern):
    """A call of one of `targets`, its arguments given by position or by schema name.

    `commutative` tries the first two arguments both ways round; `single_user` asks that only the matched
    consumer reads the value (for the root: that it has exactly one reader).
    """

    targets: tuple[Any, ...]
    args: tuple[Any, ...] = ()
    kwargs: Mapping[str, Any] = field(default_factory=dict)
    name: str = ""
    single_user: bool = False
    commutative: bool = False

    def __init__(
        self,
        target: Any,
        *args: Any,
        name: str = "",
        single_user: bool = False,
        commutative: bool = False,
        **kwargs: Any,
    ) -> None:
        """`target` is one op or a sequence of ops that count as the same."""
        targets = tuple(target) if isinstance(target, list | tuple | set | frozenset) else (target,)
        for key, value in (("targets", targets), ("args", args), ("kwargs", kwargs), ("name", name)):
            object.__setattr__(self, key, value)
        object.__setattr__(self, "single_user", single_user)
        object.__setattr__(self, "commutative", commutative)

    def match(self, value: Any, found: Match) -> Match | Failed:
        """Target, users and name first, then the arguments."""
        if not isinstance(value, fx.Node) or value.op != "call_function" or value.target not in self.targets:
            wanted = " or ".join(map(str, self.targets))
            return Failed(f"{_show(value)} is not {wanted}", value if isinstance(value, fx.Node) else None)
        if self.single_user and len(value.users) != 1:
            return Failed(f"{value.name} has {len(value.users)} users", value)
        start = _capture(self.name, value, replace(found, nodes=(*found.nodes, value)))
        if isinstance(start, Failed):
            return start
        actual = arguments(value)
        orders = [self.args]
        if self.commutative and len(self.args) > 1:
            orders.append((self.args[1], self.args[0], *self.args[2:]))
        return _first([partial(self._match_arguments, order, actual, value, start) for order in orders])

    def _match_arguments(
        self, order: Sequence[Any], actual: Mapping[str, Any], node: fx.Node, found: Match
    ) -> Match | Failed:
        if len(order) > len(actual):
            return Failed(f"{node.name} has {len(actual)} arguments", node)
        wanted = [*zip(order, actual.values(), strict=False)]
        for key, pattern in self.kwargs.items():
            if key not in actual:
                return Failed(f"{node.name} has no argument {key}", node)
            wanted.append((pattern, actual[key]))
        for pattern, value in wanted:
            result = _match(pattern, value, found)
            if isinstance(result, Failed):
                return result if result.at is not None else replace(result, at=node)
            found = result
        return found


def match(pattern: Any, value: Any) -> Match | Failed:
    """Match one pattern against a node (or a plain value)."""
    return _match(pattern, value, Match())


def equal_literals(left: Any, right: Any) -> bool:
    """Same type and same value, bit for bit: 1 is not 1.0 or True, 0.0 is not -0.0, nan is nan."""
    if isinstance(left, list | tuple) and isinstance(right, list | tuple):
        return len(left) == len(right) and all(itertools.starmap(equal_literals, zip(left, right, strict=True)))
    if type(left) is not type(right):
        return False
    if isinstance(left, float):
        return bool(left.hex() == right.hex())
    return bool(left == right)


def _match(pattern: Any, value: Any, found: Match) -> Match | Failed:
    if isinstance(pattern, Pattern):
        return pattern.match(value, found)
    if isinstance(pattern, list | tuple) and isinstance(value, list | tuple):
        if len(pattern) != len(value):
            return Failed(f"{len(value)} items instead of {len(pattern)}")
        for part, item in zip(pattern, value, strict=True):
            result = _match(part, item, found)
            if isinstance(result, Failed):
                return result
            found = result
        return found
    if pattern is value or equal_literals(pattern, value):
        return found
    return Failed(f"{_show(value)} is not {_show(pattern)}", value if isinstance(value, fx.Node) else None)


def _first(attempts: Sequence[Callable[[], Match | Failed]]) -> Match | Failed:
    result: Match | Failed = Failed("no alternative given")
    for attempt in attempts:
        result = attempt()
        if isinstance(result, Match):
            return result
    return result


def _capture(name: str, value: Any, found: Match) -> Match | Failed:
    if not name:
        return found
    if name in found.captures and not _same(found.captures[name], value):
        at = value if isinstance(value, fx.Node) else None
        return Failed(f"{name} is both {_show(found.captures[name])} and {_show(value)}", at)
    return replace(found, captures={**found.captures, name: value})


def _same(left: Any, right: Any) -> bool:
    if left is right:
        return True
    return False if isinstance(left, fx.Node | torch.Tensor) else equal_literals(left, right)


def _show(value: Any) -> str:
    if isinstance(value, fx.Node):
        return f"{value.name} ({value.target})" if value.op == "call_function" else f"{value.name} ({value.op})"
    return repr(value)
