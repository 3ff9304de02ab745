"""ExportedProgram → Program: weights as `get_attr`, constants in the signature, provenance on every node.

    exported(params, buffers, constants, *user_inputs)  →  program(*tensors),  weights by qualified name

torch.export lifts every parameter, buffer and constant to an input; `.module()` would put them back together
with `copy_` for what the forward mutates, so we unlift by the graph signature ourselves and refuse mutation.
Weights share storage with the model. One storage under two names (tied weights) is stored once, under the
first name in `state_dict` order.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import torch
from torch import fx
from torch.export import ExportedProgram
from torch.export.graph_signature import ConstantArgument, InputKind, InputSpec, OutputKind, OutputSpec, TensorArgument

from ..errors import CaptureError, DynamicShapeError, MutatedBufferError, TrainModeError
from .functional import NO_STATE, is_training, place_of, refuse_odd_call, refuse_unreadable
from .origins import origin
from .program import Origin, Program
from .signature import Parameter, Signature, TensorSpec, input_names, output_names, unique_name
from .structure import Structure
from .trees import LEAF, constant, structure

_WEIGHTS = (InputKind.PARAMETER, InputKind.BUFFER, InputKind.CONSTANT_TENSOR)
_MUTATIONS = {
    OutputKind.BUFFER_MUTATION: "buffer",
    OutputKind.PARAMETER_MUTATION: "parameter",
    OutputKind.USER_INPUT_MUTATION: "input",
}


def unlift(
    exported: ExportedProgram, parameters: Sequence[Parameter], name: str, frozen: Mapping[str, tuple[str, Any]]
) -> Program:
    """The Program of an ExportedProgram whose graph is decomposed and functional.

    `frozen` turns user inputs into weights: placeholder name → (qualified name, tensor). It is for Dynamo,
    whose graphs take parameters as inputs; these have flat positional arguments.
    """
    return _Unlift(exported, tuple(parameters), name, frozen).run()


class _Unlift:
    """One run of `unlift`: reads `exported`, fills `graph` and `weights`."""

    def __init__(
        self,
        exported: ExportedProgram,
        parameters: tuple[Parameter, ...],
        name: str,
        frozen: Mapping[str, tuple[str, Any]],
    ) -> None:
        self.exported = exported
        self.parameters = parameters
        self.name = name
        self.frozen = frozen
        self.graph = fx.Graph()
        self.env: dict[fx.Node, Any] = {}
        self.weights: dict[str, torch.Tensor] = {}
        self.nodes = {node.name: node for node in exported.graph.nodes}
        results = [s.arg.name for s in exported.graph_signature.output_specs if s.kind is OutputKind.USER_OUTPUT]
        self.live = _behind([self.nodes[name] for name in results if name in self.nodes])

    def run(self) -> Program:
        """Check, then copy the graph node by node."""
        tree = self._input_tree()
        names = dict(zip(self._tensor_inputs(), input_names(tree, self.parameters), strict=True))
        self._refuse_symbolic_inputs(names)
        self._refuse_training()
        self._refuse_mutation(names)
        inputs = tuple(_spec(name, self.nodes[node].meta["val"]) for node, name in names.items())
        self._placeholders(names, Signature(inputs, (), tree, Structure("tuple"), self.parameters))
        self._get_attrs()
        for node in self.exported.graph.nodes:
            if node.op == "call_function" and node in self.live:
                self._call(node)
        output_tree, results = self._outputs()
        outputs = [_spec(name, r.meta["val"]) for name, r in zip(output_names(output_tree), results, strict=True)]
        output = self.graph.output(tuple(results))
        output.meta.update(val=tuple(r.meta["val"] for r in results), origins=())
        signature = Signature(inputs, tuple(outputs), tree, output_tree, self.parameters)
        return Program(self.graph, self.weights, signature, name=self.name)

    def _user_inputs(self) -> list[InputSpec]:
        """The specs of what the caller passes, without what `frozen` takes away."""
        specs = self.exported.graph_signature.input_specs
        return [s for s in specs if s.kind is InputKind.USER_INPUT and s.arg.name not in self.frozen]

    def _tensor_inputs(self) -> list[str]:
        """Placeholder names of the tensors among the user inputs."""
        return [spec.arg.name for spec in self._user_inputs() if isinstance(spec.arg, TensorArgument)]

    def _input_tree(self) -> Structure:
        """The Structure of (args, kwargs); constants stand in it with their values."""
        leaves = [_input_leaf(spec) for spec in self._user_inputs()]
        if self.frozen:
            return Structure("tuple", (Structure("tuple", tuple(leaves)), Structure("dict")))
        return structure(self.exported.call_spec.in_spec, leaves)

    def _refuse_symbolic_inputs(self, names: Mapping[str, str]) -> None:
        """Only static shapes for now; say which dimension of which input is not."""
        for node, name in names.items():
            for i, dim in enumerate(self.nodes[node].meta["val"].shape):
                if not isinstance(dim, int):
                    raise DynamicShapeError(
                        f"Dimension {i} of input {name!r} is symbolic ({dim}).",
                        "Export without dynamic_shapes, or compile one program for each shape that occurs.",
                    )

    def _refuse_training(self) -> None:
        """Ops that exist only while training, wherever they come from."""
        found = [node for node in self.exported.graph.nodes if is_training(node)]
        if found:
            layers = [f"{origin(node).layer or '(top level)'} ({node.target})" for node in found]
            more = f" and {len(layers) - 4} more" if len(layers) > 4 else ""
            raise TrainModeError(
                f"The graph contains {len(found)} training-mode operator(s): {', '.join(layers[:4])}{more}.",
                "Call model.eval() before exporting, and pass training=False to functional dropout.",
            )

    def _refuse_mutation(self, names: Mapping[str, str]) -> None:
        """State has no place in an inference graph yet; a note that no later call reads is none."""
        for spec in self.exported.graph_signature.output_specs:
            if spec.kind is OutputKind.BUFFER_MUTATION and self._is_note(spec):
                continue
            if spec.kind in _MUTATIONS:
                kind, target = _MUTATIONS[spec.kind], spec.target or ""
                if target in self.frozen:
                    kind, target = "buffer or parameter", self.frozen[target][0]
                where = place_of(self.nodes.get(spec.arg.name))
                raise MutatedBufferError(
                    f"The forward pass writes {kind} {names.get(target, target)!r}{where}.",
                    NO_STATE,
                )
            if spec.kind is not OutputKind.USER_OUTPUT:
                raise CaptureError(
                    f"The exported program has an output of kind {spec.kind.name}.", "Export the inference forward."
                )

    def _is_note(self, spec: OutputSpec) -> bool:
        """Whether a write to a buffer depends on weights alone, and on no call before: nobody reads that buffer."""
        inputs = self.exported.graph_signature.input_specs
        users = {s.arg.name for s in inputs if s.kind is InputKind.USER_INPUT}
        buffer = {s.arg.name for s in inputs if s.target == spec.target}
        written = _behind([self.nodes[spec.arg.name]])
        return not any(node.name in users for node in written) and not any(
            node.name in buffer for node in (*self.live, *written)
        )

    def _placeholders(self, names: Mapping[str, str], signature: Signature) -> None:
        """One placeholder for each tensor input, unused ones too."""
        for old, target in zip(names, signature.placeholders, strict=True):
            new = self.graph.placeholder(target)
            new.meta.update(val=self.nodes[old].meta["val"], origins=())
            self.env[self.nodes[old]] = new

    def _get_attrs(self) -> None:
        """One `get_attr` for each weight that is read, tied ones sharing it."""
        names = self._first_names()
        nodes: dict[tuple[Any, ...], fx.Node] = {}
        entries = [entry for spec in self.exported.graph_signature.input_specs if (entry := self._weight(spec))]
        for old, qualified, tensor in entries:
            if old not in self.live:
                continue
            identity = _storage(tensor)
            if identity not in nodes:
                name = unique_name(names.get(identity, qualified), tuple(self.weights))
                refuse_unreadable(name, tensor)
                nodes[identity] = self._get_attr(name, tensor, old)
            self.env[old] = nodes[identity]

    def _first_names(self) -> dict[tuple[Any, ...], str]:
        """The first name of each storage; export itself keeps the last one of tied weights."""
        names: dict[tuple[Any, ...], str] = {}
        for table in (self.exported.state_dict, self.exported.constants):
            for name, value in table.items():
                if isinstance(value, torch.Tensor):
                    names.setdefault(_storage(value), name)
        return names

    def _weight(self, spec: InputSpec) -> tuple[fx.Node, str, torch.Tensor] | None:
        """(placeholder, qualified name, tensor) if this input of the exported graph is a weight."""
        node = self.nodes.get(spec.arg.name)
        if node is None:
            return None
        if spec.arg.name in self.frozen:
            return (node, *self.frozen[spec.arg.name])
        if spec.kind in _WEIGHTS:
            target = spec.target or ""
            table = self.exported.state_dict if target in self.exported.state_dict else self.exported.constants
            return node, target, table[target]
        if spec.kind is not InputKind.USER_INPUT:
            raise CaptureError(f"The model holds {spec.arg.name!r}, a {spec.kind.name}.", "Use plain tensors only.")
        return None

    def _get_attr(self, qualified: str, tensor: torch.Tensor, old: fx.Node) -> fx.Node:
        """Store the weight and read it."""
        self.weights[qualified] = tensor.detach()
        new = self.graph.create_node("get_attr", qualified)
        new.meta.update(val=_without_grad(old.meta["val"]), origins=(_owner(qualified),))
        return new

    def _call(self, node: fx.Node) -> None:
        """Copy one call, after a check that it can be part of a functional static graph."""
        refuse_odd_call(node)
        new = self.graph.node_copy(node, self._value)
        new.meta = {"val": _without_grad(node.meta["val"]), "origins": (origin(node),)}
        self.env[node] = new

    def _value(self, node: fx.Node) -> Any:
        """The new graph's value for an argument: a node, or the constant behind a constant input."""
        if node not in self.env:
            spec = next(s for s in self._user_inputs() if s.arg.name == node.name)
            return spec.arg.value if isinstance(spec.arg, ConstantArgument) else None
        return self.env[node]

    def _outputs(self) -> tuple[Structure, list[fx.Node]]:
        """The Structure of what the model returns and the nodes at its leaves."""
        specs = [s for s in self.exported.graph_signature.output_specs if s.kind is OutputKind.USER_OUTPUT]
        tree = structure(self.exported.call_spec.out_spec, [_output_leaf(spec, self.nodes) for spec in specs])
        return tree, [self.env[self.nodes[s.arg.name]] for s in specs if isinstance(s.arg, TensorArgument)]


