"""A region under construction: its ops become fields and stages, read and written in any layout.

result = fields[region.result]         stages = everything stored on the way, in order
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from math import prod
from typing import Any

from torch import fx

from ..compat import IRBuilder, T, structural_equal, structural_hash, tirx
from ..kernels.emit import Expr, Function
from ..ops.lanes import once, scalar_code
from ..plan import computed_dtype
from ..views import broadcast_index, dtype_of, shape_of
from .stage import Domain, Field, Stage

PARALLEL_ELEMENTS = 4096
"""Work from which a parallel launch pays."""
_FEW, _PARTS = 8, 64


class RegionBuilder:
    """What op builders work with."""

    def __init__(self, f: Function) -> None:
        """`f` is the open function; placeholders become fields over its buffers."""
        self.f = f
        self.stages: list[Stage] = []
        self.fields: dict[fx.Node, Field] = {}
        self.loads: list[tuple[Any, list[Expr]]] | None = None
        self.reads: list[tuple[Stage, Sequence[Expr]]] | None = None
        self.turned: dict[int, Expr] = {}
        """Elements of inputs that were made ready for the element under way, by position."""
        self._forced = 0
        self._named: dict[tuple[object, ...], Expr] = {}

    def placeholder(self, node: fx.Node, position: int) -> Field:
        """A region input, in the layout it has."""
        value = self.f.task.inputs[position]
        domain = Domain(value.shape, value.layout)
        buffer = self.f.inputs.get(position)
        flat: Any = None if buffer is None else self.f.alias(buffer, (prod(domain.extents),))

        def at(index: Sequence[Expr]) -> Expr:
            where = [self.f.simplify(i) for i in domain.physical(index)]
            if self.loads is not None:
                self.loads.append((buffer, where))
            elif position in self.turned:
                return self.turned[position]
            return flat[self.offset(self._inside(where, domain.extents), domain.extents)]

        return Field(value.shape, computed_dtype(value.dtype), at)

    def __getitem__(self, node: Any) -> Field:
        """The field of a node; a Python number is a constant field."""
        return self.fields[node]

    def field(self, shape: Sequence[int], dtype: str, at: Callable[[Sequence[Expr]], Expr]) -> Field:
        """A value by formula."""
        return Field(tuple(shape), dtype, at)

    def once(self, node: fx.Node, result: Field) -> Field:
        """The same field, named where it is read several times at one index: expressions are trees."""
        if len(node.users) < 2:
            return result

        def at(index: Sequence[Expr]) -> Expr:
            key = (node, *(_Same.of(i) for i in index))
            if key not in self._named:
                self._named[key] = once(result.at(index))
            return self._named[key]

        return Field(result.shape, result.dtype, at)

    def forget(self) -> None:
        """Forget named values: the statement they were made for is complete."""
        self._named.clear()

    def guard(self, condition: Expr, inside: Callable[[], Expr], outside: Expr) -> Expr:
        """`inside()` where the condition holds; nothing of it is read elsewhere."""
        return self.either(condition, inside, lambda: outside)

    def either(self, condition: Expr, yes: Callable[[], Expr], no: Callable[[], Expr]) -> Expr:
        """One of two formulas, and nothing is read that the other one does not mean.

        An expression is read where it stands: if_then_else. A formula that names values (`once`) reads them
        before; then both are evaluated, at places forced to lie inside.
        """
        if self.loads is not None:  # both sides are looked at
            return tirx.Select(tirx.const(True, "bool"), yes(), no())
        condition = condition if isinstance(condition, bool) else self.f.simplify(condition)
        if isinstance(condition, (bool, tirx.IntImm)):
            return yes() if bool(condition) else no()
        if not self._forced:
            with self.look() as frame:
                pure = yes(), no()
                emitted = len(frame.stmts) > 0
            if not emitted:
                return tirx.if_then_else(condition, *pure)
        self._forced += 1
        try:
            return tirx.Select(condition, yes(), no())
        finally:
            self._forced -= 1

    @contextmanager
    def look(self) -> Iterator[Any]:
        """Evaluate formulas in vain: their statements and the names these make are thrown away."""
        kept = dict(self._named)
        try:
            with aside() as frame:
                yield frame
        finally:
            self._named = kept

    @contextmanager
    def observed(self) -> Iterator[tuple[list[Any], list[Any]]]:
        """Lists that collect what formulas read, of inputs and of stages; nothing is emitted."""
        self.loads, self.reads = [], []
        named, self._named = self._named, {}  # nothing that was named before is left out
        try:
            with self.look():
                yield self.loads, self.reads
        finally:
            self.loads = self.reads = None
            self._named = named

    def offset(self, where: Sequence[Expr], extents: Sequence[int]) -> Expr:
        """Row-major offset, simplified under the ranges of all open loops."""
        offset: Expr = 0
        for i, extent in zip(where, extents, strict=True):
            offset = offset * extent + i
        return self.f.simplify(offset)

    def _inside(self, where: list[Expr], extents: Sequence[int]) -> list[Expr]:
        """Physical indices forced to lie inside the buffer, within a formula that is evaluated in vain."""
        if not self._forced:
            return where
        return [
            i if isinstance(i, int) else tirx.max(tirx.min(i, e - 1), 0) for i, e in zip(where, extents, strict=True)
        ]

    def reduce(
        self,
        shape: Sequence[int],
        extents: Sequence[int],
        value: Callable[[Sequence[Expr], Sequence[Expr]], Expr],
        combine: Callable[[Expr, Expr], Expr],
        initial: Expr,
        dtype: str,
        scan: int | None = None,
    ) -> Stage:
        """A stage that aggregates over `extents`; a large sum into few elements is made in two steps."""
        if scan is None and prod(shape) < _FEW and prod(extents) > PARALLEL_ELEMENTS:
            return self._in_two_steps(shape, extents, value, combine, initial, dtype)
        return self._stage(Stage(
            tuple(shape), dtype, lambda i: 0, Domain(tuple(shape)), tuple(extents), value, combine, initial, scan
        ))  # fmt: skip

    def _in_two_steps(
        self,
        shape: Sequence[int],
        extents: Sequence[int],
        value: Callable[[Sequence[Expr], Sequence[Expr]], Expr],
        combine: Callable[[Expr, Expr], Expr],
        initial: Expr,
        dtype: str,
    ) -> Stage:
        """Partial results over a fixed number of parts, then their aggregate: the parts run in parallel."""
        longest = max(range(len(extents)), key=lambda d: extents[d])
        parts = min(_PARTS, extents[longest])
        length = -(-extents[longest] // parts)
        inner = [length if d == longest else e for d, e in enumerate(extents)]
        rank = len(shape)

        def part(index: Sequence[Expr], r: Sequence[Expr]) -> Expr:
            at = index[0] * length + r[longest]
            where = [at if d == longest else x for d, x in enumerate(r)]
            if parts * length == extents[longest]:
                return value(index[1:], where)
            inside = at < extents[longest]
            return self.guard(inside, lambda: value(index[1:], where), tirx.const(initial, dtype))

        partial = self._stage(Stage(
            (parts, *shape), dtype, lambda i: 0, Domain((parts, *shape)), tuple(inner), part, combine, initial
        ))  # fmt: skip
        whole = lambda index, r: partial.at([r[0], *index[:rank]])  # noqa: E731
        return self._stage(Stage(
            tuple(shape), dtype, lambda i: 0, Domain(tuple(shape)), (parts,), whole, combine, initial
        ))  # fmt: skip

    def store(self, source: Field, domain: Domain | None = None) -> Stage:
        """A stage that keeps a field's elements."""
        stage = Stage(
            source.shape, source.dtype, lambda i: 0, domain or Domain(source.shape), (), lambda i, _: source.at(i)
        )
        return self._stage(stage)

    def _stage(self, stage: Stage) -> Stage:
        def at(index: Sequence[Expr]) -> Expr:
            if self.reads is not None:
                self.reads.append((stage, list(index)))
                return tirx.const(1, stage.dtype)
            where = [self.f.simplify(i) for i in stage.domain.physical(index)]
            where = self._inside(where, stage.domain.extents)[stage.prefix :]
            return as_truth(stage.buffer[self.offset(where, stage.domain.extents[stage.prefix :])], stage.dtype)

        stage.at = at
        self.stages.append(stage)
        return stage

    def operand(self, node: Any, index: Sequence[Expr], dtype: str = "float32") -> Expr:
        """An operand broadcast to where `index` points; Python numbers become constants of `dtype`."""
        if isinstance(node, fx.Node):
            source = self.fields[node]
            return source.at(broadcast_index(index, source.shape))
        return tirx.const(node, dtype)

    def operand_at(self, node: Any, index: Sequence[Expr]) -> Expr:
        """An operand's element at its own index."""
        return self.fields[node].at(index)


