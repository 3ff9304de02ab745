"""The template that takes every region whose ops have builders: the last to be asked, and the fallback for ever."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from math import prod
from typing import Any

import torch
from torch import fx

from ....ir.program import Region
from ..kernels.emit import Function, Operands
from ..ops.pointwise import evaluate, is_pointwise
from ..plan import PLAIN, Layout, Value
from ..target import Target
from ..template import Choice, Lowered, Refused, Task, Wants
from ..views import broadcast_index, dtype_of, shape_of
from .builders import builder_of
from .nest import TASKS, WIDE, Nest
from .region import PARALLEL_ELEMENTS, RegionBuilder
from .stage import Domain, Field


@dataclass(frozen=True)
class Generic:
    """Loops over stages, scheduled by structure."""

    name: str = "generic"

    def wants(self, task: Task) -> Wants | Refused:
        """Inputs in any layout, the output in the one that is asked for."""
        for node in task.region.body.nodes:
            if node.op == "call_function" and builder_of(node) is None and not is_pointwise(node):
                return Refused(f"no builder for {node.target}")
        return Wants({}, output_layout(task))

    def space(self, task: Task) -> Sequence[Choice]:
        """How fine the parallel loop is cut, and how wide sums are; for what is large enough to have that loop."""
        moved = max(prod(value.shape) for value in (*task.inputs, task.output))
        if moved <= PARALLEL_ELEMENTS:
            return ()
        return [{"tasks": tasks, "wide": wide} for tasks in TASKS for wide in WIDE]

    def emit(self, task: Task, choice: Choice | None = None) -> Lowered:
        """Build fields and stages, then their loops."""
        chosen = {"tasks": TASKS[0], "wide": WIDE[0]} if choice is None else choice
        layout = output_layout(task)
        used = tuple(i for i, p in enumerate(task.region.placeholders) if p.users)
        with Function(task, layout, Operands(used, {})) as f:
            builder = RegionBuilder(f)
            define(builder, task, layout)
            Nest(builder, int(chosen["tasks"]), int(chosen["wide"])).emit()
        return Lowered(f.func, f.args, layout, chosen)


def define(builder: RegionBuilder, task: Task, layout: Layout) -> None:
    """Every value of a region as a field; the stages that these need, and the last one, which makes the result."""
    for position, node in enumerate(task.region.placeholders):
        builder.fields[node] = builder.placeholder(node, position)
    for node in task.region.body.nodes:
        if node.op == "call_function":
            builder.fields[node] = builder.once(node, field_of(builder, node))
    _finish(builder, task.region.result, Domain(task.output.shape, layout))


def field_of(builder: RegionBuilder, node: fx.Node) -> Field:
    """The value of a call, by its builder or by formula; its inputs have fields already."""
    build = builder_of(node)
    if build is not None:
        return build(builder, node)

    def at(index: list[object]) -> object:
        return evaluate(node, lambda a: builder[a].at(broadcast_index(index, builder[a].shape)), builder.operand_at)

    return builder.field(shape_of(node), dtype_of(node), at)  # type: ignore[arg-type]


def _finish(builder: RegionBuilder, result: fx.Node, domain: Domain) -> None:
    """Make the result the last stage; a plain aggregate is stored as it is."""
    field = builder.fields[result]
    last = builder.stages[-1] if builder.stages else None
    if last is None or field is not last or (last.scan is not None and domain.layout != PLAIN):
        builder.store(field, domain)
    else:
        last.domain = domain


def output_layout(task: Task) -> Layout:
    """The layout that is asked for, where the result has one."""
    return task.hint if len(task.output.shape) in (3, 4, 5) else PLAIN


def convert_layout(value: Value, layout: Layout, target: Target) -> Any:
    """A kernel that copies `value` into another layout."""
    graph = fx.Graph()
    node = graph.placeholder("x")
    node.meta["val"] = torch.empty(value.shape, dtype=getattr(torch, value.dtype), device="meta")
    graph.output(node)
    region = Region("layout", "layout", graph, None, ())
    task = Task(region, (value,), frozenset(), replace(value, layout=layout, external=False), target)
    with Function(task, layout, Operands((0,), {})) as f:
        builder = RegionBuilder(f)
        builder.store(builder.placeholder(node, 0), Domain(value.shape, layout))
        Nest(builder).emit()
    return f.func
