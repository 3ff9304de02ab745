"""remove_copies: the original is read instead."""

from __future__ import annotations

import pytest
import torch
from spelling import spelled

from planish.ir.capture import capture
from planish.passes.manager import run_passes
from planish.passes.normalize.canonicalize_views import CanonicalizeViews
from planish.passes.normalize.remove_copies import RemoveCopies


@pytest.mark.parametrize(
    "op", ["clone", "contiguous", "alias", "detach", "lift_fresh_copy", "positive", "resolve_conj"]
)
def test_copies_go(op: str) -> None:
    assert spelled(RemoveCopies(), "%x: f32[2, 3]", f"{op}(%x)") == []


def test_a_complex_conjugate_is_no_copy() -> None:
    assert spelled(RemoveCopies(), "%x: c64[2]", "resolve_conj(%x)") == ["resolve_conj(%x)"]


class Shuffled(torch.nn.Module):
    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """A view that only a contiguous copy allows."""
        return x.transpose(1, 2).contiguous().view(2, -1)


def test_views_of_copies_still_run() -> None:
    x = torch.randn(2, 3, 4)
    program = run_passes(capture(Shuffled().eval(), x), [CanonicalizeViews(), RemoveCopies()])
    assert not [n for n in program.graph.nodes if n.target is torch.ops.aten.clone.default]
    assert torch.equal(program(x), Shuffled()(x))
