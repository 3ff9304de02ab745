"""One region of two: what the joins of this folder have in common.

join([a, b])(inputs of a, other inputs of b) == b(a(inputs of a), other inputs of b)
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from functools import partial

from torch import fx

from ...ir.program import Origin, Program, Region
from ...ir.report import PassReport, Site
from .plan import PLAIN, value_of
from .target import Target
from .template import Task


@dataclass(frozen=True, eq=False)
class Piece:
    """Calls of one region, of which the last is its result, and what they read: `feeds[own node]` is the program's.

    A placeholder that nothing feeds is the result of the piece before.
    """

    calls: Sequence[fx.Node]
    feeds: Mapping[fx.Node, fx.Node]
    layers: tuple[str, ...]
    result: fx.Node


@dataclass(frozen=True, eq=False)
class Joined:
    """A region, and the program's nodes that it is called with."""

    region: Region
    arguments: tuple[fx.Node, ...]

    def task(self, output: fx.Node, target: Target, numerics: str) -> Task:
        """The region as a task whose result is that of the call `output`."""
        inputs = tuple(value_of(a, a.op == "placeholder") for a in self.arguments)
        constants = frozenset(i for i, a in enumerate(self.arguments) if a.op == "get_attr")
        return Task(self.region, inputs, constants, value_of(output), target, PLAIN, numerics)


def feeds_of(call: fx.Node, program: Program) -> dict[fx.Node, fx.Node]:
    """What each placeholder of a call's region receives."""
    return dict(zip(program.regions[str(call.target)].placeholders, call.all_input_nodes, strict=True))


def read_once(call: fx.Node, anchor: fx.Node, program: Program) -> fx.Node | None:
    """The call whose result the anchor of `call` reads first, if nothing else does, in its region or outside."""
    own = anchor.all_input_nodes[0]
    source = feeds_of(call, program).get(own)
    if source is None or source.op != "call_module":
        return None
    return source if list(source.users) == [call] and list(own.users) == [anchor] else None


def piece(call: fx.Node, program: Program, link: fx.Node | None = None) -> Piece:
    """All of the region of a call; `link` is the call whose result comes from the piece before."""
    region = program.regions[str(call.target)]
    calls = [n for n in region.body.nodes if n.op == "call_function"]
    feeds = {own: given for own, given in feeds_of(call, program).items() if given is not link}
    return Piece(calls, feeds, region.layers, region.result)


def join(pieces: Sequence[Piece], like: Region) -> Joined:
    """One region of all pieces, each reading the one before; name, kind and anchor are those of `like`."""
    body = fx.Graph()
    placeholders: dict[fx.Node, fx.Node] = {}
    values: dict[fx.Node, fx.Node] = {}
    for one in pieces:
        for own, given in one.feeds.items():
            if given not in placeholders:
                placeholders[given] = body.placeholder(own.name)
                placeholders[given].meta = dict(own.meta)
            values[own] = placeholders[given]
    for before, one in zip([pieces[0], *pieces], pieces, strict=False):
        for node in one.calls:
            values[node] = body.node_copy(node, partial(_value, values, before.result))
    result = pieces[-1].result
    body.output(values[result]).meta = dict(result.meta)
    anchor = None if like.anchor_node is None else values[like.anchor_node].name
    layers = tuple(dict.fromkeys(layer for one in pieces for layer in one.layers))
    return Joined(Region(like.name, like.kind, body, anchor, layers), tuple(placeholders))


def _value(values: Mapping[fx.Node, fx.Node], link: fx.Node, node: fx.Node) -> fx.Node:
    """What a node of a piece has become; `link` for what nothing feeds."""
    return values[node if node in values else link]


def rebuilt(
    program: Program, joined: Mapping[fx.Node, Joined], gone: Collection[fx.Node], name: str, sites: Sequence[Site]
) -> Program:
    """The program with other regions for the calls `joined`, without the calls `gone`; `sites` are reported."""
    if not sites:
        return program
    after = _rewired(program, joined, gone) if joined else program
    applied = tuple(site for site in sites if site.reason is None)
    refused = tuple(site for site in sites if site.reason is not None)
    report = PassReport(name, applied, refused, _calls(program), _calls(after))
    return after.evolve(report=(*program.report, report))


def _rewired(program: Program, joined: Mapping[fx.Node, Joined], gone: Collection[fx.Node]) -> Program:
    graph, values, regions = fx.Graph(), dict[fx.Node, fx.Node](), dict[str, Region]()
    for node in program.graph.nodes:
        if node in gone:
            continue
        if node in joined:
            both = joined[node]
            values[node] = graph.call_module(both.region.name, tuple(values[a] for a in both.arguments))
            lost = [a for a in node.all_input_nodes if a in gone]
            values[node].meta = {**node.meta, "origins": _origins(*lost, node)}
            regions[both.region.name] = both.region
            continue
        values[node] = graph.node_copy(node, values.__getitem__)
        if node.op == "call_module":
            regions[str(node.target)] = program.regions[str(node.target)]
    return program.evolve(graph=graph, regions=regions)


def _origins(*nodes: fx.Node) -> tuple[Origin, ...]:
    """Where the nodes come from, each place once."""
    return tuple(dict.fromkeys(origin for node in nodes for origin in node.meta.get("origins", ())))


def _calls(program: Program) -> int:
    """How many regions are called."""
    return len(program.graph.find_nodes(op="call_module"))
