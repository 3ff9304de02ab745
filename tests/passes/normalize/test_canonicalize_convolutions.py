"""canonicalize_convolutions: one op, lists in full length, `same` padding as numbers."""

from __future__ import annotations

import pytest
from spelling import spelled

from planish.passes.normalize.canonicalize_convolutions import CanonicalizeConvolutions


@pytest.mark.parametrize(
    ("inputs", "weight", "call", "wanted"),
    [
        (
            "%x: f32[1, 4, 9]",
            "@w: f32[6, 2, 3]",
            "conv1d(%x, @w, none, [2], [1], [1], 2)",
            ["convolution(%x, @w, none, [2], [1], [1], false, [0], 2)"],
        ),
        (
            "%x: f32[1, 4, 9, 9]",
            "@w: f32[6, 4, 3, 3]",
            "conv2d(%x, @w, none, [2], [1])",
            ["convolution(%x, @w, none, [2, 2], [1, 1], [1, 1], false, [0, 0], 1)"],
        ),
        (
            "%x: f32[1, 2, 4, 4, 4]",
            "@w: f32[2, 2, 1, 2, 3]",
            "conv3d(%x, @w)",
            ["convolution(%x, @w, none, [1, 1, 1], [0, 0, 0], [1, 1, 1], false, [0, 0, 0], 1)"],
        ),
        (
            "%x: f32[1, 4, 5, 5]",
            "@w: f32[4, 3, 3, 3]",
            "conv_transpose2d.input(%x, @w, none, [2, 2], [1, 1], [1, 0], 2, [1, 1])",
            ["convolution(%x, @w, none, [2, 2], [1, 1], [1, 1], true, [1, 0], 2)"],
        ),
        (
            "%x: f32[1, 4, 9, 9]",
            "@w: f32[6, 4, 3, 5]",
            'conv2d.padding(%x, @w, none, [1, 1], "same", [2, 1], 1)',
            ["convolution(%x, @w, none, [1, 1], [2, 2], [2, 1], false, [0, 0], 1)"],
        ),
        (
            "%x: f32[1, 4, 9]",
            "@w: f32[6, 4, 4]",
            'conv1d.padding(%x, @w, none, [1], "same", [1], 1)',
            ["constant_pad_nd(%x, [0, 1], 0.0)", "convolution(#0, @w, none, [1], [1], [1], false, [0], 1)"],
        ),
        (
            "%x: f32[1, 4, 9]",
            "@w: f32[6, 4, 4]",
            'conv1d.padding(%x, @w, none, [2], "valid", [1], 1)',
            ["convolution(%x, @w, none, [2], [0], [1], false, [0], 1)"],
        ),
        (
            "%x: f32[4, 9, 9]",
            "@w: f32[6, 4, 3, 3]",
            "conv2d(%x, @w)",
            [
                "reshape(%x, [1, 4, 9, 9])",
                "convolution(#0, @w, none, [1, 1], [0, 0], [1, 1], false, [0, 0], 1)",
                "reshape(#1, [6, 7, 7])",
            ],
        ),
    ],
)
def test_spelling(inputs: str, weight: str, call: str, wanted: list[str]) -> None:
    assert spelled(CanonicalizeConvolutions(), inputs, call, weight) == wanted
