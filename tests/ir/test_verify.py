"""The verifier: one broken program for each rule."""

from __future__ import annotations

import operator
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import fx

from planish.errors import VerifyError
from planish.ir.fake import Fakes
from planish.ir.program import Origin, Program, Region, Stage
from planish.ir.signature import Signature, TensorSpec
from planish.ir.structure import Structure
from planish.ir.verify import verify

aten = torch.ops.aten
FAKES = Fakes()
HERE = (Origin("layer"),)


def fake(*shape: int, dtype: torch.dtype = torch.float32) -> torch.Tensor:
    return FAKES.of(torch.empty(shape, dtype=dtype))


def placeholder(graph: fx.Graph, name: str, *shape: int) -> fx.Node:
    node = graph.placeholder(name)
    node.meta = {"val": fake(*shape), "origins": ()}
    return node


def call(graph: fx.Graph, op: Any, *args: Any, **kwargs: Any) -> fx.Node:
    node = graph.call_function(op, args, kwargs)
    node.meta = {"val": FAKES.run(op, args, kwargs), "origins": HERE}
    return node


def weight(graph: fx.Graph, name: str, *shape: int) -> fx.Node:
    node = graph.create_node("get_attr", name)
    node.meta = {"val": fake(*shape), "origins": HERE}
    return node


def build(stage: Stage = Stage.NORMALIZED, body: Callable[[fx.Graph, fx.Node], fx.Node] | None = None) -> Program:
    """relu(x * w), or `body` in the place of the relu."""
    graph = fx.Graph()
    x, w = placeholder(graph, "x", 2, 3), weight(graph, "w", 3)
    y = call(graph, aten.mul.Tensor, x, w)
    y = call(graph, aten.relu.default, y) if body is None else body(graph, y)
    graph.output((y,))
    out = y.meta["val"]
    spec = TensorSpec("0", str(out.dtype).removeprefix("torch."), tuple(out.shape))
    signature = Signature.of_tensors([TensorSpec("x", "float32", (2, 3))], [spec])
    return Program(graph, {"w": torch.ones(3)}, signature, stage=stage)


def grouped() -> Program:
    """One region that computes relu(x * w)."""
    body = fx.Graph()
    a, b = placeholder(body, "a", 2, 3), placeholder(body, "b", 3)
    body.output(call(body, aten.relu.default, call(body, aten.mul.Tensor, a, b)))
    graph = fx.Graph()
    x, w = placeholder(graph, "x", 2, 3), weight(graph, "w", 3)
    y = graph.create_node("call_module", "r0", (x, w))
    y.meta = {"val": fake(2, 3), "origins": HERE}
    graph.output((y,))
    spec = TensorSpec("x", "float32", (2, 3))
    region = Region("r0", "pointwise", body, None, ("layer",))
    return Program(
        graph, {"w": torch.ones(3)}, Signature.of_tensors([spec], [spec]), stage=Stage.GROUPED, regions={"r0": region}
    )


def node(program: Program, name: str) -> fx.Node:
    return next(n for n in program.graph.nodes if n.name == name)


def breaks(program: Program, rule: str) -> None:
    with pytest.raises(VerifyError, match=rule):
        verify(program)


@pytest.mark.parametrize("stage", [Stage.CAPTURED, Stage.NORMALIZED, Stage.OPTIMIZED])
def test_a_sound_program_passes(stage: Stage) -> None:
    verify(build(stage))


def test_floats_have_a_reason_where_integers_are_expected() -> None:
    program = build(Stage.QUANTIZED)
    breaks(program, 'QUANTIZED says in meta."float". why it computes with floats, here mul_tensor')
    for node in program.graph.nodes:
        node.meta["float"] = "the test wants floats"
    verify(program)


def test_a_sound_grouped_program_passes() -> None:
    verify(grouped())


def test_the_signature_is_kept() -> None:
    program = build()
    (spec,) = program.signature.inputs
    other = Signature.of_tensors([TensorSpec("z", "float32", (2, 3))], program.signature.outputs)
    breaks(program.evolve(signature=other), r"placeholders \['x'\] are the inputs \['z'\]")
    other = Signature.of_tensors([TensorSpec("x", "float32", (2, 4))], program.signature.outputs)
    breaks(program.evolve(signature=other), r"Node x .*its value is x: float32\[2, 3\], the signature says .*2, 4\]")
    other = Signature.of_tensors([spec], [TensorSpec("0", "int64", (2, 3))])
    breaks(program.evolve(signature=other), r"Node relu_default .*float32\[2, 3\], the signature says 0: int64")
    other = Signature.of_tensors([spec], [])
    breaks(program.evolve(signature=other), "it has 1 values, the signature 0")
    tree = Structure("tuple", (Structure("leaf"), Structure("leaf")))
    other = Signature((spec,), program.signature.outputs, program.signature.input_tree, tree)
    breaks(program.evolve(signature=other), "as many leaves as there are tensors, 1")


def test_the_output_is_a_flat_tuple() -> None:
    program = build()
    program.graph.output_node().args = (node(program, "relu_default"),)
    breaks(program, "the output is one flat tuple of nodes")


def test_the_output_node_is_last() -> None:
    program = build()
    program.graph.erase_node(program.graph.output_node())
    breaks(program, "the graph ends with its output node")


def test_arguments_come_first() -> None:
    program = build()
    node(program, "mul_tensor").append(node(program, "w"))
    breaks(program, "Node mul_tensor .*: its argument w is not computed before it")


def test_placeholders_come_first() -> None:
    program = build()
    node(program, "x").prepend(node(program, "w"))
    breaks(program, "Node x .*: placeholders come first")


