"""Cuts a Program where a backend refuses an operator: pieces for the backend and pieces for eager, in turn.

    program == piece[n-1] ∘ ... ∘ piece[0],     level(v) = max over inputs u of level(u) + (side(u) != side(v))

Calls of one level are one piece. Levels never fall along an edge, so the pieces in order are acyclic, and no
cut exists that an operator did not force: the number of pieces is the longest alternation of sides plus one.
"""

from __future__ import annotations

import operator
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Any

import torch
from torch import fx

from ..errors import UnsupportedOp
from ..ir.program import Program
from ..ir.signature import Signature, TensorSpec
from .base import Refused

Supports = Callable[[fx.Node], Refused | None]

_VIEWS = frozenset({"reshape", "permute", "expand", "slice", "alias", "detach", "getitem"})
"""Calls that move no data: a piece of these alone is not worth compiling."""


@dataclass(frozen=True)
class Piece:
    """Part of a Program, itself a Program from `inputs` to `outputs` (names of the whole graph's nodes)."""

    program: Program
    inputs: tuple[str, ...]
    outputs: tuple[str, ...]
    compiled: bool


@dataclass(frozen=True)
class Partition:
    """The pieces in the order in which they run, and the operators that forced the cuts."""

    pieces: tuple[Piece, ...]
    refused: tuple[UnsupportedOp, ...]


def partition(program: Program, supports: Supports) -> Partition:
    """Ask `supports` of each call and cut."""
    refused = {node: answer for node in _calls(program.graph) if (answer := _ask(node, supports))}
    if not refused and any(_calls(program.graph)):
        names = tuple(n.name for n in program.graph.nodes if n.op == "placeholder")
        outputs = tuple(n.name for n in _results(program.graph))
        return Partition((Piece(program, names, outputs, compiled=True),), ())
    return Partition(tuple(_pieces(program, refused)), tuple(_describe(n, r) for n, r in refused.items()))


def _pieces(program: Program, refused: dict[fx.Node, Refused]) -> Iterable[Piece]:
    """Group calls by level and make each group a Program."""
    levels: dict[fx.Node, int] = {}
    groups: dict[int, list[fx.Node]] = {}
    for node in _calls(program.graph):
        side = _eager(node, refused)
        before = [levels[u] + (_eager(u, refused) != side) for u in node.all_input_nodes if u in levels]
        levels[node] = max(before, default=int(side))
        groups.setdefault(levels[node], []).append(node)
    for level in sorted(groups):
        calls = groups[level]
        yield _piece(program, calls, compiled=level % 2 == 0 and not all(_is_view(node) for node in calls))


def _piece(program: Program, calls: list[fx.Node], compiled: bool) -> Piece:
    """The calls as a Program of their own."""
    inside = set(calls)
    reads = list(dict.fromkeys(u for node in calls for u in node.all_input_nodes if u not in inside))
    inputs = [node for node in reads if node.op != "get_attr"]
    outputs = [node for node in calls if any(user not in inside for user in node.users) and not _is_tuple(node)]
    signature = Signature.of_tensors([_spec(n) for n in inputs], [_spec(n) for n in outputs])
    graph, env = fx.Graph(), {}
    for node, name in zip(inputs, signature.placeholders, strict=True):
        env[node] = _with_meta(graph.placeholder(name), node)
    for node in reads:
        if node.op == "get_attr":
            env[node] = _with_meta(graph.create_node("get_attr", node.target), node)
    for node in calls:
        env[node] = _with_meta(graph.node_copy(node, env.__getitem__), node)
    output = graph.output(tuple(env[node] for node in outputs))
    output.meta.update(val=tuple(node.meta["val"] for node in outputs), origins=())
    weights = {str(n.target): program.weights[str(n.target)] for n in reads if n.op == "get_attr"}
    part = program.evolve(graph=graph, weights=weights, signature=signature, regions={})
    return Piece(part, tuple(n.name for n in inputs), tuple(n.name for n in outputs), compiled)


def _calls(graph: fx.Graph) -> list[fx.Node]:
    return [node for node in graph.nodes if node.op == "call_function"]


def _results(graph: fx.Graph) -> list[fx.Node]:
    """The nodes whose values the graph returns."""
    return list(graph.output_node().args[0])  # type: ignore[arg-type]


def _ask(node: fx.Node, supports: Supports) -> Refused | None:
    """A `getitem` goes with the call that made the tuple."""
    return None if node.target is operator.getitem else supports(node)


def _eager(node: fx.Node, refused: dict[fx.Node, Refused]) -> bool:
    source = node.args[0] if node.target is operator.getitem else node
    return source in refused


def _is_view(node: fx.Node) -> bool:
    name = getattr(node.target, "__name__", "").partition(".")[0]
    return name in _VIEWS


def _is_tuple(node: fx.Node) -> bool:
    """Whether a call returns several tensors; these leave a piece through their `getitem`s."""
    return not isinstance(node.meta["val"], torch.Tensor)


def _spec(node: fx.Node) -> TensorSpec:
    value = node.meta["val"]
    return TensorSpec(node.name, str(value.dtype).removeprefix("torch."), tuple(value.shape))


def _with_meta(new: fx.Node, old: fx.Node) -> fx.Node:
    new.meta = {key: old.meta[key] for key in ("val", "origins") if key in old.meta}
    return new


def _describe(node: fx.Node, answer: Refused) -> UnsupportedOp:
    """What `UnsupportedOperators` and the one-line notices show."""
    origins: tuple[Any, ...] = node.meta.get("origins", ())
    layer, source = (origins[0].layer, origins[0].source) if origins else ("", "")
    return UnsupportedOp(str(node.target), answer.reason, layer, source)
