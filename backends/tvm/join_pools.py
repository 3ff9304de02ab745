"""join_pools: a pool goes into the region of the convolution before it, where one kernel does both faster than two.

    pool(region_conv(x)) == region_conv_pool(x)      if nothing else reads region_conv(x)

Which kernel takes a convolution is known to the templates only, and so is whether it can keep what the pool reads in
the cache. So each pair is offered to the template that takes the convolution alone; a refusal is reported.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import fx

from ...ir.program import Origin, Program, Region
from ...ir.report import PassReport, Site
from .kernels.conv_pool import POOLS
from .kernels.templates import TEMPLATES
from .lower import task_of
from .plan import PLAIN, value_of
from .target import Target
from .template import Refused, Task, Template, Wants

NAME = "join_pools"


def join_pools(
    program: Program, target: Target, numerics: str = "fast", templates: Sequence[Template] = TEMPLATES
) -> Program:
    """The GROUPED program with pools in the regions of convolutions; its report says which, and why not the others."""
    sites: list[Site] = []
    joined: dict[fx.Node, _Joined] = {}
    for pool in program.graph.find_nodes(op="call_module"):
        conv = _convolution(pool, program)
        if conv is None:
            continue
        both = _join(conv, pool, program)
        apart, together = task_of(conv, program, target, numerics), _task(both, pool, program, target, numerics)
        reason = _reason(apart, together, templates)
        sites.append(Site(NAME, pool.name, "pool", both.region.layers, reason))
        if reason is None:
            joined[pool] = both
    applied, refused = (tuple(s for s in sites if (s.reason is None) is done) for done in (True, False))
    after = _rebuilt(program, joined) if joined else program
    report = PassReport(NAME, applied, refused, _calls(program), _calls(after))
    return after.evolve(report=(*program.report, report)) if sites else program


@dataclass(frozen=True, eq=False)
class _Joined:
    """The region of both, and what it is called with."""

    conv: fx.Node
    region: Region
    arguments: tuple[fx.Node, ...]


def _convolution(call: fx.Node, program: Program) -> fx.Node | None:
    """The call of a convolution whose result the pool of `call` reads, and nothing else does."""
    pool = program.regions[str(call.target)].anchor_node
    if pool is None or pool.target not in POOLS:
        return None
    source = dict(zip(program.regions[str(call.target)].placeholders, call.args, strict=True)).get(pool.args[0])
    if not isinstance(source, fx.Node) or source.op != "call_module" or call.args.count(source) != 1:
        return None
    anchor = program.regions[str(source.target)].anchor_node
    is_conv = anchor is not None and anchor.target is torch.ops.aten.convolution.default
    return source if is_conv and list(source.users) == [call] else None


def _join(conv: fx.Node, pool: fx.Node, program: Program) -> _Joined:
    """One region that does both."""
    before, after = (program.regions[str(call.target)] for call in (conv, pool))
    values: dict[fx.Node, fx.Node] = {}
    placeholders: dict[fx.Node, fx.Node] = {}
    body = fx.Graph()
    outside = [
        (own, given)
        for region, call in ((before, conv), (after, pool))
        for own, given in zip(region.placeholders, call.all_input_nodes, strict=True)
        if given is not conv
    ]
    for own, given in outside:
        if given not in placeholders:
            placeholders[given] = body.node_copy(own)
        values[own] = placeholders[given]
    anchor = ""
    for region in (before, after):
        for node in region.body.nodes:
            if node.op == "call_function":
                values[node] = body.node_copy(node, values.__getitem__)
            elif node.op == "placeholder" and node not in values:
                values[node] = values[before.result]
        if region is before:
            anchor = values[before.anchor_node].name
    body.output(values[after.result]).meta = dict(after.result.meta)
    layers = tuple(dict.fromkeys((*before.layers, *after.layers)))
    return _Joined(conv, Region(before.name, before.kind, body, anchor, layers), tuple(placeholders))


def _task(joined: _Joined, pool: fx.Node, program: Program, target: Target, numerics: str) -> Task:
    """The joined region as a task."""
    inputs = tuple(value_of(a, a.op == "placeholder") for a in joined.arguments)
    constants = frozenset(i for i, a in enumerate(joined.arguments) if a.op == "get_attr")
    return Task(joined.region, inputs, constants, value_of(pool), target, PLAIN, numerics)


def _reason(apart: Task, together: Task, templates: Sequence[Template]) -> str | None:
    """Why the template that takes the convolution does not take the pool with it; None where it does."""
    *made, generic = templates
    template = next((t for t in made if isinstance(t.wants(apart), Wants)), generic)
    if template is generic:
        return "no template takes the convolution"
    wants = template.wants(together)
    return f"{template.name}: {wants.reason}" if isinstance(wants, Refused) else None


def _rebuilt(program: Program, joined: Mapping[fx.Node, _Joined]) -> Program:
    """The program that calls the joined regions."""
    gone = {both.conv for both in joined.values()}
    graph, values, regions = fx.Graph(), dict[fx.Node, fx.Node](), {}
    for node in program.graph.nodes:
        if node in gone:
            continue
        if node in joined:
            both = joined[node]
            call = graph.call_module(both.region.name, tuple(values[a] for a in both.arguments))
            call.meta = {**node.meta, "origins": _origins(both.conv, node)}
            values[node], regions[both.region.name] = call, both.region
            continue
        values[node] = graph.node_copy(node, values.__getitem__)
        if node.op == "call_module":
            regions[str(node.target)] = program.regions[str(node.target)]
    return program.evolve(graph=graph, regions=regions)


def _origins(*nodes: fx.Node) -> tuple[Origin, ...]:
    """Where the nodes come from, each place once."""
    return tuple(dict.fromkeys(origin for node in nodes for origin in node.meta.get("origins", ())))


def _calls(program: Program) -> int:
    """How many kernels there are."""
    return len(program.graph.find_nodes(op="call_module"))
