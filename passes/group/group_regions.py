"""group_regions: cut the graph into regions, one kernel each.

    y = relu(conv(x, w, b) + r)   ==   y = region_conv(x, w, b, r)

Conditions, all of them decided in `partition`:
- a region has one output and reads no result of its own from outside (no cycles);
- an anchor takes pointwise ops of its own shape after it, one after the other or in a diamond that closes;
- views are copied into the readers that map indices; before convolutions, pools and outputs they are stored;
- a pointwise op that several regions read is stored, unless it is one cheap op.

Before:
    program(%x: f32[1, 2, 8], %r: f32[1, 4, 8]) normalized {
      @conv.weight: f32[4, 2, 1] = [[[1.0], [2.0]], [[3.0], [4.0]], [[5.0], [6.0]], [[7.0], [8.0]]]
      %conv: f32[1, 4, 8] = convolution(%x, @conv.weight, none, [1], [0], [1], false, [0], 1)   # conv
      %add: f32[1, 4, 8] = add.Tensor(%conv, %r)
      %relu: f32[1, 4, 8] = relu(%add)
      return %relu
    }

After:
    program(%x: f32[1, 2, 8], %r: f32[1, 4, 8]) grouped {
      @conv.weight: f32[4, 2, 1] = [[[1.0], [2.0]], [[3.0], [4.0]], [[5.0], [6.0]], [[7.0], [8.0]]]
      %r00_conv: f32[1, 4, 8] = region r00_conv: conv(%x=%x, %conv_weight=@conv.weight, %r=%r) anchor %conv {   # conv
        %conv: f32[1, 4, 8] = convolution(%x, %conv_weight, none, [1], [0], [1], false, [0], 1)   # conv
        %add: f32[1, 4, 8] = add.Tensor(%conv, %r)
        %relu: f32[1, 4, 8] = relu(%add)
        return %relu
      }
      return %r00_conv
    }
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, replace
from typing import ClassVar

from torch import fx

from ...ir.boundary import BoundaryCheck
from ...ir.program import Origin, Program, Region, Stage
from ...ir.report import Site
from ..base import Numerics, Pass
from .partition import Group, partition
from .shifts import note_shifts


@dataclass(frozen=True)
class GroupRegions(Pass):
    """Replace every op by calls of regions."""

    name: ClassVar[str] = "group_regions"
    ensures: ClassVar[Stage | None] = Stage.GROUPED
    numerics: ClassVar[Numerics] = Numerics.EXACT

    def run(
        self, program: Program, *, limit: int | None = None, verify: bool = False
    ) -> tuple[Program, list[Site], list[Site]]:
        """Build the GROUPED program; a partly grouped one is no stage, so `limit` other than None or 0 groups all."""
        if limit == 0 or program.stage >= Stage.GROUPED:
            return program, [], []
        groups = partition(program.graph)
        graph, regions = _rebuild(program, groups)
        sites = [Site("group_regions", r.name, r.kind, r.layers) for r in regions.values()]
        after = program.evolve(graph=graph, regions=regions, stage=Stage.GROUPED)
        return after, _measured(program, after, groups, sites) if verify else sites, []


def _measured(program: Program, after: Program, groups: list[Group], sites: list[Site]) -> list[Site]:
    """Run each region in float64 on what the ungrouped program makes; the sites with the errors of their results."""
    check = BoundaryCheck(program)
    known = {node.name: value for node, value in check.values.items()}
    calls = [node for node in after.graph.nodes if node.op == "call_module"]
    check.values |= {n: known[n.name] for n in after.graph.nodes if n.op in ("placeholder", "get_attr")}
    return [
        replace(site, error=check.compare(site, after, [call], [group.tip], [call]))
        for site, call, group in zip(sites, calls, groups, strict=True)
    ]


def _rebuild(program: Program, groups: list[Group]) -> tuple[fx.Graph, dict[str, Region]]:
    """Return a graph that calls one region for each group."""
    graph = program.graph
    new, env, regions = fx.Graph(), {}, {}
    for node in graph.nodes:
        if node.op in ("placeholder", "get_attr"):
            env[node] = new.node_copy(node)
    width = max(2, len(str(len(groups) - 1)))
    rank = {node: i for i, node in enumerate(graph.nodes)}
    for i, group in enumerate(groups):
        members = sorted(group.members, key=rank.__getitem__)
        name = f"r{i:0{width}}_{group.kind}"
        body, inputs, inside = _body(members, group.tip)
        anchor = inside[group.anchor] if group.anchor else None
        note_shifts(body, dict(zip(body.find_nodes(op="placeholder"), inputs, strict=True)), program.weights)
        origins = _origins([group.anchor, *members] if group.anchor else members)
        layers = tuple(dict.fromkeys(origin.layer for origin in origins))
        regions[name] = Region(name, group.kind, body, anchor.name if anchor else None, layers)
        call = new.create_node("call_module", name, tuple(env[n] for n in inputs), name=name)
        call.meta = {**group.tip.meta, "origins": origins}
        env[group.tip] = call
    new.node_copy(graph.output_node(), env.__getitem__)
    return new, regions


def _body(members: list[fx.Node], tip: fx.Node) -> tuple[fx.Graph, list[fx.Node], dict[fx.Node, fx.Node]]:
    """Return the graph of a region, the nodes it reads in call order, and where each member went."""
    inside = set(members)
    inputs = list(dict.fromkeys(n for member in members for n in member.all_input_nodes if n not in inside))
    body, env = fx.Graph(), {}
    for node in inputs:
        env[node] = body.placeholder(node.name)
        env[node].meta = dict(node.meta)
    for member in members:
        env[member] = body.node_copy(member, env.__getitem__)
    result = body.output(env[tip])
    result.meta = dict(tip.meta)
    return body, inputs, env


def _origins(nodes: Iterable[fx.Node]) -> tuple[Origin, ...]:
    """Return where the nodes come from, each place once."""
    return tuple(dict.fromkeys(origin for node in nodes for origin in node.meta.get("origins", ())))
