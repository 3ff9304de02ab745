"""The driver's way to integers: what is done between the exact rewrites and grouping for precision="int8".

quantize(program, how, loader) = integerize(prepared, calibrate(prepared, loader)),   prepared = run_passes(program)
"""

from __future__ import annotations

import difflib
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence, Sized
from dataclasses import dataclass, replace
from fnmatch import fnmatchcase
from functools import cached_property
from typing import Any

from torch import Tensor, fx, int16

from .errors import OptionError
from .ir.program import Program
from .ir.report import PassReport, Site
from .ir.types import QuantParams
from .options import Progress
from .passes.manager import count_nodes, run_passes
from .passes.pipelines import EQUALIZE, INTEGER
from .passes.quantize.batches import Select, batches
from .passes.quantize.bias import InputMeans, Means
from .passes.quantize.calibrate import calibrate
from .passes.quantize.imported.given_plan import is_imported
from .passes.quantize.integerize import Settings, integerize
from .passes.quantize.observers import Entropy, MeanSquare, MinMax, MovingAverage, Observer, Percentile
from .passes.quantize.plan import Codes, Plan, Ranges
from .passes.quantize.widths import codes_by_use
from .progress import silent
from .quantization import Quantization


@dataclass(frozen=True, eq=False)
class Quantized:
    """A model before and after: the float program that was calibrated, and the integer program.

    `means` are those that biases were corrected with, `batch` is the first of the data, `keep` the nodes that are
    meant to stay in float, each with the reason.
    """

    prepared: Program
    integer: Program
    means: Means
    batch: Sequence[Tensor]
    ranges: Ranges
    keep: Mapping[str, str]
    integer_only: bool

    def with_floats(self, more: Mapping[str, str]) -> Quantized:
        """The same with more nodes in float, each for a reason."""
        keep = {**more, **self.keep}
        integer = integers_of(self.prepared, self.ranges, Settings(self.integer_only, keep, means=self.means))
        return replace(self, integer=integer, keep=keep)

    @cached_property
    def floating(self) -> Program:
        """All of it in float, in the operators that integers are made of."""
        every = {node.name: "all is in float" for node in self.prepared.graph.nodes}
        return integerize(self.prepared, self.ranges, Settings(False, every))


def quantize(
    program: Program,
    how: Quantization,
    loader: Iterable[Any],
    select: Select | None = None,
    report: Progress = silent,
) -> Quantized:
    """OPTIMIZED to QUANTIZED. Raises QuantizationError, NoIntegerForm, InputError or OptionError."""
    prepared = run_passes(program, (*INTEGER, *EQUALIZE) if how.equalize else INTEGER)
    keep = kept_in_float(prepared, how.keep_float)
    seen = _FirstBatch(loader)
    means = InputMeans(prepared)
    given = is_imported(prepared)  # then data show only the ranges of what the graph says nothing of
    corrects = how.correct_bias and not given
    special = {} if given else observers_by_use(prepared, how)
    ranges = calibrate(prepared, seen, observer_of(how), select, report, means if corrects else None, special)
    if not how.integer_only and not given:
        keep = {**without_range(prepared, ranges), **keep}
    integer = integers_of(prepared, ranges, Settings(bool(how.integer_only), keep, means=means.means()))
    batch = next(batches(prepared.signature, [seen.first], select))
    return Quantized(prepared, integer, means.means(), batch, ranges, keep, bool(how.integer_only))


def take_codes(program: Program, how: Quantization, batch: Sequence[Tensor]) -> Quantized:
    """The same without data, for a program that others quantized; `batch` is what fidelity is measured on."""
    prepared = run_passes(program, INTEGER)
    keep = kept_in_float(prepared, how.keep_float)
    integer = integers_of(prepared, {}, Settings(bool(how.integer_only), keep))
    return Quantized(prepared, integer, {}, batch, {}, keep, bool(how.integer_only))


def integers_of(prepared: Program, ranges: Ranges, settings: Settings) -> Program:
    """The integer program with the ledger of what it is made of."""
    integer = integerize(prepared, ranges, settings)
    return integer.evolve(report=(*integer.report, _ledger(prepared, integer)))


