"""From a GROUPED Program to a Plan: one kernel per region, layouts assigned greedily in graph order.

    plan = fold(region -> first template that takes it)      with a conversion where layouts disagree

Greedy means: a region takes its inputs as its producers left them if it can; where it cannot, one conversion
is made and shared by every later reader that wants the same layout.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace

import numpy as np
from torch import fx

from ...errors import CodegenError
from ...ir.program import Program, Region
from .cost import region_bytes, region_flops
from .generic.template import convert_layout
from .hint import preferred_layouts
from .kernels.templates import TEMPLATES
from .plan import PLAIN, Derived, Kernel, Layout, PackedWeight, Plan, Step, Value, itemsize
from .symbol import kernel_symbol
from .target import Target
from .template import Chooser, Lowered, Packed, Refused, Task, Template, Wants, default_kernel


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
    lowering = _Lowering(program, target, templates, numerics, choose)
    for node in program.graph.nodes:
        if node.op == "call_module":
            lowering.region(node, program.regions[str(node.target)])
    return lowering.finish()


class _Lowering:
    """The state of one walk over the graph: where each node's value lies, and what was emitted so far."""

    def __init__(
        self, program: Program, target: Target, templates: Sequence[Template], numerics: str, choose: Chooser
    ) -> None:
        self.program = program
        self.target = target
        self.numerics = numerics
        self.choose = choose
        self.templates = templates
        self.hints = preferred_layouts(program, target)
        self.plan = Plan({}, {}, {}, [], inputs=(), outputs=())
        self.home: dict[fx.Node, str] = {}
        self.converted: dict[tuple[str, Layout], str] = {}
        self.memo: dict[tuple[object, ...], tuple[str, Lowered]] = {}
        for node in program.graph.nodes:
            if node.op == "placeholder":
                self.home[node] = node.name
                self.plan.values[node.name] = _value(node, external=True)
        self.plan.inputs = tuple(self.plan.values)

    def region(self, node: fx.Node, region: Region) -> None:
        """Lower one region call."""
        args = [a for a in node.args if isinstance(a, fx.Node)]
        if region.kind == "view" and self._try_alias(node, region, args[0]):
            return
        task = self._task(node, region, args)
        template, wants = self._choose(task)
        task = replace(task, inputs=self._fetch(task, wants))
        symbol, lowered = self._kernel(template, task)
        value = replace(task.output, layout=lowered.output)
        self.plan.values[value.name] = value
        self.home[node] = value.name
        inputs = tuple(self._argument(a, task, args) for a in lowered.args)
        self.plan.steps.append(
            Step(
                symbol,
                inputs,
                value.name,
                region.name,
                region.kind,
                region.layers,
                flops=region_flops(region),
                bytes=region_bytes(task, value),
            )
        )

    def finish(self) -> Plan:
        """Name the outputs, converted to PLAIN."""
        outputs = []
        for node in self.program.graph.output_node().args[0]:  # type: ignore[union-attr]
            assert isinstance(node, fx.Node)
            if node.op == "get_attr":
                outputs.append(self._weight(str(node.target), Packed(0, "", _as_it_is)))
            else:
                outputs.append(self._as_layout(self.home[node], (PLAIN,)))
        self.plan.outputs = tuple(outputs)
        return self.plan

    def _try_alias(self, node: fx.Node, region: Region, source: fx.Node) -> bool:
        """Give a lone reshape of a PLAIN value its producer's memory; no kernel runs."""
        calls = [n for n in region.body.nodes if n.op == "call_function"]
        if source.op == "get_attr" or any("reshape" not in str(n.target) for n in calls):
            return False
        base = self._as_layout(self.home[source], (PLAIN,))
        value = replace(_value(node), external=self.plan.values[base].external)
        self.plan.values[value.name] = value
        self.home[node] = value.name
        self.plan.steps.append(Step("", (base,), value.name, region.name, "view", region.layers))
        return True

    def _task(self, node: fx.Node, region: Region, args: Sequence[fx.Node]) -> Task:
        constants = frozenset(i for i, a in enumerate(args) if a.op == "get_attr")
        inputs = tuple(_value(a) if i in constants else self.plan.values[self.home[a]] for i, a in enumerate(args))
        hint = self.hints.get(node, PLAIN)
        return Task(region, inputs, constants, _value(node), self.target, hint, self.numerics)

    def _choose(self, task: Task) -> tuple[Template, Wants]:
        reasons = []
        for template in self.templates:
            wants = template.wants(task)
            if isinstance(wants, Wants):
                return template, wants
            assert isinstance(wants, Refused)
            reasons.append(f"{template.name}: {wants.reason}")
        where = ", ".join(task.region.layers) or "(top level)"
        raise CodegenError(
            f"No kernel takes region {task.region.name} of layer {where}: {'; '.join(reasons)}.",
            'Report this model, or use torch.compile(model, backend="planish"), which runs such operators in eager.',
        )

    def _fetch(self, task: Task, wants: Wants) -> tuple[Value, ...]:
        """Inputs in layouts that the template takes; conversions are emitted where needed."""
        inputs = list(task.inputs)
        for position, layouts in wants.inputs.items():
            if position not in task.constants and inputs[position].layout not in layouts:
                inputs[position] = self.plan.values[self._as_layout(inputs[position].name, layouts)]
        return tuple(inputs)

    def _as_layout(self, name: str, layouts: Sequence[Layout]) -> str:
        """The value `name` in one of `layouts`, by a conversion kernel if it is in none of them."""
        value = self.plan.values[name]
        if value.layout in layouts:
            return name
        for layout in layouts:
            if (name, layout) in self.converted:
                return self.converted[name, layout]
        target = replace(value, name=f"{name}_{layouts[0]}", layout=layouts[0], external=False)
        symbol = self._add_kernel(convert_layout(value, target.layout, self.target), "convert_layout", {})
        self.plan.values[target.name] = target
        moved = 2 * int(np.prod(value.shape)) * itemsize(value.dtype)
        self.plan.steps.append(
            Step(symbol, (name,), target.name, f"{value.layout}_to_{target.layout}", "layout", (), bytes=moved)
        )
        self.converted[name, target.layout] = target.name
        return target.name

    def _kernel(self, template: Template, task: Task) -> tuple[str, Lowered]:
        """Emit the kernel, or reuse the one made for an equal task (ResNet-50: 53 convolutions, 23 kernels)."""
        chosen = self.choose(template, task)
        key = (template.name, task_key(task))
        if key not in self.memo:
            lowered = chosen.template.emit(task, chosen.choice)
            name, choice = chosen.template.name, dict(lowered.choice)
            self.memo[key] = (self._add_kernel(lowered.func, name, choice, chosen.tuned), lowered)
        return self.memo[key]

    def _add_kernel(
        self, func: object, template: str, choice: dict[str, object], tuned: Mapping[str, float] | None = None
    ) -> str:
        symbol = kernel_symbol(func, self.target)
        kernel = Kernel(symbol, func, template, choice, None if tuned is None else dict(tuned))
        self.plan.kernels.setdefault(symbol, kernel)
        return symbol

    def _argument(self, arg: int | Packed, task: Task, nodes: Sequence[fx.Node]) -> str:
        packed = arg if isinstance(arg, Packed) else Packed(arg, "", _as_it_is)
        if packed.position in task.constants:
            return self._weight(str(nodes[packed.position].target), packed)
        return task.inputs[packed.position].name

    def _weight(self, source: str, packed: Packed) -> str:
        name = f"{source}:{packed.key}" if packed.key else source
        derived = None
        if packed.derive is not None:
            made = packed.derive
            derived = Derived(self._add_kernel(made.func, "prepare", {"makes": made.key}), made.shape, made.dtype)
            name = f"{name}:{derived.symbol}"
        self.plan.weights.setdefault(name, PackedWeight(name, source, packed.pack, derived))
        return name


