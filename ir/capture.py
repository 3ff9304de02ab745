"""The only ways in: nn.Module, ExportedProgram, `.pt2` file or Dynamo graph → Program.

    capture(model, args)(*args) == model(*args)

All go through `torch.export` with decompositions {}: the graph becomes functional (in-place writes, views
and hooks are gone) while conv2d, linear, layer_norm and scaled_dot_product_attention stay whole. Shapes are
static, state is refused, and Python values in the arguments become constants of the signature.

A model in train mode is refused: `model.training`, or any submodule left in train mode whose class behaves
differently there (batch norm, dropout, or a forward that reads `self.training`).
"""

from __future__ import annotations

import copy
import operator
import os
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import fx, nn
from torch._decomp import decomposition_table
from torch.export import ExportedProgram
from torch.export.graph_signature import OutputKind
from torch.utils import _pytree as pytree

from ..errors import CaptureError, DynamicShapeError, ModelError, MutatedBufferError, PlanishError, TrainModeError
from .detached import DataIsDetach
from .functional import NO_STATE, refuse_observers, refuse_unreadable
from .ops import OPS
from .optable import COMPOSITE
from .origins import dotted_path, error_source, root_name
from .picks import index_by_tensors
from .program import Program
from .quiet import quiet
from .signature import Parameter
from .trees import constant, forward_parameters
from .unlift import unlift

_ROUNDS = 4
"""How deep composite operators nest at most (bilinear → trilinear → products)."""

_OWNED = re.compile(r"""\._(?:parameters|buffers)\[['"][^'"]+['"]\]$""")


def capture(model: Any, args: Any = (), kwargs: Mapping[str, Any] | None = None, *, name: str | None = None) -> Program:
    """A Program from an nn.Module and example inputs, an ExportedProgram, or the path of a `.pt2` file.

    A lone tensor as `args` is one argument. An ExportedProgram has its own example inputs.
    """
    if isinstance(model, ExportedProgram):
        return capture_exported(model, name=name)
    if isinstance(model, str | os.PathLike):
        return capture_file(model, name=name)
    model = getattr(model, "_orig_mod", model)  # what torch.compile(model) wraps
    if not isinstance(model, nn.Module):
        raise ModelError(
            f"A {type(model).__qualname__} is not a model.", "Pass an nn.Module, an ExportedProgram or a .pt2 file."
        )
    if isinstance(model, torch.jit.ScriptModule):
        raise ModelError(f"{type(model).__qualname__} is TorchScript, which has no layers to capture.", _NO_SCRIPT)
    args = (args,) if isinstance(args, torch.Tensor) else tuple(args)
    refuse_observers(model)
    _refuse_train_mode(model)
    _check_examples(args, dict(kwargs or {}))
    for path, tensor in (*model.named_parameters(), *model.named_buffers()):
        refuse_unreadable(path, tensor)
    exported = _export(model, args, dict(kwargs or {}))
    return unlift(exported, forward_parameters(model.forward), name or type(model).__name__, {})


_NO_SCRIPT = "Pass the nn.Module that it was made from, or a program of torch.export."


def capture_exported(exported: ExportedProgram, *, name: str | None = None) -> Program:
    """A Program from an ExportedProgram."""
    return unlift(_decompose(exported), _exported_parameters(exported), name or "model", {})


def capture_file(path: str | os.PathLike[str], *, name: str | None = None) -> Program:
    """A Program from a file that `torch.export.save` wrote."""
    return capture_exported(load_exported(path), name=name or Path(path).stem)


def load_exported(path: str | os.PathLike[str]) -> ExportedProgram:
    """What `torch.export.save` wrote. Raises ModelError."""
    path = Path(path)
    if not path.is_file():
        raise ModelError(f"There is no file {str(path)!r}.", "Pass the path of a file written by torch.export.save.")
    try:
        with quiet():
            import torch.ao.quantization.fx._decomposed  # Q/DQ operators, which a file may hold

            return torch.export.load(path)
    except Exception as error:
        raise ModelError(
            f"{str(path)!r} is not a .pt2 file that this torch {torch.__version__} reads: {_first_line(error)}",
            "Write it with torch.export.save(torch.export.export(model, args), path) and the same torch version.",
        ) from error


