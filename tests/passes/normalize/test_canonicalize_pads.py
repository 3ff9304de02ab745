"""canonicalize_pads: constants by constant_pad_nd, edges by pad, wrapping by slices."""

from __future__ import annotations

import pytest
from spelling import spelled

from planish.passes.normalize.canonicalize_pads import CanonicalizePads

X = "%x: f32[1, 2, 5, 6], %i: i64[2, 3]"


@pytest.mark.parametrize(
    ("call", "wanted"),
    [
        ('pad(%x, [1, 2], "constant", none)', ["constant_pad_nd(%x, [1, 2], 0.0)"]),
        ('pad(%x, [1, 2, 0, 0], "constant", 3.0)', ["constant_pad_nd(%x, [1, 2], 3.0)"]),
        ("constant_pad_nd(%x, [0, 0, 0, 0], 1)", []),
        ("constant_pad_nd(%i, [1, 0], 2)", ["constant_pad_nd(%i, [1, 0], 2)"]),
        (
            "constant_pad_nd(%x, [-1, 2, 0, -3], 0)",
            ["slice.Tensor(%x, 3, 1, 6, 1)", "slice.Tensor(#0, 2, 0, 2, 1)", "constant_pad_nd(#1, [0, 2], 0.0)"],
        ),
        ("constant_pad_nd(%x, [-1, -1], 0)", ["slice.Tensor(%x, 3, 1, 5, 1)"]),
        ("reflection_pad2d(%x, [1, 2, 3, 0])", ['pad(%x, [1, 2, 3, 0], "reflect", none)']),
        ("replication_pad2d(%x, [1, 2, 3, 0])", ['pad(%x, [1, 2, 3, 0], "replicate", none)']),
        ('pad(%x, [0, 0, 0, 0], "reflect", none)', []),
        (
            'pad(%x, [2, 0, 1, 1], "circular", none)',
            [
                "slice.Tensor(%x, 3, 4, 6, 1)",
                "cat([#0, %x], 3)",
                "slice.Tensor(#1, 2, 4, 5, 1)",
                "slice.Tensor(#1, 2, 0, 1, 1)",
                "cat([#2, #1, #3], 2)",
            ],
        ),
    ],
)
def test_spelling(call: str, wanted: list[str]) -> None:
    assert spelled(CanonicalizePads(), X, call) == wanted
