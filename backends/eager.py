"""Runs a Program with torch, op by op: the reference, and the bisect point before TVM.

    eager(program)(*inputs) == program(*inputs),   in fresh memory

Fresh: no output shares memory with an input, a weight or another output (unless it is the same value), as with
compiled code. Without this a normalized graph, whose clones are gone, would hand out its own weights.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

import torch
from torch import fx

from ..ir.program import Program
from .base import Refused


class EagerBackend:
    """The backend that needs nothing but torch."""

    name = "eager"

    def supports(self, node: fx.Node) -> Refused | None:
        """ATen is what Programs are made of; another library's operator is not."""
        target = node.target
        if isinstance(target, torch._ops.OpOverload) and target.namespace not in ("aten", "prims", "planish"):
            return Refused(f"it belongs to the operator library {target.namespace!r}, not to ATen")
        return None

    def compile(self, program: Program, **options: Any) -> EagerCompiled:
        """Nothing to compile; `program` may be at any stage."""
        return EagerCompiled(program)


class EagerCompiled:
    """A Program as a callable over nested inputs."""

    def __init__(self, program: Program) -> None:
        """Generate the FX module's code once."""
        self.signature = program.signature
        self.report = program.report
        self._module = program.graph_module
        self._weights = tuple(program.weights.values())

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        """Nested tensors in, nested fresh tensors out."""
        return self.signature.unflatten(self.run_flat(self.signature.flatten(args, kwargs)))

    def run_flat(self, inputs: Sequence[torch.Tensor]) -> list[torch.Tensor]:
        """Flat tensors in, flat fresh tensors out."""
        with torch.no_grad():
            return fresh(self._module(*inputs), (*inputs, *self._weights))


def fresh(outputs: Iterable[torch.Tensor], owned: Iterable[torch.Tensor]) -> list[torch.Tensor]:
    """The outputs, copied where they lie in memory that is `owned` or holds an earlier, different output."""
    taken = {_memory(tensor): None for tensor in owned if tensor.numel()}
    holders: dict[int, int | None] = dict(taken)
    result: list[torch.Tensor] = []
    for output in outputs:
        place = _memory(output)
        if output.numel() and holders.get(place, id(output)) != id(output):
            output = output.clone()
        holders.setdefault(place, id(output))
        result.append(output)
    return result


def _memory(tensor: torch.Tensor) -> int:
    """Equal for tensors on one storage."""
    return tensor.untyped_storage().data_ptr()
