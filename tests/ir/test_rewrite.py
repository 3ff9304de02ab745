"""The rewriter: what it makes of rules, in which order, what it reports, and what it refuses to do."""

from __future__ import annotations

import operator
from typing import Any

import pytest
import torch
from torch import fx

from planish.errors import RewriteMismatch, VerifyError
from planish.ir.program import Origin, Program, Region
from planish.ir.rewrite import apply_rules, erase_dead
from planish.ir.rules import Call, Refused, Replacement, Rule, Weight
from planish.ir.text import parse_program, print_program

aten = torch.ops.aten

CHAIN = """
program(%x: f32[2, 3]) {
  @w: f32[3] = [1.0, 2.0, 3.0]
  %a: f32[2, 3] = mul.Tensor(%x, @w)   # first
  %b: f32[2, 3] = relu(%a)   # second
  %c: f32[2, 3] = relu(%b)   # third
  return %c
}
"""


def on(op: Any, make: Any) -> Rule:
    """A rule for the calls of one op."""
    return lambda node, program: make(node, program) if node.target is op else None


def apply(text: str, *rules: tuple[str, Rule], **options: Any) -> tuple[Program, list[Any], list[Any]]:
    program = parse_program(text)
    before = print_program(program)
    result = apply_rules(program, rules, **options)
    assert print_program(program) == before, "the input was edited"
    result[0].graph.lint()
    return result


def body(program: Program) -> list[str]:
    return [line.split("   #")[0].strip() for line in print_program(program).splitlines()[1:-1]]


def to_abs(node: fx.Node, program: Program) -> Replacement:
    return Replacement({node: Call(aten.abs.default, node.args)})


def test_new_nodes_have_values_and_the_union_of_origins() -> None:
    def merge(node: fx.Node, program: Program) -> Replacement | None:
        inner = node.args[0]
        if isinstance(inner, fx.Node) and inner.target is aten.relu.default:
            return Replacement({node: Call(aten.sigmoid.default, (inner.args[0],))}, (inner,))
        return None

    program, applied, refused = apply(CHAIN, ("merge", on(aten.relu.default, merge)))
    new = next(n for n in program.graph.nodes if n.target is aten.sigmoid.default)
    assert new.meta["origins"] == (Origin("third"), Origin("second"))
    assert (new.meta["val"].shape, new.meta["val"].dtype) == ((2, 3), torch.float32)
    assert body(program)[1:] == [
        "%a: f32[2, 3] = mul.Tensor(%x, @w)",
        "%sigmoid: f32[2, 3] = sigmoid(%a)",
        "return %sigmoid",
    ]
    assert [(s.rule, s.node, s.op, s.layers) for s in applied] == [
        ("merge", "c", "aten.relu.default", ("third", "second"))
    ]
    assert refused == []


def test_nodes_are_visited_in_order_and_new_ones_too() -> None:
    seen: list[str] = []

    def watch(node: fx.Node, program: Program) -> Replacement | None:
        if node.op == "call_function":
            seen.append(str(node.target))
        return to_abs(node, program) if node.target is aten.relu.default else None

    apply(CHAIN, ("watch", watch))
    # the scan for a first candidate, then the rewrites in graph order, then a last round that changes nothing
    scan, mul = ["aten.mul.Tensor", "aten.relu.default"], "aten.mul.Tensor"
    rest = seen[len(scan) :]
    assert seen[: len(scan)] == scan
    assert rest[:2] == [mul, "aten.relu.default"]
    assert rest.index("aten.abs.default") < len(rest) - 1 - rest[::-1].index("aten.relu.default")
    assert rest[-3:] == [mul, "aten.abs.default", "aten.abs.default"]