def capture_dynamo(
    gm: fx.GraphModule,
    example_inputs: Sequence[Any],
    constants: Mapping[str, str] | None = None,
    *,
    name: str = "graph",
) -> Program:
    """A Program from a Dynamo graph; takes the placeholders not in `constants`, in order, returns a flat tuple.

    `constants` names what to freeze: placeholder name → qualified weight name; None asks Dynamo's sources
    (`dynamo_constants`). The weights are the `example_inputs` at these places.
    """
    if constants is None:
        constants = dynamo_constants(gm)
    holders = [node for node in gm.graph.nodes if node.op == "placeholder"]
    for node, value in zip(holders, example_inputs, strict=True):
        if isinstance(value, torch.SymInt | torch.SymFloat | torch.SymBool):
            raise DynamicShapeError(f"Input {node.name!r} is a symbolic number.", "Compile with dynamic=False.")
    exported = _export(gm, tuple(example_inputs), {})
    users = [spec for spec in exported.graph_signature.input_specs if spec.kind.name == "USER_INPUT"]
    frozen: dict[str, tuple[str, Any]] = {}
    parameters: list[Parameter] = []
    for node, value, spec in zip(holders, example_inputs, users, strict=True):
        if node.name in constants:
            frozen[spec.arg.name] = (constants[node.name], value)
        else:
            parameters.append(Parameter(_input_name(node)))
    return unlift(exported, parameters, name, frozen)


def dynamo_constants(gm: fx.GraphModule) -> dict[str, str]:
    """Placeholders of a Dynamo graph that are a module's parameters and buffers, with their qualified names.

    Plain tensor attributes stay inputs: Dynamo does not notice when they are replaced between calls.
    """
    sources = {node.name: source_name(node) for node in gm.graph.nodes if node.op == "placeholder"}
    owned = {name: source for name, source in sources.items() if _OWNED.search(source)}
    several = len({root_name(source) for source in owned.values()}) > 1
    return {
        name: f"{root_name(source)}.{dotted_path(source)}" if several else dotted_path(source)
        for name, source in owned.items()
    }


def source_name(node: fx.Node) -> str:
    """Where Dynamo found a placeholder's value, such as `L['self']._modules['fc']._parameters['weight']`."""
    source = getattr(node, "_dynamo_source", None)
    if source is None:
        source = getattr(node.meta.get("grapharg"), "source", None)
    name = getattr(source, "name", "")
    return str(name() if callable(name) else name)


def _input_name(node: fx.Node) -> str:
    """A Dynamo input's name as the user wrote it."""
    source = source_name(node)
    path = dotted_path(source)
    return ".".join(part for part in (root_name(source), path) if part) or node.name


