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
class Fidelity:
    """The hops one by one, the whole way, and every layer in the order of the graph; of one batch of data."""

    hops: tuple[Hop, ...]
    total: Hop
    layers: tuple[LayerNoise, ...]

    def worst(self, count: int = 5) -> tuple[LayerNoise, ...]:
        """The layers in which most noise arises, relative to their values."""
        return tuple(sorted(self.layers, key=lambda layer: layer.own)[:count])

    def lines(self, count: int = 5) -> Iterator[str]:
        """What people read."""
        for hop in (*self.hops, self.total):
            yield str(hop)
        for layer in self.worst(count):
            yield f"{layer}: {show(layer.own)} of its own, {show(layer.carried)} with all before it"

    def __str__(self) -> str:
        """The hops, then the worst layers."""
        return "\n".join(self.lines())

    def to_json(self) -> dict[str, Any]:
        """Plain dicts and lists; JSON has no infinity, so no noise is null decibels."""
        layers = [{**asdict(one), "own": _finite(one.own), "carried": _finite(one.carried)} for one in self.layers]
        return {"hops": [asdict(hop) for hop in self.hops], "total": asdict(self.total), "layers": layers}

    @staticmethod
    def from_json(data: dict[str, Any]) -> Fidelity:
        """Inverse of `to_json`."""
        layers = (
            LayerNoise(entry["node"], tuple(entry["layers"]), *(_decibels(entry[key]) for key in ("own", "carried")))
            for entry in data["layers"]
        )
        return Fidelity(tuple(Hop(**hop) for hop in data["hops"]), Hop(**data["total"]), tuple(layers))


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
