"""The verifier: every invariant of `program`, stage by stage. Small, and run after every pass.

    verify(program) is None   or   VerifyError naming the node and the rule it breaks

A failure is a defect of the pass that made the program, never of the user's model.
"""

from __future__ import annotations

import operator
from collections.abc import Iterable, Sequence
from typing import Any, NoReturn

import torch
from torch import fx
from torch._subclasses.fake_tensor import FakeTensor

from ..errors import VerifyError
from .fake import Fakes
from .normal import RESPELLED
from .program import Origin, Program, Region, Stage
from .signature import TensorSpec

KINDS = frozenset(
    (
        "conv",
        "linear",
        "matmul",
        "attention",
        "pool",
        "reduce",
        "normalize",
        "softmax",
        "concat",
        "embedding",
        "pointwise",
        "view",
        "other",
    )
)
"""What a Region's `kind` may be."""
CONVERTERS = ("planish.quantize.default", "planish.dequantize.default")
"""Where floats become integers, and back."""


def verify(program: Program, *, values: bool = True) -> None:
    """Raise VerifyError if the program breaks a rule of its stage.

    `values` also recomputes every `meta["val"]` from its arguments.
    """
    _structure(program)
    _interface(program)
    fakes = Fakes(program.graph) if values else None
    for node in program.graph.nodes:
        _node(node, program, fakes)
    if program.stage >= Stage.NORMALIZED:
        for body in (program.graph, *(region.body for region in program.regions.values())):
            _spelling(body)
    if program.stage == Stage.QUANTIZED:
        _quantized(program)
    if program.stage >= Stage.GROUPED:
        _grouped(program, fakes)


def _broken(node: fx.Node | None, rule: str) -> NoReturn:
    """Say which node breaks which rule."""
    where = f"Node {node.name} ({node.op} {node.target}): " if node is not None else ""
    raise VerifyError(f"{where}{rule}.", "The pass that made this program is at fault: print it before and after.")


def _structure(program: Program) -> None:
    """The graph is a well-formed fx graph with placeholders first and one output last."""
    seen: set[fx.Node] = set()
    nodes = list(program.graph.nodes)
    if not nodes or nodes[-1].op != "output":
        _broken(nodes[-1] if nodes else None, "the graph ends with its output node")
    for node in nodes:
        if node.op == "placeholder" and any(other.op != "placeholder" for other in seen):
            _broken(node, "placeholders come first")
        for source in node.all_input_nodes:
            if source not in seen:
                _broken(node, f"its argument {source.name} is not computed before it in this graph")
        seen.add(node)


def _interface(program: Program) -> None:
    """Placeholders, weights and outputs are what the signature and the weights table say."""
    signature = program.signature
    holders = [node for node in program.graph.nodes if node.op == "placeholder"]
    if tuple(node.target for node in holders) != signature.placeholders:
        _broken(None, f"placeholders {[n.target for n in holders]} are the inputs {list(signature.placeholders)}")
    for node, spec in zip(holders, signature.inputs, strict=True):
        _matches(node, spec)
    output = program.graph.output_node()
    results = output.args[0]
    if not isinstance(results, tuple) or not all(isinstance(r, fx.Node) for r in results):
        _broken(output, "the output is one flat tuple of nodes")
    if len(results) != len(signature.outputs):
        _broken(output, f"it has {len(results)} values, the signature {len(signature.outputs)}")
    for result, spec in zip(results, signature.outputs, strict=True):
        assert isinstance(result, fx.Node)
        _matches(result, spec)
    for tree, specs in ((signature.input_tree, signature.inputs), (signature.output_tree, signature.outputs)):
        if tree.leaf_count != len(specs):
            _broken(None, f"the tree {tree} has as many leaves as there are tensors, {len(specs)}")
    read = {node.target for node in program.graph.nodes if node.op == "get_attr"}
    unread = [name for name in program.weights if name not in read]
    if unread:
        _broken(None, f"weights that nobody reads are dropped, but {unread[0]!r} is there")