def test_one_call_object_makes_one_node() -> None:
    def double(node: fx.Node, program: Program) -> Replacement:
        part = Call(aten.abs.default, (node.args[0],))
        return Replacement({node: Call(aten.cat.default, ([part, part, Call(aten.abs.default, (node.args[0],))], 1))})

    text = """
    program(%x: f32[2, 3]) {
      %y = repeat(%x, [1, 3])
      return %y
    }
    """
    program, _, _ = apply(text, ("double", on(aten.repeat.default, double)))
    assert [n.name for n in program.graph.nodes if n.op == "call_function"] == ["abs_1", "abs_2", "cat"]
    cat = next(n for n in program.graph.nodes if n.name == "cat")
    assert [n.name for n in cat.args[0]] == ["abs_1", "abs_1", "abs_2"]


def test_deep_expressions_do_not_recurse() -> None:
    def grow(node: fx.Node, program: Program) -> Replacement:
        value: Any = node.args[0]
        for _ in range(3000):
            value = Call(aten.neg.default, (value,))
        return Replacement({node: value})

    text = """
    program(%x: f32[2]) {
      %y = relu(%x)
      return %y
    }
    """
    program, _, _ = apply(text, ("grow", on(aten.relu.default, grow)))
    assert sum(n.target is aten.neg.default for n in program.graph.nodes) == 3000


def test_weights_get_unique_names_and_unread_ones_go() -> None:
    def rescale(node: fx.Node, program: Program) -> Replacement:
        old = program.weights[str(node.args[1].target)]
        return Replacement({node: Call(aten.add.Tensor, (node.args[0], Weight("w", old * 2)))})

    program, _, _ = apply(CHAIN, ("rescale", on(aten.mul.Tensor, rescale)))
    assert list(program.weights) == ["w_1"]
    assert program.weights["w_1"].tolist() == [2.0, 4.0, 6.0]


def test_equal_weights_under_one_name_are_stored_once_and_no_name_is_inside_another() -> None:
    def add(name: str, values: list[float]) -> Any:
        return lambda node, program: Replacement(
            {node: Call(aten.add.Tensor, (node.args[0], Weight(name, torch.tensor(values))))}
        )

    text = """
    program(%x: f32[1]) {
      @conv: f32[1] = [5.0]
      %k = mul.Tensor(%x, @conv)
      %a = relu(%k)
      %b = sigmoid(%a)
      %c = tanh(%b)
      %d = exp(%c)
      return %d
    }
    """
    program, _, _ = apply(
        text,
        ("one", on(aten.relu.default, add("c", [1.0]))),
        ("same", on(aten.sigmoid.default, add("c", [1.0]))),
        ("other", on(aten.tanh.default, add("c", [-0.0]))),
        ("inside", on(aten.exp.default, add("conv.weight", [2.0]))),
    )
    assert {k: v.tolist() for k, v in program.weights.items()} == {
        "conv": [5.0],
        "c": [1.0],
        "c_1": [-0.0],
        "conv_weight": [2.0],
    }
    assert program.graph_module(torch.zeros(1))[0].item() == 4.0


def test_a_node_may_be_wrapped_by_its_own_replacement() -> None:
    def after(node: fx.Node, program: Program) -> Replacement | None:
        if any(user.target is aten.neg.default for user in node.users):
            return None
        return Replacement({node: Call(aten.neg.default, (node,))})

    program, applied, _ = apply(CHAIN, ("after", on(aten.mul.Tensor, after)))
    assert len(applied) == 1
    assert "%neg: f32[2, 3] = neg(%a)" in body(program)
    assert "%b: f32[2, 3] = relu(%neg)" in body(program)


def test_several_results_are_replaced_together() -> None:
    def parts(node: fx.Node, program: Program) -> Replacement:
        values = {
            user: Call(aten.amax.default if user.args[1] == 0 else aten.argmax.default, (node.args[0], 1))
            for user in node.users
        }
        return Replacement(values, (node,))

    text = """
    program(%x: f32[2, 3]) {
      %m = max.dim(%x, 1)
      %i = getitem(%m, 1)
      %v = getitem(%m, 0)
      return (%v, %i)
    }
    """
    program, applied, _ = apply(text, ("parts", on(aten.max.dim, parts)), verify=True)
    assert [n.name for n in program.graph.nodes if n.op == "call_function"] == ["argmax", "amax"]
    assert applied[0].error == 0.0
    assert operator.getitem not in {n.target for n in program.graph.nodes}


