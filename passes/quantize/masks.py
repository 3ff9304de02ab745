"""Which places of an additive mask are seen: those where it adds 0, if it adds at most -1e4 at all others.

softmax(where(m, -inf, s)) sees ¬m          softmax(s + (1 - m) · -1e9) sees m          softmax(s + constant)
"""

from __future__ import annotations

from typing import Any

from torch import Tensor, fx

from ...ir.ops import argument, is_call
from ...ir.program import Program
from ...ir.rules import Expr, Weight
from ..normalize.spelling import aten, call, value_of

AWAY = -1e4
"""What is added to a score so that its share is 0 in float32, whatever scores are."""
VIEWS = (aten.reshape.default, aten.expand.default, aten.permute.default, aten.slice.Tensor)


def seen_scores(scores: fx.Node, program: Program) -> tuple[fx.Node, Expr] | None:
    """(scores before a mask came in, the places that it lets be seen), None where `scores` are not masked."""
    if is_call(scores, aten.where.self):
        condition, left, right = _args(scores)
        for inner, filled, kept in ((right, left, False), (left, right, True)):
            if isinstance(filled, fx.Node) and _is_away(_constant(filled, program)) and isinstance(inner, fx.Node):
                return inner, condition if kept else _not(condition, program)
    if is_call(scores, aten.add.Tensor) and argument(scores, "alpha") == 1:
        left, right = _args(scores)
        for inner, added in ((left, right), (right, left)):
            if isinstance(inner, fx.Node) and isinstance(added, fx.Node):
                seen = seen_places(added, program)
                if seen is not None:
                    return inner, seen
    return None


def seen_places(mask: fx.Node, program: Program) -> Expr | None:
    """A tensor of bool: where an additive mask is 0. None if it is anything else than 0 and far below."""
    constant = _constant(mask, program)
    if constant is not None:
        return Weight(f"{mask.target}_seen", constant == 0) if _wipes(constant) else None
    if is_call(mask, *VIEWS):
        source, *rest = _args(mask)
        inner = seen_places(source, program)
        return None if inner is None else call(mask.target, inner, *rest)
    if is_call(mask, aten.add.Tensor) and all(isinstance(part, fx.Node) for part in _args(mask)):
        parts = [seen_places(part, program) for part in _args(mask)]
        return None if None in parts else call(aten.logical_and.default, *parts)
    return _chosen(mask, program) if is_call(mask, aten.where.self) else _counted(mask, 1.0, 0.0)


def _chosen(mask: fx.Node, program: Program) -> Expr | None:
    """where(c, 0, -inf), where(c, -inf, 0), where(c, -inf, a mask): the last as PyTorch inverts masks."""
    condition, left, right = _args(mask)
    sides = [_constant(side, program) for side in (left, right)]
    if _is_away(sides[0]):
        hidden = _not(condition, program)
        if sides[1] is not None:
            return hidden if not bool(sides[1].any()) else None
        inner = seen_places(right, program)
        return None if inner is None else call(aten.logical_and.default, hidden, inner)
    if _is_away(sides[1]) and sides[0] is not None and not bool(sides[0].any()):
        kept: fx.Node = condition
        return kept
    return None


def _counted(mask: fx.Node | float, slope: float, offset: float) -> Expr | None:
    """slope · m + offset of integers or bools m that are 0 or 1, peeled off step by step."""
    if not isinstance(mask, fx.Node):
        return None
    first, *rest = _args(mask) or [None]
    second = rest[0] if rest else None
    if is_call(mask, aten.mul.Tensor, aten.div.Tensor) and isinstance(second, int | float):
        return _counted(first, slope * second if is_call(mask, aten.mul.Tensor) else slope / second, offset)
    if is_call(mask, aten.add.Tensor, aten.sub.Tensor) and isinstance(second, int | float):
        sign = 1 if is_call(mask, aten.add.Tensor) else -1
        return _counted(first, slope, offset + slope * sign * second)
    if is_call(mask, *VIEWS):
        inner = _counted(first, slope, offset)
        return None if inner is None else call(mask.target, inner, *rest)
    if not is_call(mask, aten._to_copy.default) or value_of(first).dtype.is_floating_point:
        return None
    none, one = offset, slope + offset
    if none == 0 and one <= AWAY:
        return call(aten.eq.Scalar, first, 0)
    return call(aten.ne.Scalar, first, 0) if one == 0 and none <= AWAY else None


def _not(condition: fx.Node, program: Program) -> Expr:
    """The other places, at once where they are constant."""
    constant = _constant(condition, program)
    return (
        call(aten.logical_not.default, condition) if constant is None else Weight(f"{condition.target}_not", ~constant)
    )


def _args(node: fx.Node) -> Any:
    return list(node.args)


def _constant(node: object, program: Program) -> Tensor | None:
    if isinstance(node, fx.Node) and node.op == "get_attr":
        return program.weights[str(node.target)]
    return None


def _wipes(values: Tensor) -> bool:
    """Whether all entries are 0 or far below, and one is."""
    return bool(((values == 0) | (values <= AWAY)).all()) and bool((values != 0).any())


def _is_away(values: Tensor | None) -> bool:
    return values is not None and values.dtype.is_floating_point and bool((values <= AWAY).all())
