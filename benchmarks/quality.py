"""How well an engine computes a model in integers: its error on inputs that it has never seen, against float64.

SQNR = 10 log10(Σ want² / Σ (got - want)²)  dB        error = the largest difference, relative to its output's scale
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np

from .case import Case
from .engines.base import Loaded

Arrays = list[np.ndarray]


def write_held_out(case: Case, path: Path) -> None:
    """The flat inputs of every held-out call and their float64 outputs."""
    import torch
    from torch.utils._pytree import tree_leaves

    model, _, _ = case.sample()
    from zoo.common import reference

    found: dict[str, np.ndarray] = {}
    for call, (args, kwargs) in enumerate(case.held_out()):
        wide = reference(model, args, kwargs)
        for what, values in (("input", (args, kwargs)), ("output", wide)):
            tensors = [leaf for leaf in tree_leaves(values) if isinstance(leaf, torch.Tensor)]
            found |= {f"{call:03d}.{what}{place:03d}": tensor.numpy() for place, tensor in enumerate(tensors)}
    np.savez(path, **found)


def read_held_out(path: Path) -> Iterator[tuple[Arrays, Arrays]]:
    """(inputs, expected outputs) of each call."""
    with np.load(path) as file:
        names = sorted(file.files)
        for call in dict.fromkeys(name.partition(".")[0] for name in names):
            arrays = [[file[n] for n in names if n.startswith(f"{call}.{w}")] for w in ("input", "output")]
            yield arrays[0], arrays[1]


def quality(loaded: Loaded, inputs: Sequence[np.ndarray], path: Path) -> dict[str, float]:
    """Error and SQNR over the held-out calls; `inputs`, which every call reads anew, are as they were afterwards."""
    assert loaded.outputs is not None
    before = [array.copy() for array in inputs]
    signal, noise, largest = 0.0, 0.0, 0.0
    for given, expected in read_held_out(path):
        _fill(inputs, given)
        for got, want in zip(loaded.outputs(loaded.call()), expected, strict=True):
            off = np.abs(got.astype(np.float64) - want)
            signal, noise = signal + float(np.square(want).sum()), noise + float(np.square(off).sum())
            largest = max(largest, float(off.max()) / (float(np.abs(want).max()) or 1.0))
    _fill(inputs, before)
    return {"error": largest, "sqnr": decibels(signal, noise)}


def decibels(signal: float, noise: float) -> float:
    """Of a ratio; what has no noise has 999, because JSON knows no infinity."""
    return 10 * math.log10(signal / noise) if signal and noise else 999.0


def _fill(arrays: Sequence[np.ndarray], values: Sequence[np.ndarray]) -> None:
    for array, value in zip(arrays, values, strict=True):
        np.copyto(array, value)
