"""mark_normalized: the stage is reached only by a program in its one spelling."""

from __future__ import annotations

import pytest

from planish.errors import VerifyError
from planish.ir.program import Stage
from planish.ir.text import parse_program
from planish.passes.manager import run_passes
from planish.passes.normalize.mark_normalized import MarkNormalized


def test_a_normalized_program_gets_its_stage() -> None:
    program = parse_program("program(%x: f32[2, 3]) { %y = permute(%x, [1, 0]) return %y }")
    assert run_passes(program, [MarkNormalized()]).stage == Stage.NORMALIZED


@pytest.mark.parametrize(
    "call", ["t(%x)", "softmax.int(%x, 1)", "permute(%x, [-1, 0])", "clamp(%x, 0.0)", "add.Scalar(%x, 1)"]
)
def test_another_spelling_is_an_error(call: str) -> None:
    program = parse_program(f"program(%x: f32[2, 3]) {{ %y = {call} return %y }}")
    with pytest.raises(VerifyError, match="After pass mark_normalized"):
        run_passes(program, [MarkNormalized()])
