"""What goes in and what comes out: names, dtypes, shapes and nesting. Imports neither torch nor NumPy.

    signature.unflatten(f(*signature.flatten(args, kwargs)))  ==  model(*args, **kwargs)
    Signature.from_json(s.to_json()) == s

Both the compiler (`ir.program`) and the runtime (which must not import torch) speak this vocabulary, and
the artifact's manifest stores it as JSON. A call may pass what was captured by position or by name, just as
the model's own `forward` would take it; Python constants in the arguments are fixed at capture and checked.
"""

from __future__ import annotations

import keyword
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

from ..errors import InputError
from .structure import Constant, Json, Structure

__all__ = ["Constant", "Dim", "Json", "Parameter", "Signature", "Structure", "TensorSpec"]

Dim = int | str
"""A static extent, or the name of a symbolic one."""

_TAKEN = {"self", "torch", "inf", "nan", "device", "operator", "pytree", "fx_pytree"}
"""Names that FX's generated `forward` uses itself."""


@dataclass(frozen=True)
class TensorSpec:
    """One tensor of the signature: `name`, `dtype` ("float32", "int64", "bool"...) and `shape`."""

    name: str
    dtype: str
    shape: tuple[Dim, ...]

    @property
    def extents(self) -> tuple[int, ...]:
        """The shape, if every dimension is static."""
        return tuple(int(dim) for dim in self.shape)

    def __str__(self) -> str:
        """Print as `x: float32[1, 3, 224, 224]`."""
        return f"{self.name}: {self.dtype}[{', '.join(map(str, self.shape))}]"

    def to_json(self) -> Json:
        """A plain dict."""
        return {"name": self.name, "dtype": self.dtype, "shape": list(self.shape)}

    @staticmethod
    def from_json(data: Json) -> TensorSpec:
        """Inverse of `to_json`."""
        return TensorSpec(data["name"], data["dtype"], tuple(data["shape"]))


@dataclass(frozen=True)
class Parameter:
    """One parameter of the model's `forward`.

    `kind` is "positional" (also by name), "variadic" (`*xs`) or "keyword" (by name only, or from `**kw`).
    `default` is the default value as a Structure without leaves, None where there is none or it is unknown.
    """

    name: str
    kind: str = "positional"
    default: Structure | None = None

    def to_json(self) -> Json:
        """A plain dict."""
        default = None if self.default is None else self.default.to_json()
        return {"name": self.name, "kind": self.kind, "default": default}

    @staticmethod
    def from_json(data: Json) -> Parameter:
        """Inverse of `to_json`."""
        default = None if data["default"] is None else Structure.from_json(data["default"])
        return Parameter(data["name"], data["kind"], default)


