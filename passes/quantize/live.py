"""A program whose weights are computed anew from a model's parameters, and the trained ranges of its values.

    live.program(weights) == run_passes(capture(model with these weights), passes)        differentiable in the weights
    ends(group) = (least, most)        one pair for each group of values that share a scale, named by its first value

What passes decide (what folds into what) is fixed once, what they compute goes on a tape (`ir/tape.py`).
"""

from __future__ import annotations

import math
from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, fx

from ...errors import PlanishError, QuantizationError
from ...ir.program import Program
from ...ir.scales import moves, scale_groups
from ...ir.tape import Tape, in_general_position, recorded
from .plan import Plan, layer_of
from .rules.attention import codes_of_shares
from .widths import codes_by_use, shares

Group = tuple[fx.Node, ...]
SHARES = (codes_of_shares, shares)
"""Codes whose scale is a power of two, which no gradient moves."""
NOTHING = 2.0**-80
"""A range that is no longer is none."""


@dataclass(frozen=True)
class Live:
    """A program without its weights, the tape that makes them, and groups of values by name.

    `frozen` weights became numbers of the graph, so no training moves them.
    """

    prepared: Program
    captured: Program
    tape: Tape
    groups: Mapping[str, Group]
    frozen: frozenset[str]

    @classmethod
    def of(cls, captured: Program, trained: frozenset[str], passes: Callable[[Program], Program]) -> Live:
        """Run the passes on weights in general position."""
        fixed: frozenset[str] = frozenset()
        while True:
            tape, made = _recorded(captured, trained - fixed, passes)
            lifted = (tape.lifted & trained) - fixed
            if not lifted:
                own = {name: captured.weights[name].clone() for name in fixed}  # as they are now
                return cls(made, captured.evolve(weights={**captured.weights, **own}), tape, _groups(made), fixed)
            fixed |= lifted

    def weights(self, given: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """The program's weights, from the model's present ones."""
        return self.tape.play({**self.captured.weights, **given})

    def ranges(self, ends: Mapping[str, Tensor]) -> dict[fx.Node, tuple[float, float]]:
        """As `calibrate` gives them."""
        missing = [name for name in self.groups if name not in ends]
        if missing:
            raise QuantizationError(
                f"With inputs of this shape the graph has other values: {', '.join(missing[:5])} have no range.",
                "Make the module with example inputs of this shape.",
            )
        pairs = {name: ends[name].tolist() for name in self.groups}
        return {node: (pairs[name][0], pairs[name][1]) for name, group in self.groups.items() for node in group}

    def layer(self, name: str) -> str:
        """What errors call a group: its layer and its name."""
        node = next(node for node in self.groups[name] if node.name == name)
        layer = layer_of(node)
        return name if layer == name else f"{layer} ({name})"

    def check(self, ends: Mapping[str, Tensor], coded: Collection[str], todo: str) -> None:
        """Refuse trained ranges that say no codes; `todo` is what helps against it."""
        for name in (name for name in coded if name in self.groups):
            low, high = ends[name].tolist()
            wrong = None
            if not (math.isfinite(low) and math.isfinite(high)):
                wrong = "is NaN or infinite"
            elif low > high:
                wrong = "begins above its end"
            elif max(-low, high) < NOTHING:
                wrong = "has shrunk to zero"
            if wrong:
                raise QuantizationError(f"{self.layer(name)}: its range in training, {low:g}..{high:g}, {wrong}.", todo)

    def learnable(self, integer: Program) -> frozenset[str]:
        """Groups that the integer program has codes of, whose scale follows from their range."""
        coded = {node.meta["of"] for node in integer.graph.nodes if "quant" in node.meta}
        special = codes_by_use(self.prepared.graph, {})
        groups = {name: group for name, group in self.groups.items() if special.get(group[0]) not in SHARES}
        return frozenset(name for name, group in groups.items() if any(node.name in coded for node in group))

    def ends(self, given: Mapping[str, Tensor]) -> dict[str, tuple[Tensor, Tensor]]:
        """What the codes of each value reach, differentiable in the ranges; an end of 0 stays, as after a ReLU."""
        special = codes_by_use(self.prepared.graph, {})
        plan = Plan(self.prepared.graph, self.ranges(given), special)
        found: dict[str, tuple[Tensor, Tensor]] = {}
        for name, group in self.groups.items():
            codes = special.get(group[0])
            if codes in SHARES:
                continue
            low, high = plan.range(group[0])
            ends = zip(given[name].unbind(), (min(low, 0.0), max(high, 0.0)), strict=True)  # 0 is always a code
            least, most = (own if float(own.detach()) == used != 0 else own.detach() for own, used in ends)
            if codes is not None:
                bound = torch.maximum(-least, most)
                least, most = -bound, bound
            found |= {node.name: (least, most) for node in group}
        return found


def _groups(program: Program) -> dict[str, Group]:
    """Groups that are computed, by the first of their values that is not moved from elsewhere."""
    found: dict[str, Group] = {}
    for group in scale_groups(program.graph):
        made = [node for node in group if node.op != "get_attr"]
        if made:
            first: Any = next((node for node in made if not moves(node)), made[0])
            found[first.name] = group
    return found


def _recorded(captured: Program, trained: frozenset[str], passes: Callable[[Program], Program]) -> tuple[Tape, Program]:
    """With weights in both signs, or where these do not work (a square root of one), in their own."""
    for both_signs in (True, False):
        given = in_general_position(captured.weights, trained, both_signs)
        try:
            tape, made = recorded(captured.evolve(weights=given), trained, passes)
        except PlanishError:
            if not both_signs:
                raise
            continue
        values = [tensor for tensor in made.weights.values() if tensor.dtype.is_floating_point]
        if not both_signs or not any(bool(tensor.isnan().any()) for tensor in values):
            return tape, made
    raise AssertionError("the second way returns or raises")
