"""Writes an integer graph beside the float graph it stands for.

    read(node, target) = emit(form(node), target)      once for each target

A value with several readers has codes once, at its own scale; what another reader wants is requantized from these. A
value with one reader gets that reader's codes at once, so nothing is rounded twice on the way.
"""

from __future__ import annotations

from collections.abc import Iterable
from contextlib import nullcontext
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, fx

from ...errors import QuantizationError
from ...ir.fake import Fakes
from ...ir.names import WeightNames
from ...ir.program import Program
from ...ir.quantized.constants import Function
from ...ir.types import QuantParams
from .bias import Means
from .forms import (
    Accumulator,
    Clamped,
    Constant,
    Floating,
    Form,
    Gained,
    Pixels,
    Pointwise,
    Target,
    Term,
    beside,
    one,
    requantize,
    truths,
)
from .plan import Plan, naming
from .weights import Quantizer, quantize_weight

planish = torch.ops.planish
aten = torch.ops.aten


def is_floating(node: Any) -> bool:
    """Whether a node's value is a tensor of floating-point numbers."""
    value = node.meta.get("val") if isinstance(node, fx.Node) else None
    return isinstance(value, torch.Tensor) and value.dtype.is_floating_point


@dataclass
class Builder:
    """The integer graph under construction, and what stands for each float value so far."""

    program: Program
    plan: Plan
    means: Means = field(default_factory=dict)
    graph: fx.Graph = field(default_factory=fx.Graph)
    forms: dict[fx.Node, Form] = field(default_factory=dict)
    plain: dict[fx.Node, fx.Node] = field(default_factory=dict)
    quantizer: Quantizer = quantize_weight

    def __post_init__(self) -> None:
        """Empty tables."""
        self.names = WeightNames({})
        self.fakes = Fakes(self.program.graph)
        self._read: dict[tuple[fx.Node, Target], fx.Node] = {}
        self._constants: dict[str, fx.Node] = {}
        self._standing: list[fx.Node] = []
        self._floats: dict[fx.Node, fx.Node] = {}
        self._first: fx.Node | None = None

    def params(self, node: fx.Node) -> QuantParams:
        """The planned codes of a float node."""
        return self.plan.params(node)

    def codes(self, node: fx.Node) -> fx.Node:
        """A float node's planned codes."""
        return self.read(node, Target.of(self.params(node)))

    def bytes_of(self, node: fx.Node) -> tuple[fx.Node, QuantParams]:
        """Codes of 8 bits: the planned ones, or where these are wider, those of the same range."""
        params = self.plan.bytes(node)
        return self.read(node, Target.of(params)), params

    def summands(self, node: fx.Node) -> tuple[fx.Node, QuantParams]:
        """Codes to be added up or multiplied by a number: of 16 bits where a value has no codes of its own."""
        if self.plan.stored(node):
            return self.bytes_of(node)
        return self.codes(node), self.params(node)

    def read(self, node: fx.Node, target: Target) -> fx.Node:
        """A float node's codes as a reader wants them; what is made stands for this node alone."""
        standing, self._standing = self._standing, []
        try:
            return self.read_through(node, target)
        finally:
            self._standing = standing

    def read_through(self, node: fx.Node, target: Target) -> fx.Node:
        """The same for a reader that only narrows the target: what is made stands for the reader, too."""
        key = (node, target)
        if key not in self._read:
            with self.stand_for(node):
                made = self._make(node, target)
            made.meta["quant"], made.meta["of"] = target.params, node.name
            self._read[key] = made
        return self._read[key]

    def term(self, node: fx.Node) -> Term:
        """A float node's integers, as they are where only one reads them: an accumulator need not be rounded."""
        form = self.forms[node]
        alone = len(node.users) == 1 or not self.plan.stored(node)
        if isinstance(form, Accumulator) and alone:
            return form.term
        if isinstance(form, Gained) and alone:
            return form.term(self)
        if isinstance(form, Constant):
            return self.constant_term(form)
        params = self.params(node)
        return Term(self.codes(node), one(params.scale), params.zero)

    def function(self, node: fx.Node) -> tuple[fx.Node, Function]:
        """(value, f) where the node is f of that value, as far up as functions go."""
        form = self.forms[node]
        if isinstance(form, Pointwise):
            return form.source, form.function
        if isinstance(form, Clamped):
            source, inner = self.function(form.source)
            least, most = form.least, form.most
            return source, lambda x: inner(x).clamp(least, most)
        return node, lambda x: x

    def floats(self, node: fx.Node) -> fx.Node:
        """A node's value as float32, or as it is where it is no floating value."""
        if not is_floating(node):
            return self.other(node)
        form = self.forms[node]
        if isinstance(form, Floating):
            return form.node
        if isinstance(form, Constant):
            return self.constant(form.name, form.tensor)
        if node not in self._floats:
            with self.stand_for(node):
                if isinstance(form, Pixels):
                    return self._floats.setdefault(node, form.floats(self))
                term = self.term(node)
                scale = self.weight("scale", beside(term.scale.to(torch.float32), term.node))
                self._floats[node] = self.call(planish.dequantize.default, term.node, scale, term.zero)
        return self._floats[node]

    def other(self, node: fx.Node) -> fx.Node:
        """A value that is no floating one, such as places or a mask; a comparison of codes is looked up."""
        if node not in self.plain:
            form = self.forms[node]
            assert isinstance(form, Pointwise)
            with self.stand_for(node):
                with naming(node):
                    entries = truths(form.function, self.params(form.source))
                table = self.weight("table", entries)
                self.plain[node] = self.call(planish.lookup.default, self.codes(form.source), table)
        return self.plain[node]

    def as_float(self, node: fx.Node) -> fx.Node:
        """The same call on float values."""
        args, kwargs = fx.map_arg((node.args, node.kwargs), self.floats)
        with self.stand_for(node):
            made = self.call(node.target, *args, **kwargs)
        made.meta["of"] = node.name
        return made

    def call(self, op: Any, *args: Any, **kwargs: Any) -> fx.Node:
        """A new call, with the origins of the float nodes it is made for."""
        value, name = self.fakes.run(op, args, kwargs), self._standing[0].name
        if isinstance(value, torch.Tensor) and value.dtype is torch.int32:
            name = f"{name}_sum"  # the float node's name goes to the codes that are made of it
        made = self.graph.create_node("call_function", op, args, kwargs, name=name)
        self._first = self._first or made
        origins = (origin for node in self._standing for origin in node.meta.get("origins", ()))
        made.meta = {"val": value, "origins": tuple(dict.fromkeys(origins))}
        made.meta["stands_for"] = tuple(node.name for node in self._standing)
        if getattr(op, "namespace", "") != "planish" and is_floating(made):  # an item of a tuple has none
            made.meta["float"] = "a layer in float reads it"
        return made

    def weight(self, suffix: str, tensor: Tensor) -> fx.Node:
        """A new constant of the float node that is being stood for."""
        return self.constant(f"{self._standing[0].name}.{suffix}", tensor)

    def constant(self, name: str, tensor: Tensor) -> fx.Node:
        """A constant, stored once."""
        name = self.names.add(name, tensor)
        if name not in self._constants:
            with self.graph.inserting_before(self._first) if self._first else nullcontext():
                made = self.graph.create_node("get_attr", name)
            origins = self._standing[0].meta.get("origins", ()) if self._standing else ()
            made.meta = {"val": self.fakes.of(self.names.weights[name]), "origins": origins}
            self._constants[name] = made
        return self._constants[name]

    @property
    def standing(self) -> fx.Node:
        """The float node that new nodes are made for now."""
        return self._standing[-1]

    def stand_for(self, node: fx.Node) -> _Standing:
        """Within, new nodes are made for this float node, and for those that are being stood for already."""
        return _Standing(self._standing, node)

    def finish(self, results: Iterable[fx.Node]) -> Program:
        """The program, without what nobody reads."""
        made = self.graph.output(tuple(results))
        made.meta = {**self.program.graph.output_node().meta, "val": tuple(n.meta["val"] for n in made.args[0])}
        for node in reversed(list(self.graph.nodes)):
            if not node.users and node.op not in ("placeholder", "output"):
                self.graph.erase_node(node)
        read = {str(node.target) for node in self.graph.nodes if node.op == "get_attr"}
        weights = {name: tensor for name, tensor in self.names.weights.items() if name in read}
        return self.program.evolve(graph=self.graph, weights=weights)

    def _make(self, node: fx.Node, target: Target) -> fx.Node:
        form = self.forms[node]
        if isinstance(form, Constant) or len(node.users) == 1 or not self.plan.stored(node):
            return form.emit(self, target)
        planned = Target.of(self.params(node))
        if target == planned:
            return form.emit(self, target)
        scale = one(planned.params.scale)
        return requantize(self, Term(self.codes(node), scale, planned.params.zero), target)

    def constant_term(self, form: Constant) -> Term:
        """A constant operand: 16 bits, so that its own rounding does not count."""
        bound = float(form.tensor.abs().max()) if form.tensor.numel() else 0.0
        params = QuantParams.symmetric(bound or 1.0, 16)
        codes = self.constant(f"{form.name}.codes", params.codes(form.tensor))
        return Term(codes, one(params.scale), 0)


class _Standing:
    """A node on top of a stack, for a while."""

    def __init__(self, stack: list[fx.Node], node: fx.Node) -> None:
        self._stack, self._node = stack, node

    def __enter__(self) -> None:
        self._stack.append(self._node)

    def __exit__(self, *error: object) -> None:
        self._stack.pop()


def constant_of(builder: Builder, value: Any, what: str) -> Tensor:
    """The tensor of an argument that has to be a constant."""
    form = builder.forms.get(value)
    if not isinstance(form, Constant):
        raise QuantizationError(f"its {what} is computed from the inputs", "Keep the layer in float.")
    return form.tensor
