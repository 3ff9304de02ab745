"""recognize_norms: a norm that is written out becomes one operator again.

    x / sqrt(mean(x²) + eps) == rms_norm(x)          (x - mean(x)) / sqrt(mean((x - mean(x))²) + eps) == layer_norm(x)

In integers a norm as a whole knows its row exactly; of its parts each would be rounded to codes of its own, and a
root of 8 bits says little. Kernels of floats gain nothing, so this is done for integers alone.

Conditions:
- means are over the same dimensions, which are kept; the variance is that of all elements (not of one less);
- eps is a number inside the root;
- dimensions that are not the last ones are permuted there and back.

Before:
    program(%x: f32[2, 3, 4]) {
      %p: f32[2, 3, 4] = pow.Tensor_Scalar(%x, 2.0)
      %m: f32[2, 1, 4] = mean.dim(%p, [1], true)
      %e: f32[2, 1, 4] = add.Tensor(%m, 1e-06)
      %r: f32[2, 1, 4] = rsqrt(%e)
      %y: f32[2, 3, 4] = mul.Tensor(%x, %r)
      return %y
    }

After:
    program(%x: f32[2, 3, 4]) {
      %permute: f32[2, 4, 3] = permute(%x, [0, 2, 1])
      %rms_norm: f32[2, 4, 3] = rms_norm(%permute, [3], none, 1e-06)
      %permute_1: f32[2, 3, 4] = permute(%rms_norm, [0, 2, 1])
      return %permute_1
    }
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

from torch import fx

from ...ir.ops import argument, arguments, is_call
from ...ir.program import Program
from ...ir.rules import Expr, Replacement, Rule
from ..base import Numerics, Pass
from ..normalize.spelling import aten, call, positive_dims, shape_of


@dataclass(frozen=True)
class Root:
    """1 / sqrt(mean of squares of `values` + eps) over `dims`; of `values` less their mean, where `centered`."""

    values: fx.Node
    dims: tuple[int, ...]
    eps: float
    centered: bool


def recognize(node: fx.Node, program: Program) -> Replacement | None:
    """A product with an inverse root, or a quotient by a root, of the mean of the same value's squares."""
    if not is_call(node, aten.mul.Tensor, aten.div.Tensor):
        return None
    left, right = node.args[:2]
    pairs = [(left, right)] if is_call(node, aten.div.Tensor) else [(left, right), (right, left)]
    for values, factor in pairs:
        squares = _under_root(factor, is_call(node, aten.div.Tensor))
        root = squares and _root(*squares)
        if isinstance(values, fx.Node) and root and shape_of(node) == shape_of(values):
            made = _norm(values, root)
            if made is not None:
                return Replacement({node: made})
    return None


def _under_root(node: Any, divided: bool) -> tuple[fx.Node, float] | None:
    """(v, eps) of 1 / sqrt(v + eps), or of sqrt(v + eps) where something is divided by it."""
    power = 0.5 if divided else -0.5
    if not isinstance(node, fx.Node):
        return None
    whole = is_call(node, aten.sqrt.default if divided else aten.rsqrt.default)
    inverse = not divided and is_call(node, aten.reciprocal.default) and is_call(node.args[0], aten.sqrt.default)
    if inverse:
        node = node.all_input_nodes[0]
    elif not whole and not (is_call(node, aten.pow.Tensor_Scalar) and node.args[1] == power):
        return None
    inner: Any = node.args[0]
    if is_call(inner, aten.add.Tensor) and isinstance(inner.args[1], int | float) and argument(inner, "alpha") == 1:
        return inner.args[0], float(inner.args[1])
    return inner, 0.0


def _root(node: Any, eps: float) -> Root | None:
    """The mean of squares, or the variance, that a root is taken of."""
    if not is_call(node, aten.mean.dim, aten.var.correction):
        return None
    given = arguments(node)
    source: fx.Node = given["self"]
    dims = tuple(positive_dims(given["dim"], len(shape_of(source))))
    if not given["keepdim"] or given.get("dtype") is not None:
        return None
    if is_call(node, aten.var.correction):
        return Root(source, dims, eps, True) if given["correction"] == 0 else None
    first, second = (*source.args, None, None)[:2]
    square = is_call(source, aten.mul.Tensor) and first is second
    if not square and not (is_call(source, aten.pow.Tensor_Scalar) and second == 2):
        return None
    return Root(first, dims, eps, False) if isinstance(first, fx.Node) else None


def _norm(values: fx.Node, root: Root) -> Expr | None:
    """The norm of `values`, if the root is of them; of what they were before their mean was subtracted."""
    source = _before_centering(values, root.dims)
    if root.centered:
        return None if source is None or source is not root.values else _over(source, root, True)
    if root.values is not values:
        return None
    return _over(values, root, False) if source is None else _over(source, root, True)


def _before_centering(node: fx.Node, dims: tuple[int, ...]) -> fx.Node | None:
    """x of x - mean(x)."""
    if not is_call(node, aten.sub.Tensor) or argument(node, "alpha") != 1:
        return None
    source, mean = node.args[:2]
    if not isinstance(source, fx.Node) or not is_call(mean, aten.mean.dim):
        return None
    given = arguments(mean)  # type: ignore[arg-type]
    same = given["self"] is source and tuple(positive_dims(given["dim"], len(shape_of(source)))) == dims
    return source if same and given["keepdim"] and given["dtype"] is None else None


def _over(source: fx.Node, root: Root, centered: bool) -> Expr:
    """The operator over the last dimensions, where the row's are brought."""
    shape, rank = shape_of(source), len(shape_of(source))
    order = [*(dim for dim in range(rank) if dim not in root.dims), *root.dims]
    moved: Expr = source if order == [*range(rank)] else call(aten.permute.default, source, order)
    row = [shape[dim] for dim in root.dims]
    if centered:
        result = call(aten.layer_norm.default, moved, row, None, None, root.eps, False)
    else:
        result = call(aten.rms_norm.default, moved, row, None, root.eps)
    back = [order.index(dim) for dim in range(rank)]
    return result if moved is source else call(aten.permute.default, result, back)


@dataclass(frozen=True)
class RecognizeNorms(Pass):
    """Write norms as norms."""

    name: ClassVar[str] = "recognize_norms"
    numerics: ClassVar[Numerics] = Numerics.ROUNDS

    def rules(self) -> Sequence[tuple[str, Rule]]:
        """One rule."""
        return (("recognize_norms", recognize),)
