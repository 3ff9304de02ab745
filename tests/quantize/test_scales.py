"""Which values share a scale, by name."""

from __future__ import annotations

import pytest

from planish.ir.scales import scale_groups
from planish.ir.text import parse_program


def groups(text: str) -> list[list[str]]:
    return [[node.name for node in group] for group in scale_groups(parse_program(text).graph)]


def test_a_concatenation_binds_its_operands_and_what_is_cut_from_it() -> None:
    found = groups("""program(%x: f32[1, 2, 4, 4], %z: f32[1, 2, 4, 4]) {
      %a: f32[1, 2, 4, 4] = relu(%x)
      %b: f32[1, 2, 4, 4] = max_pool2d(%z, [3, 3], [1, 1], [1, 1], [1, 1], false)
      %c: f32[1, 4, 4, 4] = cat([%a, %b], 1)
      %d: f32[1, 4, 16] = reshape(%c, [1, 4, 16])
      %e: f32[1, 4, 16] = sigmoid(%d)
      %f: f32[1, 4, 16] = mul.Tensor(%d, %e)
      return %f
    }""")
    assert found == [["x"], ["z", "a", "b", "c", "d"], ["e"], ["f"]]


def test_constants_join_where_they_are_moved() -> None:
    found = groups("""program(%x: f32[1, 3, 4], %i: i64[2]) {
      @token: f32[1, 1, 4]
      @table: f32[9, 4]
      @w: f32[4, 4]
      %t: f32[1, 4, 4] = cat([@token, %x], 1)
      %e: f32[2, 4] = embedding(@table, %i)
      %l: f32[1, 4, 4] = linear(%t, @w, none)
      return (%l, %e)
    }""")
    assert [set(group) for group in found] == [{"token", "x", "t"}, {"table", "e"}, {"w"}, {"l"}]


@pytest.mark.parametrize(
    ("call", "shared"),
    [
        ("constant_pad_nd(%x, [1, 1], 0.0)", True),
        ("constant_pad_nd(%x, [1, 1], 1.0)", False),
        ("masked_fill.Scalar(%x, %m, 0.0)", True),
        ("masked_fill.Scalar(%x, %m, -inf)", False),
        ("where.self(%m, %x, %x)", True),
        ("amax(%x, [1], true)", True),
        ("maximum(%x, %x)", True),
        ("index_select(%x, 1, %i)", True),
        ("reflection_pad1d(%x, [1, 1])", True),
        ("relu(%x)", False),
        ("clamp(%x, 0.0, 6.0)", False),
        ("add.Tensor(%x, %x)", False),
        ("mean.dim(%x, [1], true)", False),
        ("softmax.int(%x, -1)", False),
    ],
)
def test_what_moves(call: str, shared: bool) -> None:
    found = groups(f"program(%x: f32[2, 4], %m: bool[2, 4], %i: i64[3]) {{\n  %y = {call}\n  return %y\n}}")
    assert found == ([["x", "y"]] if shared else [["x"], ["y"]])


def test_long_chains() -> None:
    lines = "\n".join(f"  %v{i + 1}: f32[2, 3] = permute(%v{i}, [0, 1])" for i in range(300))
    (group,) = groups(f"program(%v0: f32[2, 3]) {{\n{lines}\n  return %v300\n}}")
    assert len(group) == 301
