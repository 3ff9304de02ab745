"""Which layers of an integer model stay in float: by measured time, and by what `evaluate` says.

integer_only=True       none; those that would be faster in float are reported with both times
integer_only=False      those that measured times make faster, if the whole is faster for it
evaluate=               further ones, those with the most noise first, until the score is high enough
"""

from __future__ import annotations

import math
from collections.abc import Callable, Collection, Iterator, Mapping
from dataclasses import dataclass, replace
from functools import lru_cache

from .backends.tvm.runtime import Compiled
from .errors import OptionError, QuantizationError
from .fidelity import Fidelities
from .ir.fidelity import LayerNoise, LayerTime
from .ir.program import Program
from .ir.report import PassReport, Site
from .layer_times import Make, Measured, Network, kernels, measure_layers, whole_times
from .options import Progress
from .passes.quantize.fewest import MOST, fewest
from .passes.quantize.islands import Islands, Unit, islands, with_views
from .quantization import Quantization
from .quantizing import Quantized


@dataclass(frozen=True)
class Clock:
    """What measures: the layers of a network in integers and in float, and whole networks."""

    layers: Callable[[Quantized, Network, Network, Make], Measured] = measure_layers
    whole: Callable[[list[Compiled]], list[float]] = whole_times


@dataclass(frozen=True)
class Decision:
    """What stays in float, the code of that, and what was measured on the way."""

    quantized: Quantized
    network: Network
    measured: Measured | None = None
    entries: tuple[PassReport, ...] = ()
    """What the ledger says besides."""

    @property
    def whole(self) -> tuple[float, float] | None:
        """Milliseconds of the model in integers and in float."""
        return None if self.measured is None else self.measured.whole

    def unmeasured(self, how: Quantization) -> str:
        """Why there are no times although they were asked for."""
        return "the code is for another machine" if how.measure and self.measured is None else ""

    def times(self) -> tuple[LayerTime, ...]:
        """Both times of each layer."""
        if self.measured is None:
            return ()
        found = self.measured.islands
        return tuple(
            LayerTime(
                tuple(sorted(unit.nodes)),
                unit.layers,
                unit.integer_ms,
                unit.float_ms,
                found.alone(place),
                not unit.nodes.isdisjoint(self.quantized.keep),
                unit.loses,
            )
            for place, unit in enumerate(found.units)
        )


