"""The vocabulary that all kernel templates are written in: one PrimFunc under construction, loops, lanes, accumulators.

    with Function(task, layout, weights) as f: ...statements...      f.func == PrimFunc(inputs..., output)

A loop is `with f.serial(n) as i`; a vector loop `with f.lanes(n) as v` holds scalar expressions of `v`, so that
the scalar operator table serves every kernel. Each loop tells the analyzer its range, which is what turns the
index arithmetic of layouts and views into plain strides.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from math import prod
from types import TracebackType
from typing import Any

from ..compat import IRBuilder, T, tirx, tvm
from ..ops.lanes import lane_loop
from ..plan import Layout, Value, itemsize, memory_dtype, physical_shape
from ..shifted import protect
from ..template import Packed, Task
from .bfloat16 import Narrow, has_dot

Expr = Any
"""A TIR expression, or a Python int that stands for one (TVM is untyped)."""

Buffer = Any
"""A TIR buffer."""

ALIGNMENT = 64
_STACK_BYTES = 1024
"""Scratch up to this size lies on the stack; TVM takes larger buffers from its per-thread workspace."""


@dataclass(frozen=True, eq=False)
class PackedArg:
    """A packed weight as a parameter: what to pack, and the shape and dtype that come out (None: the weight's own)."""

    packed: Packed
    shape: tuple[int, ...]
    dtype: str | None = None


@dataclass(frozen=True, eq=False)
class Operands:
    """How the placeholders that a template does not pack itself are read: as they lie, or as a padded constant."""

    plain: tuple[int, ...]
    packed: Mapping[int, PackedArg]


class Function:
    """A PrimFunc under construction; a context manager whose body emits the statements.

    `inputs` and `packed` are the operands' buffers by position, `weights` the template's own packed weights.
    """

    def __init__(self, task: Task, layout: Layout, operands: Operands, weights: Sequence[PackedArg] = ()) -> None:
        """Parameters are the plain operands, the packed ones, the template's weights, and the output."""
        self.task = task
        self.layout = layout
        packed = (*operands.packed.values(), *weights)
        self._arguments = tuple(i for i in operands.plain if i not in task.within)
        self.args: tuple[int | Packed, ...] = (*self._arguments, *(w.packed for w in packed))
        self._weights = tuple(weights)
        self._operands = operands
        self.inputs: dict[int, Buffer] = {}
        self.packed: dict[int, Buffer] = {}
        self.weights: list[Buffer] = []
        self.output: Buffer = None
        self.func: Any = None
        self.analyzer = tvm.sym.Analyzer()
        self._builder = IRBuilder()
        self._frame: Any = None

    def __enter__(self) -> Function:
        """Open the builder and declare the parameters."""
        self._builder.__enter__()
        self._frame = T.prim_func(s_tir=True)
        self._frame.__enter__()
        T.func_name("main")
        T.func_attr({"global_symbol": "main", "tirx.noalias": True})
        for position in self._arguments:
            self.inputs[position] = self._parameter(f"in{position}", self.task.inputs[position])
        for position, padded in self._operands.packed.items():
            self.packed[position] = self._weight(f"padded{position}", padded)
        self.weights = [self._weight(f"w{number}", weight) for number, weight in enumerate(self._weights)]
        out = self.task.output
        self.output = self._parameter("out", Value(out.name, out.shape, out.dtype, self.layout, out.external))
        self.inputs |= dict.fromkeys(self.task.within.intersection(self._operands.plain), self.output)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Close the builder; on success `func` is the finished PrimFunc."""
        self._frame.__exit__(kind, error, trace)
        self._builder.__exit__(kind, error, trace)
        if kind is None:
            self.func = protect(self._builder.get())

    def _parameter(self, name: str, value: Value) -> Buffer:
        """A buffer parameter; what the caller owns is aligned to its elements only."""
        align = itemsize(value.dtype) if value.external else ALIGNMENT
        return self._buffer(name, physical_shape(value.shape, value.layout), value.dtype, align)

    def _weight(self, name: str, weight: PackedArg) -> Buffer:
        dtype = weight.dtype or self.task.inputs[weight.packed.position].dtype
        return self._buffer(name, weight.shape, dtype, ALIGNMENT)

    def _buffer(self, name: str, shape: Sequence[int], dtype: str, align: int) -> Buffer:
        memory = T.match_buffer(T.arg(name, T.handle()), shape, memory_dtype(dtype), align=align)
        return Narrow(memory, has_dot(self.task.target)) if dtype == "bfloat16" else memory

    @contextmanager
    def _loop(self, frame: Any, extent: Expr) -> Iterator[Expr]:
        with frame as var:
            if isinstance(extent, int):
                self.analyzer.bind(var, tvm.ir.Range(0, extent))
            yield var

    @contextmanager
    def serial(self, hi: Expr, lo: Expr = 0) -> Iterator[Expr]:
        """`for i in range(lo, hi)`.

        TVM's CanonicalizeLoop forgets the bounds of an inner loop when it shifts an outer one to zero, so that
        all loops start at zero here and `lo` is added.
        """
        lo = self.let(lo)
        extent = self.simplify(hi - lo)
        with self._loop(T.serial(0, extent), extent) as var:
            yield var if isinstance(lo, int) and lo == 0 else var + lo

    def parallel(self, n: int) -> Any:
        """A loop whose iterations the thread pool shares, in contiguous ranges."""
        return self._loop(T.parallel(0, n), n)

    def lanes(self, n: int) -> Any:
        """A loop that becomes vector instructions of `n` lanes."""
        return self._loop(lane_loop(n), n)

    def let(self, value: Expr, extent: int | None = None) -> Expr:
        """Compute once and name; an index in [0, extent) tells the analyzer so."""
        value = self.simplify(value)
        if isinstance(value, (int, tirx.IntImm)):
            return int(value)
        var = T.Bind(value)
        if extent is not None:
            self.analyzer.bind(var, tvm.ir.Range(0, extent))
        return var

    def simplify(self, value: Expr) -> Expr:
        """Simplify an index under the ranges of all open loops."""
        return value if isinstance(value, int) else self.analyzer.simplify(value)

    def unravel(self, index: Expr, shape: Sequence[int]) -> list[Expr]:
        """Split a flat index over `shape`, each part named."""
        parts = []
        for position, extent in enumerate(shape):
            inner = prod(shape[position + 1 :])
            part = (
                tirx.floormod(tirx.floordiv(index, inner), extent)
                if not isinstance(index, int)
                else index // inner % extent
            )
            parts.append(self.let(part, extent))
        return parts

    def vector(self, lanes: int, dtype: str = "float32") -> Buffer:
        """One accumulator: a buffer that LLVM keeps in registers as long as its index is the lane."""
        return T.alloc_buffer((lanes,), dtype, scope="global")

    def scratch(self, shape: Sequence[int], dtype: str = "float32") -> Buffer:
        """Memory of the thread that runs this iteration; unspecified content."""
        return T.alloc_buffer(tuple(shape), dtype, scope="global", align=ALIGNMENT)

    def store(self, buffer: Buffer, value: Expr, index: Sequence[Expr]) -> None:
        """`buffer[index] = value`, rounded where the buffer holds bfloat16."""
        if isinstance(buffer, Narrow):
            buffer, value = buffer.bits, buffer.narrow(value)
        T.buffer_store(buffer, value, list(index))

    def branches(self, cases: Sequence[tuple[Expr, Callable[[], None]]]) -> None:
        """`if c0: ... elif c1: ...`; the last case is taken without asking."""
        condition, body = cases[0]
        if len(cases) == 1:
            body()
            return
        with T.If(condition):
            with T.Then():
                body()
            with T.Else():
                self.branches(cases[1:])

    def when(self, condition: Expr, body: Callable[[], None]) -> None:
        """`if condition: body`."""
        with T.If(condition), T.Then():
            body()

    def alias(self, buffer: Buffer, shape: Sequence[int]) -> Buffer:
        """The same memory under another shape of equal size."""
        if isinstance(buffer, Narrow):
            return replace(buffer, bits=self.alias(buffer.bits, shape))
        return T.decl_buffer(tuple(shape), buffer.dtype, data=buffer.data, align=buffer.data_alignment)

    def pairs(self, buffer: Buffer, shape: Sequence[int]) -> Buffer:
        """A buffer of bfloat16 as int32, each the bits of two neighbours: half as many elements."""
        bits = buffer.bits
        return T.decl_buffer(tuple(shape), "int32", data=bits.data, align=bits.data_alignment)

    def prefetch(self, buffer: Buffer, index: Sequence[Expr], locality: int = 2, write: bool = False) -> None:
        """Ask for a cache line (locality 3 = L1, 2 = L2), to `write` it too; harmless past the end."""
        intrinsic = T.llvm_lookup_intrinsic_id("llvm.prefetch.p0")
        where = T.address_of((buffer.bits if isinstance(buffer, Narrow) else buffer)[tuple(index)])
        T.evaluate(
            T.call_llvm_intrin(intrinsic, where, T.int32(int(write)), T.int32(locality), T.int32(1), dtype="void")
        )


def const(value: float, dtype: str = "float32") -> Expr:
    """A typed constant."""
    return tirx.const(value, dtype)