@dataclass(frozen=True)
class Signature:
    """Flat inputs and outputs, the trees they are the leaves of, and the parameters of `forward`.

    `input_tree` is the Structure of `(args, kwargs)` as captured; its leaves are `inputs` in order, and
    `output_tree`'s leaves are `outputs`. `parameters` may be longer than what was passed at capture.
    """

    inputs: tuple[TensorSpec, ...]
    outputs: tuple[TensorSpec, ...]
    input_tree: Structure
    output_tree: Structure
    parameters: tuple[Parameter, ...] = ()

    @staticmethod
    def of_tensors(inputs: Sequence[TensorSpec], outputs: Sequence[TensorSpec]) -> Signature:
        """Inputs by position or by their own names, outputs as one tuple (hand-written graphs)."""
        leaf = Structure("leaf")
        args = Structure("tuple", tuple(leaf for _ in inputs))
        tree = Structure("tuple", (args, Structure("dict")))
        parameters = tuple(Parameter(spec.name) for spec in inputs)
        return Signature(
            tuple(inputs), tuple(outputs), tree, Structure("tuple", tuple(leaf for _ in outputs)), parameters
        )

    @cached_property
    def placeholders(self) -> tuple[str, ...]:
        """`inputs`' names as distinct Python identifiers: the targets of the graph's placeholders."""
        names: list[str] = []
        for spec in self.inputs:
            names.append(unique_name(_identifier(spec.name), names))
        return tuple(names)

    def flatten(self, args: Sequence[Any], kwargs: Mapping[str, Any] | None = None) -> list[Any]:
        """The flat inputs of a call, in order; raises InputError where the call does not fit."""
        bound = self._bind(args, kwargs or {})
        leaves: list[Any] = []
        for name, tree in self._slots.items():
            if name in bound:
                leaves += tree.flatten(bound[name], name)
            elif tree != self._defaults.get(name):
                raise InputError(f"Input {name!r} is missing.", self._expected)
        return leaves

    def flatten_names(self, values: Mapping[str, Any]) -> list[Any]:
        """The flat inputs from tensors keyed by the names in `inputs`."""
        wanted = [spec.name for spec in self.inputs]
        for name in values:
            if name not in wanted:
                raise InputError(f"There is no input {name!r}.", self._expected)
        for name in wanted:
            if name not in values:
                raise InputError(f"Input {name!r} is missing.", self._expected)
        return [values[name] for name in wanted]

    def unflatten(self, leaves: Sequence[Any]) -> Any:
        """The nested output made of the flat outputs and the constants of `output_tree`."""
        return self.output_tree.unflatten(leaves)

    def to_json(self) -> Json:
        """Plain dicts and lists."""
        return {
            "inputs": [spec.to_json() for spec in self.inputs],
            "outputs": [spec.to_json() for spec in self.outputs],
            "input_tree": self.input_tree.to_json(),
            "output_tree": self.output_tree.to_json(),
            "parameters": [parameter.to_json() for parameter in self.parameters],
        }

    @staticmethod
    def from_json(data: Json) -> Signature:
        """Inverse of `to_json`."""
        return Signature(
            tuple(TensorSpec.from_json(spec) for spec in data["inputs"]),
            tuple(TensorSpec.from_json(spec) for spec in data["outputs"]),
            Structure.from_json(data["input_tree"]),
            Structure.from_json(data["output_tree"]),
            tuple(Parameter.from_json(parameter) for parameter in data["parameters"]),
        )

    def __str__(self) -> str:
        """Print as `(x: float32[1, 3], mask: bool[1]) -> (output: float32[1, 10])`."""
        return f"({', '.join(map(str, self.inputs))}) -> ({', '.join(map(str, self.outputs))})"

    @cached_property
    def _slots(self) -> dict[str, Structure]:
        """What was passed at capture, by parameter: `x`, `xs.0` for variadic ones, keywords by name."""
        args, kwargs = self.input_tree.children
        slots = {self._position(i): tree for i, tree in enumerate(args.children)}
        return {**slots, **{str(k): tree for k, tree in zip(kwargs.keys, kwargs.children, strict=True)}}

    @cached_property
    def _defaults(self) -> dict[str, Structure]:
        """Parameters whose default value is known."""
        return {p.name: p.default for p in self.parameters if p.default is not None}

    @cached_property
    def _positional(self) -> tuple[str, ...]:
        """Parameters in the order in which a call may pass them by position."""
        return tuple(p.name for p in self.parameters if p.kind == "positional")

    @property
    def _expected(self) -> str:
        """The sentence that says how to call."""
        fixed = [f"{name}={tree}" for name, tree in self._slots.items() if not tree.leaf_count]
        return f"Call it with ({', '.join([*map(str, self.inputs), *fixed])})."

    def _position(self, index: int) -> str:
        """The slot of positional argument `index`."""
        if index < len(self._positional):
            return self._positional[index]
        variadic = next((p.name for p in self.parameters if p.kind == "variadic"), "args")
        return f"{variadic}.{index - len(self._positional)}"

    def _bind(self, args: Sequence[Any], kwargs: Mapping[str, Any]) -> dict[str, Any]:
        """Arguments by slot; an argument that was not captured must equal its parameter's default."""
        bound = {self._position(i): value for i, value in enumerate(args)}
        for name, value in kwargs.items():
            if name in bound:
                raise InputError(f"Input {name!r} is given twice, by position and by name.", self._expected)
            bound[name] = value
        for name, value in bound.items():
            if name not in self._slots and not self._is_default(name, value):
                raise InputError(f"There is no input {name!r}, or it was not given at capture.", self._expected)
        return bound

    def _is_default(self, name: str, value: Any) -> bool:
        """Whether an argument unknown to the graph repeats the default that capture saw."""
        try:
            return name in self._defaults and not self._defaults[name].flatten(value, name)
        except InputError:
            return False


def _identifier(name: str) -> str:
    """`batch.ids` as a Python identifier: `batch_ids`."""
    word = re.sub(r"\W", "_", name, flags=re.ASCII)
    if not word or word[0].isdigit():
        word = f"_{word}"
    return f"{word}_" if keyword.iskeyword(word) or word in _TAKEN else word


def unique_name(name: str, taken: Sequence[str]) -> str:
    """`name`, or `name_1`, `name_2`... if taken."""
    candidate, count = name, 0
    while candidate in taken:
        count += 1
        candidate = f"{name}_{count}"
    return candidate


def unique_names(names: Sequence[str]) -> list[str]:
    """The names with repeated ones numbered."""
    result: list[str] = []
    for name in names:
        result.append(unique_name(name, result))
    return result


def input_names(input_tree: Structure, parameters: Sequence[Parameter]) -> list[str]:
    """User-facing names of an input tree's leaves: `x`, `batch.ids`, `xs.0`."""
    shape = Signature((), (), input_tree, Structure("tuple"), tuple(parameters))
    return unique_names([leaf for name, tree in shape._slots.items() for leaf in tree.paths(name)])


def output_names(output_tree: Structure) -> list[str]:
    """User-facing names of an output tree's leaves: `output`, `output.0`, or a dict's own keys."""
    if output_tree.kind in ("dict", "namedtuple"):
        names = [leaf for key, part in output_tree.items() for leaf in part.paths(str(key))]
        return unique_names(names)
    return unique_names(output_tree.paths("output"))
