"""What a task means in float64, and how far from that a kernel may be: for candidates that sum in their own order.

bar(task, arrays) = float64 result, 4 x the error of PyTorch's own kernels + 8 units in the last place
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np
import torch

from ....ir.interpret import run_graph, widen, widened
from ....ir.rounding import allowed
from ..template import Task


class Bar(NamedTuple):
    """The reference, and the largest error of an element."""

    reference: np.ndarray
    error: float


def bar(task: Task, arrays: Sequence[np.ndarray]) -> Bar:
    """For a task whose result is floating; arrays as they lie in memory, bfloat16 as its bits."""
    inputs = [_tensor(array, value.dtype) for array, value in zip(arrays, task.inputs, strict=True)]
    with torch.no_grad():
        own = run_graph(task.region.body, inputs, {}, _call)
        with widened():
            exact = run_graph(task.region.body, [widen(tensor) for tensor in inputs], {}, _call)
    return Bar(exact.numpy(), allowed(exact, own))


def _call(node: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
    return node.target(*args, **kwargs)


def _tensor(array: np.ndarray, dtype: str) -> torch.Tensor:
    tensor = torch.from_numpy(array)
    return tensor.view(torch.bfloat16) if dtype == "bfloat16" else tensor
