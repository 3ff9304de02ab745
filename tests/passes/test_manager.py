"""The manager: stages and signatures are checked on the result, reports are kept, bisecting stops where asked."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import ClassVar

import pytest
import torch
from torch import fx

from planish.errors import OptionError, RewriteMismatch, VerifyError
from planish.ir.program import Program, Stage
from planish.ir.report import PassReport, Site
from planish.ir.rules import Call, Refused, Replacement, Rule
from planish.ir.signature import TensorSpec
from planish.ir.text import parse_program, print_program
from planish.passes.base import Pass
from planish.passes.manager import count_nodes, print_trace, run_passes

aten = torch.ops.aten

TEXT = """
program(%x: f32[2, 3]) {
  %a: f32[2, 3] = relu(%x)   # one
  %b: f32[2, 3] = relu(%a)   # two
  %c: f32[2, 3] = exp(%b)   # three
  return %c
}
"""


@dataclass(frozen=True)
class Swap(Pass):
    """relu → the op given; exp is refused."""

    name: ClassVar[str] = "swap"
    requires: ClassVar[Stage] = Stage.CAPTURED
    op: object = aten.sigmoid.default

    def rules(self) -> Sequence[tuple[str, Rule]]:
        def swap(node: fx.Node, program: Program) -> Replacement | Refused | None:
            if node.target is aten.exp.default:
                return Refused("exp stays", node)
            return Replacement({node: Call(self.op, node.args)}) if node.target is aten.relu.default else None

        return (("relu", swap),)


@dataclass(frozen=True)
class Promise(Pass):
    """Does nothing and promises a stage."""

    name: ClassVar[str] = "promise"
    requires: ClassVar[Stage] = Stage.CAPTURED
    ensures: ClassVar[Stage | None] = Stage.NORMALIZED


@dataclass(frozen=True)
class Needy(Promise):
    """Needs NORMALIZED."""

    name: ClassVar[str] = "needy"
    requires: ClassVar[Stage] = Stage.NORMALIZED
    ensures: ClassVar[Stage | None] = None


def test_passes_run_in_order_and_report() -> None:
    program = parse_program(TEXT)
    after = run_passes(program, [Swap(), Promise(), Needy()])
    assert [r.name for r in after.report] == ["swap", "promise", "needy"]
    assert after.stage == Stage.NORMALIZED
    report = after.report[0]
    assert [(s.node, s.op, s.layers) for s in report.applied] == [
        ("a", "aten.relu.default", ("one",)),
        ("b", "aten.relu.default", ("two",)),
    ]
    assert [(s.node, s.reason, s.layers) for s in report.refused] == [("c", "exp stays", ("three",))]
    assert (report.nodes_before, report.nodes_after) == (3, 3)
    assert report.seconds > 0
    assert PassReport.from_json(report.to_json()) == report
    assert (program.report, program.stage) == ((), Stage.CAPTURED)


def test_a_stage_that_is_missing_is_an_option_error() -> None:
    with pytest.raises(OptionError, match="Pass needy needs a program at stage NORMALIZED, this one is CAPTURED"):
        run_passes(parse_program(TEXT), [Swap(), Needy()])


def test_a_stage_never_goes_back() -> None:
    program = parse_program(TEXT).evolve(stage=Stage.OPTIMIZED)
    assert run_passes(program, [Promise()]).stage == Stage.OPTIMIZED


def test_a_promise_is_checked_on_the_result() -> None:
    text = "program(%x: f32[2, 3]) {\n  %y = view(%x, [3, 2])\n  return %y\n}"
    assert run_passes(parse_program(text), [Swap()]).stage == Stage.CAPTURED
    with pytest.raises(VerifyError, match=r"After pass promise: .*view"):
        run_passes(parse_program(text), [Promise()])


@dataclass(frozen=True)
class Rename(Pass):
    """Changes the signature, which no pass may."""

    name: ClassVar[str] = "rename"
    requires: ClassVar[Stage] = Stage.CAPTURED

    def run(
        self, program: Program, *, limit: int | None = None, verify: bool = False
    ) -> tuple[Program, list[Site], list[Site]]:
        signature = replace(program.signature, inputs=(TensorSpec("z", "float32", (2, 3)),))
        return program.evolve(signature=signature), [], []


def test_the_signature_stays() -> None:
    with pytest.raises(VerifyError, match="Pass rename changed the signature"):
        run_passes(parse_program(TEXT), [Rename()])


def test_limit_counts_over_all_passes_and_stops() -> None:
    program = parse_program(TEXT)
    one = run_passes(program, [Swap(), Swap(aten.tanh.default), Promise()], limit=1)
    assert [len(r.applied) for r in one.report] == [1]
    assert [str(n.target) for n in one.graph.nodes if n.op == "call_function"] == [
        "aten.sigmoid.default",
        "aten.relu.default",
        "aten.exp.default",
    ]
    assert one.stage == Stage.CAPTURED
    three = run_passes(program, [Swap(), Promise(), Swap(aten.tanh.default)], limit=3)
    assert [r.name for r in three.report] == ["swap", "promise", "swap"][: len(three.report)]
    assert three.stage == Stage.NORMALIZED
    nothing = run_passes(program, [Swap(), Promise()], limit=0)
    assert print_program(nothing) == print_program(program)
    assert nothing.stage == Stage.CAPTURED


def test_verify_reaches_the_rules() -> None:
    program = parse_program(TEXT)
    run_passes(program, [Swap()])
    with pytest.raises(RewriteMismatch, match="rule relu at a"):
        run_passes(program, [Swap()], verify=True)


def test_trace_sees_each_pass_and_prints_what_changed(capsys: pytest.CaptureFixture[str]) -> None:
    program = parse_program(TEXT)
    seen: list[tuple[str, int, int]] = []
    after = run_passes(
        program, [Swap(), Promise()], trace=lambda p, b, a: seen.append((p.name, count_nodes(b), count_nodes(a)))
    )
    assert seen == [("swap", 3, 3), ("promise", 3, 3)]
    print_trace(Swap(), program, after)
    printed = capsys.readouterr().out
    assert "-  %a: f32[2, 3] = relu(%x)   # one" in printed
    assert "+  %sigmoid: f32[2, 3] = sigmoid(%x)   # one" in printed
