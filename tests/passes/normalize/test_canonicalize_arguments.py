"""canonicalize_arguments: defaults filled in, keywords at their positions."""

from __future__ import annotations

import pytest
from spelling import spelled

from planish.passes.normalize.canonicalize_arguments import CanonicalizeArguments

X = "%x: f32[1, 4, 8, 8], %w: f32[4, 4, 1, 1]"


@pytest.mark.parametrize(
    ("call", "wanted"),
    [
        ("conv2d(input=%x, weight=%w, groups=1)", "conv2d(%x, %w, none, [1, 1], [0, 0], [1, 1], 1)"),
        ("max_pool2d(%x, [2, 2])", "max_pool2d(%x, [2, 2], [], [0, 0], [1, 1], false)"),
        ('gelu(%x, approximate="none")', "gelu(%x)"),
        ('gelu(%x, approximate="tanh")', 'gelu(%x, approximate="tanh")'),
        ("sum.dim_IntList(%x, [1], keepdim=true, dtype=none)", "sum.dim_IntList(%x, [1], true)"),
        ("add.Tensor(%x, %x, alpha=1)", "add.Tensor(%x, %x)"),
        ("add.Tensor(%x, %x, alpha=2)", "add.Tensor(%x, %x, alpha=2)"),
        ("relu(%x)", "relu(%x)"),
    ],
)
def test_spelling(call: str, wanted: str) -> None:
    assert spelled(CanonicalizeArguments(), X, call) == [wanted]
