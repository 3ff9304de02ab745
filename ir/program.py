"""Program: what every pass takes and returns. A functional FX graph of ATen ops, its weights, its signature.

    model(*inputs) == program(*inputs)

Invariants (checked by `verify.verify`):
- placeholders are `signature.inputs`, in order and by name; the output node is one flat tuple in the order
  of `signature.outputs`;
- `get_attr` targets are keys of `weights` (qualified names; no other attribute exists);
- `call_function` targets are `torch._ops.OpOverload` (or `operator.getitem`); `call_module` exists only at
  stage GROUPED and targets a key of `regions`;
- `meta["val"]` is a FakeTensor (or a tuple of them) on every node, `meta["origins"]` a tuple of `Origin`.
"""

from __future__ import annotations

import enum
from dataclasses import dataclass, field, replace
from typing import Any

import torch
from torch import fx

from .report import PassReport
from .signature import Signature


class Stage(enum.IntEnum):
    """How far a Program has come; each stage implies the ones before it."""

    CAPTURED = 0
    NORMALIZED = 1
    OPTIMIZED = 2
    QUANTIZED = 3
    GROUPED = 4


@dataclass(frozen=True)
class Origin:
    """Where a node came from: qualified module name, module class, and "file.py:12" of the call."""

    layer: str
    module: str = ""
    source: str = ""


class Region(torch.nn.Module):
    """One kernel's worth of a GROUPED graph: an anchor with its prologue and epilogue, one output.

    `body` is a functional graph whose placeholders are the region's inputs in call order (weights enter as
    inputs too: a region owns no constants) and whose output is a single node, not a tuple.
    """

    def __init__(self, name: str, kind: str, body: fx.Graph, anchor: str | None, layers: tuple[str, ...]) -> None:
        """`anchor` names the anchor op's node in `body`, None for a purely pointwise or view region."""
        super().__init__()
        self.name = name
        self.kind = kind
        self.body = body
        self.anchor = anchor
        self.layers = layers

    def forward(self, *inputs: torch.Tensor) -> torch.Tensor:
        """Run the body op by op."""
        env: dict[fx.Node, Any] = dict(zip(self.placeholders, inputs, strict=True))
        for node in self.body.nodes:
            if node.op == "call_function":
                args, kwargs = fx.map_arg((node.args, node.kwargs), env.__getitem__)
                env[node] = node.target(*args, **kwargs)
        output: torch.Tensor = env[self.result]
        return output

    @property
    def placeholders(self) -> list[fx.Node]:
        """Input nodes of the body, in call order."""
        return [n for n in self.body.nodes if n.op == "placeholder"]

    @property
    def result(self) -> fx.Node:
        """The node whose value the region returns."""
        result = self.body.output_node().args[0]
        assert isinstance(result, fx.Node)
        return result

    @property
    def anchor_node(self) -> fx.Node | None:
        """The anchor's node in the body."""
        return next((n for n in self.body.nodes if n.name == self.anchor), None)

    @property
    def prologue(self) -> list[fx.Node]:
        """Calls that feed the anchor, in order."""
        calls = [n for n in self.body.nodes if n.op == "call_function"]
        names = [n.name for n in calls]
        return calls[: names.index(self.anchor)] if self.anchor in names else []

    @property
    def epilogue(self) -> list[fx.Node]:
        """Calls after the anchor (all calls, where there is none), in order."""
        calls = [n for n in self.body.nodes if n.op == "call_function"]
        names = [n.name for n in calls]
        return calls[names.index(self.anchor) + 1 :] if self.anchor in names else calls


@dataclass
class Program:
    """A model at one stage of the pipeline. Treat as immutable: passes return a new Program."""

    graph: fx.Graph
    weights: dict[str, torch.Tensor]
    signature: Signature
    stage: Stage = Stage.CAPTURED
    name: str = "model"
    regions: dict[str, Region] = field(default_factory=dict)
    report: tuple[PassReport, ...] = ()

    @property
    def graph_module(self) -> fx.GraphModule:
        """A runnable GraphModule over the same graph and weights; returns the flat output tuple."""
        root: dict[str, Any] = {**self.weights, **self.regions}
        return fx.GraphModule(root, self.graph)

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        """Run with torch: nested inputs in, nested outputs out."""
        flat = self.signature.flatten(args, kwargs)
        with torch.no_grad():
            return self.signature.unflatten(self.graph_module(*flat))

    def __str__(self) -> str:
        """The text form (see `text`)."""
        from .text import print_program

        return print_program(self)

    def evolve(self, **changes: Any) -> Program:
        """Copy with some fields replaced."""
        return replace(self, **changes)
