"""How stages read memory: which axis to make the vector axis, and which leading axes all stages share.

The cost of an axis is that of one vector's worth of elements: a unit-stride load costs 1, a broadcast ½, a gather
as much as its lanes; vectors that are not full cost as much as full ones.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from math import prod

from ..compat import tirx, tvm
from ..kernels.emit import Expr
from .region import RegionBuilder
from .stage import Stage

_MAX_WASTE = 16.0


@dataclass(frozen=True)
class Axis:
    """The vector axis: a physical spatial one, or a reduce one; `order` is that of the spatial loops."""

    spatial: int | None
    reduce: int | None
    order: tuple[int, ...]


def choose_axis(b: RegionBuilder, stage: Stage, fixed: int, lanes: int) -> Axis:
    """The cheapest vector axis of a stage whose first `fixed` axes are given."""
    extents = stage.domain.extents
    every = tuple(range(len(extents)))
    blocked = stage.domain.blocked
    spatial = [every[-1]] if blocked else [d for d in every if d >= fixed and extents[d] > 1 and d != stage.scan]
    reduce = [] if blocked else [d for d, e in enumerate(stage.reduce) if e > 1]
    options: list[tuple[float, int, Axis]] = []
    for d in spatial:
        strides = lane_strides(b, stage, d, None, lanes)
        order = _order(b, stage, every, d, strides, fixed, lanes)
        options.append((_cost(stage, strides, extents[d], lanes, d), -d, Axis(d, None, order)))
    for d in reduce:
        strides = lane_strides(b, stage, None, d, lanes)
        options.append((_cost(stage, strides, stage.reduce[d], lanes, None) * 1.5, 0, Axis(None, d, every)))
    return min(options, key=lambda o: o[:2])[2] if options else Axis(None, None, every)


def merge_reduced(b: RegionBuilder, stage: Stage, lanes: int) -> None:
    """Make one long axis of the aggregated ones if what is read along it lies in a row: fewer vectors are not full."""
    if sum(e > 1 for e in stage.reduce) < 2:
        return
    extents, value = stage.reduce, stage.value

    def merged(index: Sequence[Expr], r: Sequence[Expr]) -> Expr:
        parts: list[Expr] = []
        for d, extent in enumerate(extents):
            inner = prod(extents[d + 1 :])
            part = r[0] if inner == 1 else tirx.floordiv(r[0], inner)
            parts.append(b.f.simplify(part if prod(extents[:d]) == 1 else tirx.floormod(part, extent)))
        return value(index, parts)

    stage.reduce, stage.value = (prod(extents),), merged
    if any(s not in (0, 1) for s in lane_strides(b, stage, None, 0, lanes)):
        stage.reduce, stage.value = extents, value


def _cost(stage: Stage, strides: Sequence[int | None], extent: int, lanes: int, d: int | None) -> float:
    full = lanes * -(-extent // lanes) / extent
    cost = sum(1.0 if s == 1 else 0.5 if s == 0 else float(lanes) for s in strides) + 1.0
    if d is not None and stage.combine is None and any(e > 1 for e in stage.domain.extents[d + 1 :]):
        cost += 2.0 * lanes
    return cost * min(full, _MAX_WASTE)


def _order(
    b: RegionBuilder,
    stage: Stage,
    every: tuple[int, ...],
    d: int,
    strides: Sequence[int | None],
    fixed: int,
    lanes: int,
) -> tuple[int, ...]:
    """Loop order: an axis along which gathered lines are contiguous goes innermost, so that lines are used up."""
    if all(s in (0, 1) for s in strides):
        return every
    for t in reversed([x for x in every if x >= fixed and x != d and stage.domain.extents[x] > 1]):
        if 1 in lane_strides(b, stage, t, None, lanes):
            return (*(x for x in every if x != t), t)
    return every


def lane_strides(
    b: RegionBuilder, stage: Stage, spatial: int | None, reduce: int | None, lanes: int
) -> list[int | None]:
    """Distance in memory of two neighbouring lanes, for every read; None if it is no constant."""
    analyzer = b.f.analyzer
    position = [variable(analyzer, e) for e in stage.domain.extents]
    r = [variable(analyzer, e) for e in stage.reduce]
    source: list[Expr] = position if spatial is not None else r
    axis = spatial if spatial is not None else reduce
    assert axis is not None
    extent = (stage.domain.extents if spatial is not None else stage.reduce)[axis]

    def steps(start: Expr) -> list[int | None]:
        flats = []
        for lane in (0, 1):
            source[axis] = start + lane
            flats.append(_flat_reads(b, stage, position, r))
        differences = [analyzer.simplify(second - first) for first, second in zip(*flats, strict=True)]
        return [int(d) if isinstance(d, (int, tirx.IntImm)) else None for d in differences]

    aligned = steps(variable(analyzer, extent // lanes) * lanes if extent > lanes else 0)
    if reduce is None or None not in aligned:
        return aligned
    # a common factor of the lanes and a row's length may hide what holds at every place
    return [a if a is not None else e for a, e in zip(aligned, steps(variable(analyzer, extent - 1)), strict=True)]


def variable(analyzer: Expr, extent: int) -> Expr:
    """An index below `extent`."""
    if extent == 1:
        return 0
    var = tirx.Var("i", "int32")
    analyzer.bind(var, tvm.ir.Range(0, extent))
    return var


def _flat_reads(b: RegionBuilder, stage: Stage, position: Sequence[Expr], r: Sequence[Expr]) -> list[Expr]:
    """Flat offset of each element that one element of the stage reads."""
    with b.observed() as (loads, reads):
        stage.value(stage.domain.logical(list(position)), list(r))
    flat = [flatten(where, [int(e) for e in buffer.shape]) for buffer, where in loads]
    return flat + [flatten(read.domain.physical(where), read.domain.extents) for read, where in reads]


def flatten(index: Sequence[Expr], extents: Sequence[int]) -> Expr:
    """Row-major flat index."""
    flat: Expr = tirx.const(0, "int32")
    for i, extent in zip(index, extents, strict=True):
        flat = flat * extent + i
    return flat


def row_prefix(b: RegionBuilder, lanes: int) -> int:
    """How many leading axes every stage shares with the result, and reads the others at just its own.

    An aggregate that is best computed for neighbouring elements at once keeps the axis of these.
    """
    out = b.stages[-1]
    best = 1 if out.domain.blocked else len(out.shape)
    for stage in b.stages:
        same = [a == c for a, c in zip(stage.shape, out.shape, strict=False)]
        if stage.scan is not None:
            best = min(best, stage.scan)
        if stage.combine is not None and (wide := choose_axis(b, stage, 0, lanes).spatial) is not None:
            best = min(best, wide)
        best = min(best, same.index(False) if False in same else len(same))
        position = [tirx.Var("i", "int32") for _ in stage.domain.extents]
        with b.observed() as (_, reads):
            stage.value(stage.domain.logical(list(position)), [tirx.Var("r", "int32") for _ in stage.reduce])
        for _, index in reads:
            best = min(best, _common(stage.domain.extents, position, index))
    row = out.domain.extents
    while best > 1 and prod(row[best:]) * max(1, *(prod(s.reduce) for s in b.stages)) < 64:
        best -= 1
    return best


def _common(extents: Sequence[int], position: Sequence[Expr], index: Sequence[Expr]) -> int:
    count = 0
    for extent, mine, theirs in zip(extents, position, index, strict=False):
        if extent > 1 and not (isinstance(theirs, tirx.Var) and theirs.same_as(mine)):
            break
        count += 1
    return count
