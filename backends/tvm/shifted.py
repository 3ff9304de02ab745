"""Quotients of shifted indices, hidden from TVM where its FlattenBuffer would compute other addresses.

    a[v // 20, (v % 20 + 1) % 2]   read as   a[(v + 1) // 20, (v + 1) % 2]
    a[(v % 3 + 1) // 3]            read as   a[(v + 1) % 3 // 3]

FlattenBuffer simplifies an address by padding the loop variable that a shifted dividend is made of, and forgets that
the rest of the address, or a quotient inside the dividend, reads the variable unshifted (TVM 0.27). A quotient that
it cannot look into it leaves alone:

    protect(func) = func with q replaced by reinterpret(q), where q's dividend is a shifted quotient, or shifts a
                    variable that the address also reads otherwise
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from .compat import structural_equal, structural_map, structural_walk, tirx, tvm

Expr = Any
_QUOTIENTS = (tirx.FloorDiv, tirx.FloorMod)


def protect(func: Any) -> Any:
    """The function itself, or one whose shifted quotients cannot be misread."""
    binds: dict[Any, Expr] = {}
    quotients: list[Expr] = []
    entries = [(tirx.Bind, lambda s: binds.update({s.var: s.value})), (_QUOTIENTS, quotients.append)]
    structural_walk(func.body, entries)
    expressions = _Expressions(binds)
    quotients = [q for q in quotients if expressions.shifted(q.a)]
    if not quotients:
        return func
    accesses: list[Expr] = []
    structural_walk(func.body, ((tvm.ir.TensorLoad, tirx.BufferStore), accesses.append))
    risky = {var for access in accesses for var in expressions.read_twice(list(access.indices))}

    def misread(quotient: Expr) -> bool:
        return bool(expressions.divided(quotient.a) or expressions.roots(quotient.a) & risky)

    if not any(misread(q) for q in quotients):
        return func

    def hide(quotient: Expr) -> Expr:
        return opaque(quotient) if expressions.shifted(quotient.a) and misread(quotient) else quotient

    return func.with_body(structural_map(func.body, (_QUOTIENTS, hide)))


def opaque(value: Expr) -> Expr:
    """The same number, by an operation that no simplifier looks through and no machine carries out."""
    return tvm.ir.Call(tvm.ir.Op.get("tirx.reinterpret"), [value], ret_ty=value.ty)


class _Expressions:
    """Questions about indices; a variable that was bound to an expression reads as that expression."""

    def __init__(self, binds: dict[Any, Expr]) -> None:
        self.binds = binds
        self._roots: dict[Any, frozenset[Any]] = {}

    def shifted(self, value: Expr) -> bool:
        """Whether a sum has a constant part."""
        if isinstance(value, tirx.IntImm):
            return int(value) != 0
        if isinstance(value, tirx.Var):
            return value in self.binds and self.shifted(self.binds[value])
        if isinstance(value, (tirx.Add, tirx.Sub)):
            return self.shifted(value.a) or self.shifted(value.b)
        return isinstance(value, tirx.Mul) and (self._sum(value.a) or self._sum(value.b))

    def _sum(self, value: Expr) -> bool:
        return not isinstance(value, tirx.IntImm) and self.shifted(value)

    def divided(self, value: Expr) -> bool:
        """Whether there is a quotient in a value."""
        found: list[Expr] = []
        structural_walk(value, [(_QUOTIENTS, found.append), (tirx.Var, lambda var: self._divided_var(var, found))])
        return bool(found)

    def _divided_var(self, var: Any, found: list[Expr]) -> None:
        if var in self.binds and self.divided(self.binds[var]):
            found.append(var)

    def roots(self, value: Expr) -> frozenset[Any]:
        """The variables that a value depends on and that are not bound to others."""
        found: set[Any] = set()
        structural_walk(value, (tirx.Var, lambda var: found.update(self._root(var))))
        return frozenset(found)

    def _root(self, var: Any) -> frozenset[Any]:
        if var not in self._roots:
            self._roots[var] = self.roots(self.binds[var]) if var in self.binds else frozenset((var,))
        return self._roots[var]

    def read_twice(self, indices: list[Expr]) -> set[Any]:
        """Variables that a shifted quotient of an address is made of, and that it also reads otherwise."""
        dividends: list[Expr] = []
        outside: set[Any] = set()
        for part in (p for index in indices for p in self._parts(index)):
            if isinstance(part, _QUOTIENTS):
                if not any(structural_equal(part.a, known) for known in dividends):
                    dividends.append(part.a)
            else:
                outside |= self._root(part)
        twice: set[Any] = set()
        for dividend in dividends:
            own = self.roots(dividend)
            twice |= own & outside
            outside |= own
        return twice

    def _parts(self, value: Expr) -> Iterator[Expr]:
        """The shifted quotients of an index, and the variables outside them."""
        if isinstance(value, tirx.Var):
            yield from self._parts(self.binds[value]) if value in self.binds else (value,)
        elif isinstance(value, _QUOTIENTS) and self.shifted(value.a):
            yield value
        else:
            for child in _children(value):
                yield from self._parts(child)


def _children(value: Expr) -> tuple[Expr, ...]:
    """What an index expression is made of."""
    if isinstance(value, tvm.ir.Call):
        return tuple(value.args)
    if isinstance(value, tvm.ir.TensorLoad):
        return tuple(value.indices)
    if isinstance(value, tirx.Select):
        return (value.condition, value.true_value, value.false_value)
    if isinstance(value, tirx.Cast):
        return (value.value,)
    return (value.a, value.b) if hasattr(value, "a") and hasattr(value, "b") else ()
