"""A kernel's symbol is the hash of its content, so equal kernels are compiled and stored once.

symbol = "k_" + sha256(script(func) + cpu + features)[:16]
"""

from __future__ import annotations

import hashlib
from typing import Any

from .target import Target


def kernel_symbol(func: Any, target: Target) -> str:
    """Symbol of `func` on `target`; the function's own name does not count."""
    text = func.without_attr("global_symbol").script(show_meta=True)
    content = "\n".join([text, target.triple, target.cpu, *sorted(target.features)])
    return "k_" + hashlib.sha256(content.encode()).hexdigest()[:16]
