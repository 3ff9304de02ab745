"""What goes in and what comes out: names, dtypes, shapes and nesting. Imports neither torch nor NumPy.

Both the compiler (`ir.program`) and the runtime (which must not import torch) speak this vocabulary,
and the artifact's manifest stores it as JSON:  `Signature.from_json(s.to_json()) == s`.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

from ..errors import InputError

Dim = int | str
"""A static extent, or the name of a symbolic one."""

Json = Any


@dataclass(frozen=True)
class TensorSpec:
    """One tensor of the signature: `name`, `dtype` ("float32", "int64", "bool"...) and `shape`."""

    name: str
    dtype: str
    shape: tuple[Dim, ...]

    def __str__(self) -> str:
        """Print as `x: float32[1, 3, 224, 224]`."""
        return f"{self.name}: {self.dtype}[{', '.join(map(str, self.shape))}]"


@dataclass(frozen=True)
class Structure:
    """The nesting of a Python value over flat leaves.

    `kind` is "leaf", "tuple", "list", "dict", "namedtuple" or "constant"; `keys` are the dict's keys or
    the namedtuple's (class name, *fields); `children` the parts in order; `value` the constant (None, int,
    float, bool or str: what a model may return beside tensors).
    """

    kind: str
    children: tuple[Structure, ...] = ()
    keys: tuple[str, ...] = ()
    value: None | bool | int | float | str = None
