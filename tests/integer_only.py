"""What no integer kernel may do: look for floats, quotients and functions among the values it stores.

strange(func) == set()   =>   every stored value is made of integer multiply, add, shift, compare and select

Intrinsics of the CPU, which templates call by number, are let through: machine code shows what they are.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from planish.backends.tvm.compat import structural_walk, tirx, tvm

_QUOTIENTS = (tirx.Div, tirx.Mod, tirx.FloorDiv, tirx.FloorMod)
_HARMLESS = {"if_then_else", "shift_left", "shift_right", "reinterpret", "call_llvm_pure_intrin"}
_HARMLESS |= {f"bitwise_{name}" for name in ("and", "or", "xor", "not")}


def strange(func: Any) -> set[str]:
    """What a kernel stores that is not allowed; indices, and conditions that read nothing, are not looked at."""
    stores: list[Any] = []
    structural_walk(func.body, ((tirx.BufferStore,), stores.append))
    return {name for store in stores for name in _strange(store.value)}


def _strange(value: Any) -> Iterator[str]:
    if "float" in str(value.ty.dtype):
        yield str(value.ty.dtype)
    if isinstance(value, _QUOTIENTS):
        yield type(value).__name__
    if isinstance(value, tvm.ir.Call) and _name(value) not in _HARMLESS:
        yield _name(value)
    for operand in _operands(value):
        yield from _strange(operand)


def _operands(value: Any) -> list[Any]:
    if isinstance(value, tvm.ir.expr.TensorLoad):
        return []
    if isinstance(value, tirx.Select):
        condition = [value.condition] if _reads(value.condition) else []
        return [value.true_value, value.false_value, *condition]
    if isinstance(value, tvm.ir.Call):
        skipped = _name(value) == "if_then_else" and not _reads(value.args[0])
        return list(value.args[1 if skipped else 0 :])
    if isinstance(value, tirx.Shuffle):
        return list(value.vectors)
    if isinstance(value, (tirx.Cast, tirx.Broadcast)):
        return [value.value]
    return [getattr(value, name) for name in ("a", "b") if hasattr(value, name)]


def _name(call: Any) -> str:
    return str(call.op.name.rpartition(".")[2])


def _reads(value: Any) -> bool:
    """Whether memory is read for a value."""
    found: list[Any] = []
    structural_walk(value, ((tvm.ir.expr.TensorLoad,), found.append))
    return bool(found)
