"""Vector loops, and names for values that are used more than once in them.

    with lane_loop(16) as v: ... once(f(x[v])) ...     ==    t: 16 lanes;  t[v] = f(x[v]);  ... t[v] ...

TIR expressions are trees: without names a chain of activations grows exponentially. TVM's own Let is no way out,
since its analyzer substitutes bindings into each other, in LLVM code generation too. So a name is a buffer with an
element for each lane, which is one vector that LLVM keeps in a register. It must be allocated outside the loop
(TVM shrinks what is allocated inside to one element, which all lanes then share).
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass, field
from typing import Any

from ..compat import IRBuilder, T, tirx, tvm
from ..shifted import opaque

PrimExpr = Any
"""A scalar TIR expression (TVM is untyped)."""

_NAME = "once"


@dataclass
class _Lanes:
    """The open lane loop: its variable, its extent, and the buffers to be allocated before it."""

    var: Any
    count: int
    names: list[Any] = field(default_factory=list)


_open: ContextVar[_Lanes | None] = ContextVar("lanes", default=None)


@contextmanager
def lane_loop(count: int) -> Iterator[PrimExpr]:
    """A loop that becomes vector instructions of `count` lanes; an IRBuilder must be open.

    The only vector loop in which `once`, hence the scalar table, may be used.
    """
    with IRBuilder() as inner, T.vectorized(0, count) as var:
        lanes = _Lanes(var, count)
        token = _open.set(lanes)
        try:
            yield var
        finally:
            _open.reset(token)
    for name in lanes.names:
        T.add_to_parent(tirx.AllocBuffer(name, {}))
    T.add_to_parent(inner.get())


@contextmanager
def scalar_code() -> Iterator[None]:
    """As if no lane loop were open: for looking at what a formula would emit."""
    token = _open.set(None)
    try:
        yield
    finally:
        _open.reset(token)


_whole: ContextVar[bool] = ContextVar("whole", default=False)


@contextmanager
def expressions() -> Iterator[None]:
    """`once` gives values no names: for code that is one expression, which repeats what it uses more than once.

    Each such value is kept from TVM's algebra all the same: (x + m) - m is how a value is rounded.
    """
    token = _whole.set(True)
    try:
        yield
    finally:
        _whole.reset(token)


def open_lanes() -> int:
    """Lanes of the open lane loop; 1 in scalar code."""
    lanes = _open.get()
    return 1 if lanes is None else lanes.count


def once(value: PrimExpr) -> PrimExpr:
    """`value`, computed here, in the open lane loop or in scalar code, and read from a variable."""
    if isinstance(value, (tirx.Var, tirx.IntImm, tirx.FloatImm)) or _is_named(value):
        return value
    dtype = str(value.ty.dtype)
    if dtype == "bool":  # vectors of single bits do not survive a buffer; and TVM takes not (x < 0) for x >= 0
        return tirx.NE(once(tirx.Cast("int8", value)), tirx.const(0, "int8"))
    if _whole.get():
        return value if _is_kept(value) else opaque(value)
    lanes = _open.get()
    if lanes is None:
        name, index = T.alloc_buffer((1,), dtype, scope="global"), 0
        IRBuilder.name(_NAME, name)
    else:
        name, index = tirx.decl_buffer((lanes.count,), dtype, _NAME, scope="global"), lanes.var
        lanes.names.append(name)
    T.buffer_store(name, value, [index])
    return name[index]


def let(value: PrimExpr, body: Callable[[PrimExpr], PrimExpr]) -> PrimExpr:
    """`body(value)` with `value` computed once."""
    return body(once(value))


def _is_kept(value: PrimExpr) -> bool:
    """Whether TVM's algebra sees no operation there."""
    if isinstance(value, tvm.ir.Call):
        return bool(value.op.name == "tirx.reinterpret" and value.args[0].ty == value.ty)
    return isinstance(value, tvm.ir.expr.TensorLoad)


def _is_named(value: PrimExpr) -> bool:
    if isinstance(value, tirx.NE):  # a named bool
        value = value.a
    return isinstance(value, tvm.ir.expr.TensorLoad) and value.source.name == _NAME
