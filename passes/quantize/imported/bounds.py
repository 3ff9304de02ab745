"""What follows of the ranges of some values for all others: intervals that no value ever leaves.

    hull(f(x)) ⊆ f(hull(x))          conv, linear: by channel, Σ max(0, w) most + Σ min(0, w) least + b

Such an interval is wider than what data would show, because no data takes every extreme at once: it is for codes of 16
bits, and never clamps.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, fx

from ....ir.ops import arguments, family, integer_name, is_call
from ....ir.program import Program
from ....ir.quantized.operators import ROUNDED
from ....ir.scales import moves
from ..builder import is_floating
from ..rules.products import by_output
from ..rules.table import ADAPTIVE

aten = torch.ops.aten
Interval = tuple[float, float]
SAMPLES = 4097
"""Where a function of one value is looked at."""
AVERAGES = (aten.mean.dim, aten.mean.default, aten.avg_pool1d.default, aten.avg_pool2d.default, aten.avg_pool3d.default)
SUMS = (aten.sum.dim_IntList, aten.sum.default)
SIGNS: Mapping[Any, tuple[int, int]] = {aten.add.Tensor: (1, 1), aten.sub.Tensor: (1, -1), aten.rsub.Tensor: (-1, 1)}


def bounds(program: Program, known: Mapping[fx.Node, Interval]) -> dict[fx.Node, Interval]:
    """An interval of each floating value; without those that depend on a value of which nothing is known."""
    found: dict[fx.Node, Interval] = {}
    for node in program.graph.nodes:
        if not is_floating(node):
            continue
        made = known.get(node) or _of(node, program, found)
        if made is not None and all(math.isfinite(end) for end in made):
            found[node] = made
    return found


def _of(node: fx.Node, program: Program, found: Mapping[fx.Node, Interval]) -> Interval | None:
    """One value's interval from those of its operands."""
    if node.op == "get_attr":
        held = program.weights[str(node.target)]
        return (float(held.min()), float(held.max())) if held.numel() else (0.0, 0.0)
    if node.op != "call_function":
        return None
    if is_call(node, aten._softmax.default) or integer_name(node) == "masked_softmax":
        return 0.0, 1.0
    if is_call(node, aten.layer_norm.default, aten.rms_norm.default, aten.group_norm.default):
        return _norm(node, program)
    operands = [source for source in node.all_input_nodes if is_floating(source)]
    if not operands or any(source not in found for source in operands):
        return None
    return _computed(node, program, found, operands)


def _computed(
    node: fx.Node, program: Program, found: Mapping[fx.Node, Interval], operands: list[fx.Node]
) -> Interval | None:
    """Of a call all of whose operands are bounded."""
    given = arguments(node)
    if is_call(node, aten.convolution.default, aten.linear.default):
        return _product(given, program, found)
    if is_call(node, aten.matmul.default):
        depth = given["self"].meta["val"].shape[-1]
        most = depth * math.prod(max(map(abs, found[value])) for value in operands[:2] or operands * 2)
        return -most, most
    if node.target in SIGNS or is_call(node, aten.mul.Tensor):
        return _arithmetic(node, found)
    hull = min(0.0, *(found[o][0] for o in operands)), max(0.0, *(found[o][1] for o in operands))
    if moves(node) or is_call(node, *AVERAGES, *ADAPTIVE):
        return hull
    if is_call(node, *SUMS):
        count = operands[0].meta["val"].numel() / max(node.meta["val"].numel(), 1)
        return hull[0] * count, hull[1] * count
    if family(node) == "pointwise" and len(operands) == 1:
        return _sampled(node, operands[0], found[operands[0]])
    return None


def _product(given: Mapping[str, Any], program: Program, found: Mapping[fx.Node, Interval]) -> Interval | None:
    """The extremes of every channel; padding is 0."""
    weight, bias = (program.weights.get(str(getattr(given[name], "target", None))) for name in ("weight", "bias"))
    if weight is None or (given["bias"] is not None and bias is None):
        return None
    rows = weight.to(torch.float64)
    if given.get("transposed"):
        rows = by_output(rows, int(given["groups"]))
    least, most = found[given["input"]]
    least, most = min(least, 0.0), max(most, 0.0)
    above, below = rows.clamp(min=0).flatten(1).sum(1), rows.clamp(max=0).flatten(1).sum(1)
    offset = 0.0 if bias is None else bias.to(torch.float64)
    return float((above * least + below * most + offset).min()), float((above * most + below * least + offset).max())


def _arithmetic(node: fx.Node, found: Mapping[fx.Node, Interval]) -> Interval:
    """Sums, differences and products of values and numbers."""
    given = list(arguments(node).values())
    (a, b), (c, d) = (found[v] if isinstance(v, fx.Node) else (float(v), float(v)) for v in given[:2])
    if node.target is aten.mul.Tensor:
        ends = [a * c, a * d, b * c, b * d]
    else:
        first, second = SIGNS[node.target]
        alpha = float(given[2])
        gains = (first, second * alpha) if node.target is not aten.rsub.Tensor else (first * alpha, second)
        ends = [gains[0] * x + gains[1] * y for x in (a, b) for y in (c, d)]
    return min(ends), max(ends)


def _norm(node: fx.Node, program: Program) -> Interval | None:
    """A row's largest value is at most sqrt(n) deviations from its mean."""
    given = arguments(node)
    count = math.prod(given["normalized_shape"]) if "normalized_shape" in given else _group(given)
    most = math.sqrt(count)
    for name, combine in (("weight", float.__mul__), ("bias", float.__add__)):
        if given.get(name) is not None:
            held = program.weights.get(str(given[name].target))
            if held is None:
                return None
            most = combine(most, float(held.abs().max()))
    return -most, most


def _group(given: Mapping[str, Any]) -> int:
    _, channels, *extents = given["input"].meta["val"].shape
    return int(channels // int(given["num_groups"]) * math.prod(extents))


def _sampled(node: fx.Node, source: fx.Node, interval: Interval) -> Interval | None:
    """The least and the largest result of a function of one value, as far as samples tell."""
    if is_call(node, ROUNDED):
        return interval
    points = torch.linspace(*interval, SAMPLES, dtype=torch.float64)
    points = torch.cat([points, torch.zeros(1, dtype=torch.float64).clamp(*interval)])
    args, kwargs = fx.map_arg((node.args, node.kwargs), {source: points}.__getitem__)
    assert callable(node.target)
    values: Tensor = node.target(*args, **kwargs)
    return (float(values.min()), float(values.max())) if bool(values.isfinite().all()) else None
