"""Whatever the graph: the pipelines keep the function, do it once, the ledger adds up, and grouping changes no bit."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from random_programs import programs
from rewriting import op_names, random_inputs, relative_error, run

from planish.ir.cost import program_flops
from planish.ir.program import Program
from planish.ir.report import saved
from planish.ir.rewrite import erase_dead
from planish.ir.text import parse_program, print_program
from planish.ir.verify import verify
from planish.passes.manager import run_passes
from planish.passes.pipelines import COMPILE, EXACT


def parameters(program: Program) -> int:
    """Elements of all constants."""
    return sum(tensor.numel() for tensor in program.weights.values())


def check(text: str) -> None:
    """Rewrite once and again."""
    before, _ = erase_dead(parse_program(text))
    verify(before)
    after = run_passes(before, EXACT)
    verify(after)
    assert relative_error(before, after) <= 1e-11
    assert "batch_norm" not in op_names(after)
    again = run_passes(after, EXACT)
    assert print_program(again) == print_program(after)
    assert not any(entry.applied for entry in again.report[len(after.report) :])
    total = saved(after.report)
    assert total["parameters"] == parameters(before) - parameters(after)
    assert total["flops"] == program_flops(before) - program_flops(after)
    batch_norms = sum(name == "batch_norm" for name in op_names(before))
    refused = [(r.name, s) for r in after.report for s in r.refused]
    assert all(site.reason for _, site in refused)
    backward = next(r for r in after.report if r.name == "fold_affine_backward")
    assert sum(s.op == "aten.batch_norm.default" for s in backward.refused) <= batch_norms


@settings(max_examples=settings.default.max_examples // 2)
@given(programs())
def test_rewriting_keeps_the_function_and_is_done_at_once(text: str) -> None:
    check(text)


@pytest.mark.bars
@settings(max_examples=6 * settings.default.max_examples)
@given(programs(length=40))
def test_rewriting_long_graphs_keeps_the_function_and_is_done_at_once(text: str) -> None:
    check(text)


@settings(max_examples=settings.default.max_examples // 2)
@given(programs("f32", length=20))
def test_grouping_changes_no_bit(text: str) -> None:
    before, _ = erase_dead(parse_program(text))
    optimized = run_passes(before, EXACT)
    after = run_passes(optimized, COMPILE)
    verify(after)
    inputs = random_inputs(before)
    for old, new in zip(run(optimized, inputs), run(after, inputs), strict=True):
        assert torch.equal(old, new)