def test_refusals_are_reported_once_and_only_for_nodes_that_stay() -> None:
    def refuse(node: fx.Node, program: Program) -> Refused:
        return Refused("two users", node)

    def drop_last(node: fx.Node, program: Program) -> Replacement | None:
        return (
            Replacement({node: node.args[0]})
            if not node.users.keys().isdisjoint([program.graph.output_node()])
            else None
        )

    _, applied, refused = apply(
        CHAIN, ("refuse", on(aten.relu.default, refuse)), ("drop", on(aten.relu.default, drop_last)), limit=1
    )
    assert [s.node for s in applied] == ["c"]
    assert [(s.rule, s.node, s.reason, s.layers) for s in refused] == [("refuse", "b", "two users", ("second",))]


def test_a_refusal_that_no_longer_holds_is_forgotten() -> None:
    def needs_abs(node: fx.Node, program: Program) -> Refused | None:
        return None if node.args[0].target is aten.abs.default else Refused("no abs", node)

    text = """
    program(%x: f32[2]) {
      %a = relu(%x)
      %b = sigmoid(%a)
      return %b
    }
    """
    _, _, refused = apply(
        text, ("needs", on(aten.sigmoid.default, needs_abs)), ("to_abs", on(aten.relu.default, to_abs))
    )
    assert refused == []


def test_a_program_without_candidates_is_returned_as_it_is() -> None:
    program = parse_program(CHAIN)
    after, applied, refused = apply_rules(program, [("no", lambda n, p: Refused("no", n) if n.name == "b" else None)])
    assert after is program
    assert applied == []
    assert [s.node for s in refused] == ["b"]


@pytest.mark.parametrize(("limit", "left"), [(0, 2), (1, 1), (2, 0), (None, 0)])
def test_limit_stops_after_so_many_rewrites(limit: int | None, left: int) -> None:
    program, applied, _ = apply(CHAIN, ("abs", on(aten.relu.default, to_abs)), limit=limit)
    assert sum(n.target is aten.relu.default for n in program.graph.nodes) == left
    assert len(applied) == 2 - left


def test_rules_that_undo_each_other_end_in_an_error() -> None:
    def back(node: fx.Node, program: Program) -> Replacement:
        return Replacement({node: Call(aten.relu.default, node.args)})

    with pytest.raises(VerifyError, match="does not end"):
        apply(CHAIN, ("there", on(aten.relu.default, to_abs)), ("back", on(aten.abs.default, back)))


def test_a_replacement_of_another_shape_or_dtype_is_an_error() -> None:
    def flatten(node: fx.Node, program: Program) -> Replacement:
        return Replacement({node: Call(aten.reshape.default, (node.args[0], [6]))})

    with pytest.raises(VerifyError, match=r"rule flat at b changes the value from .*\[2, 3\].* to .*\[6\]"):
        apply(CHAIN, ("flat", on(aten.relu.default, flatten)))


def test_a_call_that_does_not_run_is_an_error() -> None:
    def wrong(node: fx.Node, program: Program) -> Replacement:
        return Replacement({node: Call(aten.reshape.default, (node.args[0], [7]))})

    with pytest.raises(VerifyError, match="rule wrong at b made a call that does not run"):
        apply(CHAIN, ("wrong", on(aten.relu.default, wrong)))


def test_a_value_that_comes_too_late_is_an_error() -> None:
    def later(node: fx.Node, program: Program) -> Replacement:
        return Replacement({node: next(iter(next(iter(node.users)).users))})

    with pytest.raises(VerifyError, match="before it exists"):
        apply(CHAIN, ("later", on(aten.mul.Tensor, later)))


