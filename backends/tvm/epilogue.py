"""The pointwise operations after an anchor, evaluated on its accumulators as they are stored.

    output[view(i)] = epilogue(anchor[i], operand[broadcast(i)]...)

Everything is a scalar expression of the index; the lane loop around it makes vectors. Constants that vary along
the channels are padded to whole blocks at compile time, so that full vectors may be read from them.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import partial

import numpy as np
from torch import fx

from .compat import tirx
from .kernels.emit import Expr, Function, Operands, PackedArg
from .ops.lanes import once
from .ops.pointwise import evaluate, is_pointwise
from .plan import PLAIN, Layout, block_of, computed_dtype, physical_shape
from .template import Packed, Refused, Task, Wants
from .views import broadcast_index, forward_index, is_bijective, is_view, shape_of, source_index


def plan_operands(task: Task, layout: Layout, taken: Sequence[int]) -> Operands:
    """Every placeholder with readers but `taken`: as it lies, or as a constant padded to whole blocks."""
    positions = [i for i, p in enumerate(task.region.placeholders) if p.users and i not in taken]
    packed = {i: _pad_constant(i, task, block_of(layout)) for i in positions if _varies(i, task, layout)}
    return Operands(tuple(i for i in positions if i not in packed), packed)


def _varies(position: int, task: Task, layout: Layout) -> bool:
    """Whether a constant must be blocked like the output."""
    shape = task.inputs[position].shape
    rank = len(task.output.shape)
    if position not in task.constants or layout == PLAIN or len(shape) < rank - 1 or len(shape) > rank:
        return False
    return shape[len(shape) - rank + 1] == task.output.shape[1] > 1


def _pad_constant(position: int, task: Task, block: int) -> PackedArg:
    """The constant in blocked layout, zeros in the lanes past its channels."""
    value = task.inputs[position]
    rank = len(task.output.shape)
    shape = (1,) * (rank - len(value.shape)) + value.shape
    blocked = physical_shape(shape, f"c{block}")

    def pack(weight: np.ndarray) -> np.ndarray:
        padded = np.zeros((shape[0], blocked[1] * block, *shape[2:]), weight.dtype)
        padded[:, : shape[1]] = weight.reshape(shape)
        split = padded.reshape(shape[0], blocked[1], block, *shape[2:])
        return np.ascontiguousarray(np.moveaxis(split, 2, -1))

    return PackedArg(Packed(position, f"r{rank}c{block}", pack), blocked, value.dtype)


def anchor_chain(task: Task, anchor: fx.Node, until: fx.Node | None = None) -> list[fx.Node]:
    """The calls whose values depend on the anchor, in order; those before `until`."""
    chain: list[fx.Node] = []
    reached = {anchor}
    for node in task.region.epilogue:
        if node is until:
            return chain
        if any(a in reached for a in node.all_input_nodes):
            reached.add(node)
            chain.append(node)
    return chain


def check_epilogue(task: Task, anchor: fx.Node, layout: Layout, pool: fx.Node | None = None) -> str | None:
    """Why the epilogue cannot be evaluated where the accumulators are, or None; `pool` is the template's own."""
    shapes = {anchor: shape_of(anchor)}
    for node in anchor_chain(task, anchor):
        carried = [a for a in node.all_input_nodes if a in shapes]
        shapes[node] = shape_of(node)
        if node is pool:
            continue
        if is_view(node):
            if not is_bijective(node) or layout != PLAIN:
                return f"{node.target} after the anchor cannot be folded into its store"
        elif not is_pointwise(node):
            return f"{node.target} is not pointwise"
        elif any(shapes[a] != shape_of(node) for a in carried):
            return f"{node.target} broadcasts the anchor's result"
    return _check_operands(task, set(shapes), layout)


def _check_operands(task: Task, carried: set[fx.Node], layout: Layout) -> str | None:
    for node in task.region.epilogue:
        if node not in carried and not (is_view(node) or is_pointwise(node)):
            return f"{node.target} on an operand is neither pointwise nor a view"
    if layout == PLAIN:
        return None
    rank, channels = len(task.output.shape), task.output.shape[1]
    for node in carried:
        for operand in node.all_input_nodes:
            shape = shape_of(operand)
            if operand in carried or operand not in task.region.placeholders or len(shape) == rank:
                continue
            position = task.region.placeholders.index(operand)
            if position not in task.constants and len(shape) == rank - 1 and shape[0] == channels > 1:
                return (
                    f"operand {operand.name} of shape {shape} has its channels where the batch of a blocked value lies"
                )
    return None


def operand_layouts(task: Task, anchor: fx.Node, layout: Layout) -> dict[int, tuple[Layout, ...]]:
    """Layouts wanted of the epilogue's operands: the output's where they vary along channels and space."""
    wants: dict[int, tuple[Layout, ...]] = {}
    chain = {anchor, *anchor_chain(task, anchor)}
    direct = {a for n in chain if not is_view(n) for a in n.all_input_nodes}
    for position, node in enumerate(task.region.placeholders):
        if position in task.constants or node in anchor.all_input_nodes:
            continue
        shape = shape_of(node)
        full = node in direct and len(shape) == len(task.output.shape) and len(shape) > 1 and shape[1] > 1
        wants[position] = (layout,) if full and layout != PLAIN else (PLAIN,)
    return wants


