"""What a kernel may do in memory that holds its inputs: overwrite an operand, or find parts where they belong.

out[i] = f(anchor[i], operand[i])      may be stored at operand[i]: nothing else reads that element
cat(a, b) == a, then b                 if each lies in one piece, both may be made there
"""

from __future__ import annotations

from math import prod

from torch import fx

from .kernels.concat import read_concat
from .ops.pointwise import is_pointwise
from .plan import PLAIN, block_of, itemsize, physical_shape
from .template import Refused, Task
from .views import shape_of


def overwritable(task: Task) -> list[int]:
    """Positions whose element at each index is read for the result's element at that index only, just before it.

    Templates keep that order: they evaluate the operations after the anchor as they store. A region without anchor
    must be pointwise all through, since the generic scheduler keeps other values in stages.
    """
    region, output = task.region, task.output
    if region.anchor_node is None and not all(map(is_pointwise, _calls(task))):
        return []
    return [
        position
        for position, (node, value) in enumerate(zip(region.placeholders, task.inputs, strict=True))
        if position not in task.constants
        and (value.shape, value.dtype, value.layout) == (output.shape, output.dtype, output.layout)
        and not value.external
        and node.users
        and _read_in_place(node, region.anchor_node)
    ]


def _read_in_place(node: fx.Node, anchor: fx.Node | None) -> bool:
    """Whether everything computed from `node` is pointwise and of its shape."""
    waiting, seen = [node], {node}
    while waiting:
        at = waiting.pop()
        for user in at.users:
            if user.op == "output" or user in seen:
                continue
            if user is anchor or not is_pointwise(user) or shape_of(user) != shape_of(node):
                return False
            seen.add(user)
            waiting.append(user)
    return True


def parts_of(task: Task) -> list[tuple[int, int]]:
    """(position, offset in bytes) of the inputs of a bare concatenation that lie in it in one piece."""
    read = read_concat(task)
    if isinstance(read, Refused) or len(_calls(task)) != 1:
        return []
    axis, parts = read
    layout, block = task.output.layout, block_of(task.output.layout)
    if prod(physical_shape(task.output.shape, layout)[:axis]) != 1 or (layout != PLAIN and axis != 1):
        return []
    row = prod(physical_shape(task.output.shape, layout)[axis + 1 :]) * itemsize(task.output.dtype)
    positions = [task.region.placeholders.index(part.node) for part in parts]
    return [
        (position, part.offset // block * row)
        for position, part in zip(positions, parts, strict=True)
        if part.offset % block == 0
        and positions.count(position) == 1
        and position not in task.constants
        and task.inputs[position].layout == layout
    ]


def _calls(task: Task) -> list[fx.Node]:
    return [n for n in task.region.body.nodes if n.op == "call_function"]