def test_an_empty_replacement_is_an_error() -> None:
    with pytest.raises(VerifyError, match="empty Replacement"):
        apply(CHAIN, ("empty", on(aten.mul.Tensor, lambda n, p: Replacement({}))))


def test_verify_records_the_error_and_raises_on_a_wrong_rewrite() -> None:
    def halves(node: fx.Node, program: Program) -> Replacement | None:
        if isinstance(node.args[1], float):
            return None
        old = program.weights[str(node.args[1].target)].double()
        part = Weight("half", (old / 2).float())
        return Replacement({node: Call(aten.mul.Tensor, (Call(aten.mul.Tensor, (node.args[0], part)), 2.0))})

    _, applied, _ = apply(CHAIN, ("halves", on(aten.mul.Tensor, halves)), limit=1, verify=True)
    assert applied[0].error == 0.0
    with pytest.raises(RewriteMismatch, match=r"rule abs at b \(aten.relu.default, second\) changes the numbers"):
        apply(CHAIN, ("abs", on(aten.relu.default, to_abs)), verify=True)
    _, applied, _ = apply(CHAIN, ("abs", on(aten.relu.default, to_abs)))
    assert applied[0].error is None


def test_verify_knows_what_neighbours_make_of_a_value() -> None:
    """relu(relu(x)) == relu(x) only because the inner value is never negative."""

    def idempotent(node: fx.Node, program: Program) -> Replacement | None:
        return Replacement({node: node.args[0]}) if node.args[0].target is aten.relu.default else None

    program, applied, _ = apply(CHAIN, ("again", on(aten.relu.default, idempotent)), verify=True)
    assert [s.error for s in applied] == [0.0]
    assert body(program)[-1] == "return %b"


def test_verify_runs_integers_and_regions() -> None:
    text = """
    program(%i: i64[4], %x: f32[4, 3]) {
      @table: f32[5, 3]
      %e2 = embedding(@table, %i)
      %r = region r0: pointwise(%p=%e2, %q=%x) anchor %s {
        %s = add.Tensor(%p, %q)
        %t = relu(%s)
        return %t
      }
      %y = relu(%r)
      return %y
    }
    """
    drop = on(aten.relu.default, lambda n, p: Replacement({n: n.args[0]}))
    program, applied, _ = apply(text, ("drop", drop), verify=True)
    assert [s.error for s in applied] == [0.0]
    assert list(program.regions) == ["r0"]


def test_calls_of_regions_bring_the_region_along() -> None:
    inner = fx.Graph()
    p = inner.placeholder("p")
    inner.output(inner.call_function(aten.abs.default, (p,)))
    region = Region("r", "pointwise", inner, None, ("layer",))
    program, _, _ = apply(
        CHAIN, ("region", on(aten.mul.Tensor, lambda n, _: Replacement({n: Call(region, (n.args[0],))})))
    )
    assert program.regions == {"r": region}
    x = torch.tensor([[-1.0, 2.0, -3.0], [0.5, -0.5, 0.0]])
    assert torch.equal(program.graph_module(x)[0], x.abs())


def test_erase_dead_drops_what_nobody_reads_but_effects() -> None:
    text = """
    program(%x: f32[2, 3]) {
      @w: f32[3]
      %a = mul.Tensor(%x, @w)   # dead
      %b = relu(%a)
      %c = _assert_tensor_metadata(%x, none, none, f32)
      %y = abs(%x)
      return %y
    }
    """
    program = parse_program(text)
    after, sites = erase_dead(program)
    assert [n.name for n in after.graph.nodes] == ["x", "c", "y", "output"]
    assert after.weights == {}
    assert [(s.node, s.layers) for s in sites] == [("a", ("dead",)), ("b", ())]
    after, _ = erase_dead(program, [aten._assert_tensor_metadata.default])
    assert [n.name for n in after.graph.nodes] == ["x", "y", "output"]
