"""Groups of passes: repeated until nothing is left, only where something changed, and never without an end."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

import pytest
import torch
from torch import fx

from planish.errors import VerifyError
from planish.ir.program import Program, Stage
from planish.ir.report import Site
from planish.ir.rules import Call, Refused, Replacement, Rule
from planish.ir.text import parse_program, print_program
from planish.passes.base import Pass, Repeat, flat
from planish.passes.manager import run_passes

aten = torch.ops.aten

TEXT = """
program(%x: f32[2]) {
  %a: f32[2] = neg(%x)   # layer
  return %a
}
"""


@dataclass(frozen=True)
class Swap(Pass):
    """One op becomes another; `exp` is refused."""

    name: ClassVar[str] = "swap"
    requires: ClassVar[Stage] = Stage.CAPTURED
    old: Any
    new: Any

    def rules(self) -> Sequence[tuple[str, Rule]]:
        def swap(node: fx.Node, program: Program) -> Replacement | Refused | None:
            if node.target is aten.exp.default:
                return Refused("exp stays", node)
            return Replacement({node: Call(self.new, node.args)}) if node.target is self.old else None

        return ((f"to_{self.new._opname}", swap),)


def swaps(*names: str) -> tuple[Swap, ...]:
    """Passes from "old new" pairs."""
    ops = [[getattr(aten, name).default for name in pair.split()] for pair in names]
    return tuple(Swap(old, new) for old, new in ops)


BACKWARDS = swaps("abs exp", "sqrt abs", "neg sqrt")
"""Each pass makes what the one before it takes, so that a round does one step."""


def test_rounds_go_on_until_nothing_is_left() -> None:
    after = run_passes(parse_program(TEXT), [Repeat("group", BACKWARDS)])
    assert [n.target for n in after.graph.nodes if n.op == "call_function"] == [aten.exp.default]
    assert [s.rule for r in after.report for s in r.applied] == ["to_sqrt", "to_abs", "to_exp"]
    again = run_passes(after, [Repeat("group", BACKWARDS)])
    assert print_program(again) == print_program(after)
    assert not any(r.applied for r in again.report[len(after.report) :])


@dataclass(frozen=True)
class Counted(Pass):
    """Does nothing and counts how often it is run."""

    name: ClassVar[str] = "counted"
    requires: ClassVar[Stage] = Stage.CAPTURED
    runs: tuple[list[None], ...] = ()

    def __hash__(self) -> int:
        return id(self.runs)

    def run(
        self, program: Program, *, limit: int | None = None, verify: bool = False
    ) -> tuple[Program, list[Site], list[Site]]:
        self.runs[0].append(None)
        return program, [], []


def test_a_pass_runs_again_only_if_something_was_rewritten_since() -> None:
    first, last = Counted(([],)), Counted(([],))
    run_passes(parse_program(TEXT), [Repeat("group", (first, *swaps("neg sqrt"), last))])
    assert [len(p.runs[0]) for p in (first, last)] == [2, 1]
    run_passes(parse_program(TEXT), [Repeat("group", (first, *swaps("sin cos"), last))])
    assert [len(p.runs[0]) for p in (first, last)] == [3, 2]


def test_a_refusal_is_reported_once_and_new_ones_in_later_rounds_too() -> None:
    after = run_passes(parse_program(TEXT), [Repeat("group", BACKWARDS)])
    assert [(r.name, s.rule, s.reason) for r in after.report for s in r.refused] == [
        ("swap", "to_exp", "exp stays"),
        ("swap", "to_abs", "exp stays"),
        ("swap", "to_sqrt", "exp stays"),
    ]
    assert all(r.applied or r.refused for r in after.report[len(BACKWARDS) :])


def test_passes_that_undo_each_other_are_an_error() -> None:
    text = "The passes of 'group' still rewrite after 4 rounds; the last were swap \\(at layer\\)"
    with pytest.raises(VerifyError, match=text):
        run_passes(parse_program(TEXT), [Repeat("group", swaps("neg abs", "abs neg"), rounds=4)])


def test_limit_stops_inside_a_group() -> None:
    for limit, left in enumerate(("neg", "sqrt", "abs", "log", "log")):
        steps = [Repeat("group", BACKWARDS[1:]), *swaps("abs log")]
        after = run_passes(parse_program(TEXT), steps, limit=limit)
        assert [n.target._opname for n in after.graph.nodes if n.op == "call_function"] == [left]


def test_flat_lists_the_passes_in_order() -> None:
    one, two, three = BACKWARDS
    assert flat([one, Repeat("group", (two, three)), one]) == (one, two, three, one)