@dataclass(frozen=True)
class FloatLayers:
    """How to decide for one model. `make` compiles a program; `noise` says how noisy each value of one is."""

    how: Quantization
    make: Make
    noise: Callable[[Quantized], tuple[LayerNoise, ...]]
    report: Progress
    clock: Clock | None = Clock()
    """None where the code is for another machine."""

    def decide(self, quantized: Quantized, network: Network) -> Decision:
        """Start from all in integers, but for what has to be in float."""
        decision = Decision(quantized, network)
        timed = self.how.measure and self.clock is not None
        if not timed and self.how.evaluate is None:
            return decision
        if not network[0].runs_here:
            raise OptionError(
                "evaluate runs the compiled model, whose code is for another machine.",
                "Compile with evaluate on that machine; here, give what its ledger has in float as keep_float.",
            )
        self.report("float kernels", 0, 1)
        floats = self.make(quantized.floating)
        self.report("float kernels", 1, 1)
        if timed and self.clock is not None:
            measured = self.clock.layers(quantized, network, floats, self.make)
            decision = self._faster(replace(decision, measured=measured), self.clock)
        return decision if self.how.evaluate is None else self._evaluated(decision, floats)

    def _faster(self, start: Decision, clock: Clock) -> Decision:
        """The layers that are faster in float, if they may be so; the others that lose are reported."""
        assert start.measured is not None
        found = start.measured.islands
        chosen = frozenset() if self.how.integer_only else found.fastest()
        why = "integer_only=True keeps it in integers" if self.how.integer_only else "conversions would take more"
        decision = start
        if chosen:
            reasons = {place: f"{_why(found.units[place])}: {_times(found, place)}" for place in chosen}
            tried = self._with(start, found, reasons)
            before, after = clock.whole([start.network[0], tried.network[0]])
            if after < before:
                decision = tried
            else:
                why = f"with such layers in float the whole takes {after:.3f} ms instead of {before:.3f} ms"
                chosen = frozenset()
        losing = {place for place, unit in enumerate(found.units) if unit.loses} - chosen - found.fixed
        refused = tuple(_site(start, found, place, f"{_times(found, place)}; {why}") for place in sorted(losing))
        applied = tuple(_site(start, found, place, None) for place in sorted(chosen))
        entry = PassReport("compare_with_float", applied, refused)
        return replace(decision, entries=(*decision.entries, entry))

    def _evaluated(self, start: Decision, floats: Network) -> Decision:
        """The fewest noisy layers in float for which the score is high enough."""
        assert self.how.max_drop is not None
        quantized = start.quantized
        found = islands(quantized.prepared, kernels(start.network), kernels(floats), {}, tuple(quantized.keep))
        want = self._score(floats[0])
        floor = want - self.how.max_drop
        scores = 1

        def score(chosen: Collection[int]) -> float:
            nonlocal scores
            scores += 1
            self.report(f"evaluate: {len(chosen)} layers in float", min(scores, MOST), MOST)
            tried = self._with(start, found, dict.fromkeys(chosen, "evaluate")) if chosen else start
            return self._score(tried.network[0])

        if (own := score(())) >= floor:
            return start
        order = noisiest(found, self.noise(quantized))
        kept = fewest(order, lambda chosen: score(chosen) if chosen else own, floor)
        if kept is None:
            raise QuantizationError(
                f"Even with every layer in float evaluate stays more than {self.how.max_drop:g} below {want:.6g}, "
                "which it gives for the model in float.",
                "Let evaluate give the same score for the same model: the same data every time, and no random choices.",
            )
        together = f"evaluate rises from {kept.before:.6g} to {kept.after:.6g} with it and {len(kept.kept) - 1} others"
        reasons = {
            place: f"evaluate rises from {kept.without[place]:.6g} to {kept.after:.6g} with it in float"
            if place in kept.without
            else f"{together} in float"
            for place in kept.kept
        }
        return self._with(start, found, reasons)

    def _with(self, start: Decision, found: Islands, reasons: Mapping[int, str]) -> Decision:
        """The model with further units in float, each for a reason."""
        own = {name: reason for place, reason in reasons.items() for name in found.units[place].nodes}
        prepared = start.quantized.prepared
        between = with_views(prepared, {*own, *start.quantized.keep}) - own.keys()
        quantized = start.quantized.with_floats({**dict.fromkeys(between, "it lies between layers in float"), **own})
        return replace(start, quantized=quantized, network=self.make(quantized.integer))

    def _score(self, compiled: Compiled) -> float:
        """What `evaluate` says of code."""
        assert self.how.evaluate is not None
        value = self.how.evaluate(compiled)
        try:
            score = float(value)
        except (TypeError, ValueError):
            score = math.nan
        if not math.isfinite(score):
            raise QuantizationError(
                f"evaluate returned {value!r}, which is no score.", "Return a finite number: higher is better."
            )
        return score


def finished(
    captured: Program,
    quantized: Quantized,
    network: Network,
    how: Quantization,
    make: Make,
    clock: Clock | None,
    report: Progress,
) -> Network:
    """A model that was compiled to integers, once it is decided what stays in float; its manifest has the fidelity."""

    @lru_cache(1)
    def stages(of: Quantized) -> Fidelities:
        report("fidelity", 0, 1)
        found = Fidelities(captured, of.prepared, of.integer, of.batch, of.means)
        report("fidelity", 1, 1)
        return found

    made = FloatLayers(how, make, lambda of: stages(of).layers, report, clock).decide(quantized, network)
    compiled, grouped = made.network
    fidelity = stages(made.quantized).of(compiled.run_flat if compiled.runs_here else None)
    fidelity = replace(fidelity, times=made.times(), whole=made.whole, unmeasured=made.unmeasured(how))
    entries = [*compiled.manifest["report"], *(entry.to_json() for entry in made.entries)]
    return compiled.described(report=entries, fidelity=fidelity.to_json()), grouped


def noisiest(found: Islands, layers: tuple[LayerNoise, ...]) -> list[int]:
    """Units by the noise of the worst value that each makes or reads, worst first."""
    own = {layer.node: layer.own for layer in layers}

    def values(place: int) -> Iterator[str]:
        yield from found.units[place].nodes
        yield from (border.value for border in found.borders if place in border.readers)

    places = (place for place in range(len(found.units)) if place not in found.fixed)
    return sorted(places, key=lambda place: min((own.get(name, math.inf) for name in values(place)), default=math.inf))


def _why(unit: Unit) -> str:
    return "it is faster so" if unit.loses else "layers beside it are faster so, and conversions take more"


def _times(found: Islands, place: int) -> str:
    unit = found.units[place]
    return f"int8 takes {unit.integer_ms:.4f} ms, float {unit.float_ms:.4f} ms"


def _site(decision: Decision, found: Islands, place: int, reason: str | None) -> Site:
    """A unit in the ledger, by its last node."""
    unit = found.units[place]
    node = [node for node in decision.quantized.prepared.graph.nodes if node.name in unit.nodes][-1]
    return Site("compare_with_float", node.name, str(node.target), unit.layers, reason)
