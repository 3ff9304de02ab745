"""canonicalize_slices: parts as slices with plain bounds, putting together as cat."""

from __future__ import annotations

import pytest
from spelling import calls, checked, spelled

from planish.passes.normalize.canonicalize_slices import CanonicalizeSlices

X = "%x: f32[4, 6]"
NEVER = 9223372036854775807


@pytest.mark.parametrize(
    ("call", "wanted"),
    [
        (f"slice.Tensor(%x, -1, none, {NEVER}, 2)", ["slice.Tensor(%x, 1, 0, 6, 2)"]),
        ("slice.Tensor(%x, 0, -3, -1, 1)", ["slice.Tensor(%x, 0, 1, 3, 1)"]),
        ("slice.Tensor(%x, 1, 5, 2, 1)", ["slice.Tensor(%x, 1, 5, 5, 1)"]),
        ("narrow(%x, 1, -4, 3)", ["slice.Tensor(%x, 1, 2, 5, 1)"]),
        ("select.int(%x, -1, -2)", ["slice.Tensor(%x, 1, 4, 5, 1)", "reshape(#0, [4])"]),
        ("stack([%x, %x], -1)", ["reshape(%x, [4, 6, 1])", "reshape(%x, [4, 6, 1])", "cat([#0, #1], 2)"]),
        ("stack([%x], 0)", ["reshape(%x, [1, 4, 6])"]),
        ("cat([%x, %x], -1)", ["cat([%x, %x], 1)"]),
        ("cat([%x], 0)", []),
        ("copy(%x, %row)", ["expand(%row, [4, 6])"]),
        ("copy(%x, %whole)", ["expand(%whole, [4, 6])", "_to_copy(#0, dtype=f32)"]),
        (
            "select_scatter(%x, %row, 0, -4)",
            ["reshape(%row, [1, 6])", "slice.Tensor(%x, 0, 1, 4, 1)", "cat([#0, #1], 0)"],
        ),
        (
            "slice_scatter(%x, %part, 1, 2, -2, 1)",
            [
                "slice.Tensor(%x, 1, 0, 2, 1)",
                "expand(%part, [4, 2])",
                "slice.Tensor(%x, 1, 4, 6, 1)",
                "cat([#0, #1, #2], 1)",
            ],
        ),
        ("slice_scatter(%x, %x, 0, 0, 4, 1)", ["expand(%x, [4, 6])"]),
        ("slice_scatter(%x, %empty, 1, 3, 3, 1)", []),
        (
            "slice_scatter(%x, %part, 1, 1, 6, 3)",
            ["index_select(%part, 1, @y_places)", "where.self(@y_mask, #0, %x)"],
        ),
        ("flip(%x, [-1, 0])", ["flip(%x, [0, 1])"]),
        ("flip(%x, [])", []),
        ("roll(%x, [-1, 8], [-1, 0])", ["roll(%x, [5, 0], [1, 0])"]),
        ("roll(%x, [2])", ["reshape(%x, [24])", "roll(#0, [2], [0])", "reshape(#1, [4, 6])"]),
        ("gather(%x, -1, %whole)", ["gather(%x, 1, %whole)"]),
        ("embedding(%x, %whole, 0)", ["embedding(%x, %whole, -1, false, false)"]),
        ("index_select(%x, -2, @rows)", ["index_select(%x, 0, @rows)"]),
        ("index.Tensor(%x, [none, @places])", ["index_select(%x, 1, @places_flat)", "reshape(#0, [4, 3])"]),
        (
            "index.Tensor(%x, [@places, @column])",
            ["reshape(%x, [24])", "index_select(#0, 0, @places_flat)", "reshape(#1, [2, 3])"],
        ),
        ("index.Tensor(%x, [%whole])", ["index.Tensor(%x, [%whole])"]),
    ],
)
def test_spelling(call: str, wanted: list[str]) -> None:
    inputs = f"{X}, %row: f32[6], %part: f32[4, 2], %whole: i64[4, 6], %empty: f32[4, 0]"
    constants = ("@rows: i64[2] = [3, 0]", "@places: i64[3] = [0, -1, 3]", "@column: i64[2, 1] = [[1], [-2]]")
    used = [c for c in constants if c.split(":")[0] in call]
    assert spelled(CanonicalizeSlices(), inputs, call, *used) == wanted


@pytest.mark.parametrize(
    ("call", "wanted"),
    [
        ("index_put(%x, [%every], %one)", ["reshape(%every, [4, 6])", "where.self(#0, %one, %x)"]),
        ("index_put(%x, [%few], %row)", ["reshape(%few, [4, 1])", "where.self(#0, %row, %x)"]),
        (
            "index_put(%x, [none, %columns], %single, true)",
            [
                "reshape(%columns, [1, 6])",
                "reshape(%single, [])",
                "add.Tensor(%x, #1)",
                "where.self(#0, #2, %x)",
            ],
        ),
        ("index_put(%x, [%places], %one)", ["index_put(%x, [%places], %one)"]),
    ],
)
def test_writes_under_a_mask(call: str, wanted: list[str]) -> None:
    masks = "%every: bool[4, 6], %few: bool[4], %columns: bool[6], %places: i64[4, 6]"
    inputs = f"%x: f32[4, 6], {masks}, %one: f32[], %single: f32[1], %row: f32[6]"
    assert spelled(CanonicalizeSlices(), inputs, call) == wanted


def test_flat_places_count_rows_and_columns() -> None:
    text = """
    program(%x: f32[4, 6]) {
      @rows: i64[2] = [1, -1]
      @columns: i64[2] = [-6, 5]
      %y = index.Tensor(%x, [@rows, @columns])
      return %y
    }
    """
    after = checked(CanonicalizeSlices(), text)
    assert after.weights["rows_flat"].tolist() == [6, 23]


@pytest.mark.parametrize(
    ("call", "index", "wanted"),
    [
        ("split.Tensor(%x, 4, 1)", 1, ["slice.Tensor(%x, 1, 4, 6, 1)"]),
        ("split_with_sizes(%x, [1, 2, 3], -1)", 2, ["slice.Tensor(%x, 1, 3, 6, 1)"]),
        ("chunk(%x, 3, 1)", 0, ["slice.Tensor(%x, 1, 0, 2, 1)"]),
        ("tensor_split.sections(%x, 4, 1)", 1, ["slice.Tensor(%x, 1, 2, 4, 1)"]),
        ("tensor_split.indices(%x, [1, 3], 1)", 1, ["slice.Tensor(%x, 1, 1, 3, 1)"]),
        ("unbind.int(%x, 0)", 3, ["slice.Tensor(%x, 0, 3, 4, 1)", "reshape(#0, [6])"]),
    ],
)
def test_parts(call: str, index: int, wanted: list[str]) -> None:
    text = f"program({X}) {{ %s = {call} %y = getitem(%s, {index}) return %y }}"
    assert calls(checked(CanonicalizeSlices(), text)) == wanted
