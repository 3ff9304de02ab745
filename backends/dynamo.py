"""The torch.compile backend: freeze the weights, compile what can be, run the rest in eager and say so.

    torch.compile(model, backend="planish")(x) == model(x)   up to rounding, in inference

What runs in eager says why, in one line each, through `logging.getLogger("planish")`: a call that needs
gradients, train mode, symbolic shapes, written buffers, operators that the engine refuses. Weights that change
afterwards make the graph compile again. Only wrong options raise.
"""

from __future__ import annotations

import logging
import re
import threading
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
from torch import fx
from torch._dynamo.exc import ShortenTraceback

from ..errors import OptionError, PlanishError
from ..ir.capture import capture_dynamo, dynamo_constants, source_name
from ..ir.origins import dotted_path, root_name
from .dynamo_engine import Engine, make_engine
from .frozen import FrozenWeights
from .partition import partition
from .stitch import stitch

_LOG = logging.getLogger("planish")
_MAX_VERSIONS = 8
"""Sets of weights that one graph keeps compiled code for (instances of one module class share a graph)."""

_said: set[str] = set()

Run = Callable[..., Any]


class DynamoOptionError(OptionError, ShortenTraceback):
    """An OptionError that Dynamo passes on instead of wrapping it into its own."""

    def __init__(self, what: str, todo: str) -> None:
        """As PlanishError; ShortenTraceback's own constructor wants a frame."""
        Exception.__init__(self, f"{what}\n  {todo}")
        self.what, self.todo, self.first_useful_frame = what, todo, None


def planish_backend(
    gm: fx.GraphModule,
    example_inputs: Sequence[Any],
    *,
    options: Mapping[str, Any] | None = None,
    mode: str | None = None,
) -> Run:
    """What `torch.compile(model, backend="planish", options={...})` calls with each graph."""
    try:
        if mode is not None:
            raise OptionError(f"mode={mode!r} is one of Inductor's.", "Leave it out; see options={...}.")
        if (chosen := (options or {}).get("mode", "infer")) != "infer":
            return _training_mode(chosen, gm, example_inputs, options or {})
        engine = make_engine({k: v for k, v in (options or {}).items() if k != "mode"})
    except PlanishError as error:  # a target or an extra that is missing, too
        raise DynamoOptionError(error.what, error.todo) from None
    reason = _why_eager(gm, example_inputs)
    if reason is not None:
        say(f"a graph runs in eager: {reason}")
        return gm.forward
    try:
        return _Frozen(gm, engine, example_inputs)
    except PlanishError as error:
        say(f"a graph runs in eager: {error.what.splitlines()[0]}")
        return gm.forward


def _training_mode(mode: object, gm: fx.GraphModule, example_inputs: Sequence[Any], options: Mapping[str, Any]) -> Run:
    """Graphs that keep their gradients."""
    from .dynamo_tune import tune_backend

    if mode != "tune":
        raise OptionError(f"There is no mode {mode!r}.", "Modes are 'infer' (the default) and 'tune'.")
    return tune_backend(gm, example_inputs, options)


def say(line: str) -> None:
    """One line for the user, once."""
    line = f"planish: {' '.join(line.split())}"
    if line not in _said:
        _said.add(line)
        _LOG.warning("%s", line)


planish_backend.reset = _said.clear  # type: ignore[attr-defined]  # torch._dynamo.reset() calls it


