"""Whatever the graph: the pipelines keep the function, do it once, and grouping changes no bit."""

from __future__ import annotations

import torch
from hypothesis import given, settings
from random_programs import programs
from rewriting import op_names, random_inputs, relative_error, run

from planish.ir.rewrite import erase_dead
from planish.ir.text import parse_program, print_program
from planish.ir.verify import verify
from planish.passes.group.group_regions import GroupRegions
from planish.passes.manager import run_passes
from planish.passes.pipelines import FOLD


@settings(max_examples=settings.default.max_examples // 2)
@given(programs())
def test_folding_keeps_the_function_and_is_done_at_once(text: str) -> None:
    before, _ = erase_dead(parse_program(text))
    verify(before)
    after = run_passes(before, FOLD)
    verify(after)
    assert relative_error(before, after) <= 1e-11
    assert "batch_norm" not in op_names(after)
    again = run_passes(after, FOLD)
    assert print_program(again) == print_program(after)
    batch_norms = sum(name == "batch_norm" for name in op_names(before))
    refused = [(r.name, s) for r in after.report for s in r.refused]
    assert all(site.reason for _, site in refused)
    backward = next(r for r in after.report if r.name == "fold_affine_backward")
    assert sum(s.op == "aten.batch_norm.default" for s in backward.refused) <= batch_norms


@settings(max_examples=settings.default.max_examples // 2)
@given(programs("f32", length=20))
def test_grouping_changes_no_bit(text: str) -> None:
    before, _ = erase_dead(parse_program(text))
    after = run_passes(before, (*FOLD, GroupRegions()))
    verify(after)
    optimized = run_passes(before, FOLD)
    inputs = random_inputs(before)
    for old, new in zip(run(optimized, inputs), run(after, inputs), strict=True):
        assert torch.equal(old, new)