def test_weights_exist_and_are_read() -> None:
    program = build()
    breaks(program.evolve(weights={}), "Node w .*: get_attr reads a key of the weights")
    breaks(program.evolve(weights={**program.weights, "v": torch.ones(1)}), "weights that nobody reads .*'v'")
    breaks(program.evolve(weights={"w": torch.ones(1)}), r"float32\[3\], the weight is float32\[1\]")


@pytest.mark.parametrize(
    ("key", "value", "rule"),
    [
        ("val", None, "is a FakeTensor, not NoneType"),
        ("val", torch.ones(2, 3), "is a FakeTensor, not Tensor"),
        ("val", fake(3, 2), r"is float32\[3, 2\], what the op returns is float32\[2, 3\]"),
        ("val", fake(2, 3, dtype=torch.float64), "is float64"),
        ("origins", None, "is a tuple of Origin"),
        ("origins", ("layer",), "is a tuple of Origin"),
    ],
)
def test_metadata_is_there_and_true(key: str, value: object, rule: str) -> None:
    program = build()
    node(program, "mul_tensor").meta[key] = value
    breaks(program, f"Node mul_tensor .*{rule}")


def test_values_are_recomputed_only_when_asked() -> None:
    program = build()
    node(program, "mul_tensor").meta["val"] = fake(3, 2)
    verify(program, values=False)


def test_calls_are_functional_aten() -> None:
    breaks(build(body=lambda g, y: call(g, aten.relu_.default, y)), "this op writes its arguments")
    breaks(build(body=lambda g, y: call(g, torch.relu, y)), "calls target ATen overloads")
    program = build()
    node(program, "relu_default").op = "call_method"
    breaks(program, "only placeholder, get_attr")


def test_calls_take_their_arguments() -> None:
    program = build()
    node(program, "relu_default").args = (node(program, "mul_tensor"), 3)
    breaks(program, "Node relu_default .*: the op does not take these arguments")


def test_modules_are_for_grouped_programs() -> None:
    breaks(grouped().evolve(stage=Stage.OPTIMIZED), "call_module exists at stage GROUPED only")
    breaks(grouped().evolve(regions={}), "and targets a region")


SPELLINGS: dict[str, tuple[Callable[[fx.Graph, fx.Node], fx.Node], str]] = {
    "other op": (lambda g, y: call(g, aten.view.default, y, [6]), "NORMALIZED spells it reshape"),
    "no-op": (lambda g, y: call(g, aten.clone.default, y), "NORMALIZED spells it its own argument"),
    "defaults": (lambda g, y: call(g, aten.leaky_relu.default, y), "all 2 positional arguments, here are 1"),
    "keywords": (lambda g, y: call(g, aten._softmax.default, y, 1, half_to_float=False), "all 3 positional"),
    "negative dims": (lambda g, y: call(g, aten.cat.default, [y, y], -1), "from the front, not -1"),
    "negative order": (lambda g, y: call(g, aten.permute.default, y, [0, -1]), r"from the front, not \[0, -1\]"),
}


@pytest.mark.parametrize("case", SPELLINGS)
def test_normalized_has_one_spelling(case: str) -> None:
    body, rule = SPELLINGS[case]
    verify(build(Stage.CAPTURED, body))
    breaks(build(Stage.NORMALIZED, body), rule)


def test_several_results_are_read_by_getitem() -> None:
    def body(graph: fx.Graph, y: fx.Node) -> fx.Node:
        top = call(graph, aten.topk.default, y, 2, 1, True, True)
        return call(graph, operator.getitem, top, 0)

    verify(build(body=body))


def test_grouped_calls_regions_only() -> None:
    breaks(build(Stage.GROUPED), "GROUPED calls regions only")
    program = grouped()
    breaks(program.evolve(regions={**program.regions, "r1": program.regions["r0"]}), "but 'r1' is not")


def region_with(**changes: Any) -> Program:
    program = grouped()
    region = program.regions["r0"]
    for name, value in changes.items():
        setattr(region, name, value)
    return program


def test_regions_fit_their_calls() -> None:
    breaks(region_with(kind="magic"), "unknown kind 'magic'")
    breaks(region_with(anchor="nothing"), "anchor 'nothing' is not in the body")
    program = grouped()
    node(program, "r0").args = (node(program, "x"), node(program, "w"), node(program, "w"))
    breaks(program, "passes 3 arguments to a region of 2")
    program = grouped()
    node(program, "r0").args = (node(program, "w"), node(program, "x"))
    breaks(program, r"is float32\[2, 3\], the argument w of r0 is float32\[3\]")
    program = grouped()
    node(program, "r0").args = (3, node(program, "w"))
    breaks(program, "regions take nodes only")
    program = grouped()
    node(program, "r0").meta["val"] = fake(3, 2)
    program.signature = Signature.of_tensors(program.signature.inputs, [TensorSpec("x", "float32", (3, 2))])
    breaks(program, r"is float32\[3, 2\], what its region returns is float32\[2, 3\]")


def test_bodies_are_verified_like_the_outer_graph() -> None:
    program = grouped()
    body = program.regions["r0"].body
    first = next(n for n in body.nodes if n.name == "mul_tensor")
    first.meta["val"] = fake(3, 2)
    breaks(program, "Node mul_tensor .*what the op returns")
    program = grouped()
    body = program.regions["r0"].body
    with body.inserting_before(next(n for n in body.nodes if n.name == "mul_tensor")):
        weight(body, "w", 3)
    breaks(program, "a region owns no constants")
    program = grouped()
    body = program.regions["r0"].body
    body.output_node().args = ((body.output_node().args[0],),)
    breaks(program, "its region returns a single node")
    program = grouped()
    body = program.regions["r0"].body
    relu = next(n for n in body.nodes if n.name == "relu_default")
    relu.target = aten.clone.default
    breaks(program, "NORMALIZED spells it its own argument")
