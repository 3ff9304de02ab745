"""From a GROUPED Program to a Plan: one kernel per region, layouts assigned for the whole graph.

plan = emit(calls)       calls = regions as `layouts.assign` decided + one conversion for each further layout
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from math import prod
from typing import Any

from torch import fx

from ...ir.cost import region_flops
from ...ir.program import Program, Region
from .alternatives import Alternative, alternatives
from .cost import region_bytes
from .kernel_table import KernelTable, task_key, unpacked
from .kernels.templates import TEMPLATES
from .layouts import Assignment, assign
from .plan import PLAIN, Layout, Plan, Step, Value, itemsize, same_memory, size_of, value_of
from .reuse import overwritable, parts_of
from .sharing import Shares, Use, share
from .target import Target
from .template import Chooser, Packed, Task, Template, default_kernel


def lower(
    program: Program,
    target: Target,
    templates: Sequence[Template] = TEMPLATES,
    numerics: str = "fast",
    choose: Chooser = default_kernel,
) -> Plan:
    """Choose a template, layouts and packings for every region of `program` (stage GROUPED); `choose` the kernels.

    Raises CodegenError, naming region and layers, if no template takes a region.
    """
    tasks = {node: task_of(node, program, target, numerics) for node in program.graph.nodes if node.op == "call_module"}
    calls = _Calls(program, tasks, assign(program.graph, _alternatives(tasks, templates), target))
    results: Any = program.graph.output_node().args[0]
    named = [None if node.op == "get_attr" else calls.named(node, PLAIN) for node in results]
    shared, shares = _share(calls, [name for name in named if name is not None])
    plan = Plan(calls.values, {}, {}, [], calls.inputs, (), homes=shares.home)
    table = KernelTable(plan, target, choose)
    plan.steps += [_step(call, calls.values, table) for call in shared]
    plan.outputs = tuple(
        table.weight(str(node.target), unpacked(0)) if name is None else name
        for node, name in zip(results, named, strict=True)
    )
    return plan


def task_of(node: fx.Node, program: Program, target: Target, numerics: str) -> Task:
    """The region that `node` calls, its values in layouts not known yet."""
    args = _arguments(node)
    constants = frozenset(i for i, a in enumerate(args) if a.op == "get_attr")
    inputs = tuple(value_of(a, a.op == "placeholder") for a in args)
    return Task(program.regions[str(node.target)], inputs, constants, value_of(node), target, PLAIN, numerics)


def _alternatives(tasks: dict[fx.Node, Task], templates: Sequence[Template]) -> dict[fx.Node, list[Alternative]]:
    """What may become of each region; equal regions are looked at once."""
    known: dict[tuple[object, ...], list[Alternative]] = {}
    found = {}
    for node, task in tasks.items():
        key = task_key(task)
        if key not in known:
            known[key] = alternatives(task, templates)
        found[node] = known[key]
    return found


@dataclass(frozen=True, eq=False)
class _Call:
    """What becomes one step: the task of a region and its template, a conversion (no region), or a view (no task).

    `sources` are the inputs' names: values, or weights where the task has constants. A conversion that does not
    `move` anything is a view, too.
    """

    region: Region | None
    sources: tuple[str, ...]
    output: Value
    task: Task | None = None
    template: Template | None = None
    moves: bool = True

    @property
    def reads(self) -> tuple[str, ...]:
        """The values among its sources."""
        constants = self.task.constants if self.task is not None else ()
        return tuple(name for i, name in enumerate(self.sources) if i not in constants)


class _Calls:
    """The calls in order and the values between them; a value is converted just before it is first read that way."""

    def __init__(self, program: Program, tasks: dict[fx.Node, Task], assignment: Assignment) -> None:
        """Walk over the graph."""
        self.assignment = assignment
        self.values: dict[str, Value] = {}
        self.calls: list[_Call] = []
        self._names: dict[tuple[fx.Node, Layout], str] = {}
        self._home: dict[fx.Node, Value] = {}
        for node in program.graph.nodes:
            if node.op == "placeholder":
                self._add(node, value_of(node, external=True))
        self.inputs = tuple(self.values)
        for node, task in tasks.items():
            self._region(node, task)

    def named(self, node: fx.Node, layout: Layout) -> str:
        """The value of a node in a layout, by a conversion if it was not made in that one."""
        if (node, layout) not in self._names:
            home = self._home[node]
            same = same_memory(home.shape, home.layout, layout)
            made = replace(home, name=f"{home.name}_{layout}", layout=layout, external=home.external and same)
            self.calls.append(_Call(None, (home.name,), made, moves=not same))
            self.values[made.name] = made
            self._names[node, layout] = made.name
        return self._names[node, layout]

    def _add(self, node: fx.Node, value: Value) -> Value:
        self.values[value.name] = self._home[node] = value
        self._names[node, value.layout] = value.name
        return value

    def _region(self, node: fx.Node, task: Task) -> None:
        way = self.assignment.chosen[node]
        sources = []
        for position, source in enumerate(_arguments(node)):
            if position in task.constants:
                sources.append(str(source.target))
            else:
                sources.append(self.named(source, self.assignment.read(node, position, source)))
        inputs = tuple(v if i in task.constants else self.values[sources[i]] for i, v in enumerate(task.inputs))
        output = replace(task.output, layout=way.output)
        if way.template is None:
            output = self._add(node, replace(output, external=inputs[0].external))
            self.calls.append(_Call(task.region, tuple(sources), output))
        else:
            self._add(node, output)
            task = replace(task, inputs=inputs, output=output, hint=way.output)
            self.calls.append(_Call(task.region, tuple(sources), output, task, way.template))


def _share(calls: _Calls, results: Sequence[str]) -> tuple[list[_Call], Shares]:
    """Let calls work in the memory of their inputs where that is right; their tasks then say so."""
    sizes = {name: size_of(value) for name, value in calls.values.items()}
    shares = share([_use(call) for call in calls.calls], sizes, calls.inputs, results)
    return [_sharing(call, shares) for call in calls.calls], shares


def _use(call: _Call) -> Use:
    """A call as memory sees it."""
    name, reads, task = call.output.name, call.reads, call.task
    if task is None:
        return Use(name, reads, view=call.region is not None or not call.moves)
    parts = tuple((call.sources[i], offset) for i, offset in parts_of(task))
    return Use(name, reads, False, tuple(call.sources[i] for i in overwritable(task)), parts)


def _sharing(call: _Call, shares: Shares) -> _Call:
    """The call with the inputs that lie in its output's memory marked."""
    name = call.output.name
    within = {*shares.placed.get(name, ()), shares.overwritten.get(name)}
    if call.task is None or not within.intersection(call.reads):
        return call
    positions = frozenset(i for i, s in enumerate(call.sources) if s in within and i not in call.task.constants)
    return replace(call, task=replace(call.task, within=positions))