def _behind(results: Iterable[fx.Node]) -> set[fx.Node]:
    """Nodes that these values need, themselves too (a functional graph has no other effects)."""
    live: set[fx.Node] = set()
    pending = list(results)
    while pending:
        node = pending.pop()
        if node not in live:
            live.add(node)
            pending.extend(node.all_input_nodes)
    return live


def _input_leaf(spec: InputSpec) -> Structure:
    """Leaf or constant of the input tree."""
    if isinstance(spec.arg, TensorArgument):
        return LEAF
    if isinstance(spec.arg, ConstantArgument):
        return constant(spec.arg.value, f"Input {spec.arg.name!r}")
    raise DynamicShapeError(
        f"Input {spec.arg.name!r} is a symbolic number ({type(spec.arg).__name__}).",
        "Pass it as a plain Python number, which is then fixed, or as a tensor.",
    )


def _output_leaf(spec: OutputSpec, nodes: Mapping[str, fx.Node]) -> Structure:
    """Leaf or constant of the output tree."""
    if isinstance(spec.arg, TensorArgument):
        return LEAF
    if isinstance(spec.arg, ConstantArgument):
        return constant(spec.arg.value, "An output")
    raise CaptureError(
        f"The model returns a number that depends on its inputs{place_of(nodes.get(spec.arg.name))}.",
        "Return a tensor instead (leave out .item() and len()).",
    )


def _spec(name: str, value: torch.Tensor) -> TensorSpec:
    """The TensorSpec of a fake tensor."""
    return TensorSpec(name, str(value.dtype).removeprefix("torch."), tuple(value.shape))


def _storage(tensor: torch.Tensor) -> tuple[Any, ...]:
    """Equal for tensors that are the same elements in the same order; those without storage differ by identity."""
    if tensor.layout is not torch.strided or tensor.is_meta or not tensor.numel():
        return (id(tensor),)
    place = tensor.untyped_storage().data_ptr()
    return place, tensor.storage_offset(), tuple(tensor.shape), tensor.stride(), tensor.dtype


def _without_grad(value: Any) -> Any:
    """Fake values as inference sees them."""
    if isinstance(value, torch.Tensor):
        return value.detach() if value.requires_grad else value
    return tuple(_without_grad(v) for v in value) if isinstance(value, list | tuple) else value


def _owner(qualified: str) -> Origin:
    """The origin of a weight: the module that holds it."""
    return Origin(qualified.rpartition(".")[0])