def _matches(node: fx.Node, spec: TensorSpec) -> None:
    """A node's value is what the signature promises."""
    value = node.meta.get("val")
    if not isinstance(value, torch.Tensor):
        _broken(node, f"its value should be the tensor {spec}, not {value}")
    found = TensorSpec(spec.name, str(value.dtype).removeprefix("torch."), tuple(value.shape))
    if found != spec:
        _broken(node, f"its value is {found}, the signature says {spec}")


def _node(node: fx.Node, program: Program, fakes: Fakes | None) -> None:
    """One node of the outer graph: its target exists, its metadata is there and true."""
    if node.op == "output":
        return
    _metadata(node)
    if node.op == "get_attr":
        weight = program.weights.get(str(node.target))
        if weight is None:
            _broken(node, "get_attr reads a key of the weights")
        _same_value(node, weight, "the weight")
    elif node.op == "call_module":
        if program.stage < Stage.GROUPED or str(node.target) not in program.regions:
            _broken(node, "call_module exists at stage GROUPED only, and targets a region")
    elif node.op == "call_function":
        _call(node, fakes)
    elif node.op != "placeholder":
        _broken(node, "only placeholder, get_attr, call_function, call_module and output exist")


def _metadata(node: fx.Node) -> None:
    """`val` is a fake tensor or a tuple of them, of static shape; `origins` a tuple of Origin."""
    value = node.meta.get("val")
    values = value if isinstance(value, tuple | list) else (value,)
    for part in values:
        if part is None and len(values) > 1:
            continue
        if not isinstance(part, FakeTensor):
            _broken(node, f'meta["val"] is a FakeTensor, not {type(part).__name__}')
        if not all(isinstance(dim, int) for dim in part.shape):
            _broken(node, f"shapes are static, not {list(part.shape)}")
    origins = node.meta.get("origins")
    if not isinstance(origins, tuple) or not all(isinstance(origin, Origin) for origin in origins):
        _broken(node, 'meta["origins"] is a tuple of Origin')


def _call(node: fx.Node, fakes: Fakes | None) -> None:
    """A call of a functional ATen op (or getitem) whose value is what the op returns."""
    if node.target is not operator.getitem:
        if not isinstance(node.target, torch._ops.OpOverload):
            _broken(node, "calls target ATen overloads")
        if node.target._schema.is_mutable:
            _broken(node, "the graph is functional, this op writes its arguments")
    if fakes is None:
        return
    try:
        value = fakes.run(node.target, node.args, node.kwargs)
    except Exception as error:
        _broken(node, f"the op does not take these arguments: {str(error).splitlines()[0] if str(error) else error!r}")
    _same_value(node, value, "what the op returns")


def _same_value(node: fx.Node, expected: Any, what: str) -> None:
    """Shapes and dtypes of `meta["val"]` equal those of `expected`."""
    mine, theirs = _types(node.meta["val"]), _types(expected)
    if mine != theirs:
        _broken(node, f'meta["val"] is {mine}, {what} is {theirs}')


def _types(value: Any) -> Any:
    """`float32[2, 3]`, or a list of such."""
    if isinstance(value, torch.Tensor):
        return f"{str(value.dtype).removeprefix('torch.')}{list(value.shape)}"
    return [_types(part) for part in value] if isinstance(value, tuple | list) else value


def _spelling(graph: fx.Graph) -> None:
    """NORMALIZED: one spelling for each meaning, all positional arguments written out."""
    for node in graph.nodes:
        if node.op != "call_function" or not isinstance(node.target, torch._ops.OpOverload):
            continue
        if node.target in RESPELLED:
            _broken(node, f"NORMALIZED spells it {RESPELLED[node.target]}")
        arguments = node.target._schema.arguments
        positional = [a.name for a in arguments if not a.kwarg_only]
        if len(node.args) != len(positional):
            _broken(node, f"NORMALIZED writes all {len(positional)} positional arguments, here are {len(node.args)}")
        if any(name in positional for name in node.kwargs):
            _broken(node, "NORMALIZED passes only keyword-only arguments by keyword")
        _dims(node)