def _step(call: _Call, values: dict[str, Value], table: KernelTable) -> Step:
    """Emit the kernel of a call."""
    if call.region is None:
        return _conversion(call, values[call.sources[0]], table)
    region = call.region
    if call.task is None or call.template is None:
        return Step("", call.sources, call.output.name, region.name, "view", region.layers)
    within = tuple(name for i, name in enumerate(call.sources) if i in call.task.within)
    if region.kind == "concat" and len(within) == len(call.sources):
        return Step("", (), call.output.name, region.name, "concat", region.layers, within=within)
    symbol, lowered = table.kernel(call.template, call.task)
    inputs = []
    for arg in lowered.args:
        packed = arg if isinstance(arg, Packed) else unpacked(arg)
        source = call.sources[packed.position]
        inputs.append(table.weight(source, packed) if packed.position in call.task.constants else source)
    return Step(
        symbol,
        tuple(inputs),
        call.output.name,
        region.name,
        region.kind,
        region.layers,
        flops=region_flops(region),
        bytes=region_bytes(call.task, call.output),
        within=within,
    )


def _conversion(call: _Call, source: Value, table: KernelTable) -> Step:
    name = f"{source.layout}_to_{call.output.layout}"
    if not call.moves:
        return Step("", call.sources, call.output.name, name, "view", ())
    symbol = table.conversion(source, call.output.layout)
    moved = 2 * prod(source.shape) * itemsize(source.dtype)
    return Step(symbol, call.sources, call.output.name, name, "layout", (), bytes=moved)


def _arguments(node: fx.Node) -> list[fx.Node]:
    return [a for a in node.args if isinstance(a, fx.Node)]
