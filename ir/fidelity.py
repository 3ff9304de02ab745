"""Fidelity: how far each step on the way to integers takes a model's results. Plain data, no torch.

hop = stage after - stage before        SQNR = 10 log10(Σ before² / Σ (after - before)²)  dB

The stages are the model in PyTorch (eager), its rewritten graph, that with values rounded to codes (fake-quantized),
the integer program's reference, and the artifact. The last two have the same bits where nothing stays in float.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from typing import Any


@dataclass(frozen=True)
class Hop:
    """The error of one step, over all floating outputs: signal, noise and the largest difference."""

    before: str
    after: str
    signal: float
    """Σ before²."""
    noise: float
    """Σ (after - before)²."""
    largest: float

    @property
    def sqnr(self) -> float:
        """Decibels; infinite where nothing changes."""
        return decibels(self.signal, self.noise)

    def __str__(self) -> str:
        """Print as `eager → rewritten: 132.1 dB, at most 1.2e-06`."""
        return f"{self.before} → {self.after}: {show(self.sqnr)}, at most {self.largest:.2g}"


@dataclass(frozen=True)
class LayerNoise:
    """What happens to one value: noise that arises in it, and all that it carries."""

    node: str
    layers: tuple[str, ...]
    own: float
    """SQNR in dB of this value alone in codes, computed from exact operands."""
    carried: float
    """SQNR in dB of the integer program's value."""

    @property
    def name(self) -> str:
        """Its layers, or the node's name."""
        return ", ".join(self.layers) or self.node

    def __str__(self) -> str:
        """Print as `layer1.conv (convolution_3)`: a layer may have several values."""
        return f"{', '.join(self.layers)} ({self.node})" if self.layers else self.node


@dataclass(frozen=True)
class LayerTime:
    """How long the kernels of one layer take in integers and in float, measured where the model was compiled."""

    nodes: tuple[str, ...]
    """The values that these kernels make: those of several layers where no kernel border lies between them."""
    layers: tuple[str, ...]
    integer_ms: float
    """Milliseconds of its integer kernels."""
    float_ms: float
    """Milliseconds of the kernels that it has in a float model."""
    conversions_ms: float
    """Milliseconds that conversions at its borders add if it alone is in float; less than 0 where they go."""
    in_float: bool = False
    """Whether it is in float in this artifact."""
    loses: bool = False
    """Whether its integer kernels are slower than its float kernels, by more than noise."""

    @property
    def cost(self) -> float:
        """Milliseconds that keeping this layer alone in float costs; less than 0 where it is faster so."""
        return self.float_ms + self.conversions_ms - self.integer_ms

    def __str__(self) -> str:
        """Print as `conv1: int8 takes 0.3100 ms, float 0.2200 ms, conversions +0.0200 ms`."""
        name = ", ".join(self.layers) or ", ".join(self.nodes)
        state = " (in float)" if self.in_float else ""
        times = f"int8 takes {self.integer_ms:.4f} ms, float {self.float_ms:.4f} ms, "
        times += f"conversions {self.conversions_ms:+.4f} ms"
        return f"{name}{state}: {times}"


@dataclass(frozen=True)
class Fidelity:
    """The hops one by one, the whole way, and every layer in the order of the graph; of one batch of data.

    `times` are both times of every layer, and `whole` those of the model in integers and in float, in milliseconds;
    where nothing was measured `unmeasured` says why.
    """

    hops: tuple[Hop, ...]
    total: Hop
    layers: tuple[LayerNoise, ...]
    times: tuple[LayerTime, ...] = ()
    whole: tuple[float, float] | None = None
    unmeasured: str = ""

    def worst(self, count: int = 5) -> tuple[LayerNoise, ...]:
        """The layers in which most noise arises, relative to their values."""
        return tuple(sorted(self.layers, key=lambda layer: layer.own)[:count])

    def time_of(self, layer: LayerNoise) -> LayerTime | None:
        """Both times of the kernels that make a value; `cost` is what keeping them in float costs."""
        return next((time for time in self.times if layer.node in time.nodes), None)

    def slower(self) -> tuple[LayerTime, ...]:
        """The layers whose integer kernels lose to float ones, and that are in integers; what loses most first."""
        found = (time for time in self.times if time.loses and not time.in_float)
        return tuple(sorted(found, key=lambda time: time.float_ms - time.integer_ms))

    def lines(self, count: int = 5) -> Iterator[str]:
        """What people read."""
        for hop in (*self.hops, self.total):
            yield str(hop)
        for layer in self.worst(count):
            noise = f"{layer}: {show(layer.own)} of its own, {show(layer.carried)} with all before it"
            yield noise + self._cost(layer)
        if self.unmeasured:
            yield f"layers were not timed in float: {self.unmeasured}"
        if self.whole is not None:
            yield f"the whole model takes {self.whole[0]:.4f} ms in integers and {self.whole[1]:.4f} ms in float"
        for time in self.slower()[:count]:
            yield f"slower in integers: {time}"

    def _cost(self, layer: LayerNoise) -> str:
        """What it would cost, or gain, not to have this noise."""
        time = self.time_of(layer)
        if time is None:
            return ""
        return "; it is in float" if time.in_float else f"; in float {time.cost:+.4f} ms"

    def __str__(self) -> str:
        """The hops, then the worst layers."""
        return "\n".join(self.lines())

    def to_json(self) -> dict[str, Any]:
        """Plain dicts and lists; JSON has no infinity, so no noise is null decibels."""
        layers = [{**asdict(one), "own": _finite(one.own), "carried": _finite(one.carried)} for one in self.layers]
        hops, times = [asdict(hop) for hop in self.hops], [asdict(time) for time in self.times]
        made = {"hops": hops, "total": asdict(self.total), "layers": layers, "times": times}
        return {**made, "whole": self.whole, "unmeasured": self.unmeasured}

    @staticmethod
    def from_json(data: dict[str, Any]) -> Fidelity:
        """Inverse of `to_json`."""
        layers = (
            LayerNoise(entry["node"], tuple(entry["layers"]), *(_decibels(entry[key]) for key in ("own", "carried")))
            for entry in data["layers"]
        )
        times = (
            LayerTime(**{**entry, "nodes": tuple(entry["nodes"]), "layers": tuple(entry["layers"])})
            for entry in data["times"]
        )
        return Fidelity(
            tuple(Hop(**hop) for hop in data["hops"]),
            Hop(**data["total"]),
            tuple(layers),
            tuple(times),
            None if data["whole"] is None else (data["whole"][0], data["whole"][1]),
            data["unmeasured"],
        )


LEAST = -400.0
"""Decibels of noise without any signal."""


def decibels(signal: float, noise: float) -> float:
    """10 log10(signal / noise)."""
    if not noise:
        return math.inf
    return 10 * math.log10(signal / noise) if signal else LEAST


def show(value: float) -> str:
    """Decibels as people read them."""
    return "no difference" if value == math.inf else f"{value:.1f} dB"


def _finite(value: float) -> float | None:
    return value if math.isfinite(value) else None


def _decibels(value: float | None) -> float:
    return math.inf if value is None else value