def _dims(node: fx.Node) -> None:
    """Dimensions count from the front."""
    aten = torch.ops.aten
    place = {aten.permute.default: 1, aten.cat.default: 1, aten.slice.Tensor: 1, aten._softmax.default: 1}
    if node.target in place:
        dims: Any = node.args[place[node.target]]
        if any(dim < 0 for dim in (dims if isinstance(dims, Iterable) else [dims])):
            _broken(node, f"NORMALIZED counts dimensions from the front, not {dims}")


def _quantized(program: Program) -> None:
    """QUANTIZED: floats stand between `dequantize` and `quantize` only, with a reason; codes are of their dtype."""
    for node in program.graph.nodes:
        quant = node.meta.get("quant")
        if quant is not None and node.meta["val"].dtype != quant.dtype:
            _broken(node, f'meta["quant"] says {quant.dtype}, its value is {node.meta["val"].dtype}')
        if node.op != "call_function" or str(node.target) in CONVERTERS or "float" in node.meta:
            continue
        floating = [value for value in (node, *node.all_input_nodes) if _is_floating(value)]
        if floating:
            _broken(node, f'QUANTIZED says in meta["float"] why it computes with floats, here {floating[0].name}')


def _is_floating(node: fx.Node) -> bool:
    value = node.meta.get("val")
    return isinstance(value, torch.Tensor) and value.dtype.is_floating_point


def _grouped(program: Program, fakes: Fakes | None) -> None:
    """GROUPED: regions only, each called, and each body consistent with its call."""
    called = {str(node.target) for node in program.graph.nodes if node.op == "call_module"}
    unused = [name for name in program.regions if name not in called]
    if unused:
        _broken(None, f"every region is called, but {unused[0]!r} is not")
    for node in program.graph.nodes:
        if node.op == "call_function":
            _broken(node, "GROUPED calls regions only")
        if node.op == "call_module":
            _region(node, program.regions[str(node.target)], fakes)


def _region(call: fx.Node, region: Region, fakes: Fakes | None) -> None:
    """A region's body computes the call's value from the call's arguments."""
    if region.kind not in KINDS:
        _broken(call, f"its region is of unknown kind {region.kind!r}")
    if region.anchor is not None and region.anchor_node is None:
        _broken(call, f"its region's anchor {region.anchor!r} is not in the body")
    holders = region.placeholders
    if len(holders) != len(call.args) or call.kwargs:
        _broken(call, f"it passes {len(call.args)} arguments to a region of {len(holders)} inputs")
    for holder, argument in zip(holders, call.args, strict=True):
        if not isinstance(argument, fx.Node):
            _broken(call, "regions take nodes only, constants stand in their bodies")
        _same_value(holder, argument.meta["val"], f"the argument {argument.name} of {call.name}")
    _body(region.body, fakes)
    result = region.body.output_node().args[0]
    if not isinstance(result, fx.Node):
        _broken(call, "its region returns a single node")
    _same_value(call, result.meta["val"], "what its region returns")


def _body(body: fx.Graph, fakes: Fakes | None) -> None:
    """A body holds placeholders and calls, well-formed like the outer graph."""
    seen: set[fx.Node] = set()
    nodes: Sequence[fx.Node] = list(body.nodes)
    for node in nodes:
        if any(source not in seen for source in node.all_input_nodes):
            _broken(node, "its arguments are computed before it in its region")
        seen.add(node)
        if node.op == "output":
            continue
        if node.op not in ("placeholder", "call_function"):
            _broken(node, "a region owns no constants and calls no modules")
        _metadata(node)
        if node.op == "call_function":
            _call(node, fakes)
