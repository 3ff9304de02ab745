"""Names of constants:  distinct values, distinct names, and no name inside another ("conv" and "conv.weight")."""

from __future__ import annotations

import torch

_TAKEN = frozenset(dir(torch.nn.Module()))
"""Attributes that a GraphModule has itself, such as `half` or `training`."""


class WeightNames:
    """Adds tensors to a weights dict under names that can all be attributes of one module tree."""

    def __init__(self, weights: dict[str, torch.Tensor]) -> None:
        """`weights` is written to by `add`."""
        self.weights = weights
        self.folders = {folder for name in weights for folder in _folders(name)}

    def add(self, wish: str, tensor: torch.Tensor) -> str:
        """Store the tensor and return its name; equal bytes under an equal name are stored once."""
        stem = wish.strip(".") or "constant"
        if not self.weights.keys().isdisjoint(_folders(stem)):
            stem = stem.replace(".", "_")  # a constant cannot hold others
        name, count = stem, 0
        while not self._free(name):
            if name in self.weights and same_bytes(self.weights[name], tensor):
                return name
            count += 1
            name = f"{stem}_{count}"
        self.weights[name] = tensor.detach()
        self.folders.update(_folders(name))
        return name

    def _free(self, name: str) -> bool:
        taken = name in self.weights or name in self.folders or not _TAKEN.isdisjoint(name.split("."))
        return not taken and self.weights.keys().isdisjoint(_folders(name))


def same_bytes(left: torch.Tensor, right: torch.Tensor) -> bool:
    """Same dtype, shape and bits (NaN equals NaN, -0.0 differs from 0.0)."""
    if left is right:
        return True
    if left.dtype != right.dtype or left.shape != right.shape:
        return False
    one, other = (t.detach().contiguous().reshape(-1).view(torch.uint8) for t in (left, right))
    return torch.equal(one, other)


def _folders(name: str) -> list[str]:
    parts = name.split(".")
    return [".".join(parts[:end]) for end in range(1, len(parts))]
