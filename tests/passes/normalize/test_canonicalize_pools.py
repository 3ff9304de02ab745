"""canonicalize_pools: full arguments, global pools as reductions, even bins as windows."""

from __future__ import annotations

import pytest
from rewriting import refusal
from spelling import calls, checked, spelled

from planish.passes.normalize.canonicalize_pools import CanonicalizePools

X = "%x: f64[2, 3, 8, 6]"


@pytest.mark.parametrize(
    ("inputs", "call", "wanted"),
    [
        (X, "max_pool2d(%x, [2], [], 1)", ["max_pool2d(%x, [2, 2], [2, 2], [1, 1], [1, 1], false)"]),
        ("%x: f64[2, 3, 8]", "max_pool1d(%x, [3], [2])", ["max_pool1d(%x, [3], [2], [0], [1], false)"]),
        (
            "%x: f64[3, 8, 6]",
            "max_pool2d(%x, [2, 2])",
            [
                "reshape(%x, [1, 3, 8, 6])",
                "max_pool2d(#0, [2, 2], [2, 2], [0, 0], [1, 1], false)",
                "reshape(#1, [3, 4, 3])",
            ],
        ),
        (X, "avg_pool2d(%x, [2, 3])", ["avg_pool2d(%x, [2, 3], [2, 3], [0, 0], false, true, none)"]),
        (
            X,
            "avg_pool2d(%x, [2], [1], [1], true, false, 3)",
            ["avg_pool2d(%x, [2, 2], [1, 1], [1, 1], true, false, 3)"],
        ),
        ("%x: f64[2, 3, 8]", "avg_pool1d(%x, [2])", ["avg_pool1d(%x, [2], [2], [0], false, true)"]),
        (X, "adaptive_avg_pool2d(%x, [1, 1])", ["mean.dim(%x, [2, 3], true)"]),
        (X, "adaptive_avg_pool2d(%x, [1, 6])", ["mean.dim(%x, [2], true)"]),
        (X, "adaptive_avg_pool2d(%x, [8, 6])", []),
        (X, "adaptive_avg_pool2d(%x, [4, 2])", ["avg_pool2d(%x, [2, 3], [2, 3], [0, 0], false, true, none)"]),
        (X, "adaptive_avg_pool2d(%x, [4, 4])", ["adaptive_avg_pool2d(%x, [4, 4])"]),
        ("%x: f64[3, 8]", "adaptive_avg_pool1d(%x, [1])", ["mean.dim(%x, [1], true)"]),
        ("%x: f64[1, 2, 2, 4, 4]", "adaptive_avg_pool3d(%x, [1, 1, 1])", ["mean.dim(%x, [2, 3, 4], true)"]),
    ],
)
def test_spelling(inputs: str, call: str, wanted: list[str]) -> None:
    assert spelled(CanonicalizePools(), inputs, call) == wanted


@pytest.mark.parametrize(
    ("call", "wanted"),
    [
        ("max_pool2d_with_indices(%x, [2, 2])", ["max_pool2d(%x, [2, 2], [2, 2], [0, 0], [1, 1], false)"]),
        ("adaptive_max_pool2d(%x, [1, 1])", ["amax(%x, [2, 3], true)"]),
        ("adaptive_max_pool2d(%x, [8, 3])", ["max_pool2d(%x, [1, 2], [1, 2], [0, 0], [1, 1], false)"]),
        (
            "adaptive_max_pool2d(%x, [3, 6])",  # bins of rows 0 to 3, 2 to 6, 5 to 8
            [
                "slice.Tensor(%x, 2, 0, 3, 1)",
                "amax(#0, [2], true)",
                "slice.Tensor(%x, 2, 2, 6, 1)",
                "amax(#2, [2], true)",
                "slice.Tensor(%x, 2, 5, 8, 1)",
                "amax(#4, [2], true)",
                "cat([#1, #3, #5], 2)",
            ],
        ),
    ],
)
def test_values_alone(call: str, wanted: list[str]) -> None:
    text = f"program({X}) {{ %p = {call} %y = getitem(%p, 0) return %y }}"
    assert calls(checked(CanonicalizePools(), text)) == wanted


def test_used_indices_are_a_reason_to_stay() -> None:
    text = f"program({X}) {{ %p = max_pool2d_with_indices(%x, [2, 2]) %y = getitem(%p, 1) return %y }}"
    assert refusal(CanonicalizePools(), text) == "its indices are used"
