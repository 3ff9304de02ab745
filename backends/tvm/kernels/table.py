"""A table of 256 bytes looked up for a whole vector of codes, on CPUs that permute 128 bytes in one instruction.

    y[v] = table[x[v]]  =  (x[v] < 128 ? first half : second half)[x[v] mod 128]          x uint8, in vectors of int32

Both halves are looked up for every byte of the vector, and bit 7 of the byte chooses. Of each int32 only the lowest
byte is the code, so that of the result only this byte counts. Elsewhere `ops/integer.py` reads entry by entry.
"""

from __future__ import annotations

from dataclasses import dataclass
from math import prod
from typing import Any

from torch import fx

from ....ir.ops import integer_name
from ..compat import T, tirx
from ..template import Task
from .emit import Buffer, Expr, Function

_LANES, _BYTES = 16, 64


@dataclass(frozen=True)
class Table:
    """The lookup that follows a vector of codes; `position` is that of its table."""

    node: fx.Node
    position: int

    def apply(self, f: Function, codes: Buffer) -> None:
        """Look up all lanes; their upper bytes mean nothing afterwards."""
        every = tirx.Ramp(0, 1, _LANES)
        x, table = tirx.reinterpret(_bytes(), codes[every]), f.inputs[self.position]
        parts = [tirx.reinterpret(_bytes(), table[tirx.Ramp(_BYTES * k, 1, _BYTES)]) for k in range(4)]
        permute = T.llvm_lookup_intrinsic_id("llvm.x86.avx512.vpermi2var.qi.512")
        low, high = (T.call_llvm_pure_intrin(permute, parts[k], x, parts[k + 1], dtype=_bytes()) for k in (0, 2))
        second = x > tirx.Broadcast(tirx.const(127, "uint8"), _BYTES)
        found = tirx.reinterpret(f"int32x{_LANES}", tirx.Select(second, high, low))
        T.buffer_store(codes, found, [every])

    def value(self, codes: Buffer, v: Expr) -> Expr:
        """The entry of a lane in the node's dtype."""
        return tirx.Cast(str(self.node.meta["val"].dtype).removeprefix("torch."), codes[v])


def read_table(task: Task, codes: fx.Node, lanes: int) -> Table | None:
    """The lookup of `codes`, if nothing else reads them and the CPU has the instruction for it."""
    if lanes != _LANES or task.target.lanes != _LANES or "avx512vbmi" not in task.target.features:
        return None
    reader = next(iter(codes.users), None)
    if reader is None or len(codes.users) > 1 or integer_name(reader) != "lookup":
        return None
    args: Any = reader.args
    holders = task.region.placeholders
    position = holders.index(args[1]) if args[1] in holders else -1
    if args[0] is not codes or position not in task.constants or "uint8" not in str(codes.meta["val"].dtype):
        return None
    value = task.inputs[position]
    whole = prod(value.shape) == 256 and value.dtype in ("uint8", "int8")
    return Table(reader, position) if whole else None


def _bytes() -> str:
    return f"uint8x{_BYTES}"
