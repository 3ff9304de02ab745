"""Norms of whole transformers: unified norms vanish, layer norms lose their mean."""

from __future__ import annotations

from collections import Counter

import pytest
import torch
from compare import assert_close_to_reference
from rewriting import op_names
from torch import nn
from zoo.unified import UnifiedNorm, Vit

from planish.ir.capture import capture
from planish.ir.interpret import eager, reference
from planish.ir.program import Program
from planish.passes.manager import run_passes
from planish.passes.pipelines import PIPELINES

DEPTHS = [2, pytest.param(12, marks=pytest.mark.bars)]


def exact(norm: type[nn.Module], post: bool, depth: int, dtype: torch.dtype) -> Program:
    """The rewritten program, after its numbers were compared."""
    torch.manual_seed(0)
    model = Vit(norm, post, depth).eval().to(dtype)
    x = torch.randn(2, 3, 8, 8).to(dtype)
    before = capture(model, (x,))
    after = run_passes(before, PIPELINES["exact"])
    (old,), (new,) = eager(before, [x]), eager(after, [x])
    if dtype == torch.float64:
        assert float((new - old).abs().max()) <= 1e-12 * float(old.abs().max())
    assert_close_to_reference([new], reference(before, [x]), [old])
    return after


@pytest.mark.parametrize("depth", DEPTHS)
@pytest.mark.parametrize("post", [False, True], ids=["pre", "post"])
def test_unified_norms_vanish(post: bool, depth: int) -> None:
    after = exact(UnifiedNorm, post, depth, torch.float64 if post else torch.float32)
    left = Counter(op_names(after))
    assert left["linear"] == 4 * depth + 1
    assert left["add"] == 2 * depth + 1  # the residual sums and the positions
    assert not {"mul", "div", "sub", "sqrt", "batch_norm"} & set(left)


def test_layer_norms_in_front_of_branches_become_rms_norms() -> None:
    after = exact(nn.LayerNorm, False, 2, torch.float64)
    left = Counter(op_names(after))
    assert (left["rms_norm"], left["layer_norm"], left["add"]) == (5, 0, 5)
    weights = [n.args[2] for n in after.graph.nodes if "rms_norm" in str(n.target)]
    assert weights == [None] * 5


def test_layer_norms_behind_sums_stay() -> None:
    after = exact(nn.LayerNorm, True, 2, torch.float32)
    left = Counter(op_names(after))
    assert left["layer_norm"] + left["rms_norm"] == 5
    assert left["layer_norm"] >= 4
