"""remove_dead_code: unread calls, unread constants and checks of shapes go."""

from __future__ import annotations

from planish.ir.text import parse_program
from planish.passes.normalize.remove_dead_code import RemoveDeadCode

TEXT = """
program(%x: f32[2, 3]) {
  @w: f32[3] = [1.0, 2.0, 3.0]
  @kept: f32[3] = [1.0, 2.0, 3.0]
  %a: f32[2, 3] = mul.Tensor(%x, @w)   # dead.block
  %b: f32[2, 3] = relu(%a)
  %shape = _assert_tensor_metadata(%x, none, none, f32)
  %positive = all(%x)
  %value = _assert_async.msg(%positive, "x is positive")
  %y: f32[2, 3] = add.Tensor(%x, @kept)
  return %y
}
"""


def test_unread_calls_go_and_checks_of_values_stay() -> None:
    program = parse_program(TEXT)
    after, sites, refused = RemoveDeadCode().run(program)
    assert [n.name for n in after.graph.nodes if n.op == "call_function"] == ["positive", "value", "y"]
    assert list(after.weights) == ["kept"]
    assert [(s.node, s.layers) for s in sites] == [("a", ("dead.block",)), ("b", ()), ("shape", ())]
    assert refused == []
    assert len(program.weights) == 2


def test_nothing_is_done_where_no_rewrite_is_left() -> None:
    program = parse_program(TEXT)
    assert RemoveDeadCode().run(program, limit=0) == (program, [], [])
