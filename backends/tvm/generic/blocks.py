"""A region's stages as TVM's schedulable blocks: the same formulas as in loops, but nothing decided yet.

    stage[i] = combine over r of value(i, r)    becomes    for i, r: with sblock: axes S.. R..; init; update

MetaSchedule moves loops around such blocks. A block holds one expression, so that values which loops would name are
repeated in it; what grows too large by that, runs in order, or lies in an operand's memory is refused.
"""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from typing import Any

from ..compat import T, tirx, tvm
from ..kernels.emit import Expr, Function, Operands
from ..ops.lanes import expressions
from ..plan import Layout, computed_dtype
from ..template import Packed, Refused, Task
from .region import RegionBuilder, as_truth, as_type, in_memory
from .stage import Domain, Field, Stage
from .template import define, output_layout

LARGEST = 5000
"""Operations in the formula of one block. TVM's passes walk it as a tree, again and again."""


@dataclass(frozen=True, eq=False)
class Blocks:
    """A function of blocks with its arguments; `exact` says that no schedule changes a bit of the result."""

    func: Any
    args: tuple[int | Packed, ...]
    layout: Layout
    exact: bool


def write_blocks(task: Task) -> Blocks | Refused:
    """A function of blocks that computes the task, or why there is none."""
    if task.within:
        return Refused("its result is stored in the place of an operand")
    layout = output_layout(task)
    used = tuple(i for i, p in enumerate(task.region.placeholders) if p.users)
    with expressions(), Function(task, layout, Operands(used, {})) as f:
        builder = BlockBuilder(f)
        define(builder, task, layout)
        builder.write()
    return builder.refused or Blocks(f.func, f.args, layout, not builder.rounds)


class BlockBuilder(RegionBuilder):
    """Reads and writes whole buffers, with all their dimensions; conditions are expressions."""

    def __init__(self, f: Function) -> None:
        """`f` is the open function."""
        super().__init__(f)
        self.refused: Refused | None = None
        self.rounds = False

    def placeholder(self, node: Any, position: int) -> Field:
        """A region input, in the layout it has."""
        value = self.f.task.inputs[position]
        domain = Domain(value.shape, value.layout)
        buffer: Any = self.f.inputs.get(position)

        def at(index: Sequence[Expr]) -> Expr:
            return buffer[tuple(self.f.simplify(i) for i in domain.physical(index))]

        return Field(value.shape, computed_dtype(value.dtype), at)

    def either(self, condition: Expr, yes: Any, no: Any) -> Expr:
        """One of two formulas; the other one is not read."""
        condition = condition if isinstance(condition, bool) else self.f.simplify(condition)
        if isinstance(condition, (bool, tirx.IntImm)):
            return yes() if bool(condition) else no()
        return tirx.if_then_else(condition, yes(), no())

    def _stage(self, stage: Stage) -> Stage:
        def at(index: Sequence[Expr]) -> Expr:
            where = stage.domain.physical(index) or [0]
            return as_truth(stage.buffer[tuple(self.f.simplify(i) for i in where)], stage.dtype)

        stage.at = at
        self.stages.append(stage)
        return stage

    def write(self) -> None:
        """All stages as blocks, in order; the last one makes the result."""
        for number, stage in enumerate(self.stages):
            if stage.scan is not None:
                self.refused = Refused("running sums are made in order")
                return
            last = stage is self.stages[-1]
            shape = stage.domain.extents or (1,)
            stage.buffer = self.f.output if last else T.sblock_alloc_buffer(shape, in_memory(stage.dtype))
            self._block(f"stage{number}", stage)

    def _block(self, name: str, stage: Stage) -> None:
        extents = (*stage.domain.extents, *stage.reduce)
        with ExitStack() as loops:
            at = [loops.enter_context(T.serial(0, extent)) for extent in extents]
            loops.enter_context(T.sblock(name))
            rank = len(stage.domain.extents)
            index = [T.axis.spatial(e, i) for e, i in zip(extents[:rank], at[:rank], strict=True)]
            r = [T.axis.reduce(e, i) for e, i in zip(extents[rank:], at[rank:], strict=True)]
            for axis, extent in zip((*index, *r), extents, strict=True):
                self.f.analyzer.bind(axis, tvm.ir.Range(0, extent))
            self._statements(stage, index, r)

    def _statements(self, stage: Stage, index: list[Expr], r: list[Expr]) -> None:
        value = self._value(stage, index, r)
        if stage.combine is None:
            self._put(stage, index, value)
            return
        with T.init():
            self._put(stage, index, tirx.const(stage.initial, stage.dtype))
        so_far = as_truth(stage.buffer[tuple(self._where(stage, index))], stage.dtype)
        self._put(stage, index, stage.combine(so_far, as_type(value, stage.dtype)))

    def _value(self, stage: Stage, index: list[Expr], r: list[Expr]) -> Expr:
        """The element's formula; lanes past the last channel hold 0."""
        logical = stage.domain.logical(index)
        channels = stage.shape[1] if stage.domain.blocked else 0
        if stage.domain.blocked and channels % stage.domain.extents[-1]:
            inside = logical[1] < channels
            return self.guard(inside, lambda: stage.value(logical, r), tirx.const(0, stage.dtype))
        return stage.value(logical, r)

    def _put(self, stage: Stage, index: list[Expr], value: Expr) -> None:
        value = as_type(as_type(value, stage.dtype), str(stage.buffer.dtype))
        if operations(value) > LARGEST:
            self.refused = Refused(f"its formula has more than {LARGEST} operations as one expression")
            value = tirx.const(0, str(stage.buffer.dtype))
        self.rounds = self.rounds or rounds(value)
        self.f.store(stage.buffer, value, self._where(stage, index))
        self.forget()

    def _where(self, stage: Stage, index: list[Expr]) -> list[Expr]:
        return index if index or stage.buffer is self.f.output else [0]


_PARTS = ("a", "b", "condition", "true_value", "false_value", "value", "args", "indices")
_ARITHMETIC = (tirx.Add, tirx.Sub, tirx.Mul, tirx.Div)
_EXACT = ("prim.if_then_else", "tirx.reinterpret", "tirx.isnan", "tirx.isinf", "tirx.likely")


def operations(value: Expr) -> int:
    """Nodes of an expression as a tree: what is used twice counts twice."""
    sizes: dict[Any, int] = {}

    def size(node: Any) -> int:
        if node not in sizes:
            sizes[node] = 1 + sum(size(part) for part in _below(node))
        return sizes[node]

    return size(value)


def rounds(value: Expr) -> bool:
    """Whether an expression computes floats, and does not only move, compare and choose them.

    A product and a sum may or may not become one operation, as the loops around them have it.
    """
    seen: set[Any] = set()

    def look(node: Any) -> bool:
        if node in seen:
            return False
        seen.add(node)
        call = isinstance(node, tvm.ir.Call) and node.op.name not in _EXACT
        here = (call or isinstance(node, _ARITHMETIC)) and "float" in str(node.ty.dtype)
        return here or any(look(part) for part in _below(node))

    return look(value)


def _below(node: Any) -> list[Any]:
    parts = [getattr(node, name, ()) for name in _PARTS]
    flat = [p for part in parts for p in (part if hasattr(part, "__iter__") else (part,))]
    return [p for p in flat if isinstance(p, tvm.ir.Expr)]
