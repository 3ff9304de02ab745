"""Shapes and dtypes without data:  fake(op(*args)) == op(*fake(args)).

Every node's `meta["val"]` is a FakeTensor; whoever makes a node asks here for its value.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import fx
from torch._subclasses.fake_tensor import FakeTensor, FakeTensorMode
from torch.utils._pytree import tree_map_only


class Fakes:
    """Runs ops on fake tensors of one mode, the one the graph's values already have where they have one."""

    def __init__(self, graph: fx.Graph | None = None) -> None:
        """Take over the mode of `graph`'s first value."""
        self.mode = _mode_of(graph) or FakeTensorMode(allow_non_fake_inputs=False)

    def of(self, tensor: torch.Tensor) -> torch.Tensor:
        """A fake twin of a real tensor (or of a fake one of another mode)."""
        if isinstance(tensor, FakeTensor):
            return tensor if tensor.fake_mode is self.mode else self.empty_like(tensor)
        return self.empty_like(tensor)

    def empty_like(self, tensor: torch.Tensor) -> torch.Tensor:
        """A fake tensor with the same shape, strides, dtype and device."""
        with self.mode, torch.no_grad():
            return torch.empty_strided(tensor.shape, tensor.stride(), dtype=tensor.dtype, device=tensor.device)

    def run(self, op: Any, args: Any, kwargs: Any) -> Any:
        """The fake result of `op`; `fx.Node`s in the arguments stand for their `meta["val"]`."""
        fake_args, fake_kwargs = fx.map_arg((args, kwargs), lambda node: node.meta["val"])
        fake_args, fake_kwargs = tree_map_only(torch.Tensor, self.of, (fake_args, fake_kwargs))
        with self.mode, torch.no_grad():
            return op(*fake_args, **fake_kwargs)


def _mode_of(graph: fx.Graph | None) -> FakeTensorMode | None:
    """The mode of the first fake value in the graph."""
    for node in graph.nodes if graph is not None else ():
        value = node.meta.get("val")
        if isinstance(value, FakeTensor):
            return value.fake_mode
    return None
