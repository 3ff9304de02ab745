"""Operands that lie across the vectors of a result: read in whole lines, and turned in registers tile by tile.

    tile[i, j] = operand[j, i]        i counts along the operand's lines, j along the result's

So are a PLAIN operand of a blocked result, a blocked one of a PLAIN result, and transpositions of both. Read element
by element, each would ask for a line of every row before it comes back to the first: where rows are a power of two
apart, the first-level cache keeps none of them.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from math import prod

from ..compat import tirx
from ..kernels.emit import Buffer, Expr
from ..ops.pointwise import is_pointwise
from ..plan import itemsize
from ..views import is_view
from .access import flatten, lane_strides, variable
from .region import RegionBuilder
from .stage import Stage

TURNED_BYTES = 4
"""Bytes of an element of what is turned, as kernels compute with it: a bfloat16 is a float32 by then."""

_LEAST = 4
"""Elements that a tile must have each way."""

_STACK = 512
"""Bytes of a buffer that TVM keeps on the stack: from 1024 on it would ask the runtime for memory for every tile."""


@dataclass(frozen=True)
class Turn:
    """Neighbouring axes of a result that tiles cut: `across` along the lines of `operands`, `along` its own lines."""

    across: tuple[int, ...]
    along: tuple[int, ...]
    operands: tuple[int, ...]


def plan_turn(b: RegionBuilder, stage: Stage) -> Turn | None:
    """The tiles of a region of views and pointwise operations that turn the most operands; None if there are none."""
    calls = [node for node in b.f.task.region.body.nodes if node.op == "call_function"]
    if len(b.stages) > 1 or stage.combine is not None or not all(is_view(n) or is_pointwise(n) for n in calls):
        return None
    last = len(stage.domain.extents) - 1
    if last < 1 or all(step in (0, 1) for step in lane_strides(b, stage, last, None, b.f.task.target.lanes)):
        return None
    found = [turn for across, along in _cuts(b, stage) if (turn := _turn(b, stage, across, along)).operands]
    return min(found, key=lambda turn: (-len(turn.operands), _waste(b, stage, turn)), default=None)


def _cuts(b: RegionBuilder, stage: Stage) -> Iterator[tuple[tuple[int, ...], tuple[int, ...]]]:
    """(across, along): the last axes, and those before them."""
    extents = stage.domain.extents
    last = len(extents) - 1
    for middle in range(last, last - 1 if stage.domain.blocked else 0, -1):
        for first in range(middle - 1, -1, -1):
            across, along = tuple(range(first, middle)), tuple(range(middle, last + 1))
            if min(prod(extents[d] for d in group) for group in (across, along)) >= _LEAST:
                yield across, along


def _waste(b: RegionBuilder, stage: Stage, turn: Turn) -> float:
    """Vectors that tiles take, in proportion to full ones."""
    block = b.f.task.target.block
    sizes = [prod(stage.domain.extents[d] for d in group) for group in (turn.across, turn.along)]
    return prod(-(-size // block) * block / size for size in sizes)


def _turn(b: RegionBuilder, stage: Stage, across: tuple[int, ...], along: tuple[int, ...]) -> Turn:
    """The operands that are worth turning: everywhere contiguous across the result's lines, and not along them."""
    extents, block = stage.domain.extents, b.f.task.target.block
    rows, columns = (prod(extents[d] for d in group) for group in (across, along))
    position = [variable(b.f.analyzer, e) for e in extents]

    def steps(group: tuple[int, ...], size: int) -> dict[int, set[int | None]]:
        """By operand: how far apart neighbours along a group of axes lie, within every tile."""
        found: dict[int, set[int | None]] = {}
        whole = variable(b.f.analyzer, size // block) * block
        for start, count in ((whole, block), (size // block * block, size % block)):
            if count and (size >= block or isinstance(start, int)):
                lane = variable(b.f.analyzer, count)
                first = _addresses(b, stage, _at(position, extents, group, start))
                here = _addresses(b, stage, _at(position, extents, group, start + lane))
                for (operand, one), (_, other) in zip(first, here, strict=True):
                    found.setdefault(operand, set()).add(_step(b, one, other, lane))
        return found

    lines, vectors = steps(across, rows), steps(along, columns)
    kept = [operand for operand in lines if lines[operand] == {1} and not vectors[operand] <= {0, 1}]
    return Turn(across, along, tuple(operand for operand in kept if _is_turnable(b, stage, operand)))


def _at(position: Sequence[Expr], extents: Sequence[int], group: Sequence[int], index: Expr) -> list[Expr]:
    """A physical position whose axes of `group` together have the flat `index`."""
    where = list(position)
    for number, axis in enumerate(group):
        inner = prod(extents[d] for d in group[number + 1 :])
        part = index if inner == 1 else index // inner
        where[axis] = part if number == 0 else part % extents[axis]
    return where


def _addresses(b: RegionBuilder, stage: Stage, position: Sequence[Expr]) -> list[tuple[int, Expr]]:
    """(operand, address) of everything that is read for the element at a physical position."""
    with b.observed() as (loads, _):
        stage.value(stage.domain.logical(position), ())
    numbers = {id(buffer): number for number, buffer in b.f.inputs.items() if number not in b.f.task.within}
    return [
        (numbers[id(buffer)], flatten(where, [int(e) for e in buffer.shape]))
        for buffer, where in loads
        if id(buffer) in numbers
    ]


def _step(b: RegionBuilder, first: Expr, here: Expr, lane: Expr) -> int | None:
    """How many elements each lane adds to an address, if 0 or 1."""
    distance = b.f.analyzer.simplify(here - first)
    if isinstance(lane, int) or b.f.analyzer.can_prove_equal(distance, lane):
        return 1
    return 0 if b.f.analyzer.can_prove_equal(distance, 0) else None


def _is_turnable(b: RegionBuilder, stage: Stage, operand: int) -> bool:
    """Whether it is read at one address for each element, and its elements have the size of float32."""
    position = [variable(b.f.analyzer, e) for e in stage.domain.extents]
    mine = [address for number, address in _addresses(b, stage, position) if number == operand]
    alike = all(b.f.analyzer.can_prove_equal(address, mine[0]) for address in mine)
    return alike and itemsize(str(b.f.inputs[operand].dtype)) == TURNED_BYTES


class Tiles:
    """Emits the tiles of a stage; `put` stores the element at a physical position."""

    def __init__(
        self, b: RegionBuilder, stage: Stage, turn: Turn, put: Callable[[Stage, Sequence[Expr], Expr], None]
    ) -> None:
        """Nothing is emitted yet."""
        self._b, self._f, self._stage, self._turn, self._put = b, b.f, stage, turn, put
        self._block = b.f.task.target.block
        self._held = _STACK // (TURNED_BYTES * self._block)
        self._extents = stage.domain.extents
        self._rows, self._columns = (prod(self._extents[d] for d in group) for group in (turn.across, turn.along))

    @property
    def counts(self) -> tuple[int, int]:
        """Tiles across and along the result's lines."""
        return -(-self._rows // self._block), -(-self._columns // self._block)

    def emit(self, position: Sequence[Expr], row: Expr, column: Expr) -> None:
        """The tile of these numbers; `position` has the axes that no tile cuts."""
        first, start = self._f.let(row * self._block, self._rows), self._f.let(column * self._block, self._columns)

        def tile(rows: int, columns: int) -> Callable[[], None]:
            return lambda: self._tile(position, first, start, rows, columns)

        def cases(rows: int) -> Callable[[], None]:
            full, rest = self._columns // self._block, self._columns % self._block
            where: Expr = column < full
            if self._stage.domain.blocked:
                full, rest = self._extents[1] - 1, self._stage.shape[1] % self._block
                where = position[1] < full
            return lambda: self._f.branches(_either(where, full, tile(rows, self._block), rest, tile(rows, rest)))

        full, rest = self._rows // self._block, self._rows % self._block
        self._f.branches(_either(row < full, full, cases(self._block), rest, cases(rest)))

    def _tile(self, position: Sequence[Expr], first: Expr, start: Expr, rows: int, columns: int) -> None:
        """`rows` x `columns` elements: turn the operands, then compute along the result's lines."""

        def at(row: Expr, column: Expr) -> list[Expr]:
            where = _at(position, self._extents, self._turn.across, self._f.simplify(first + row))
            return _at(where, self._extents, self._turn.along, self._f.simplify(start + column))

        tiles = {operand: self._turned(operand, at, rows, columns) for operand in self._turn.operands}
        for part, begin in enumerate(range(0, rows, self._held)):
            with self._f.serial(min(self._held, rows - begin)) as i, self._f.lanes(columns) as v:
                place = i * self._block + v
                self._b.turned = {operand: parts[part][place] for operand, parts in tiles.items()}
                where = at(begin + i, v)
                self._put(self._stage, where, self._stage.value(self._stage.domain.logical(where), ()))
                self._b.turned = {}

    def _turned(self, operand: int, at: Callable[[Expr, Expr], list[Expr]], rows: int, columns: int) -> list[Buffer]:
        """A tile of an operand, its lines turned into columns, in buffers of `_held` rows."""
        block, source = self._block, self._f.inputs[operand]
        flat = self._f.alias(source, (prod(int(e) for e in source.shape),))
        vectors = [self._f.vector(block, str(source.dtype)) for _ in range(block)]
        for j, vector in enumerate(vectors[:columns]):
            # not named: TVM's CompactBufferAllocation takes seconds for a tile with a name for each line
            base = next(a for number, a in _addresses(self._b, self._stage, at(0, j)) if number == operand)
            with self._f.lanes(rows) as v:
                self._f.store(vector, flat[base + v], [v])
        turned = transposed([vector[tirx.Ramp(0, 1, block)] for vector in vectors])
        parts = []
        for begin in range(0, rows, self._held):
            parts.append(self._f.scratch((self._held * block,), str(source.dtype)))
            for i, row in enumerate(turned[begin : min(begin + self._held, rows)]):
                self._f.store(parts[-1], row, [tirx.Ramp(i * block, 1, block)])
        return parts


def _either(
    where: Expr, full: int, whole: Callable[[], None], rest: int, last: Callable[[], None]
) -> list[tuple[Expr, Callable[[], None]]]:
    """The branches of `full` whole tiles and one of what is left, for as many of both as there are."""
    if rest == 0:
        return [(True, whole)]
    return [(where, whole), (True, last)] if full else [(True, last)]


def transposed(vectors: Sequence[Expr]) -> list[Expr]:
    """result[i][j] = vectors[j][i]: in each step, vectors 2^k apart exchange halves of each 2^(k+1) lanes."""
    values, count = list(vectors), len(vectors)
    step = count // 2
    while step:
        upper = [lane if not lane & step else count + lane - step for lane in range(count)]
        lower = [lane + step if not lane & step else count + lane for lane in range(count)]
        for one in (i for i in range(count) if not i & step):
            pair = [values[one], values[one | step]]
            values[one], values[one | step] = (
                tirx.Shuffle(pair, [tirx.const(lane, "int32") for lane in lanes]) for lanes in (upper, lower)
            )
        step //= 2
    return values
