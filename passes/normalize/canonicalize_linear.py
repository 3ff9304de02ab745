"""canonicalize_linear: products with a constant matrix are `linear`, all others `matmul`.

    addmm(b, x, w.t()) == linear(x, w, b);   x @ c == linear(x, c.t());   bmm(x, y) == matmul(x, y)
    linear(reshape(x)) == reshape(linear(x))      where rows were flattened, and get their shape back behind it

Conditions:
- `linear` needs a constant right operand that is one matrix; a transposed constant is read through, any other one
  is transposed (constant folding then stores it so);
- alpha and beta become products of their own.
Everything is the same sums of the same products; only BLAS may take them in another order.

Before:
    program(%x: f32[2, 4]) {
      @w: f32[5, 4]
      @b: f32[5] = [-0.77131903, 0.5806318, 0.06997236, -1.0852566, 2.4012017]
      %t: f32[4, 5] = t(@w)
      %y: f32[2, 5] = addmm(@b, %x, %t)
      return %y
    }

After:
    program(%x: f32[2, 4]) {
      @w: f32[5, 4]
      @b: f32[5] = [-0.77131903, 0.5806318, 0.06997236, -1.0852566, 2.4012017]
      %linear: f32[2, 5] = linear(%x, @w, @b)
      return %linear
    }
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar

from torch import fx

from ...ir.ops import arguments, is_call
from ...ir.program import Program
from ...ir.rules import Expr
from ..base import Numerics
from .spelling import OpPass, Respell, Verdict, args_of, aten, call, replace_by, shape_of, value_of


def product(node: fx.Node, program: Program) -> Verdict:
    """`mm`, `bmm`, `mv`, `dot`, `matmul`: linear where the right side is a constant matrix."""
    left, right = args_of(node)[:2]
    return replace_by(node, _product(left, right))


def linear(node: fx.Node, program: Program) -> Verdict:
    """`linear` itself, unless its weight is no matrix."""
    x, weight, bias = args_of(node)[0], args_of(node)[1], arguments(node)["bias"]
    if len(shape_of(weight)) == 2 and (rows := _flattened(node, x)) is not None:
        whole = call(aten.linear.default, rows, weight, bias)
        return replace_by(node, call(aten.reshape.default, whole, shape_of(node)))
    if len(shape_of(weight)) == 2:
        return replace_by(node, call(aten.linear.default, x, weight, bias))
    result: Expr = call(aten.matmul.default, x, weight)
    return replace_by(node, result if bias is None else call(aten.add.Tensor, result, bias))


def affine_product(node: fx.Node, program: Program) -> Verdict:
    """beta c + alpha (a @ b)."""
    addend, left, right = args_of(node)
    beta, alpha = arguments(node)["beta"], arguments(node)["alpha"]
    weight = _matrix(right)
    if weight is not None and beta == 1 and alpha == 1 and _is_bias(addend, shape_of(node)[-1]):
        return replace_by(node, call(aten.linear.default, left, weight, addend))
    result: Expr = _product(left, right)
    if alpha != 1:
        result = call(aten.mul.Tensor, result, alpha)
    if beta == 0:
        return replace_by(node, result)
    return replace_by(node, call(aten.add.Tensor, result, call(aten.mul.Tensor, addend, beta) if beta != 1 else addend))


def summed_product(node: fx.Node, program: Program) -> Verdict:
    """addbmm: the products of a batch, added up."""
    addend, left, right = args_of(node)
    beta, alpha = arguments(node)["beta"], arguments(node)["alpha"]
    result: Expr = call(aten.sum.dim_IntList, call(aten.matmul.default, left, right), [0], False)
    scaled = call(aten.mul.Tensor, result, alpha) if alpha != 1 else result
    rest = call(aten.mul.Tensor, addend, beta) if beta != 1 else addend
    return replace_by(node, scaled if beta == 0 else call(aten.add.Tensor, scaled, rest))


def trilinear(node: fx.Node, program: Program) -> Verdict:
    """sum of a * b * c over `sumdim`, each operand first expanded by its own unit dimensions."""
    given = arguments(node)
    factors = [_unsqueeze(given[f"i{i}"], given[f"expand{i}"]) for i in (1, 2, 3)]
    whole = call(aten.mul.Tensor, call(aten.mul.Tensor, factors[0], factors[2]), factors[1])
    return replace_by(node, call(aten.sum.dim_IntList, whole, given["sumdim"], False))


def outer(node: fx.Node, program: Program) -> Verdict:
    """A column times a row."""
    column, row = args_of(node)
    length = shape_of(column)[0]
    return replace_by(node, call(aten.mul.Tensor, call(aten.reshape.default, column, [length, 1]), row))


def _flattened(node: fx.Node, x: fx.Node) -> fx.Node | None:
    """The rows that were flattened for a linear layer, if what comes out gets their shape back."""
    if not is_call(x, aten.reshape.default):
        return None
    rows: fx.Node = args_of(x)[0]
    shape = shape_of(rows)
    whole = len(shape) > 1 and shape[-1] == shape_of(x)[-1] and _is_undone(node, shape[:-1])
    return rows if whole else None


def _is_undone(flat: fx.Node, leading: list[int]) -> bool:
    """Say whether all readers, perhaps behind more linear layers, are reshapes to these leading dimensions."""
    return bool(flat.users) and all(_undoes(user, flat, leading) for user in flat.users)


def _undoes(user: fx.Node, flat: fx.Node, leading: list[int]) -> bool:
    if is_call(user, aten.reshape.default) and shape_of(user)[-1:] == shape_of(flat)[-1:]:
        return shape_of(user)[:-1] == leading or _is_undone(user, leading)
    return is_call(user, aten.linear.default) and user.args[0] is flat and _is_undone(user, leading)


def _product(left: Any, right: Any) -> Expr:
    weight = _matrix(right) or _only_matrix(left, right)
    if weight is not None and len(shape_of(left)) > 1:
        return call(aten.linear.default, left, weight, None)
    return call(aten.matmul.default, left, right)


def _only_matrix(left: fx.Node, right: fx.Node) -> Expr | None:
    """The transpose of a constant that is a batch of one matrix, which every sample is multiplied with."""
    shape = shape_of(right)
    one = 2 < len(shape) <= len(shape_of(left)) and set(shape[:-2]) == {1} and value_of(right).dtype.is_floating_point
    if not one or right.op != "get_attr":
        return None
    return call(aten.permute.default, call(aten.reshape.default, right, shape[-2:]), [1, 0])


def _matrix(right: fx.Node) -> Expr | None:
    """The constant whose transpose `right` is; None for an activation."""
    if len(shape_of(right)) != 2 or not value_of(right).dtype.is_floating_point:
        return None
    if right.op == "get_attr":
        return call(aten.permute.default, right, [1, 0])
    turned = is_call(right, aten.t.default, aten.transpose.int, aten.numpy_T.default, aten.mT.default)
    turned = turned or (is_call(right, aten.permute.default) and [d % 2 for d in args_of(right)[1]] == [1, 0])
    source = args_of(right)[0] if turned else None
    if not isinstance(source, fx.Node) or source.op != "get_attr":
        return None
    dims = [int(d) % 2 for d in args_of(right)[1:3]] if right.target is aten.transpose.int else [0, 1]
    return source if sorted(dims) == [0, 1] else None


def _is_bias(addend: Any, width: int) -> bool:
    return isinstance(addend, fx.Node) and shape_of(addend) == [width]


def _unsqueeze(factor: fx.Node, dims: list[int]) -> Expr:
    shape = shape_of(factor)
    for dim in dims:
        shape.insert(dim, 1)
    return call(aten.reshape.default, factor, shape)


TABLE: Mapping[Any, Respell] = {
    **dict.fromkeys(
        (aten.mm.default, aten.bmm.default, aten.mv.default, aten.dot.default, aten.matmul.default), product
    ),
    **dict.fromkeys((aten.addmm.default, aten.addmv.default, aten.baddbmm.default), affine_product),
    aten.linear.default: linear,
    aten.addbmm.default: summed_product,
    aten._trilinear.default: trilinear,
    aten.outer.default: outer,
}


@dataclass(frozen=True)
class CanonicalizeLinear(OpPass):
    """Spell every product as `linear` or `matmul`."""

    name: ClassVar[str] = "canonicalize_linear"
    numerics: ClassVar[Numerics] = Numerics.ROUNDS
    table: ClassVar[Mapping[Any, Respell]] = TABLE
