"""Cutting Programs: as few pieces as the refused operators allow, in an order that runs, with the same numbers."""

from __future__ import annotations

import itertools
from collections.abc import Callable
from typing import Any

import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor, fx, nn

from planish.backends.base import Refused
from planish.backends.eager import EagerBackend
from planish.backends.partition import Partition, partition
from planish.backends.stitch import stitch
from planish.ir.capture import capture
from planish.ir.program import Program

aten = torch.ops.aten


def refusing(*targets: Any) -> Callable[[fx.Node], Refused | None]:
    return lambda node: Refused("a test refuses it") if node.target in targets else None


def run(program: Program, parts: Partition, *inputs: Tensor) -> list[Tensor]:
    flat = stitch(program, parts.pieces, lambda piece: EagerBackend().compile(piece).run_flat)
    return list(flat(inputs))


class Function(nn.Module):
    """A module of a function."""

    def __init__(self, function: Callable[..., Any]) -> None:
        super().__init__()
        self.function = function
        self.weight = nn.Parameter(torch.arange(12.0).view(3, 4))

    def forward(self, *args: Tensor) -> Any:
        return self.function(self.weight, *args)


def programs(function: Callable[..., Any], *args: Tensor) -> Program:
    return capture(Function(function).eval(), args)


def test_nothing_refused_is_one_piece() -> None:
    x = torch.randn(3, 4)
    program = programs(lambda w, x: (x * w).relu() + 1, x)
    parts = partition(program, refusing())
    (piece,) = parts.pieces
    assert piece.program is program
    assert piece.compiled
    assert parts.refused == ()


def test_one_refused_in_the_middle_of_a_chain() -> None:
    x = torch.randn(3, 4)
    program = programs(lambda w, x: (x * w).exp().relu() + w, x)
    parts = partition(program, refusing(aten.exp.default))
    assert [piece.compiled for piece in parts.pieces] == [True, False, True]
    assert [list(piece.program.weights) for piece in parts.pieces] == [["weight"], [], ["weight"]]
    assert [op.op for op in parts.refused] == ["aten.exp.default"]
    (actual,) = run(program, parts, x)
    assert torch.equal(actual, program(x))


def test_branches_share_pieces() -> None:
    """Two refused calls side by side, each between two others: still three pieces."""
    x = torch.randn(3, 4)
    program = programs(lambda w, x: (x + 1).exp().relu() + (x + 2).exp().sigmoid() + x.tanh(), x)
    parts = partition(program, refusing(aten.exp.default))
    assert [piece.compiled for piece in parts.pieces] == [True, False, True]
    (actual,) = run(program, parts, x)
    assert torch.equal(actual, program(x))


def test_a_path_around_a_refused_operator_makes_no_cycle() -> None:
    """relu(x) feeds exp and the product behind it: the product may not join relu's piece."""
    x = torch.randn(3, 4)
    program = programs(lambda w, x: x.relu() * x.relu().exp(), x)
    parts = partition(program, refusing(aten.exp.default))
    seen = {node.name for node in program.graph.nodes if node.op == "placeholder"}
    for piece in parts.pieces:
        assert seen.issuperset(piece.inputs)
        seen.update(piece.outputs)
    (actual,) = run(program, parts, x)
    assert torch.equal(actual, program(x))


def test_several_outputs_of_one_call_stay_with_it() -> None:
    x = torch.randn(3, 4)
    program = programs(lambda w, x: [t.relu() for t in torch.sort(x * 2)[:1]] + [torch.sort(x * 2)[1] + 1], x)
    parts = partition(program, refusing(aten.sort.default))
    assert [piece.compiled for piece in parts.pieces] == [True, False, True]
    values, order = run(program, parts, x)
    assert torch.equal(values, (x * 2).sort()[0].relu())
    assert torch.equal(order, (x * 2).sort()[1] + 1)


def test_views_alone_are_not_compiled() -> None:
    x = torch.randn(3, 4)
    program = programs(lambda w, x: x.exp().permute(1, 0).exp(), x)
    parts = partition(program, refusing(aten.exp.default))
    assert [piece.compiled for piece in parts.pieces] == [False, False, False]
    (actual,) = run(program, parts, x)
    assert torch.equal(actual, x.exp().t().exp())


