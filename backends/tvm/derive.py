"""Weights in the forms that kernels read, some of them made when an artifact is loaded.

arguments(weights)[i] = stored array, a page of the file,  or  func(stored array) in memory of this process

Derived arrays lie one after the other in anonymous memory, in huge pages where the system has them: a kernel that
streams through t*t matrices at once would need a translation for each. Imports neither torch nor TVM.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import numpy as np

from .artifact import WEIGHT_ALIGNMENT, Artifact, Weight
from .plan import Derived
from .scratch import block

Key = tuple[int, Derived]


def arguments(
    artifact: Artifact,
    tensor: Callable[[np.ndarray], Any],
    function: Callable[[str], Callable[..., Any]],
    in_pool: Callable[[Callable[[], None]], None],
) -> list[Any]:
    """main's weight parameters as tensors; equal ones are one array.

    `tensor` makes an array an argument, `function` finds a kernel, `in_pool` runs a call with the artifact's threads.
    """
    weights = artifact.weights
    stored = [tensor(weight.stored) for weight in weights]
    wanted = {_key(weight): index for index, weight in enumerate(weights) if weight.derived is not None}
    if not wanted:
        return stored
    made = {key: tensor(array) for key, array in zip(wanted, _allocate([key[1] for key in wanted]), strict=True)}

    def derive() -> None:
        for key, index in wanted.items():
            function(key[1].symbol)(stored[index], made[key])

    # On a thread of its own, whose pool ends with it: a caller that has never called the model may still fork freely.
    with ThreadPoolExecutor(1, "planish-load") as thread:
        thread.submit(in_pool, derive).result()
    artifact.release()
    return [made.get(_key(weight), plain) for weight, plain in zip(weights, stored, strict=True)]


def _key(weight: Weight) -> Any:
    """Equal for weights that are one array."""
    return (weight.stored.__array_interface__["data"][0], weight.derived)


def _allocate(arrays: Sequence[Derived]) -> list[np.ndarray]:
    """Zeroed arrays in one anonymous mapping, which ends with the last of them."""
    starts, end = [], 0
    for array in arrays:
        starts.append(end)
        size = math.prod(array.shape) * np.dtype(array.dtype).itemsize
        end += -(-size // WEIGHT_ALIGNMENT) * WEIGHT_ALIGNMENT
    memory = block(end)
    return [
        np.frombuffer(memory, array.dtype, math.prod(array.shape), start).reshape(array.shape)
        for array, start in zip(arrays, starts, strict=True)
    ]
