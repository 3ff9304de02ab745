"""canonicalize_casts: `_to_copy` with a dtype and nothing else; a cast to the same dtype is nothing.

    x.to(dtype) == x.type_as(y) == _to_copy(x, dtype=dtype);   x.to(x.dtype) == x

Conditions:
- devices, layouts and memory formats are no part of a value, so they are dropped.

Before:
    program(%x: f32[2]) {
      %a: i64[2] = to.dtype(%x, i64)
      %b: i64[2] = _to_copy(%a, dtype=i64, memory_format=contiguous_format)
      return %b
    }

After:
    program(%x: f32[2]) {
      %_to_copy: i64[2] = _to_copy(%x, dtype=i64)
      return %_to_copy
    }
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from torch import fx

from ...ir.program import Program
from .spelling import OpPass, Respell, Verdict, args_of, aten, call, replace_by, value_of


def cast(node: fx.Node, program: Program) -> Verdict:
    """A cast, or the input itself."""
    x: fx.Node = args_of(node)[0]
    dtype = value_of(node).dtype
    return replace_by(node, x if value_of(x).dtype == dtype else call(aten._to_copy.default, x, dtype=dtype))


TABLE: Mapping[Any, Respell] = dict.fromkeys(
    (
        aten._to_copy.default,
        aten.to.dtype,
        aten.to.dtype_layout,
        aten.to.device,
        aten.to.other,
        aten.type_as.default,
        torch.ops.prims.convert_element_type.default,
    ),
    cast,
)


@dataclass(frozen=True)
class CanonicalizeCasts(OpPass):
    """Spell casts as `_to_copy` with a dtype."""

    name: ClassVar[str] = "canonicalize_casts"
    table: ClassVar[Mapping[Any, Respell]] = TABLE
