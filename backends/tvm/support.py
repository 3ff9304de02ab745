"""Which calls of an OPTIMIZED graph can become kernels, and why the others cannot.

supports(node) is None  =>  some template takes the region that holds the node
"""

from __future__ import annotations

import torch
from torch import fx

from ..base import Refused
from .generic.builders import builder_of
from .ops.pointwise import is_pointwise

DTYPES = frozenset({torch.float32, torch.float64, torch.bfloat16, torch.bool, torch.uint8, torch.int8})
DTYPES |= {torch.int16, torch.int32, torch.int64}


def supports(node: fx.Node) -> Refused | None:
    """None if a call can be lowered; asked of each call before anything is grouped."""
    values = [value.meta.get("val") for value in (node, *node.all_input_nodes)]
    strange = [v.dtype for v in values if isinstance(v, torch.Tensor) and v.dtype not in DTYPES]
    if strange:  # first: for these, no operator has a kernel
        return Refused(f"it works on {str(strange[0]).removeprefix('torch.')}, for which there are no kernels yet")
    if builder_of(node) is None and not is_pointwise(node):
        return Refused("there is no kernel for this operator")
    if not all(isinstance(value, torch.Tensor) for value in values):
        return Refused("it takes or returns something else than single tensors")
    return None
