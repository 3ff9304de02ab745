"""What may become of a region: which template takes it, from which layouts and into which, and what that costs.

    alternatives(task) = the first template that takes it, for each layout of its inputs and its output
                         + the memory of its input, where a region of views moves nothing

Costs are seconds beyond what every alternative costs. They need not be exact: they decide between ways of moving
the same elements.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from math import prod

from ...errors import CodegenError
from .addresses import Reads, reads_of
from .generic.turned import TURNED_BYTES
from .plan import PLAIN, Layout, Value, computed_dtype, itemsize, physical_shape, same_memory
from .target import Target
from .template import Refused, Task, Template, Wants

LAUNCH = 2e-6
"""Starting a kernel."""
_MOVE = 1 / 40e9
"""Reading or writing a byte in its order."""
_TURN = 1 / 50e9
"""What reading a byte across the result's vectors costs more, where tiles are turned in registers."""
_GATHER = 1 / 15e9
"""The same, where elements are gathered one by one."""
_SECOND_CHOICE = 1e-8
"""Between layouts that a template takes alike, the one that it names first."""


_PureReads = Mapping[tuple[Layout, Layout], Reads]


@dataclass(frozen=True, eq=False)
class Alternative:
    """One way to lower a region; without `template` the result is the input's memory.

    `reads[position][layout]` is the cost of reading an input in a layout; what is missing there is not taken.
    """

    template: Template | None
    output: Layout
    reads: Mapping[int, Mapping[Layout, float]]
    seconds: float


def layouts_of(shape: Sequence[int], target: Target) -> tuple[Layout, ...]:
    """The layouts that a value may have."""
    return (PLAIN, f"c{target.block}") if len(shape) in (3, 4, 5) else (PLAIN,)


def move_seconds(value: Value, layout: Layout) -> float:
    """Reading or writing all of a value in a layout."""
    return prod(physical_shape(value.shape, layout)) * itemsize(value.dtype) * _MOVE


def conversion_seconds(value: Value, source: Layout, target: Layout) -> float:
    """A kernel that copies a value into another layout; nothing where the memory is the same."""
    if same_memory(value.shape, source, target):
        return 0.0
    return LAUNCH + move_seconds(value, source) + move_seconds(value, target)


def alternatives(task: Task, templates: Sequence[Template]) -> list[Alternative]:
    """All ways to lower the region of `task`, whose layouts are not known yet; CodegenError if there is none."""
    pure = _pure_reads(task)
    found = _aliases(task, pure)
    for template, wants, sources in _offers(task, templates):
        reads = {}
        for position, value in enumerate(task.inputs):
            if position not in task.constants:
                taken = wants.inputs.get(position, tuple(_nearest(value, s, task.target) for s in sources))
                reads[position] = {
                    layout: number * _SECOND_CHOICE + _reading(task, position, layout, wants.output, pure)
                    for number, layout in enumerate(dict.fromkeys(taken))
                }
        found.append(Alternative(template, wants.output, reads, move_seconds(task.output, wants.output)))
    return found


def _pure_reads(task: Task) -> _PureReads:
    """Addresses read by a region of views and pointwise operations, by the layouts of its inputs and its result."""
    found = {}
    for source in _layouts(task.target):
        inputs = [_nearest(v, source, task.target) for v in task.inputs]
        for output in layouts_of(task.output.shape, task.target):
            if (reads := reads_of(task.region, inputs, output)) is not None:
                found[source, output] = reads
    return found


def _layouts(target: Target) -> tuple[Layout, ...]:
    return (PLAIN, f"c{target.block}")


def _nearest(value: Value, layout: Layout, target: Target) -> Layout:
    """`layout` if the value may have it."""
    return layout if layout in layouts_of(value.shape, target) else PLAIN


def _offers(task: Task, templates: Sequence[Template]) -> list[tuple[Template, Wants, list[Layout]]]:
    """What the first template that takes the region wants, and from which layouts of the inputs it said so."""
    offers: dict[tuple[object, ...], tuple[Template, Wants, list[Layout]]] = {}
    for source in _layouts(task.target):
        inputs = tuple(
            v if i in task.constants else replace(v, layout=_nearest(v, source, task.target))
            for i, v in enumerate(task.inputs)
        )
        for output in layouts_of(task.output.shape, task.target):
            template, wants = _first(replace(task, inputs=inputs, hint=output), templates)
            key = (template.name, wants.output, *sorted(wants.inputs.items()))
            offers.setdefault(key, (template, wants, []))[2].append(source)
    return list(offers.values())


def _first(task: Task, templates: Sequence[Template]) -> tuple[Template, Wants]:
    reasons = []
    for template in templates:
        wants = template.wants(task)
        if not isinstance(wants, Refused):
            return template, wants
        reasons.append(f"{template.name}: {wants.reason}")
    where = ", ".join(task.region.layers) or "(top level)"
    raise CodegenError(
        f"No kernel takes region {task.region.name} of layer {where}: {'; '.join(reasons)}.",
        'Report this model, or use torch.compile(model, backend="planish"), which runs such operators in eager.',
    )


def _reading(task: Task, position: int, layout: Layout, output: Layout, pure: _PureReads) -> float:
    """What reading an input in `layout` costs more than reading it row by row."""
    value = task.inputs[position]
    padding = move_seconds(value, layout) - move_seconds(value, PLAIN)
    if (layout, output) in pure:
        in_order = pure[layout, output].strides()[position] in (0, 1)
    else:
        in_order = layout == output or value.shape != task.output.shape
    if in_order:
        return padding
    turned = (layout, output) in pure and itemsize(computed_dtype(value.dtype)) == TURNED_BYTES
    return padding + _size(value) * (_TURN if turned else _GATHER)


def _aliases(task: Task, pure: _PureReads) -> list[Alternative]:
    """A region of views that has every element where its input has it."""
    if task.region.kind != "view" or len(task.inputs) != 1 or task.constants:
        return []
    found = []
    for (source, output), reads in pure.items():
        value = task.inputs[0]
        if source not in layouts_of(value.shape, task.target):
            continue
        same_size = prod(physical_shape(value.shape, source)) == prod(physical_shape(task.output.shape, output))
        if same_size and reads.is_alias(0):
            found.append(Alternative(None, output, {0: {source: 0.0}}, 0.0))
    return found


def _size(value: Value) -> int:
    return prod(value.shape) * itemsize(value.dtype)
