"""decompose_resizes: an image resize is, along each axis, a sum of a few gathered neighbours.

    upsample(x)[..., i] == sum over k of  weight[k, i] * x[..., place[k, i]]        (one axis after the other)

Nearest neighbour by a whole factor is a view (reshape, expand, reshape), by any other one an `index_select`; linear
and cubic interpolation take 2 and 4 neighbours; antialiased shrinking, which takes many, is a product with the
constant interpolation matrix. Places and weights are read off PyTorch's own kernel, run on unit vectors.

Conditions:
- shapes are fixed; the op is linear in the image and works axis by axis, as all of PyTorch's `upsample_*` are.
Nearest keeps its bits; interpolation weights are exact float64 rounded once, sums may round otherwise.

Before:
    program(%x: f32[1, 2, 4, 3]) {
      %y: f32[1, 2, 8, 3] = upsample_nearest2d.vec(%x, none, [2.0, 1.0])
      return %y
    }

After:
    program(%x: f32[1, 2, 4, 3]) {
      %reshape: f32[1, 2, 4, 1, 3] = reshape(%x, [1, 2, 4, 1, 3])
      %expand: f32[1, 2, 4, 2, 3] = expand(%reshape, [1, 2, 4, 2, 3])
      %reshape_1: f32[1, 2, 8, 3] = reshape(%expand, [1, 2, 8, 3])
      return %reshape_1
    }
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from torch import Tensor, fx

from ...ir.ops import arguments
from ...ir.program import Program
from ...ir.rules import Expr, Weight
from ..base import Numerics
from .spelling import OpPass, Respell, Verdict, args_of, aten, call, replace_by, shape_of, value_of

MAX_TAPS = 4


def resize(node: fx.Node, program: Program) -> Verdict:
    """One axis after the other, those that shrink most first."""
    x: fx.Node = args_of(node)[0]
    dtype = value_of(x).dtype
    if not dtype.is_floating_point:
        return None
    before, after = shape_of(x), shape_of(node)
    axes = sorted(range(2, len(before)), key=lambda axis: after[axis] / max(before[axis], 1))
    result: Expr = x
    shape = list(before)
    for axis in axes:
        matrix = interpolation(node, axis, before[axis], after[axis])
        result = _apply(result, matrix, axis, shape, node.name, dtype)
        shape[axis] = after[axis]
    return replace_by(node, result)


def interpolation(node: fx.Node, axis: int, before: int, after: int) -> Tensor:
    """The (after, before) matrix of the resize along one axis, read off the op itself.

    Always along the op's last axis: PyTorch's antialiasing is wrong along the others when the last has extent 1.
    """
    given = arguments(node)
    target: Any = node.target
    rank = len(shape_of(node)) - 2
    nearest = "nearest" in str(target)
    scale = _scales(given, rank)[axis - 2]
    dtype = value_of(node).dtype if nearest and value_of(node).dtype == torch.float32 else torch.float64
    units = torch.eye(before, dtype=dtype).reshape([before] + [1] * rank + [before])
    corners = [] if nearest else [given["align_corners"]]
    sizes, scales = [1] * (rank - 1) + [after], [None] * (rank - 1) + [scale]
    columns: Tensor = target._overloadpacket.default(units, sizes, *corners, *scales)
    return columns.reshape(before, after).T.to(torch.float64)


def _scales(given: Mapping[str, Any], rank: int) -> list[float | None]:
    """Factors as given by the caller, None where sizes decide."""
    if "scale_factors" in given:
        return list(given["scale_factors"]) if given["scale_factors"] else [None] * rank
    names = {1: ("scales",), 2: ("scales_h", "scales_w"), 3: ("scales_d", "scales_h", "scales_w")}[rank]
    return [given[name] for name in names]


def _apply(x: Expr, matrix: Tensor, axis: int, shape: list[int], name: str, dtype: torch.dtype) -> Expr:
    """x with `matrix` applied along `axis`; `shape` is x's."""
    after, before = matrix.shape
    if after == before and torch.equal(matrix, torch.eye(after, dtype=matrix.dtype)):
        return x
    places, weights = _taps(matrix)
    if len(places) == 1 and bool((weights == 1).all()):
        return _gather(x, places[0], axis, shape, name)
    if len(places) > MAX_TAPS:
        return _multiply(x, matrix, axis, shape, name, dtype)
    total: Expr | None = None
    for k in range(len(places)):
        column = weights[k].to(dtype).reshape([-1] + [1] * (len(shape) - axis - 1))
        taken = call(aten.index_select.default, x, axis, Weight(f"{name}_places", places[k]))
        term = call(aten.mul.Tensor, taken, Weight(f"{name}_weights", column))
        total = term if total is None else call(aten.add.Tensor, total, term)
    assert total is not None  # a matrix has at least one tap a row
    return total


def _taps(matrix: Tensor) -> tuple[Tensor, Tensor]:
    """Places and weights of the neighbours, (taps, after) each; rows with fewer repeat a place with weight 0."""
    count = max(int((matrix != 0).sum(dim=1).max()), 1)
    order = torch.sort((matrix != 0).to(torch.int8), dim=1, descending=True, stable=True).indices[:, :count]
    weights = torch.gather(matrix, 1, order)
    places = torch.where(weights != 0, order, order[:, :1])
    return places.T.contiguous(), weights.T.contiguous()


def _gather(x: Expr, places: Tensor, axis: int, shape: list[int], name: str) -> Expr:
    """Nearest neighbours: a view where each is repeated equally often."""
    before, after = shape[axis], len(places)
    factor = after // before
    if after % before == 0 and torch.equal(places, torch.arange(after) // factor):
        head, tail = shape[:axis], shape[axis + 1 :]
        apart = call(aten.reshape.default, x, [*head, before, 1, *tail])
        spread = call(aten.expand.default, apart, [*head, before, factor, *tail])
        return call(aten.reshape.default, spread, [*head, after, *tail])
    return call(aten.index_select.default, x, axis, Weight(f"{name}_places", places))


def _multiply(x: Expr, matrix: Tensor, axis: int, shape: list[int], name: str, dtype: torch.dtype) -> Expr:
    """The axis last, times the matrix, and back."""
    order = [d for d in range(len(shape)) if d != axis] + [axis]
    back = [order.index(d) for d in range(len(shape))]
    weight = Weight(f"{name}_matrix", matrix.to(dtype).contiguous())
    product = call(aten.linear.default, call(aten.permute.default, x, order), weight, None)
    return call(aten.permute.default, product, back)


NAMES = (
    "upsample_nearest1d",
    "upsample_nearest2d",
    "upsample_nearest3d",
    "_upsample_nearest_exact1d",
    "_upsample_nearest_exact2d",
    "_upsample_nearest_exact3d",
    "upsample_linear1d",
    "upsample_bilinear2d",
    "upsample_trilinear3d",
    "upsample_bicubic2d",
    "_upsample_bilinear2d_aa",
    "_upsample_bicubic2d_aa",
)
TABLE: Mapping[Any, Respell] = {
    getattr(getattr(aten, name), overload): resize for name in NAMES for overload in ("default", "vec")
}


@dataclass(frozen=True)
class DecomposeResizes(OpPass):
    """Take image resizes apart into gathers, views and weighted sums."""

    name: ClassVar[str] = "decompose_resizes"
    numerics: ClassVar[Numerics] = Numerics.ROUNDS
    table: ClassVar[Mapping[Any, Respell]] = TABLE
