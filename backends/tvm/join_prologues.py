"""join_prologues: what a 1x1 convolution alone reads is computed as it reads, not stored before.

    region_conv(region_norm_relu(x)) == region_norm_relu_conv(x)       where x has other readers, or is a concatenation

A norm with an activation is part of the kernel before it, where that is one. It is a pass over memory of its own where
x is read by others too; and behind a concatenation it would make a copy of what is otherwise made in place.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import torch
from torch import fx

from ...ir.program import Program
from ...ir.report import Site
from .join import Joined, Piece, feeds_of, join, piece, read_once, rebuilt
from .kernels.templates import TEMPLATES
from .reuse import parts_of
from .target import Target
from .template import Refused, Task, Template

NAME = "join_prologues"
aten = torch.ops.aten


def join_prologues(
    program: Program, target: Target, numerics: str = "fast", templates: Sequence[Template] = TEMPLATES
) -> Program:
    """The GROUPED program with prologues in the regions of convolutions; its report says which, and why not others."""
    sites: list[Site] = []
    joined: dict[fx.Node, Joined] = {}
    gone: list[fx.Node] = []
    for conv in program.graph.find_nodes(op="call_module"):
        source = _source(conv, program)
        if source is None:
            continue
        bare, before = _split(source, program)
        both = join([before, piece(conv, program, source)], program.regions[str(conv.target)])
        task = both.task(conv, target, numerics)
        reason = _refusal(task, templates) or _copied(source, bare, target, numerics)
        sites.append(Site(NAME, conv.name, "prologue", both.region.layers, reason))
        if reason is None:
            joined[conv] = both
            if bare is None:
                gone.append(source)
            else:
                joined[source] = bare
    return rebuilt(program, joined, gone, NAME, sites)


def _source(conv: fx.Node, program: Program) -> fx.Node | None:
    """The call that computes element by element what the 1x1 convolution of `conv` reads, and nothing else does."""
    anchor = program.regions[str(conv.target)].anchor_node
    if anchor is None or anchor.target is not aten.convolution.default:
        return None
    weight: Any = anchor.args[1]
    source = read_once(conv, anchor, program)
    if source is None:
        return None
    region = program.regions[str(source.target)]
    computes = bool(region.epilogue) and region.kind in ("pointwise", "concat")
    return source if computes and all(extent == 1 for extent in weight.meta["val"].shape[2:]) else None


def _split(source: fx.Node, program: Program) -> tuple[Joined | None, Piece]:
    """The bare concatenation in a region, if there is one, and what is computed of it, or of an activation."""
    region, feeds = program.regions[str(source.target)], feeds_of(source, program)
    cat = region.anchor_node
    if cat is None:
        return None, piece(source, program)
    parts = {own: given for own, given in feeds.items() if own in cat.all_input_nodes}
    read = {a for node in region.epilogue for a in node.all_input_nodes}
    others = {own: given for own, given in feeds.items() if own in read}
    bare = join([Piece([cat], parts, region.layers, cat)], region)
    return bare, Piece(region.epilogue, {cat: source, **others}, region.layers, region.result)


def _refusal(task: Task, templates: Sequence[Template]) -> str | None:
    """Why no template takes the convolution with what is before it; the generic scheduler would compute it often."""
    refusals = []
    for template in templates[:-1]:
        answer = template.wants(task)
        if not isinstance(answer, Refused):
            return None
        refusals.append((template.name, answer.reason))
    return dict(refusals).get("conv_direct", "no template takes it")


def _copied(source: fx.Node, bare: Joined | None, target: Target, numerics: str) -> str | None:
    """Why what is read would have to be moved first."""
    if bare is None:
        outside = [a for a in source.all_input_nodes if a.op == "placeholder"]
        return "it would read the program's input, which is not in blocks of channels" if outside else None
    task, layout = bare.task(source, target, numerics), f"c{target.block}"
    blocked = tuple(replace(v, layout=layout) for v in task.inputs)
    task = replace(task, inputs=blocked, output=replace(task.output, layout=layout))
    whole = len(parts_of(task)) == len(task.inputs)
    return None if whole else "the parts of the concatenation are not made in place"
