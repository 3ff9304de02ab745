"""canonicalize_pools: pools with all their arguments, global ones as reductions.

    max_pool{1,2,3}d(x, kernel, stride, padding, dilation, ceil),  avg_pool{1,2,3}d(...);
    adaptive_avg_pool(x, 1) == mean(x, spatial dims, keepdim);   adaptive pool to n | extent == pool of extent / n

Conditions:
- the indices of a max pool must be unused;
- an adaptive average whose bins differ in size stays adaptive; maxima over such bins are put together.
Maxima keep their bits; means over equal windows are the same sums.

Before:
    program(%x: f32[1, 2, 8, 6]) {
      %a: f32[1, 2, 4, 2] = adaptive_avg_pool2d(%x, [4, 2])
      %b: f32[1, 2, 1, 1] = adaptive_avg_pool2d(%a, [1, 1])
      return %b
    }

After:
    program(%x: f32[1, 2, 8, 6]) {
      %avg_pool2d: f32[1, 2, 4, 2] = avg_pool2d(%x, [2, 3], [2, 3], [0, 0], false, true, none)
      %mean: f32[1, 2, 1, 1] = mean.dim(%avg_pool2d, [2, 3], true)
      return %mean
    }
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, ClassVar

from torch import fx

from ...ir.ops import arguments
from ...ir.program import Program
from ...ir.rules import Call, Expr
from ..base import Numerics
from .spelling import (
    OpPass,
    Respell,
    Verdict,
    args_of,
    aten,
    call,
    first_result_only,
    full_length,
    replace_by,
    shape_of,
)

MAX = {1: aten.max_pool1d.default, 2: aten.max_pool2d.default, 3: aten.max_pool3d.default}
AVERAGE = {1: aten.avg_pool1d.default, 2: aten.avg_pool2d.default, 3: aten.avg_pool3d.default}


def max_pool(rank: int) -> Respell:
    """`max_poolNd`."""

    def respell(node: fx.Node, program: Program) -> Verdict:
        return replace_by(node, _batched(node, rank, lambda x: _max_pool(x, rank, arguments(node))))

    return respell


def max_pool_with_indices(rank: int) -> Respell:
    """`max_poolNd_with_indices` read for its values alone."""

    def respell(node: fx.Node, program: Program) -> Verdict:
        value = _batched(node, rank, lambda x: _max_pool(x, rank, arguments(node)))
        return first_result_only(node, value, "indices")

    return respell


def average_pool(rank: int) -> Respell:
    """`avg_poolNd`."""

    def make(x: Expr, given: Mapping[str, Any]) -> Call:
        kernel = full_length(given["kernel_size"], rank)
        stride = full_length(given["stride"] or kernel, rank)
        rest = [given["ceil_mode"], given["count_include_pad"], *([given["divisor_override"]] if rank > 1 else [])]
        return call(AVERAGE[rank], x, kernel, stride, full_length(given["padding"], rank), *rest)

    return lambda node, program: replace_by(node, _batched(node, rank, lambda x: make(x, arguments(node))))


def adaptive_average_pool(rank: int) -> Respell:
    """`adaptive_avg_poolNd`: a mean, a pool, nothing, or itself."""

    def respell(node: fx.Node, program: Program) -> Verdict:
        x, windows = _windows(node, rank)
        if windows is None:
            return None
        whole = _whole_dims(node, windows)
        if whole is not None:
            return replace_by(node, call(aten.mean.dim, x, whole, True) if whole else x)
        rest = [False, True, *([None] if rank > 1 else [])]
        return replace_by(node, _pool(node, rank, AVERAGE[rank], windows, [0] * rank, *rest))

    return respell


def adaptive_max_pool(rank: int) -> Respell:
    """`adaptive_max_poolNd` read for its values alone."""

    def respell(node: fx.Node, program: Program) -> Verdict:
        x, windows = _windows(node, rank)
        if 0 in _result_shape(node):
            return None
        if windows is None:
            return first_result_only(node, _uneven_maxima(node, rank), "indices")
        whole = _whole_dims(node, windows)
        if whole is not None:
            return first_result_only(node, call(aten.amax.default, x, whole, True) if whole else x, "indices")
        value = _pool(node, rank, MAX[rank], windows, [0] * rank, [1] * rank, False)
        return first_result_only(node, value, "indices")

    return respell


def _uneven_maxima(node: fx.Node, rank: int) -> Expr:
    """Maxima axis by axis over bins that differ in size: [floor(i m / n), ceil((i + 1) m / n)) is bin i of n."""
    result: Expr = args_of(node)[0]
    shape, targets = shape_of(args_of(node)[0]), _result_shape(node)
    for dim in range(len(shape) - rank, len(shape)):
        extent, count = shape[dim], targets[dim]
        bins = [(i * extent // count, -(-(i + 1) * extent // count)) for i in range(count)]
        parts = [call(aten.amax.default, call(aten.slice.Tensor, result, dim, *ends, 1), [dim], True) for ends in bins]
        result = result if extent == count else call(aten.cat.default, parts, dim)
    return result


def _max_pool(x: Expr, rank: int, given: Mapping[str, Any]) -> Call:
    kernel = full_length(given["kernel_size"], rank)
    stride = full_length(given["stride"] or kernel, rank)
    rest = (full_length(given["padding"], rank), full_length(given["dilation"], rank), given["ceil_mode"])
    return call(MAX[rank], x, kernel, stride, *rest)


def _windows(node: fx.Node, rank: int) -> tuple[fx.Node, list[int] | None]:
    """Window sizes of an adaptive pool, None where they differ."""
    x: fx.Node = args_of(node)[0]
    extents = shape_of(x)[-rank:]
    targets = _result_shape(node)[-rank:]
    if any(target == 0 or extent % target for extent, target in zip(extents, targets, strict=True)):
        return x, None
    return x, [extent // target for extent, target in zip(extents, targets, strict=True)]


def _whole_dims(node: fx.Node, windows: list[int]) -> list[int] | None:
    """The dimensions that a pool reduces to one place and leaves alone otherwise; None where some get smaller."""
    extents = _result_shape(node)
    first = len(extents) - len(windows)
    if any(window > 1 and extents[first + i] != 1 for i, window in enumerate(windows)):
        return None
    return [first + i for i, window in enumerate(windows) if window > 1]


def _result_shape(node: fx.Node) -> list[int]:
    """The shape of the pooled values, which may come with indices."""
    value = node.meta["val"]
    return [int(extent) for extent in (value[0] if isinstance(value, tuple | list) else value).shape]


def _pool(node: fx.Node, rank: int, op: Any, windows: list[int], *rest: Any) -> Expr:
    return _batched(node, rank, lambda x: call(op, x, windows, windows, *rest))


def _batched(node: fx.Node, rank: int, pool: Callable[[Expr], Expr]) -> Expr:
    """The pool of the input, which gets a batch dimension where it has none."""
    x: fx.Node = args_of(node)[0]
    shape = shape_of(x)
    if len(shape) != rank + 1:
        return pool(x)
    return call(aten.reshape.default, pool(call(aten.reshape.default, x, [1, *shape])), _result_shape(node))


TABLE: Mapping[Any, Respell] = {
    **{MAX[rank]: max_pool(rank) for rank in MAX},
    aten.max_pool2d_with_indices.default: max_pool_with_indices(2),
    aten.max_pool3d_with_indices.default: max_pool_with_indices(3),
    **{AVERAGE[rank]: average_pool(rank) for rank in AVERAGE},
    aten.adaptive_avg_pool1d.default: adaptive_average_pool(1),
    aten.adaptive_avg_pool2d.default: adaptive_average_pool(2),
    aten._adaptive_avg_pool2d.default: adaptive_average_pool(2),
    aten.adaptive_avg_pool3d.default: adaptive_average_pool(3),
    aten._adaptive_avg_pool3d.default: adaptive_average_pool(3),
    aten.adaptive_max_pool1d.default: adaptive_max_pool(1),
    aten.adaptive_max_pool2d.default: adaptive_max_pool(2),
    aten.adaptive_max_pool3d.default: adaptive_max_pool(3),
}


@dataclass(frozen=True)
class CanonicalizePools(OpPass):
    """Spell pools with all arguments and global ones as reductions."""

    name: ClassVar[str] = "canonicalize_pools"
    numerics: ClassVar[Numerics] = Numerics.ROUNDS
    table: ClassVar[Mapping[Any, Respell]] = TABLE
