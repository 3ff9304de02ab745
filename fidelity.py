"""Measures fidelity: runs a batch through every stage on the way to integers and compares neighbours.

eager → rewritten → fake-quantized → integer reference → artifact
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from itertools import pairwise
from typing import Any

import torch
from torch import Tensor

from .ir.fidelity import Fidelity, Hop
from .ir.interpret import eager
from .ir.program import Program
from .passes.quantize.bias import Means
from .passes.quantize.simulate import simulate

STAGES = ("eager", "rewritten", "fake-quantized", "integer reference", "artifact")


class Fidelities:
    """The stages of one model for one batch; the artifact comes last, perhaps several times."""

    def __init__(
        self,
        captured: Program,
        prepared: Program,
        integer: Program,
        inputs: Sequence[Tensor],
        means: Means | None = None,
    ) -> None:
        """Run everything that needs no compiled code; `means` are those that biases were corrected with."""
        simulated = simulate(prepared, integer, inputs, means)
        self._inputs = list(inputs)
        self._results = [eager(captured, inputs), simulated.exact, simulated.fake, simulated.integer]
        self.layers = simulated.layers

    def of(self, artifact: Callable[[Sequence[Tensor]], Sequence[Any]] | None) -> Fidelity:
        """The fidelity of compiled code; without any (it is for another machine) the way ends at the reference."""
        results = [*self._results]
        if artifact is not None:
            results.append(tuple(torch.as_tensor(value) for value in artifact(self._inputs)))
        named = list(zip(STAGES, results, strict=False))
        hops = [_hop(before, after) for before, after in pairwise(named)]
        return Fidelity(tuple(hops), _hop(named[0], named[-1]), self.layers)


def _hop(before: tuple[str, Sequence[Tensor]], after: tuple[str, Sequence[Tensor]]) -> Hop:
    """One step; outputs that are no floating values do not count."""
    signal, noise, largest = 0.0, 0.0, 0.0
    for own, other in zip(before[1], after[1], strict=True):
        if own.dtype.is_floating_point and own.numel():
            wide = own.to(torch.float64)
            off = other.to(torch.float64) - wide
            signal, noise = signal + float(wide.square().sum()), noise + float(off.square().sum())
            largest = max(largest, float(off.abs().max()))
    return Hop(before[0], after[0], signal, noise, largest)
