"""The kernels and packed weights of a plan, each once by its content.

kernel(template, task) = symbol of emit(task)      equal tasks get one kernel (ResNet-50: 53 convolutions, 23 kernels)
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

import numpy as np
from torch import fx

from .codegen_process import WITHOUT_DIVISION
from .generic.template import convert_layout
from .plan import Derived, Kernel, Layout, PackedWeight, Plan, Value
from .symbol import kernel_symbol
from .target import Target
from .template import Chooser, Lowered, Packed, Task, Template


class KernelTable:
    """Fills `plan.kernels` and `plan.weights`."""

    def __init__(self, plan: Plan, target: Target, choose: Chooser) -> None:
        """`choose` decides on the kernel of each task."""
        self.plan = plan
        self.target = target
        self.choose = choose
        self._memo: dict[tuple[object, ...], tuple[str, Lowered]] = {}

    def kernel(self, template: Template, task: Task) -> tuple[str, Lowered]:
        """Emit the kernel of a task, or reuse the one made for an equal task."""
        chosen = self.choose(template, task)
        key = (template.name, task_key(task))
        if key not in self._memo:
            lowered = chosen.template.emit(task, chosen.choice)
            name, choice = chosen.template.name, dict(lowered.choice)
            func = undivided(lowered.func, (*task.inputs, task.output))
            self._memo[key] = (self._add(func, name, choice, chosen.tuned), lowered)
        return self._memo[key]

    def conversion(self, value: Value, layout: Layout) -> str:
        """A kernel that copies `value` into another layout."""
        return self._add(undivided(convert_layout(value, layout, self.target), (value,)), "convert_layout", {})

    def weight(self, source: str, packed: Packed) -> str:
        """The name of the argument made from the weight `source`."""
        name = f"{source}:{packed.key}" if packed.key else source
        derived = None
        if packed.derive is not None:
            made = packed.derive
            derived = Derived(self._add(made.func, "prepare", {"makes": made.key}), made.shape, made.dtype)
            name = f"{name}:{derived.symbol}"
        self.plan.weights.setdefault(name, PackedWeight(name, source, packed.pack, derived))
        return name

    def _add(self, func: Any, template: str, choice: dict[str, Any], tuned: Mapping[str, float] | None = None) -> str:
        symbol = kernel_symbol(func, self.target)
        kernel = Kernel(symbol, func, template, choice, None if tuned is None else dict(tuned))
        self.plan.kernels.setdefault(symbol, kernel)
        return symbol


def undivided(func: Any, values: Iterable[Value]) -> Any:
    """A kernel of integers alone is to have no division, not even one that is TVM's own."""
    floats = any("float" in value.dtype for value in values)
    return func if floats else func.with_attr(WITHOUT_DIVISION, True)


def unpacked(position: int) -> Packed:
    """The weight at `position` as it is: row-major; unlike `ascontiguousarray` this keeps 0-dimensional arrays."""
    return Packed(position, "", lambda array: np.asarray(array, order="C"))


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
            known = (node.meta.get(what) for what in ("shifts", "small", "sum_bits"))
            body.append(("placeholder", *known))
    values = tuple((v.shape, v.dtype, v.layout, v.external) for v in task.inputs)
    made = (task.output.shape, task.output.dtype, task.hint)
    return (task.region.kind, tuple(body), values, task.constants, *made, task.numerics, task.within)
