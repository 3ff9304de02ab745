"""Quantization-aware training: a module whose results are those of its integers, and that trains.

    module = fake_quantize(model, x, calibration=loader)        module(x) == compile(module, x, precision="int8")(x)

Every call makes the integer program of the present parameters and ranges anew, as `planish.compile` does, and runs its
reference; the gradients are those of the float program at the same point (`passes/quantize/straight_through.py`).
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import replace
from functools import partial
from typing import Any

import torch
from torch import Tensor, fx, nn

from .compiler import captured_with, optimize, selected
from .errors import InputError, ModelError, OptionError, QuantizationError
from .ir.image import Image
from .ir.program import Program
from .ir.signature import TensorSpec
from .options import Options, needs_data
from .passes.manager import run_passes
from .passes.pipelines import INTEGER
from .passes.preprocess.take_images import to_pixels
from .passes.quantize.calibrate import calibrate
from .passes.quantize.imported.parameters import is_quantized
from .passes.quantize.integerize import Settings, integerize
from .passes.quantize.live import Live
from .passes.quantize.straight_through import run_integers, run_straight_through
from .progress import showing
from .quantization import Quantization
from .quantizing import Quantized, integers_of, kept_in_float, observer_of, observers_by_use, without_range

RANGES = "quantized_ranges"
"""Where a module keeps its ranges, beside what the model has."""
KINDS = {
    "learned": "Lower the learning rate of the ranges, or leave them to the data: ranges='ema'.",
    "ema": "Its values have come to be all the same: lower the learning rate, or keep it in float by name.",
}
"""Where ranges come from, and what helps when they come to nothing."""
SHAPES = 8
"""How many shapes of inputs a module remembers the graphs of."""


class Ranges(nn.Module):
    """The least and the largest value of each group of values: parameters, or buffers that follow what is seen."""

    def __init__(self, ends: Mapping[str, Sequence[float]], kind: str, coded: Collection[str]) -> None:
        """One tensor of two numbers a group; those `coded` say scales, and are parameters where they are learned."""
        super().__init__()
        self.names, self.follows = tuple(ends), kind == "ema"
        self.coded = tuple(name for name in ends if name in coded)
        for name, pair in ends.items():
            tensor = torch.tensor([float(end) for end in pair])
            if name in coded and not self.follows:
                self.register_parameter(f"{name}_range", nn.Parameter(tensor))
            else:
                self.register_buffer(f"{name}_range", tensor)

    def ends(self) -> dict[str, Tensor]:
        """All of them, by group."""
        return {name: getattr(self, f"{name}_range") for name in self.names}

    @torch.no_grad()
    def follow(self, seen: Mapping[str, Tensor], momentum: float) -> None:
        """Move towards what a batch had."""
        for name, ends in seen.items():
            getattr(self, f"{name}_range").lerp_(ends.to(torch.float32), 1 - momentum)


class FakeQuantized(nn.Module):
    """`model` in integers, with its own parameters and buffers under its own names, and ranges.

    Batch norms keep their statistics and train their gains, folded in every step; nothing is dropped out, whatever
    mode the module is in. Ranges of kind "ema" follow the data in train mode alone.
    """

    quantized_ranges: Ranges

    def __init__(
        self, model: nn.Module, ranges: Ranges, how: Quantization, keep: Mapping[str, str], image: Image | None
    ) -> None:
        """Made by `fake_quantize`."""
        super().__init__()
        if hasattr(model, RANGES):
            raise ModelError(f"The model has an attribute {RANGES!r} of its own.", "Rename it.")
        self.how, self.image = how, image
        self.keep = dict(keep)
        self._settings = Settings(bool(how.integer_only), self.keep)
        self._parameters, self._buffers = model._parameters, model._buffers
        self._non_persistent_buffers_set = model._non_persistent_buffers_set
        self._modules = dict(model._modules)
        self.__dict__["_model"] = model  # not as a child: its children are ours
        self._graphs: dict[Any, Live] = {}
        self.quantized_ranges = ranges

    def __getstate__(self) -> dict[str, Any]:
        """Graphs are made again where they are needed."""
        return {**self.__dict__, "_graphs": {}}

    @property
    def frozen(self) -> frozenset[str]:
        """Parameters that became numbers of the graph, which training does not reach."""
        return frozenset(name for live in self._graphs.values() for name in live.frozen)

    def forward(self, *args: Any, **kwargs: Any) -> Any:
        """What the artifact gives for these inputs, with gradients."""
        live, inputs = self._live(args, kwargs)
        follows = self.training and self.quantized_ranges.follows
        with torch.autocast("cpu", enabled=False):
            weights, ends = live.weights(self._weights()), self.quantized_ranges.ends()
            integer = self._integer(live, weights, ends)
            outputs, held = run_integers(integer, [x.detach() for x in inputs])
            if follows or torch.is_grad_enabled():
                seen: dict[str, list[Tensor]] = {}
                groups = {node: name for name, group in live.groups.items() for node in group}

                def see(node: fx.Node, value: Tensor) -> None:
                    seen.setdefault(groups[node], []).append(torch.stack(value.aminmax()))

                outputs = run_straight_through(
                    live.prepared,
                    weights,
                    inputs,
                    (outputs, held),
                    {} if self.quantized_ranges.follows else live.ends(ends),
                    see if follows else None,
                )
                self.quantized_ranges.follow(_hulls(seen, live), self.how.momentum)
        return live.prepared.signature.unflatten(outputs)

    def planish_integers(
        self, inputs: Any, kwargs: Mapping[str, Any] | None, options: Options
    ) -> tuple[Program, Quantized, Options]:
        """For the compiler: the captured program and the integer program, at the present parameters and ranges."""
        _check_compile(options, self.how, self.image)
        args = (inputs,) if isinstance(inputs, Tensor) else tuple(inputs or ())
        live, given = self._live(args, dict(kwargs or {}), examples=True)
        ranges, model = self._ranges(live, self.quantized_ranges.ends()), self._weights()
        with torch.no_grad():
            weights = {name: weight.detach() for name, weight in live.weights(model).items()}
            prepared = live.prepared.evolve(weights=weights)
            integer = integers_of(prepared, ranges, self._settings)
        own = {name: model.get(name, tensor).detach() for name, tensor in live.captured.weights.items()}
        batch = [x.detach() for x in given]
        made = Quantized(prepared, integer, {}, batch, ranges, self.keep, self._settings.integer_only)
        measure = isinstance(options.precision, Quantization) and options.precision.measure
        how = replace(self.how, integer_only=True, correct_bias=False, measure=measure)  # no more floats from now on
        return live.captured.evolve(weights=own), made, replace(options, precision=how, preprocess=self.image)

    def _integer(self, live: Live, weights: Mapping[str, Tensor], ends: Mapping[str, Tensor]) -> Program:
        with torch.no_grad():
            program = live.prepared.evolve(weights={name: weight.detach() for name, weight in weights.items()})
            return integerize(program, self._ranges(live, ends), self._settings)

    def _ranges(self, live: Live, ends: Mapping[str, Tensor]) -> dict[fx.Node, tuple[float, float]]:
        """Those of a graph, which have to say codes."""
        held = self.quantized_ranges
        live.check(ends, held.coded, KINDS["ema" if held.follows else "learned"])
        return live.ranges(ends)

    def _weights(self) -> dict[str, Tensor]:
        """Everything that the model owns."""
        model: nn.Module = self.__dict__["_model"]
        return {
            **dict(model.named_buffers(remove_duplicate=False)),
            **dict(model.named_parameters(remove_duplicate=False)),
        }

    def _live(self, args: tuple[Any, ...], kwargs: dict[str, Any], examples: bool = False) -> tuple[Live, list[Tensor]]:
        """The graph for inputs of these shapes, and the inputs in its order; `examples` may be normalized images."""
        known = next(reversed(self._graphs.values()), None) or self._graph(args, kwargs)
        signature = known.prepared.signature
        pairs = zip(signature.inputs, signature.flatten(args, kwargs), strict=True)
        inputs = [self._input(spec, value, examples) for spec, value in pairs]
        key = tuple((tuple(x.shape), x.dtype) for x in inputs)
        present = self._weights()
        live = self._graphs.pop(key, None)
        if live is None or any(not torch.equal(present[name], live.captured.weights[name]) for name in live.frozen):
            live = self._graph(args, kwargs)
        self._graphs[key] = live
        while len(self._graphs) > SHAPES:
            self._graphs.pop(next(iter(self._graphs)))
        return live, inputs

    def _input(self, spec: TensorSpec, value: Any, example: bool) -> Tensor:
        """A tensor, and one of pixels where an image is expected."""
        if not isinstance(value, Tensor):
            raise ModelError(f"Input {spec.name} is no tensor.", "Give tensors, as in the example inputs.")
        if self.image is None or spec.dtype != "uint8" or value.dtype is torch.uint8:
            return value
        if not example:
            raise InputError(
                f"Input {spec.name} is {str(value.dtype).removeprefix('torch.')}, and the module takes uint8 images.",
                "Give the pixels as they are: preprocess normalizes them.",
            )
        return to_pixels(value, self.image)

    def _graph(self, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Live:
        """Capture the model, in eval mode, and rewrite it."""
        with evaluating(self.__dict__["_model"]) as model:
            captured, _ = captured_with(model, args, kwargs, self.image)
            trained = frozenset(name for name, _ in model.named_parameters(remove_duplicate=False))
        return graph_of(captured, trained)


def graph_of(captured: Program, trained: frozenset[str]) -> Live:
    """The exact rewrites, then the operators that have integer forms."""
    owned = frozenset(name for name in trained & captured.weights.keys())
    return Live.of(captured, owned, lambda program: run_passes(optimize(program), INTEGER))


def fake_quantize(
    model: nn.Module, inputs: Any, kwargs: Mapping[str, Any] | None, ranges: str, options: Options
) -> FakeQuantized:
    """`planish.fake_quantize`, its options checked."""
    how = options.precision
    if not isinstance(how, Quantization):
        raise OptionError(f"precision={how!r} has no codes to train.", "Give 'int8' or a planish.Quantization.")
    if ranges not in KINDS:
        raise OptionError(f"ranges={ranges!r} is neither 'learned' nor 'ema'.", "Give one of them.")
    if not isinstance(model, nn.Module) or isinstance(model, FakeQuantized):
        raise ModelError(f"A {type(model).__qualname__} cannot be trained in integers.", "Pass an nn.Module.")
    if options.calibration is None:
        raise needs_data()
    if how.evaluate is not None:
        raise OptionError("evaluate chooses layers of a model that is trained.", "Name them: keep_float=[...].")
    if how.equalize:
        raise OptionError("equalize changes weights once, and these are trained.", "Leave it out.")
    captured, _ = captured_with(model, inputs, kwargs, options.preprocess)
    if is_quantized(captured):
        raise ModelError("The model has codes that others gave it.", "Pass the float model that they were made of.")
    live = graph_of(captured, frozenset(name for name, _ in model.named_parameters(remove_duplicate=False)))
    prepared = live.prepared.evolve(weights=live.tape.play(captured.weights))
    keep = kept_in_float(prepared, how.keep_float)
    with showing(options.progress) as report:
        items, select = _items(options.calibration), partial(selected, options)
        special = observers_by_use(prepared, how)
        found = calibrate(prepared, items, observer_of(how), select, report, special=special)
    if not how.integer_only:
        keep = {**without_range(prepared, found), **keep}
    integer = integerize(prepared, found, Settings(bool(how.integer_only), keep))
    ends = {name: found[group[0]] for name, group in live.groups.items()}
    held = Ranges(ends, ranges, live.learnable(integer))
    made = FakeQuantized(model, held, how, keep, options.preprocess)
    return made.train(model.training)


def _check_compile(options: Options, how: Quantization, image: Image | None) -> None:
    """What a module that brings its ranges leaves to say."""
    given, kinds = options.precision, (Quantization(measure=how.measure), how)
    if not isinstance(given, Quantization) or replace(given, measure=how.measure) not in kinds:
        raise OptionError(f"The module was trained for other integers than {given!r}.", "Give 'int8'.")
    if options.preprocess not in (None, image):
        raise OptionError(
            "preprocess changes the codes of the first layer, and the module was trained with those that it has.",
            "Train with it: planish.fake_quantize(model, images, preprocess=planish.Image(...)).",
        )
    for name in ("calibration", "passes"):
        if getattr(options, name) is not None:
            raise OptionError(f"{name} means nothing for a fake-quantized module.", "Leave it out.")


def _items(loader: Iterable[Any]) -> Iterable[Any]:
    """A lone tensor is one item."""
    return [loader] if isinstance(loader, Tensor) else loader


def _hulls(seen: Mapping[str, Sequence[Tensor]], live: Live) -> dict[str, Tensor]:
    """The range of each group in one batch."""
    stacked = {name: torch.stack(list(pairs)) for name, pairs in seen.items()}
    for name, pairs in stacked.items():
        if not bool(pairs.isfinite().all()):
            raise QuantizationError(
                f"{live.layer(name)} is NaN or infinite.", "Look at the batch and the learning rate."
            )
    return {name: torch.stack((pairs[:, 0].min(), pairs[:, 1].max())) for name, pairs in stacked.items()}


@contextmanager
def evaluating(model: nn.Module) -> Iterator[nn.Module]:
    """Within, the model and all in it is in eval mode."""
    before = {module: module.training for module in model.modules()}
    model.eval()
    try:
        yield model
    finally:
        for module, training in before.items():
            module.training = training
