"""What a norm normalizes, and how the elements that share statistics lie.

    row = elements that share a mean        rows: vectors along the row        channels: vectors across rows

Vectors along a row are of its last axes, as many as lie side by side in everything that is read and written. Channels
of a blocked value lie side by side whatever group they are of.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from math import prod
from typing import Any

import torch
from torch import fx

from ..addresses import sources_of
from ..compat import tirx, tvm
from ..epilogue import anchor_chain, check_epilogue
from ..generic.access import flatten, variable
from ..generic.stage import Domain
from ..ops.pointwise import is_pointwise
from ..plan import PLAIN, Layout
from ..template import Refused, Task, Wants
from ..views import broadcast_index, dtype_of, forward_index, is_view, shape_of
from .emit import Expr

aten = torch.ops.aten

NORMS = (aten.layer_norm.default, aten.rms_norm.default, aten.group_norm.default)


@dataclass(frozen=True)
class Norm:
    """The norm of a region; `groups` is 0 where the last `axes` are normalized. Not centered: no mean is taken off."""

    anchor: fx.Node
    source: fx.Node
    shape: tuple[int, ...]
    groups: int
    axes: int
    centered: bool
    eps: float
    weight: fx.Node | None
    bias: fx.Node | None

    @property
    def rows(self) -> tuple[int, ...]:
        """Extents of the rows' index."""
        return (self.shape[0], self.groups) if self.groups else self.shape[: len(self.shape) - self.axes]

    @property
    def row(self) -> tuple[int, ...]:
        """Extents of a row: channels of a group and places, or the last axes."""
        if self.groups:
            return (self.shape[1] // self.groups, *self.shape[2:])
        return self.shape[len(self.shape) - self.axes :]

    def index(self, row: Sequence[Expr], inside: Sequence[Expr]) -> list[Expr]:
        """The element at `inside` a row."""
        if self.groups:
            return [row[0], row[1] * self.row[0] + inside[0], *inside[1:]]
        return [*row, *inside]

    def parameter(self, index: Sequence[Expr]) -> Sequence[Expr]:
        """Where weight and bias have what belongs to the element at `index`."""
        return [index[1]] if self.groups else index[len(index) - self.axes :]


@dataclass(frozen=True)
class RowWalk:
    """Rows as `outer` runs of `inner` elements, the last `merged` axes of a row."""

    norm: Norm
    merged: int

    @property
    def outer(self) -> int:
        """Runs of a row."""
        return prod(self.norm.row[: len(self.norm.row) - self.merged])

    @property
    def inner(self) -> int:
        """Elements of a run."""
        return prod(self.norm.row[len(self.norm.row) - self.merged :])

    def index(self, row: Sequence[Expr], run: Expr, place: Expr) -> list[Expr]:
        """The element at `place` of a run."""
        split = len(self.norm.row) - self.merged
        inside = [*unraveled(run, self.norm.row[:split]), *unraveled(place, self.norm.row[split:])]
        return self.norm.index(row, inside)

    def neighbours(self, analyzer: Any, lanes: int) -> list[tuple[list[Expr], list[Expr]]]:
        """Two neighbours of a vector: its first ones, and any of them, which may show what the former hides."""
        row, run = [variable(analyzer, e) for e in self.norm.rows], variable(analyzer, self.outer)
        starts = [variable(analyzer, self.inner // lanes) * lanes, variable(analyzer, max(1, self.inner - 1))]
        return [(self.index(row, run, at), self.index(row, run, at + 1)) for at in starts]


@dataclass(frozen=True)
class ChannelWalk:
    """Pixels of blocks of channels; a vector is what a block has of a pixel."""

    norm: Norm
    block: int

    def index(self, batch: Expr, channel: Expr, pixel: Expr) -> list[Expr]:
        """The element of a channel at a pixel."""
        return [batch, channel, *unraveled(pixel, self.norm.shape[2:])]

    def neighbours(self, analyzer: Any, lanes: int) -> list[tuple[list[Expr], list[Expr]]]:
        """The first two channels of a vector."""
        blocks, pixels = -(-self.norm.shape[1] // self.block), prod(self.norm.shape[2:])
        batch, pixel = variable(analyzer, self.norm.shape[0]), variable(analyzer, pixels)
        channel = variable(analyzer, blocks) * self.block
        return [(self.index(batch, channel, pixel), self.index(batch, channel + 1, pixel))]


Walk = RowWalk | ChannelWalk


def unraveled(flat: Expr, extents: Sequence[int]) -> list[Expr]:
    """A flat index split over `extents`."""
    parts: list[Expr] = []
    for d, extent in enumerate(extents):
        inner = prod(extents[d + 1 :])
        part = flat if inner == 1 else flat // inner
        parts.append(0 if extent == 1 else part if prod(extents[:d]) == 1 else part % extent)
    return parts


def read_norm(task: Task) -> Norm | Refused:
    """The region's norm, or why no template can take it."""
    anchor = task.region.anchor_node
    if anchor is None or anchor.target not in NORMS:
        return Refused("not a layer, RMS or group norm")
    args: list[Any] = [*anchor.args, *[None] * 5][:5]
    shape = shape_of(args[0])
    if not prod(shape) or any(dtype_of(n) != "float32" for n in (anchor, args[0], task.region.result)):
        return Refused("not float32 or bfloat16")
    if any(not (is_pointwise(n) or is_view(n)) for n in task.region.prologue):
        return Refused("what comes before it is neither pointwise nor a view")
    if reason := check_epilogue(task, anchor, PLAIN):
        return Refused(reason)
    if anchor.target is aten.group_norm.default:
        return Norm(anchor, args[0], shape, int(args[1]), 0, True, float(args[4]), args[2], args[3])
    if anchor.target is aten.layer_norm.default:
        return Norm(anchor, args[0], shape, 0, len(args[1]), True, float(args[4]), args[2], args[3])
    eps = torch.finfo(anchor.meta["val"].dtype).eps if args[3] is None else args[3]
    return Norm(anchor, args[0], shape, 0, len(args[1]), False, float(eps), args[2], None)


def walk_of(task: Task, norm: Norm, layout: Layout) -> tuple[Walk, Wants] | Refused:
    """How to walk for an output in `layout`, and the layouts of the inputs in which vectors lie side by side."""
    if norm.groups and layout != PLAIN:
        walks: list[Walk] = [ChannelWalk(norm, task.target.block)]
    else:
        walks = [RowWalk(norm, merged) for merged in range(len(norm.row), 0, -1)]
    for walk in walks:
        if isinstance(walk, RowWalk) and walk.inner < task.target.lanes:
            break
        if (found := _wants(task, walk, layout)) is not None:
            return walk, found
    return Refused("its vectors do not lie side by side")


def _wants(task: Task, walk: Walk, layout: Layout) -> Wants | None:
    """Layouts in which every vector of the walk lies side by side, or is one element; None where one does not."""
    analyzer = tvm.sym.Analyzer()
    pairs = walk.neighbours(analyzer, task.target.lanes)
    touched = zip(*(_touched(task, walk.norm, index) for pair in pairs for index in pair), strict=True)
    inputs: dict[int, tuple[Layout, ...]] = {}

    def steps(places: Sequence[tuple[fx.Node, Sequence[Expr]]], layout: Layout) -> set[int]:
        domain = Domain(shape_of(places[0][0]), layout)
        flat = [flatten(domain.physical(index), domain.extents) for _, index in places]
        found = [analyzer.simplify(there - here) for here, there in zip(flat[::2], flat[1::2], strict=True)]
        return {int(step) for step in found if isinstance(step, tirx.IntImm)}

    for places in touched:
        node = places[0][0]
        if node.op != "placeholder":
            if 1 not in steps(places, layout):
                return None
            continue
        position = task.region.placeholders.index(node)
        either = position not in task.constants and len(shape_of(node)) in (3, 4, 5)
        may = dict.fromkeys((layout, PLAIN, f"c{task.target.block}")) if either else (PLAIN,)
        inputs[position] = tuple(way for way in inputs.get(position, tuple(may)) if steps(places, way) & {0, 1})
        if not inputs[position]:
            return None
    return Wants({i: ways for i, ways in inputs.items() if i not in task.constants}, layout)


def _touched(task: Task, norm: Norm, index: Sequence[Expr]) -> Iterator[tuple[fx.Node, Sequence[Expr]]]:
    """(placeholder, index) of all that is read for the norm's element at `index`, and where the result is stored."""
    yield from sources_of(norm.source, index)
    for parameter in (norm.weight, norm.bias):
        if parameter is not None:
            yield from sources_of(parameter, norm.parameter(index))
    where = {norm.anchor: list(index)}
    for node in anchor_chain(task, norm.anchor):
        source = next(a for a in node.all_input_nodes if a in where)
        where[node] = forward_index(node, where[source]) if is_view(node) else where[source]
        for operand in node.all_input_nodes:
            if operand not in where:
                yield from sources_of(operand, broadcast_index(where[node], shape_of(operand)))
    yield task.region.result, where[task.region.result]
