"""Dataflow questions on one graph, the answers read off its drawing.

x ── a ─┬─ b ─┐
        └─ c ─┴─ d ── out      w (weight) ── e ── d,   dead: f(a)
"""

from __future__ import annotations

import pytest
import torch
from torch import fx

from planish.ir import dataflow
from planish.ir.program import Program
from planish.ir.signature import Signature, TensorSpec

aten = torch.ops.aten


@pytest.fixture
def nodes() -> dict[str, fx.Node]:
    graph = fx.Graph()
    found: dict[str, fx.Node] = {"x": graph.placeholder("x"), "w": graph.create_node("get_attr", "w")}

    def call(name: str, *args: fx.Node) -> None:
        found[name] = graph.call_function(aten.cat.default, (list(args),))

    found["a"] = graph.call_function(aten.mul.Tensor, (found["x"], found["x"]))
    call("b", found["a"])
    call("c", found["a"])
    call("e", found["w"])
    call("d", found["b"], found["c"], found["e"])
    call("f", found["a"])
    found["out"] = graph.output((found["d"],))
    return found


def test_digraph_has_an_edge_for_each_read(nodes: dict[str, fx.Node]) -> None:
    flow = dataflow.digraph(nodes["x"].graph)
    assert set(flow.successors(nodes["a"])) == {nodes["b"], nodes["c"], nodes["f"]}
    assert set(flow.predecessors(nodes["d"])) == {nodes["b"], nodes["c"], nodes["e"]}


def test_dominators_follow_activations_only(nodes: dict[str, fx.Node]) -> None:
    found = dataflow.dominators(nodes["x"].graph)
    assert found[nodes["d"]] is nodes["a"]  # though e, made of a weight, feeds it too
    assert found[nodes["b"]] is nodes["a"]
    assert found[nodes["x"]] is None
    assert nodes["e"] not in found


def test_post_dominators(nodes: dict[str, fx.Node]) -> None:
    found = dataflow.post_dominators(nodes["x"].graph)
    assert found[nodes["a"]] is nodes["d"]
    assert found[nodes["b"]] is nodes["d"]
    assert found[nodes["d"]] is nodes["out"]
    assert not {nodes["out"], nodes["f"]} & set(found)


def test_sole_user(nodes: dict[str, fx.Node]) -> None:
    assert dataflow.sole_user(nodes["x"]) is nodes["a"]  # reads it twice
    assert dataflow.sole_user(nodes["a"]) is None
    assert dataflow.sole_user(nodes["f"]) is None


def test_reaching(nodes: dict[str, fx.Node]) -> None:
    assert dataflow.reaches(nodes["x"], nodes["out"])
    assert dataflow.reaches(nodes["b"], nodes["b"])
    assert not dataflow.reaches(nodes["b"], nodes["c"])
    assert dataflow.ancestors([nodes["e"]]) == {nodes["e"], nodes["w"]}
    assert nodes["e"] not in dataflow.depends_on_inputs(nodes["x"].graph)


@pytest.mark.parametrize(
    ("names", "convex"), [("abcd", True), ("abd", False), ("bc", True), ("ad", False), ("xa", True), ("ed", True)]
)
def test_convexity(nodes: dict[str, fx.Node], names: str, convex: bool) -> None:
    assert dataflow.is_convex([nodes[name] for name in names]) is convex


def test_boundary(nodes: dict[str, fx.Node]) -> None:
    inputs, outputs = dataflow.boundary([nodes["b"], nodes["c"], nodes["d"]])
    assert inputs == [nodes["a"], nodes["e"]]
    assert outputs == [nodes["d"]]


def test_weights(nodes: dict[str, fx.Node]) -> None:
    weight = torch.ones(2)
    spec = [TensorSpec("x", "float32", (2,))]
    program = Program(nodes["x"].graph, {"w": weight}, Signature.of_tensors(spec, spec))
    assert dataflow.weight_of(nodes["w"], program) is weight
    assert dataflow.weight_of(nodes["e"], program) is None
    assert dataflow.weight_of(3, program) is None
    assert dataflow.weight_readers(program.graph) == {"w": [nodes["e"]]}
