"""canonicalize_views: every change of shape as reshape, permute or expand."""

from __future__ import annotations

import pytest
from spelling import spelled

from planish.passes.normalize.canonicalize_views import CanonicalizeViews

X = "%x: f32[2, 3, 4]"


@pytest.mark.parametrize(
    ("inputs", "call", "wanted"),
    [
        (X, "view(%x, [6, -1])", ["reshape(%x, [6, 4])"]),
        (X, "flatten.using_ints(%x, 1, -1)", ["reshape(%x, [2, 12])"]),
        (X, "unflatten.int(%x, 2, [2, -1])", ["reshape(%x, [2, 3, 2, 2])"]),
        (X, "unsqueeze(%x, -1)", ["reshape(%x, [2, 3, 4, 1])"]),
        ("%x: f32[1, 3, 1]", "squeeze(%x)", ["reshape(%x, [3])"]),
        ("%x: f32[1, 3, 1]", "squeeze.dims(%x, [0, 1])", ["reshape(%x, [3, 1])"]),
        (X, "view_as(%x, %x)", ["reshape(%x, [2, 3, 4])"]),
        (X, "permute(%x, [0, -1, 1])", ["permute(%x, [0, 2, 1])"]),
        (X, "transpose.int(%x, -3, 2)", ["permute(%x, [2, 1, 0])"]),
        ("%x: f32[3, 4]", "t(%x)", ["permute(%x, [1, 0])"]),
        ("%x: f32[3]", "t(%x)", ["permute(%x, [0])"]),
        (X, "mT(%x)", ["permute(%x, [0, 2, 1])"]),
        ("%x: f32[3, 4]", "numpy_T(%x)", ["permute(%x, [1, 0])"]),
        (X, "movedim.int(%x, 0, -1)", ["permute(%x, [1, 2, 0])"]),
        (X, "movedim.intlist(%x, [2, 0], [0, 1])", ["permute(%x, [2, 0, 1])"]),
        ("%x: f32[3, 1]", "expand(%x, [2, -1, 4])", ["expand(%x, [2, 3, 4])"]),
        ("%x: f32[1, 3]", "broadcast_to(%x, [2, 3])", ["expand(%x, [2, 3])"]),
        ("%x: f32[3]", "expand_as(%x, %y2)", ["expand(%x, [2, 3])"]),
        (
            "%x: f32[3]",
            "repeat(%x, [2, 2])",
            ["reshape(%x, [1, 1, 1, 3])", "expand(#0, [2, 1, 2, 3])", "reshape(#1, [2, 6])"],
        ),
        ("%x: f32[2, 3]", "tile(%x, [2])", ["reshape(%x, [2, 1, 3])", "expand(#0, [2, 2, 3])", "reshape(#1, [2, 6])"]),
        (
            "%x: f32[2, 3]",
            "repeat_interleave.self_int(%x, 2, -1)",
            ["reshape(%x, [2, 3, 1])", "expand(#0, [2, 3, 2])", "reshape(#1, [2, 6])"],
        ),
        (
            "%x: f32[2, 2]",
            "repeat_interleave.self_int(%x, 3)",
            ["reshape(%x, [4, 1])", "expand(#0, [4, 3])", "reshape(#1, [12])"],
        ),
        ("%x: f32[2, 6]", "unfold(%x, 1, 3, 3)", ["reshape(%x, [2, 2, 3])", "permute(#0, [0, 1, 2])"]),
        (
            "%x: f32[4, 2]",
            "unfold(%x, 0, 3, 1)",
            ["index_select(%x, 0, @y_places)", "reshape(#0, [2, 3, 2])", "permute(#1, [0, 2, 1])"],
        ),
        (
            "%x: f32[3, 4]",
            "diagonal(%x, 1)",
            ["permute(%x, [0, 1])", "reshape(#0, [12])", "slice.Tensor(#1, 0, 1, 12, 5)"],
        ),
        (
            "%x: f32[3, 2, 4]",
            "diagonal(%x, -1, 0, 2)",
            ["permute(%x, [1, 0, 2])", "reshape(#0, [2, 12])", "slice.Tensor(#1, 1, 4, 10, 5)"],
        ),
    ],
)
def test_spelling(inputs: str, call: str, wanted: list[str]) -> None:
    extra = ", %y2: f32[2, 3]" if "%y2" in call else ""
    assert spelled(CanonicalizeViews(), inputs + extra, call) == wanted