def _as_it_is(array: np.ndarray) -> np.ndarray:
    """Row-major; unlike `ascontiguousarray` this keeps 0-dimensional arrays."""
    return np.asarray(array, order="C")


def task_key(task: Task) -> tuple[object, ...]:
    """Equal for tasks that get the same kernel: the body's ops, arguments and shapes, but no names."""
    index: dict[fx.Node, int] = {}
    body: list[object] = []
    for node in task.region.body.nodes:
        index[node] = len(index)
        args, kwargs = fx.map_arg((node.args, dict(node.kwargs)), lambda n: f"%{index[n]}")
        val = node.meta.get("val")
        body.append(
            (
                node.op,
                node.op == "call_function" and str(node.target),
                repr(args),
                repr(kwargs),
                str(getattr(val, "dtype", "")),
                tuple(getattr(val, "shape", ())),
                node.name == task.region.anchor,
            )
        )
        if node.op == "placeholder":
            body.pop()
            body.append(("placeholder",))
    values = tuple((v.shape, v.dtype, v.layout, v.external) for v in task.inputs)
    made = (task.output.shape, task.output.dtype, task.hint)
    return (task.region.kind, tuple(body), values, task.constants, *made, task.numerics)


def _value(node: fx.Node, external: bool = False) -> Value:
    val = node.meta["val"]
    dtype = str(val.dtype).removeprefix("torch.")
    return Value(node.name, tuple(int(d) for d in val.shape), dtype, external=external)
