"""canonicalize_pointwise: one spelling for each function of one, two or three elements.

    add.Scalar(x, c) == add.Tensor(x, c);   rsub(x, y) == sub(y, x);   relu6(x) == clamp(x, 0, 6);
    masked_fill(x, m, c) == where(m, c, x);   selu(x) == elu(x, alpha, scale, 1);   prelu(x, w) == where(x > 0, x, w x)

Conditions:
- numbers stay Python numbers as second argument (comparisons: of the `.Scalar` op), floats where the tensor is
  floating; a constant of no dimensions (expanded or not) is such a number where that changes neither shape nor dtype;
- a factor `alpha` of `add`, `sub` and `rsub` becomes a product of its own.
Every value keeps its bits, except that PyTorch may fuse x + alpha * y.

Before:
    program(%x: f32[2, 3], %m: bool[2, 3]) {
      @scale: f32[] = 0.5
      %a: f32[2, 3] = rsub.Scalar(%x, 1)
      %b: f32[2, 3] = mul.Tensor(@scale, %a)
      %c: f32[2, 3] = hardtanh(%b, 0.0, 6.0)
      %d: f32[2, 3] = masked_fill.Scalar(%c, %m, -2)
      return %d
    }

After:
    program(%x: f32[2, 3], %m: bool[2, 3]) {
      @constant: f32[] = -2.0
      %neg: f32[2, 3] = neg(%x)
      %add: f32[2, 3] = add.Tensor(%neg, 1.0)
      %mul: f32[2, 3] = mul.Tensor(%add, 0.5)
      %clamp: f32[2, 3] = clamp(%mul, 0.0, 6.0)
      %where: f32[2, 3] = where.self(%m, @constant, %clamp)
      return %where
    }
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar

from torch import fx

from ...ir.ops import arguments
from ...ir.program import Program
from ...ir.rules import Call, Expr
from ..base import Numerics
from .activations import elu, log_sigmoid, numbers_as_floats, prelu, rrelu, threshold
from .numbers import Operand, constant, like, number_of, sides, times
from .spelling import (
    OpPass,
    Respell,
    Verdict,
    args_of,
    aten,
    call,
    is_tensor,
    replace_by,
)


def plain(tensor_op: Any, number_op: Any) -> Respell:
    """Two operands; for a number on the right there is an op of its own."""

    def respell(node: fx.Node, program: Program) -> Verdict:
        left, right = args_of(node)[:2]
        number = number_of(right, left, node, program)
        return replace_by(node, call(tensor_op if isinstance(number, fx.Node) else number_op, left, number))

    return respell


def extremum(op: Any, side: str) -> Respell:
    """`maximum` and `minimum` of two tensors; with a number it is a `clamp`."""

    def respell(node: fx.Node, program: Program) -> Verdict:
        left, right = sides(node, program)
        if isinstance(right, fx.Node):
            return replace_by(node, call(op, left, right))
        return replace_by(node, call(aten.clamp.default, left, **{side: right}))

    return respell


def commutative(op: Any) -> Respell:
    """Two operands that may change places."""

    def respell(node: fx.Node, program: Program) -> Verdict:
        left, right = sides(node, program)
        return replace_by(node, call(op, left, right))

    return respell


def add(node: fx.Node, program: Program) -> Verdict:
    """`add` with alpha multiplied in."""
    alpha = arguments(node)["alpha"]
    if alpha != 1:
        return replace_by(node, call(aten.add.Tensor, args_of(node)[0], times(args_of(node)[1], alpha)))
    left, right = sides(node, program)
    return replace_by(node, call(aten.add.Tensor, left, right))


def sub(node: fx.Node, program: Program) -> Verdict:
    """`sub` with alpha multiplied in; from a number: the number is added to the negative."""
    left, right = args_of(node)[:2]
    return _difference(node, program, left, right, arguments(node)["alpha"])


def rsub(node: fx.Node, program: Program) -> Verdict:
    """`rsub(x, y) == y - alpha x`."""
    right, left = args_of(node)[:2]
    return _difference(node, program, left, right, arguments(node)["alpha"])


def _difference(node: fx.Node, program: Program, left: Operand, right: Operand, alpha: float) -> Verdict:
    """left - alpha right."""
    taken: Operand = times(right, alpha) if alpha != 1 else right
    if alpha == 1 and is_tensor(left):
        taken = number_of(right, left, node, program)
    number = number_of(left, right, node, program) if is_tensor(right) else left
    if not isinstance(number, fx.Node | Call):
        return replace_by(node, call(aten.add.Tensor, call(aten.neg.default, taken), number))
    return replace_by(node, call(aten.sub.Tensor, left, taken))


def divide(node: fx.Node, program: Program) -> Verdict:
    """Division by its rounding: none, "trunc" or "floor"."""
    left, right = args_of(node)[:2]
    mode = node.kwargs.get("rounding_mode")
    if node.target in (aten.floor_divide.default, aten.floor_divide.Scalar):
        mode = "floor"
    divisor = number_of(right, left, node, program)
    if mode is None:
        return replace_by(node, call(aten.div.Tensor, left, divisor))
    return replace_by(node, call(aten.div.Tensor_mode, left, divisor, rounding_mode=mode))


def power(node: fx.Node, program: Program) -> Verdict:
    """`pow` with a number as exponent."""
    base, exponent = args_of(node)
    number = number_of(exponent, base, node, program)
    if isinstance(number, fx.Node):
        return None
    return replace_by(node, call(aten.pow.Tensor_Scalar, base, number))


def square(node: fx.Node, program: Program) -> Verdict:
    """x * x."""
    return replace_by(node, call(aten.pow.Tensor_Scalar, args_of(node)[0], like(2, node)))


def clamp(node: fx.Node, program: Program) -> Verdict:
    """`clamp`, `clip`, `hardtanh`, `relu6`, `clamp_min`, `clamp_max` with numbers."""
    given = arguments(node)
    low = given.get("min", given.get("min_val"))
    high = given.get("max", given.get("max_val"))
    if node.target is aten.relu6.default:
        low, high = 0, 6
    bounds = [None if bound is None else like(bound, node) for bound in (low, high)]
    return replace_by(node, call(aten.clamp.default, args_of(node)[0], *bounds))


def clamp_tensor(node: fx.Node, program: Program) -> Verdict:
    """Bounds that are tensors: `maximum`, then `minimum`."""
    given = arguments(node)
    result: Expr = given["self"]
    for op, bound in ((aten.maximum.default, given.get("min")), (aten.minimum.default, given.get("max"))):
        result = result if bound is None else call(op, result, bound)
    return replace_by(node, result)


def where(node: fx.Node, program: Program) -> Verdict:
    """`where` with numbers as constants."""
    condition, left, right = args_of(node)
    return replace_by(node, call(aten.where.self, condition, constant(left, node), constant(right, node)))


def masked_fill(node: fx.Node, program: Program) -> Verdict:
    """`where` with the mask as condition."""
    x, mask, value = args_of(node)
    return replace_by(node, call(aten.where.self, mask, constant(value, node), x))


PAIRS: tuple[tuple[Any, ...], ...] = (
    (aten.eq.Tensor, aten.eq.Scalar),
    (aten.ne.Tensor, aten.ne.Scalar),
    (aten.lt.Tensor, aten.lt.Scalar),
    (aten.le.Tensor, aten.le.Scalar),
    (aten.gt.Tensor, aten.gt.Scalar),
    (aten.ge.Tensor, aten.ge.Scalar),
    (aten.bitwise_and.Tensor, aten.bitwise_and.Scalar, aten.__and__.Tensor, aten.__and__.Scalar),
    (aten.bitwise_or.Tensor, aten.bitwise_or.Scalar, aten.__or__.Tensor, aten.__or__.Scalar),
    (aten.bitwise_xor.Tensor, aten.bitwise_xor.Scalar, aten.__xor__.Tensor, aten.__xor__.Scalar),
    (
        aten.bitwise_left_shift.Tensor,
        aten.bitwise_left_shift.Tensor_Scalar,
        aten.__lshift__.Tensor,
        aten.__lshift__.Scalar,
    ),
    (
        aten.bitwise_right_shift.Tensor,
        aten.bitwise_right_shift.Tensor_Scalar,
        aten.__rshift__.Tensor,
        aten.__rshift__.Scalar,
    ),
    (aten.remainder.Tensor, aten.remainder.Scalar),
    (aten.fmod.Tensor, aten.fmod.Scalar),
)
"""The op for two tensors, the op for a tensor and a number, and their other names."""

TABLE: Mapping[Any, Respell] = {
    **dict.fromkeys((aten.add.Tensor, aten.add.Scalar), add),
    **dict.fromkeys((aten.sub.Tensor, aten.sub.Scalar), sub),
    **dict.fromkeys((aten.rsub.Tensor, aten.rsub.Scalar), rsub),
    **dict.fromkeys((aten.mul.Tensor, aten.mul.Scalar), commutative(aten.mul.Tensor)),
    **dict.fromkeys((aten.div.Tensor, aten.div.Scalar, aten.true_divide.Tensor), divide),
    **dict.fromkeys((aten.div.Tensor_mode, aten.div.Scalar_mode), divide),
    **dict.fromkeys((aten.floor_divide.default, aten.floor_divide.Scalar), divide),
    **dict.fromkeys((aten.max.other, aten.maximum.default), extremum(aten.maximum.default, "min")),
    **dict.fromkeys((aten.min.other, aten.minimum.default), extremum(aten.minimum.default, "max")),
    **{op: plain(*ops[:2]) for ops in PAIRS for op in ops},
    **dict.fromkeys((aten.pow.Tensor_Scalar, aten.pow.Tensor_Tensor), power),
    aten.square.default: square,
    **dict.fromkeys((aten.clamp.default, aten.clip.default, aten.hardtanh.default, aten.relu6.default), clamp),
    **dict.fromkeys((aten.clamp_min.default, aten.clamp_max.default), clamp),
    **dict.fromkeys((aten.clamp.Tensor, aten.clip.Tensor), clamp_tensor),
    **dict.fromkeys((aten.clamp_min.Tensor, aten.clamp_max.Tensor), clamp_tensor),
    **dict.fromkeys((aten.where.self, aten.where.ScalarSelf, aten.where.ScalarOther, aten.where.Scalar), where),
    **dict.fromkeys((aten.masked_fill.Scalar, aten.masked_fill.Tensor), masked_fill),
    aten.threshold.default: threshold,
    **dict.fromkeys((aten.prelu.default, aten._prelu_kernel.default), prelu),
    **dict.fromkeys((aten.rrelu.default, aten.rrelu_with_noise.default), rrelu),
    aten.rrelu_with_noise_functional.default: rrelu,
    **dict.fromkeys((aten.elu.default, aten.celu.default, aten.selu.default), elu),
    aten.log_sigmoid.default: log_sigmoid,
    **dict.fromkeys((aten.leaky_relu.default, aten.softplus.default), numbers_as_floats),
}


@dataclass(frozen=True)
class CanonicalizePointwise(OpPass):
    """Spell pointwise functions in one way."""

    name: ClassVar[str] = "canonicalize_pointwise"
    numerics: ClassVar[Numerics] = Numerics.ROUNDS
    table: ClassVar[Mapping[Any, Respell]] = TABLE
