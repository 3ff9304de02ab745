"""Lets torch.export see through `tensor.data`, which it takes for a constant without data.

with DataIsDetach(): export(model)      where  x.data == x.detach()

Both are the same memory without a history; what differs is autograd's count of writes, which inference never asks for.
Forwards that read a weight's `.data`, or note a norm in a buffer by `buffer.data.copy_(...)`, can so be captured.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch.overrides import TorchFunctionMode

_DATA = torch.Tensor.data.__get__  # type: ignore[attr-defined]


class DataIsDetach(TorchFunctionMode):
    """While it is open, `.data` of any tensor is `.detach()`."""

    def __torch_function__(
        self, func: Callable[..., Any], types: Any, args: tuple[Any, ...] = (), kwargs: Mapping[str, Any] | None = None
    ) -> Any:
        """Call what was called, or detach."""
        return args[0].detach() if func == _DATA else func(*args, **(kwargs or {}))