def test_inputs_and_weights_that_are_returned_are_copied() -> None:
    x = torch.randn(3, 4)
    program = programs(lambda w, x: (x.exp(), x, w, x.exp()), x)
    parts = partition(program, refusing(aten.exp.default))
    outputs = run(program, parts, x)
    places = {t.data_ptr() for t in outputs} & {x.data_ptr(), program.weights["weight"].data_ptr()}
    assert not places
    assert torch.equal(outputs[1], x)
    assert torch.equal(outputs[2], program.weights["weight"])


def test_a_program_without_calls() -> None:
    x = torch.randn(3, 4)
    program = programs(lambda w, x: (x, w), x)
    parts = partition(program, refusing())
    assert parts.pieces == ()
    assert all(torch.equal(a, b) for a, b in zip(run(program, parts, x), (x, program.weights["weight"]), strict=True))


def test_the_refusal_names_the_layer() -> None:
    class Inner(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            return x.erfinv()

    model = nn.Sequential(nn.Linear(4, 4), nn.Sequential(nn.ReLU(), Inner()))
    parts = partition(capture(model.eval(), (torch.randn(2, 4),)), refusing(aten.erfinv.default))
    (op,) = parts.refused
    assert (op.layer, op.reason) == ("1.1", "a test refuses it")
    assert op.source.rpartition(":")[0] == __file__


@given(st.lists(st.tuples(st.booleans(), st.integers(0, 30), st.integers(0, 30)), min_size=1, max_size=12))
def test_any_graph_runs_in_pieces(steps: list[tuple[bool, int, int]]) -> None:
    """Random graphs of supported additions and refused products."""
    graph = fx.Graph()
    values = [graph.placeholder("x")]
    for refused, i, j in steps:
        op = aten.mul.Tensor if refused else aten.add.Tensor
        values.append(graph.call_function(op, (values[i % len(values)], values[j % len(values)])))
    graph.output(tuple(values[-2:]))
    x = torch.tensor([0.5, -1.25, 0.75])
    program = build(graph, x)
    parts = partition(program, refusing(aten.mul.Tensor))
    sides = [piece.compiled for piece in parts.pieces]
    assert all(a != b for a, b in itertools.pairwise(sides)), "neighbours would have been one piece"
    expected = program.graph_module(x)
    assert all(torch.equal(a, b) for a, b in zip(run(program, parts, x), expected, strict=True))


def build(graph: fx.Graph, x: Tensor) -> Program:
    """A Program of a hand-made graph over one float vector."""
    from planish.ir.signature import Signature, TensorSpec

    for node in graph.nodes:
        node.meta.update(val=torch.empty(x.shape, device="meta"), origins=())
    count = len(graph.output_node().args[0])  # type: ignore[arg-type]
    specs = [TensorSpec(f"y{i}", "float32", tuple(x.shape)) for i in range(count)]
    return Program(graph, {}, Signature.of_tensors([TensorSpec("x", "float32", tuple(x.shape))], specs))


def test_a_foreign_operator_is_refused_by_eager() -> None:
    node = fx.Graph().call_function(torch.ops.aten.relu.default)
    assert EagerBackend().supports(node) is None
    odd = torch.library.custom_op(
        "planish_tests::odd", lambda x: x.clone(), mutates_args=(), schema="(Tensor x) -> Tensor"
    )
    node = fx.Graph().call_function(odd._opoverload)
    answer = EagerBackend().supports(node)
    assert isinstance(answer, Refused)
    assert "planish_tests" in answer.reason


def test_the_eager_backend_gives_fresh_nested_outputs() -> None:
    def f(w: Tensor, x: Tensor) -> dict[str, Any]:
        return {"same": x, "pair": (w, x.t(), x + w)}

    x = torch.randn(3, 4)
    program = programs(f, x)
    result = EagerBackend().compile(program)(x)
    assert torch.equal(result["same"], x)
    assert torch.equal(result["pair"][1], x.t())
    assert torch.equal(result["pair"][2], x + program.weights["weight"])
    tensors = [x, program.weights["weight"], result["same"], *result["pair"]]
    assert len({t.untyped_storage().data_ptr() for t in tensors}) == len(tensors)