class _Frozen:
    """A Dynamo graph, compiled once for each set of weights that it is called with."""

    def __init__(self, gm: fx.GraphModule, engine: Engine, example_inputs: Sequence[Any]) -> None:
        """Compile for the weights at hand."""
        self._gm, self._engine, self._lock = gm, engine, threading.Lock()
        names = [node.name for node in gm.graph.nodes if node.op == "placeholder"]
        constants = dynamo_constants(gm)
        self._weights = {i: constants[name] for i, name in enumerate(names) if name in constants}
        self._inputs = [i for i, name in enumerate(names) if name not in constants]
        # Sealed before it is read, here and below: a write in between is seen by the next call.
        frozen = FrozenWeights(self._weights, example_inputs)
        self._versions: list[tuple[FrozenWeights, Run]] = [(frozen, self._compile(example_inputs))]

    def __call__(self, *args: Any) -> Any:
        """Run the code of these weights, made now if need be."""
        if torch.is_grad_enabled() and any(arg.requires_grad for arg in args):
            say(f"a call runs in eager: {_GRADIENTS}")
            return self._gm(*args)
        frozen, run = self._versions[-1]
        if frozen.stale(args) is not None:
            run = self._version(args)
        return run(*args)

    def _version(self, args: Sequence[Any]) -> Run:
        """Find or make the code for these weights and put it last."""
        with self._lock:  # and the list is replaced whole: callers read it without the lock
            stale = self._versions[-1][0].stale(args)
            found = next((v for v in self._versions if v[0].same_objects(args)), None)
            others = [v for v in self._versions if v is not found and not v[0].dead()]
            if found is None or found[0].stale(args) is not None:
                say(f"{stale}; compiling its graph again")
                found = (FrozenWeights(self._weights, args), self._try_compile(args))
            self._versions = [*others[1 - _MAX_VERSIONS :], found]
            return found[1]

    def _try_compile(self, args: Sequence[Any]) -> Run:
        """The graph compiled once before, so that a failure now concerns these weights: eager for them."""
        try:
            return self._compile(args)
        except PlanishError as error:
            say(f"a graph runs in eager: {error.what.splitlines()[0]}")
            return self._gm.forward

    def _compile(self, args: Sequence[Any]) -> Run:
        """Capture, optimize, cut, compile."""
        with torch.inference_mode(False), torch.no_grad():
            program = self._engine.prepare(capture_dynamo(self._gm, args))
            parts = partition(program, self._engine.supports)
            for line in _notices(parts.refused):
                say(line)
            flat = stitch(program, parts.pieces, self._engine.compile)

        signature = program.signature  # not the program: it holds a second set of weights

        def run(*args: Any) -> Any:
            return signature.unflatten(flat([args[i] for i in self._inputs]))

        return run


_GRADIENTS = "gradients are needed; call the model under torch.inference_mode() or torch.no_grad()"


def _why_eager(gm: fx.GraphModule, example_inputs: Sequence[Any]) -> str | None:
    """A reason that can be seen before capture, None if there is none."""
    holders = [node for node in gm.graph.nodes if node.op == "placeholder"]
    if torch.is_grad_enabled() and any(getattr(value, "requires_grad", False) for value in example_inputs):
        return _GRADIENTS
    constants = dynamo_constants(gm)
    for node, value in zip(holders, example_inputs, strict=True):
        reason = _odd_input(value) or (node.name in constants and _odd_weight(value)) or None
        if reason is not None:
            return f"{_shown(node)} {reason}"
    return None


def _shown(node: fx.Node) -> str:
    """A placeholder as the user knows it: `input x`, `weight fc.weight`, or where Dynamo found it."""
    source = source_name(node)
    if match := re.fullmatch(r"L\['(\w+)'\]\.size\(\)\[(\d+)\]", source):
        return f"dimension {match[2]} of input {match[1]!r}"
    weights = dynamo_constants(node.graph.owning_module) if node.graph.owning_module else {}
    if node.name in weights:
        return f"weight {weights[node.name]!r}"
    name = ".".join(part for part in (root_name(source), dotted_path(source)) if part and part != source)
    return f"input {name or node.name!r}"


def _odd_input(value: Any) -> str | None:
    """What stands in the way of taking this value, if anything."""
    symbolic = "(dynamic shapes); torch.compile(..., dynamic=False) compiles each shape by itself"
    if isinstance(value, torch.SymInt | torch.SymFloat | torch.SymBool):
        return f"is the symbolic number {value} {symbolic}"
    if not isinstance(value, torch.Tensor):
        return f"is a {type(value).__name__}, not a tensor"
    if any(not isinstance(extent, int) for extent in value.shape):
        return f"has the symbolic shape {list(value.shape)} {symbolic}"
    if type(value) not in (torch.Tensor, torch.nn.Parameter, torch.nn.Buffer):
        return f"is a {type(value).__name__}, a tensor subclass"
    if value.device.type != "cpu" or value.layout is not torch.strided:
        return f"is a {value.layout} tensor on {value.device}; planish compiles dense tensors for the CPU"
    return None


def _odd_weight(value: torch.Tensor) -> str | None:
    """Writes to inference tensors are not counted, so frozen ones could go stale unseen."""
    if value.is_inference():
        return "was made under torch.inference_mode(), where PyTorch does not count writes; load the model outside it"
    return None


def _notices(refused: Sequence[Any]) -> list[str]:
    """One line for each kind of refused operator, with its layers."""
    layers: dict[tuple[str, str], list[str]] = {}
    for op in refused:
        layers.setdefault((op.op, op.reason), []).append(op.layer or op.source or "(top level)")
    return [
        f"{name} runs in eager in {', '.join(dict.fromkeys(where))}: {reason}"
        for (name, reason), where in layers.items()
    ]
