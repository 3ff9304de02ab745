"""The spelling of activations (see `canonicalize_pointwise`).

threshold(x) == where(x <= t, c, x);   prelu(x, w) == where(x > 0, x, w x);   selu(x) == elu(x, alpha, scale, 1)
"""

from __future__ import annotations

from torch import fx

from ...ir.ops import arguments
from ...ir.program import Program
from ...ir.rules import Expr, Refused
from .numbers import constant, like
from .spelling import Verdict, args_of, aten, call, first_result_only, is_tensor, replace_by, shape_of, value_of

SELU_ALPHA, SELU_SCALE = 1.6732632423543772, 1.0507009873554805


def threshold(node: fx.Node, program: Program) -> Verdict:
    """x where it exceeds the threshold (or is NaN), else the value."""
    x, bound, value = args_of(node)
    low = call(aten.le.Scalar, x, like(bound, node))
    return replace_by(node, call(aten.where.self, low, constant(value, node), x))


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
    rest = [like(arg, node) for arg in args_of(node)[1:]]
    return replace_by(node, call(node.target, args_of(node)[0], *rest))