class _FirstBatch:
    """A loader that keeps its first item, because an iterator can be read only once; a lone tensor is one item."""

    def __init__(self, loader: Iterable[Any]) -> None:
        self._loader = [loader] if isinstance(loader, Tensor) else loader
        self.first: Any = None

    def __len__(self) -> int:
        """How many items there are, 0 if nobody knows."""
        return len(self._loader) if isinstance(self._loader, Sized) else 0

    def __iter__(self) -> Iterator[Any]:
        for number, item in enumerate(self._loader):
            if not number:
                self.first = item
            yield item


def without_range(program: Program, ranges: Ranges) -> dict[str, str]:
    """Values that were 0 throughout calibration, and what reads them: codes tell nothing of these."""
    plan = Plan(program.graph, ranges, {})
    found = [node for node in ranges if plan.range(node) == (0.0, 0.0)]
    named = {node.name: "its range in calibration is zero" for node in found if node.op == "call_function"}
    readers = {
        reader.name: f"the range of its input {node.name} in calibration is zero"
        for node in found
        for reader in node.users
        if reader.op == "call_function"
    }
    return {**readers, **named}


def observer_of(how: Quantization, codes: Codes = QuantParams.asymmetric) -> Callable[[], Observer]:
    """Makes the observer of one value that gets `codes`."""
    made: dict[str, Callable[[], Observer]] = {
        "minmax": MinMax,
        "moving_average": lambda: MovingAverage(how.momentum),
        "percentile": lambda: Percentile(how.kept),
        "mse": lambda: MeanSquare(codes),
        "entropy": lambda: Entropy(codes),
    }
    return made[how.observer]


def observers_by_use(program: Program, how: Quantization) -> dict[fx.Node, Callable[[], Observer]]:
    """Observers of values that do not get uint8: where codes are of 16 bits, tails cost nothing, and none is cut."""
    by_use = codes_by_use(program.graph, {})
    wide = {node for node, codes in by_use.items() if codes(0.0, 1.0).dtype is int16}
    return {node: MinMax if node in wide else observer_of(how, codes) for node, codes in by_use.items()}


def kept_in_float(program: Program, patterns: Iterable[str]) -> dict[str, str]:
    """Nodes of the layers that the patterns name, each with the reason. Raises OptionError for one that names none."""
    layers = {
        node.name: [origin.layer for origin in node.meta["origins"] if origin.layer]
        for node in program.graph.nodes
        if node.op == "call_function"
    }
    kept: dict[str, str] = {}
    for pattern in patterns:
        found = [name for name, own in layers.items() if any(_within(layer, pattern) for layer in own)]
        if not found:
            known = sorted({layer for own in layers.values() for layer in own})
            near = difflib.get_close_matches(pattern, known, n=1)
            hint = f"Did you mean {near[0]!r}?" if near else f"Layers are {', '.join(known[:20])}."
            raise OptionError(f"keep_float: no layer matches {pattern!r}.", hint)
        kept |= {name: f"keep_float={pattern!r} names it" for name in found if name not in kept}
    return kept


def _within(layer: str, pattern: str) -> bool:
    """Whether a layer, or a module around it, matches."""
    parts = layer.split(".")
    return any(fnmatchcase(".".join(parts[:end]), pattern) for end in range(1, len(parts) + 1))


def _ledger(before: Program, after: Program) -> PassReport:
    """Which layers compute in integers, and which stay in float and why."""
    floats = {node.meta["of"]: str(node.meta["float"]) for node in after.graph.nodes if "float" in node.meta}
    sites = [
        Site("integerize", node.name, str(node.target), _layers(node), floats.get(node.name))
        for node in before.graph.nodes
        if node.op == "call_function"
    ]
    applied = tuple(site for site in sites if site.reason is None)
    refused = tuple(site for site in sites if site.reason is not None)
    return PassReport("integerize", applied, refused, count_nodes(before), count_nodes(after))


def _layers(node: fx.Node) -> tuple[str, ...]:
    return tuple(dict.fromkeys(origin.layer for origin in node.meta["origins"] if origin.layer))