def wants_blocked(task: Task, inputs: Mapping[int, tuple[Layout, ...]], pool: fx.Node | None = None) -> Wants | Refused:
    """The output in blocks of channels, the anchor's `inputs` as said; or why its epilogue does not allow that."""
    layout, anchor = f"c{task.target.block}", task.region.anchor_node
    assert anchor is not None
    if reason := check_epilogue(task, anchor, layout, pool):
        return Refused(reason)
    return Wants({**operand_layouts(task, anchor, layout), **inputs}, layout)


def wants_plain(task: Task) -> Wants | Refused:
    """PLAIN wanted of everything that is not a constant; or why the epilogue does not allow that."""
    anchor = task.region.anchor_node
    assert anchor is not None
    if reason := check_epilogue(task, anchor, PLAIN):
        return Refused(reason)
    return Wants({i: (PLAIN,) for i in range(len(task.inputs)) if i not in task.constants}, PLAIN)


def reads_exact_lanes(task: Task, operands: Operands) -> bool:
    """Whether an operand of a blocked kernel ends where its channels end, so that no lane past them may be read."""
    rank, channels = len(task.output.shape), task.output.shape[1]
    for position in operands.plain:
        value = task.inputs[position]
        axis = len(value.shape) - rank + 1
        if value.layout == PLAIN and axis >= 0 and value.shape[axis] == channels > 1:
            return True
    return False


class Epilogue:
    """Evaluates the region's epilogue inside a lane loop and stores the result."""

    def __init__(self, f: Function, anchor: fx.Node, until: fx.Node | None = None) -> None:
        """`f` must have the buffers of all operands that the epilogue reads, which ends before `until`."""
        self._f = f
        self._task = f.task
        self._anchor = anchor
        self._chain = anchor_chain(f.task, anchor, until)
        self._result = f.task.region.result if until is None else until.all_input_nodes[0]
        self._placeholders = {p: i for i, p in enumerate(f.task.region.placeholders)}
        self._block = block_of(f.layout)

    def store(self, index: Sequence[Expr], value: Expr) -> None:
        """Finish the anchor's element at logical `index` and store it."""
        where, result = self.apply(index, value)
        dtype = computed_dtype(self._task.output.dtype)
        if str(result.ty.dtype) != dtype:
            result = tirx.Cast(dtype, result)
        self._f.store(self._f.output, result, self._physical(where, self._f.layout))

    def apply(self, index: Sequence[Expr], value: Expr) -> tuple[list[Expr], Expr]:
        """(index in the epilogue's result, value there) of the anchor's element at `index`."""
        where: dict[fx.Node, list[Expr]] = {self._anchor: list(index)}
        values: dict[fx.Node, Expr] = {self._anchor: _name(self._anchor, value)}
        for node in self._chain:
            source = next(a for a in node.all_input_nodes if a in where)
            if is_view(node):
                where[node] = [self._f.simplify(i) for i in forward_index(node, where[source])]
                values[node] = values[source]
                continue
            here = where[node] = where[source]
            found = evaluate(node, partial(self._operand, here=here, values=values), self.at)
            values[node] = _name(node, found)
        return where[self._result], values[self._result]

    def at(self, node: fx.Node, index: Sequence[Expr]) -> Expr:
        """The element at `index` of a value that does not depend on the anchor."""
        if node in self._placeholders:
            return self.load(self._placeholders[node], index)
        if is_view(node):
            return self.at(node.all_input_nodes[0], source_index(node, index))
        return evaluate(node, lambda a: self.at(a, broadcast_index(index, shape_of(a))), self.at)

    def load(self, position: int, index: Sequence[Expr]) -> Expr:
        """The element at logical `index` of a region input."""
        if position in self._f.packed:
            aligned = [0] * (len(self._task.output.shape) - len(index)) + list(index)
            return self._f.packed[position][tuple(self._physical(aligned, f"c{self._block}"))]
        return self._f.inputs[position][tuple(self._physical(index, self._task.inputs[position].layout))]

    def _operand(self, node: fx.Node, here: Sequence[Expr], values: Mapping[fx.Node, Expr]) -> Expr:
        if node in values:
            return values[node]
        return self.at(node, broadcast_index(here, shape_of(node)))

    def _physical(self, index: Sequence[Expr], layout: Layout) -> list[Expr]:
        return [self._f.simplify(i) for i in physical_index(index, layout)]


def _name(node: fx.Node, value: Expr) -> Expr:
    """A variable for a value that has several readers: expressions are trees."""
    return once(value) if len(node.users) > 1 else value


def physical_index(index: Sequence[Expr], layout: Layout) -> list[Expr]:
    """Where the element at logical `index` lies in memory."""
    if layout == PLAIN:
        return list(index)
    block = block_of(layout)
    batch, channel, *space = index
    return [batch, tirx.floordiv(channel, block), *space, tirx.floormod(channel, block)]
