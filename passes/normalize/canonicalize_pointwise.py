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

import torch
from torch import fx

from ...ir.ops import arguments, is_call
from ...ir.program import Program
from ...ir.rules import Call, Expr, Refused, Weight
from ..base import Numerics
from .spelling import (
    OpPass,
    Respell,
    Verdict,
    args_of,
    aten,
    call,
    first_result_only,
    is_tensor,
    replace_by,
    shape_of,
    value_of,
)

SELU_ALPHA, SELU_SCALE = 1.6732632423543772, 1.0507009873554805

Operand = Any
"""A node or a Python number."""


def plain(tensor_op: Any, number_op: Any) -> Respell:
    """Two operands; for a number on the right there is an op of its own."""

    def respell(node: fx.Node, program: Program) -> Verdict:
        left, right = args_of(node)[:2]
        number = _number(right, left, node, program)
        return replace_by(node, call(tensor_op if isinstance(number, fx.Node) else number_op, left, number))

    return respell


def extremum(op: Any, side: str) -> Respell:
    """`maximum` and `minimum` of two tensors; with a number it is a `clamp`."""

    def respell(node: fx.Node, program: Program) -> Verdict:
        left, right = _sides(node, program)
        if isinstance(right, fx.Node):
            return replace_by(node, call(op, left, right))
        return replace_by(node, call(aten.clamp.default, left, **{side: right}))

    return respell


def commutative(op: Any) -> Respell:
    """Two operands that may change places."""

    def respell(node: fx.Node, program: Program) -> Verdict:
        left, right = _sides(node, program)
        return replace_by(node, call(op, left, right))

    return respell


def add(node: fx.Node, program: Program) -> Verdict:
    """`add` with alpha multiplied in."""
    alpha = arguments(node)["alpha"]
    if alpha != 1:
        return replace_by(node, call(aten.add.Tensor, args_of(node)[0], _times(args_of(node)[1], alpha)))
    left, right = _sides(node, program)
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
    taken: Operand = _times(right, alpha) if alpha != 1 else right
    if alpha == 1 and is_tensor(left):
        taken = _number(right, left, node, program)
    number = _number(left, right, node, program) if is_tensor(right) else left
    if not isinstance(number, fx.Node | Call):
        return replace_by(node, call(aten.add.Tensor, call(aten.neg.default, taken), number))
    return replace_by(node, call(aten.sub.Tensor, left, taken))


def divide(node: fx.Node, program: Program) -> Verdict:
    """Division by its rounding: none, "trunc" or "floor"."""
    left, right = args_of(node)[:2]
    mode = node.kwargs.get("rounding_mode")
    if node.target in (aten.floor_divide.default, aten.floor_divide.Scalar):
        mode = "floor"
    divisor = _number(right, left, node, program)
    if mode is None:
        return replace_by(node, call(aten.div.Tensor, left, divisor))
    return replace_by(node, call(aten.div.Tensor_mode, left, divisor, rounding_mode=mode))


def power(node: fx.Node, program: Program) -> Verdict:
    """`pow` with a number as exponent."""
    base, exponent = args_of(node)
    number = _number(exponent, base, node, program)
    if isinstance(number, fx.Node):
        return None
    return replace_by(node, call(aten.pow.Tensor_Scalar, base, number))


def square(node: fx.Node, program: Program) -> Verdict:
    """x * x."""
    return replace_by(node, call(aten.pow.Tensor_Scalar, args_of(node)[0], _like(2, node)))


def clamp(node: fx.Node, program: Program) -> Verdict:
    """`clamp`, `clip`, `hardtanh`, `relu6`, `clamp_min`, `clamp_max` with numbers."""
    given = arguments(node)
    low = given.get("min", given.get("min_val"))
    high = given.get("max", given.get("max_val"))
    if node.target is aten.relu6.default:
        low, high = 0, 6
    bounds = [None if bound is None else _like(bound, node) for bound in (low, high)]
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
    return replace_by(node, call(aten.where.self, condition, _constant(left, node), _constant(right, node)))


def masked_fill(node: fx.Node, program: Program) -> Verdict:
    """`where` with the mask as condition."""
    x, mask, value = args_of(node)
    return replace_by(node, call(aten.where.self, mask, _constant(value, node), x))


def threshold(node: fx.Node, program: Program) -> Verdict:
    """x where it exceeds the threshold (or is NaN), else the value."""
    x, bound, value = args_of(node)
    low = call(aten.le.Scalar, x, _like(bound, node))
    return replace_by(node, call(aten.where.self, low, _constant(value, node), x))


