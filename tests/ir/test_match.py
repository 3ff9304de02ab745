"""The matcher: what a pattern captures, and the reason when it does not fit."""

from __future__ import annotations

import torch
from torch import fx

from planish.ir.match import Constant, Either, Failed, Match, Op, Where, X, equal_literals, match

aten = torch.ops.aten
ADD, MUL, RELU = aten.add.Tensor, aten.mul.Tensor, aten.relu.default


def graph() -> dict[str, fx.Node]:
    """relu(x * w + x), the sum read twice."""
    g = fx.Graph()
    x, w = g.placeholder("x"), g.create_node("get_attr", "w")
    mul = g.call_function(MUL, (x, w))
    add = g.call_function(ADD, (mul, x))
    relu = g.call_function(RELU, (add,))
    g.output((relu, add))
    return {"x": x, "w": w, "mul": mul, "add": add, "relu": relu}


def test_captures_and_nodes() -> None:
    n = graph()
    found = match(Op(RELU, Op(ADD, Op(MUL, X("x"), Constant("w")), X("x"), name="sum")), n["relu"])
    assert isinstance(found, Match)
    assert (found["x"], found["w"], found.node("sum")) == (n["x"], n["w"], n["add"])
    assert found.nodes == (n["relu"], n["add"], n["mul"])


def test_commutative_tries_both_orders() -> None:
    n = graph()
    pattern = (X("y"), Op(MUL, X("y"), Constant()))
    assert isinstance(match(Op(ADD, *pattern, commutative=True), n["add"]), Match)
    failed = match(Op(ADD, *pattern), n["add"])
    assert isinstance(failed, Failed)
    assert failed.reason == "x (placeholder) is not aten.mul.Tensor"


def test_a_name_stands_for_one_value() -> None:
    n = graph()
    failed = match(Op(MUL, X("same"), X("same")), n["mul"])
    assert failed == Failed("same is both x (placeholder) and w (get_attr)", n["w"])


def test_single_user_says_how_many() -> None:
    n = graph()
    failed = match(Op(RELU, Op(ADD, single_user=True)), n["relu"])
    assert failed == Failed("add_tensor has 2 users", n["add"])
    assert isinstance(match(Op(ADD, Op(MUL, single_user=True)), n["add"]), Match)


def test_literals_compare_by_type_and_bits() -> None:
    assert equal_literals([1, 2.0, "same"], (1, 2.0, "same"))
    assert equal_literals(float("nan"), float("nan"))
    assert not equal_literals(1, 1.0)
    assert not equal_literals(1, True)
    assert not equal_literals(0.0, -0.0)


def test_defaults_are_filled_in() -> None:
    n = graph()
    assert isinstance(match(Op(ADD, alpha=1), n["add"]), Match)
    assert match(Op(ADD, alpha=2), n["add"]) == Failed("1 is not 2", n["add"])
    assert match(Op(ADD, beta=2), n["add"]) == Failed("add_tensor has no argument beta", n["add"])


def test_either_where_and_constant() -> None:
    n = graph()
    either = Either(Op(RELU, name="a"), Op(MUL, name="b"))
    found = match(either, n["mul"])
    assert isinstance(found, Match)
    assert found["b"] is n["mul"]
    where = Where(X(), lambda node: node.op == "placeholder", "not an input")
    assert isinstance(match(where, n["x"]), Match)
    assert match(where, n["w"]) == Failed("not an input", n["w"])
    assert match(Op(ADD, Constant()), n["add"]) == Failed("mul_tensor (aten.mul.Tensor) is not a constant", n["mul"])


def test_lists_match_item_by_item() -> None:
    g = fx.Graph()
    x, y = g.placeholder("x"), g.placeholder("y")
    cat = g.call_function(aten.cat.default, ([x, y], 1))
    found = match(Op(aten.cat.default, [X("a"), X("b")], 1), cat)
    assert isinstance(found, Match)
    assert (found["a"], found["b"]) == (x, y)
    assert match(Op(aten.cat.default, [X("a")]), cat) == Failed("2 items instead of 1", cat)
