"""Frames: a value with a border of constants around it, however it was put together.

    node == pad(source, low, high)      with one number for each channel outside

A pad with a value for each channel has no op of its own; models write it as a zero pad whose border is then
overwritten, which reaches the graph as slices and cats. What such a network of moves does is found by running it on
the numbers of the elements: where element i of the source comes out, and what stands elsewhere.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, fx

from ...ir.program import Program
from ..fold.affine import constant, uses, value

aten = torch.ops.aten

MOVES = (aten.cat.default, aten.slice.Tensor, aten.constant_pad_nd.default)

LARGEST = 1 << 24
"""Elements of a frame that is still looked into."""


@dataclass(frozen=True)
class Frame:
    """`source` with `low` and `high` more positions at the ends of each axis; `value` [C] stands there."""

    source: fx.Node
    low: tuple[int, ...]
    high: tuple[int, ...]
    value: Tensor | None
    moves: tuple[fx.Node, ...]
    """The inner ops that it is made of."""


def is_framed(node: fx.Node) -> bool:
    """Say whether a node may be the outermost op of a frame: a pad, or a cat with a constant along a position axis."""
    if node.target is aten.constant_pad_nd.default:
        return True
    if node.target is not aten.cat.default or node.args[1] < 2:  # type: ignore[operator]
        return False
    parts: Any = node.args[0]
    return any(_is_constant(part) for part in parts)


def read_frame(node: fx.Node, program: Program) -> Frame | None:
    """Return the frame that ends at `node`, if it is one."""
    mine = value(node)
    if mine.numel() > LARGEST or not mine.is_floating_point() or mine.dim() < 3:
        return None
    moves = _moves(node)
    computed = {n for m in moves for n in m.all_input_nodes if n not in moves and not _is_constant(n)}
    if len(computed) != 1:
        return None
    source = computed.pop()
    x = value(source)
    if x.dim() != mine.dim() or x.shape[:2] != mine.shape[:2] or x.numel() > LARGEST or x.dtype != mine.dtype:
        return None
    numbers = torch.arange(1, x.numel() + 1, dtype=torch.float64).reshape(x.shape)
    places = _run(node, moves, program, source, numbers, constants=False)
    border = _window(places, numbers)
    if border is None:
        return None
    low, high = border
    filled = _run(node, moves, program, source, torch.zeros_like(numbers), constants=True)
    outside = filled[places == 0]
    if not bool(outside.any()):
        return Frame(source, low, high, None, tuple(moves[1:]))
    fill = _per_channel(filled, places == 0)
    return None if fill is None else Frame(source, low, high, fill, tuple(moves[1:]))


def _moves(node: fx.Node) -> list[fx.Node]:
    """The moves behind a node that nobody else reads, itself first; a slice may share its source with no other."""
    found, todo = [node], [node]
    while todo:
        for operand in todo.pop().all_input_nodes:
            if operand.target in MOVES and operand not in found and uses(operand) == 1:
                found.append(operand)
                todo.append(operand)
    return found


def _is_constant(node: Any) -> bool:
    if node.op == "get_attr":
        return True
    return node.target is aten.expand.default and _is_constant(node.args[0])


def _run(node: fx.Node, moves: list[fx.Node], program: Program, source: fx.Node, x: Tensor, constants: bool) -> Tensor:
    """Run the moves on `x`, with their constants or with zeros in the place of these."""
    env: dict[fx.Node, Tensor] = {source: x}

    def operand(n: fx.Node) -> Tensor:
        if n in env:
            return env[n]
        tensor = constant(n, program)
        assert tensor is not None
        wide = tensor.detach().to(torch.float64).expand(value(n).shape)
        return wide if constants else torch.zeros_like(wide)

    for move in sorted(moves):
        args: Any = fx.map_arg(move.args, operand)
        if move.target is aten.constant_pad_nd.default:
            args = (args[0], args[1], args[2] if constants else 0)
        assert callable(move.target)
        env[move] = move.target(*args)
    return env[node]


def _window(places: Tensor, numbers: Tensor) -> tuple[tuple[int, ...], tuple[int, ...]] | None:
    """(low, high) if `places` is `numbers` with zeros around, or a part cut out of it."""
    inside = places != 0
    if not bool(inside.any()):
        return None
    low, high = [], []
    first = places[inside].min()
    start = (numbers == first).nonzero()[0]
    for axis in range(2, places.dim()):
        along = inside.movedim(axis, 0).flatten(1).any(1).nonzero().flatten()
        before = int(along[0]) - int(start[axis])
        low.append(before)
        high.append(places.shape[axis] - numbers.shape[axis] - before)
    frame = [width for pair in zip(reversed(low), reversed(high), strict=True) for width in pair]
    return (tuple(low), tuple(high)) if torch.equal(torch.nn.functional.pad(numbers, frame), places) else None


def _per_channel(filled: Tensor, outside: Tensor) -> Tensor | None:
    """The one value of each channel outside, None if there are several."""
    by_channel, where = filled.transpose(0, 1).flatten(1), outside.transpose(0, 1).flatten(1)
    top = by_channel.masked_fill(~where, -torch.inf).amax(1)
    bottom = by_channel.masked_fill(~where, torch.inf).amin(1)
    return top if torch.equal(top, bottom) else None