def _export(model: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> ExportedProgram:
    """torch.export, with its warnings kept in and its errors turned into ours.

    Each example is passed as a tensor object of its own: export takes one object for one input, and would let
    two inputs that are the same example (or a weight) be the same for ever.
    """
    try:
        with quiet():
            args, kwargs = pytree.tree_map_only(torch.Tensor, _own_object, (args, kwargs))
            with DataIsDetach():
                exported = index_by_tensors(torch.export.export(_trackable(model), args, kwargs))
            return _settle(exported.run_decompositions({}))
    except PlanishError:
        raise
    except Exception as error:
        raise _capture_error(error) from error


def _own_object(tensor: torch.Tensor) -> torch.Tensor:
    """The same values as another tensor object, and one that may leave inference mode."""
    return tensor.clone() if tensor.is_inference() else tensor.detach()


def _trackable(model: nn.Module) -> nn.Module:
    """The model itself, or a copy if it was made in inference mode, whose tensors export cannot take."""
    held = [t for t in (*model.parameters(), *model.buffers()) if t.is_inference()]
    if not held:
        return model
    memo = {id(t): nn.Parameter(t.clone(), False) if isinstance(t, nn.Parameter) else t.clone() for t in held}
    return copy.deepcopy(model, memo)


def _decompose(exported: ExportedProgram) -> ExportedProgram:
    """Make an ExportedProgram functional."""
    try:
        with quiet():
            return _settle(index_by_tensors(exported.run_decompositions({})))
    except Exception as error:
        raise _capture_error(error) from error


def _settle(exported: ExportedProgram) -> ExportedProgram:
    """Break up composite and unknown operators by torch's own decompositions, until none is left that has one."""
    effectful: set[Any] = set()
    for _ in range(_ROUNDS):
        calls = {node.target for node in exported.graph.nodes if node.op == "call_function"}
        known = {op for op in calls if isinstance(op, torch._ops.OpOverload) and op.namespace != "torchao"}  # of codes
        wanted = {op for op in known if op in COMPOSITE or op not in OPS}
        table = torch.export.default_decompositions() if wanted else {}
        rules = {op: table[op] for op in wanted if op in table}
        rules |= {op: decomposition_table[op] for op in (wanted & COMPOSITE) - set(rules) if op in decomposition_table}
        rules = {op: rule for op, rule in rules.items() if op not in effectful}
        if not rules:
            break
        broken_up = exported.run_decompositions(rules)
        if _has_effects(broken_up):
            effectful |= {op for op in rules if _has_effects(exported.run_decompositions({op: rules[op]}))}
        else:
            exported = broken_up
    return exported


def _has_effects(exported: ExportedProgram) -> bool:
    """Whether an op raises errors as it runs (`linalg.inv` of a singular matrix): such ops stay whole."""
    return any(spec.kind is OutputKind.TOKEN for spec in exported.graph_signature.output_specs)


def _capture_error(error: Exception) -> CaptureError:
    """Say what the forward pass did, and on which line."""
    source = error_source(error.__traceback__)
    at = f" at {source}" if source else ""
    if "DataDependent" in type(error).__name__:
        return CaptureError(
            f"The forward pass branches on a value that it computed{at}.",
            "Use torch.where instead of `if`, or pass the value as a Python constant.",
        )
    mutated = re.search(r"Constant (\S+) is mutated", str(error))
    if mutated:
        return MutatedBufferError(f"The forward pass writes the tensor attribute {mutated.group(1)!r}.", NO_STATE)
    returned = re.search(r"Found <class '(?:\S+\.)?(\S+)'> in output", str(error))
    if returned:
        return CaptureError(
            f"The forward pass returns a {returned.group(1)}, which torch.export cannot take apart.",
            "Return tensors in tuples, lists or dicts, or call torch.export.register_dataclass on that class.",
        )
    return CaptureError(
        f"The forward pass failed under torch.export{at}: {type(error).__name__}: {_first_line(error)}",
        "Check that model(*args, **kwargs) runs with these example inputs and uses tensor operations only.",
    )


def _first_line(error: Exception) -> str:
    """The first line of a message that may be pages long."""
    lines = [line for line in str(error).splitlines() if line.strip()]
    return lines[0].strip() if lines else type(error).__name__


def _refuse_train_mode(model: nn.Module) -> None:
    """Train mode changes what batch norm and dropout compute; refuse it by name."""
    if _is_exported(model):
        return
    training = [(path or "(the model)", m) for path, m in model.named_modules() if m.training]
    wrong = [(path, m) for path, m in training if model.training or _mode_matters(m)]
    if wrong:
        matter = [(path, m) for path, m in wrong if _mode_matters(m)] or wrong
        shown = ", ".join(f"{path} ({type(m).__name__})" for path, m in matter[:4])
        more = f" and {len(matter) - 4} more" if len(matter) > 4 else ""
        total = sum(1 for _ in model.modules())
        raise TrainModeError(
            f"{len(training)} of {total} modules are in train mode: {shown}{more}.", "Call model.eval() first."
        )


def _is_exported(model: nn.Module) -> bool:
    """Whether a module is a graph of operators, which say themselves what they do: its flag is nobody's."""
    if not isinstance(model, fx.GraphModule):
        return False
    calls = [node.target for node in model.graph.nodes if node.op in ("call_function", "call_method", "call_module")]
    operators = [target for target in calls if target != "_guards_fn"]
    return bool(operators) and all(isinstance(t, torch._ops.OpOverload) or t is operator.getitem for t in operators)


def _mode_matters(module: nn.Module) -> bool:
    """Whether the class computes something else in train mode."""
    known = (nn.modules.batchnorm._NormBase, nn.modules.dropout._DropoutNd, nn.RReLU, nn.MultiheadAttention, nn.RNNBase)
    code = getattr(type(module).forward, "__code__", None)
    return isinstance(module, known) or (code is not None and "training" in code.co_names)


def _check_examples(args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
    """Every leaf of the example inputs is a tensor or a plain constant."""
    for path, leaf in pytree.tree_leaves_with_path((args, kwargs)):
        if not isinstance(leaf, torch.Tensor):
            constant(leaf, f"Example input {pytree.keystr(path[1:])}")


def _exported_parameters(exported: ExportedProgram) -> tuple[Parameter, ...]:
    """Parameter names that the export kept; without them arguments go by position."""
    entry = next((e for e in exported.module_call_graph if e.fqn == ""), None)
    names = getattr(entry.signature, "forward_arg_names", None) if entry and entry.signature else None
    count = exported.call_spec.in_spec.child(0).num_children
    return tuple(Parameter(name) for name in (names or ())[:count])