def prelu(node: fx.Node, program: Program) -> Verdict:
    """One slope for each channel."""
    x, slope = args_of(node)
    rank = len(shape_of(x))
    weight: Expr = slope
    if node.target is aten.prelu.default:
        count = value_of(slope).numel()
        weight = call(aten.reshape.default, slope, [count] + [1] * (rank - 2) if rank > 1 else [count] * (rank or 0))
    scaled = call(aten.mul.Tensor, x, weight)
    return replace_by(node, call(aten.where.self, call(aten.gt.Scalar, x, 0.0), x, scaled))


def rrelu(node: fx.Node, program: Program) -> Verdict:
    """Without training: the mean slope."""
    given = arguments(node)
    if given["training"]:
        return Refused("its slopes are random", node)
    result = call(aten.leaky_relu.default, args_of(node)[0], (given["lower"] + given["upper"]) / 2)
    return replace_by(node, result) if is_tensor(node) else first_result_only(node, result, "slopes")


def elu(node: fx.Node, program: Program) -> Verdict:
    """`elu(x, alpha, scale, input scale)` for `celu` and `selu` too."""
    x = args_of(node)[0]
    if node.target is aten.celu.default:
        alpha = float(arguments(node)["alpha"])
        return replace_by(node, call(aten.elu.default, x, alpha, 1.0, 1.0 / alpha))
    if node.target is aten.selu.default:
        return replace_by(node, call(aten.elu.default, x, SELU_ALPHA, SELU_SCALE, 1.0))
    return replace_by(node, call(aten.elu.default, x, *map(float, args_of(node)[1:4])))


def log_sigmoid(node: fx.Node, program: Program) -> Verdict:
    """min(x, 0) - log1p(exp(-|x|))."""
    x = args_of(node)[0]
    small = call(aten.exp.default, call(aten.neg.default, call(aten.abs.default, x)))
    below = call(aten.clamp.default, x, None, 0.0)
    return replace_by(node, call(aten.sub.Tensor, below, call(aten.log1p.default, small)))


def numbers_as_floats(node: fx.Node, program: Program) -> Verdict:
    """Activations with numbers as arguments: `leaky_relu`, `softplus`."""
    rest = [_like(arg, node) for arg in args_of(node)[1:]]
    return replace_by(node, call(node.target, args_of(node)[0], *rest))


def _sides(node: fx.Node, program: Program) -> tuple[Operand, Operand]:
    """The operands of a commutative op, a number on the right."""
    left, right = args_of(node)[:2]
    number = _number(left, right, node, program)
    if not isinstance(number, fx.Node):
        return right, number
    return left, _number(right, left, node, program)


def _number(operand: Operand, other: Operand, node: fx.Node, program: Program) -> Operand:
    """A Python number for a number or a constant without dimensions; any other operand as it is."""
    if not isinstance(operand, fx.Node):
        return _like(operand, other) if is_tensor(other) else operand
    if not is_tensor(other) or not isinstance(node.meta["val"], torch.Tensor):
        return operand
    source: Any = args_of(operand)[0] if is_call(operand, aten.expand.default) else operand
    if not isinstance(source, fx.Node) or source.op != "get_attr" or value_of(source).dim() != 0:
        return operand
    same = value_of(other).dtype == value_of(source).dtype and shape_of(other) == shape_of(node)
    if not same or value_of(source).dtype.is_complex:
        return operand
    return program.weights[str(source.target)].item()


def _like(number: Any, tensor: fx.Node) -> Any:
    """The number as float where it meets a floating tensor."""
    floating = value_of(tensor).dtype.is_floating_point
    return float(number) if floating and isinstance(number, int) and not isinstance(number, bool) else number


def _times(operand: Operand, factor: float) -> Operand:
    return call(aten.mul.Tensor, operand, factor) if isinstance(operand, fx.Node) else operand * factor


def _constant(value: Operand, node: fx.Node) -> Operand:
    """A number as a constant of the result's dtype."""
    if isinstance(value, fx.Node):
        return value
    return Weight("constant", torch.tensor(value, dtype=value_of(node).dtype))


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
    (aten.bitwise_left_shift.Tensor, aten.bitwise_left_shift.Tensor_Scalar),
    (aten.bitwise_right_shift.Tensor, aten.bitwise_right_shift.Tensor_Scalar),
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
