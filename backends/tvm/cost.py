"""How much a region moves, for call tables and profiles; what it computes is counted by `ir/cost.py`.

bytes = inputs + output, each counted once
"""

from __future__ import annotations

from math import prod

from .plan import Value, itemsize, physical_shape
from .template import Task


def region_bytes(task: Task, output: Value) -> int:
    """Bytes read and written by one run, each buffer once."""
    return sum(_value_bytes(v) for v in (*task.inputs, output))


def _value_bytes(value: Value) -> int:
    return prod(physical_shape(value.shape, value.layout)) * itemsize(value.dtype)