@contextmanager
def aside() -> Iterator[Any]:
    """A builder whose statements are thrown away, for looking at what a formula does."""
    with IRBuilder() as builder:
        frame = T.prim_func(s_tir=True)
        frame.__enter__()
        T.func_name("aside")
        with scalar_code():
            yield frame
        frame.__exit__(None, None, None)
        builder.get()


@dataclass(frozen=True, eq=False)
class _Same:
    """An index expression that equals every expression of the same structure."""

    value: Expr

    @staticmethod
    def of(index: Expr) -> object:
        return index if isinstance(index, int) else _Same(index)

    def __hash__(self) -> int:
        return int(structural_hash(self.value))

    def __eq__(self, other: object) -> bool:
        return isinstance(other, _Same) and bool(structural_equal(self.value, other.value))


def in_memory(dtype: str) -> str:
    """What values are kept as in scratch: vectors of single bits do not survive a buffer."""
    return "int8" if dtype == "bool" else dtype


def as_truth(value: Expr, dtype: str) -> Expr:
    """A value read from scratch, as `dtype`."""
    kept = str(value.ty.dtype)
    return tirx.NE(value, tirx.const(0, kept)) if dtype == "bool" and kept != "bool" else value


def as_type(value: Expr, dtype: str) -> Expr:
    """A value in the dtype that it is kept in."""
    return value if str(value.ty.dtype) == dtype else tirx.Cast(dtype, value)


def output_shape(node: fx.Node) -> tuple[tuple[int, ...], str]:
    """Logical shape and dtype of a node's value."""
    return shape_of(node), dtype_of(node)
