"""join_pools: a pool goes into the region of the convolution before it, where one kernel does both faster than two.

    pool(region_conv(x)) == region_conv_pool(x)      if nothing else reads region_conv(x)

Which kernel takes a convolution is known to the templates only, and so is whether it can keep what the pool reads in
the cache. So each pair is offered to the template that takes the convolution alone; a refusal is reported.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import fx

from ...ir.program import Program
from ...ir.report import Site
from .join import Joined, join, piece, read_once, rebuilt
from .kernels.conv_pool import POOLS
from .kernels.templates import TEMPLATES
from .lower import task_of
from .target import Target
from .template import Refused, Task, Template, Wants

NAME = "join_pools"


def join_pools(
    program: Program, target: Target, numerics: str = "fast", templates: Sequence[Template] = TEMPLATES
) -> Program:
    """The GROUPED program with pools in the regions of convolutions; its report says which, and why not the others."""
    sites: list[Site] = []
    joined: dict[fx.Node, Joined] = {}
    gone: list[fx.Node] = []
    for pool in program.graph.find_nodes(op="call_module"):
        conv = _convolution(pool, program)
        if conv is None:
            continue
        both = join([piece(conv, program), piece(pool, program, conv)], program.regions[str(conv.target)])
        apart, together = task_of(conv, program, target, numerics), both.task(pool, target, numerics)
        reason = _reason(apart, together, templates)
        sites.append(Site(NAME, pool.name, "pool", both.region.layers, reason))
        if reason is None:
            joined[pool] = both
            gone.append(conv)
    return rebuilt(program, joined, gone, NAME, sites)


def _convolution(call: fx.Node, program: Program) -> fx.Node | None:
    """The call of a convolution whose result the pool of `call` reads, and nothing else does."""
    pool = program.regions[str(call.target)].anchor_node
    if pool is None or pool.target not in POOLS:
        return None
    source = read_once(call, pool, program)
    if source is None:
        return None
    anchor = program.regions[str(source.target)].anchor_node
    is_conv = anchor is not None and anchor.target is torch.ops.aten.convolution.default
    return source if is_conv else None


def _reason(apart: Task, together: Task, templates: Sequence[Template]) -> str | None:
    """Why the template that takes the convolution does not take the pool with it; None where it does."""
    *made, generic = templates
    template = next((t for t in made if isinstance(t.wants(apart), Wants)), generic)
    if template is generic:
        return "no template takes the convolution"
    wants = template.wants(together)
    return f"{template.name}: {wants.reason}" if isinstance(wants, Refused) else None
