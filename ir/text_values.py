"""Words of the text form: dtypes, literals and tensors.  read(show(value)) == value, bit for bit."""

from __future__ import annotations

import json
import operator
import zlib
from typing import Any

import numpy as np
import torch

DTYPES = {
    "f16": torch.float16,
    "bf16": torch.bfloat16,
    "f32": torch.float32,
    "f64": torch.float64,
    "i8": torch.int8,
    "i16": torch.int16,
    "i32": torch.int32,
    "i64": torch.int64,
    "u8": torch.uint8,
    "u16": torch.uint16,
    "u32": torch.uint32,
    "u64": torch.uint64,
    "c64": torch.complex64,
    "c128": torch.complex128,
    "bool": torch.bool,
}
SHORT = {dtype: word for word, dtype in DTYPES.items()}

WORDS: dict[str, Any] = {
    "none": None,
    "true": True,
    "false": False,
    "inf": float("inf"),
    "nan": float("nan"),
    "contiguous_format": torch.contiguous_format,
    "channels_last": torch.channels_last,
    "channels_last_3d": torch.channels_last_3d,
    "preserve_format": torch.preserve_format,
    "strided": torch.strided,
    "cpu": torch.device("cpu"),
    **DTYPES,
}
"""Bare words that are values."""

INLINE = 16
"""Constants of at most this many elements print with their values."""


def show_literal(value: Any) -> str:
    """A Python value as it stands in an argument list."""
    if isinstance(value, bool | None | torch.dtype | torch.device | torch.memory_format | torch.layout):
        for word, known in WORDS.items():
            if known is value or (isinstance(value, torch.device) and known == value):
                return word
    if isinstance(value, float):
        return repr(value)
    if isinstance(value, int):
        return str(value)
    if isinstance(value, str):
        return json.dumps(value)
    return f"<{value!r}>"


def show_type(value: Any) -> str:
    """The type of a node's value: `f32[1, 3]`, `(f32[2], i64[2])`, `none`, `int`."""
    if isinstance(value, torch.Tensor):
        return f"{SHORT.get(value.dtype, str(value.dtype))}[{', '.join(map(str, value.shape))}]"
    if isinstance(value, tuple | list):
        return "(" + ", ".join(map(show_type, value)) + ")"
    return "none" if value is None else type(value).__name__


def show_op(target: Any) -> str:
    """`add.Tensor`, `relu` (the default overload), `planish::conv2d`, `getitem`."""
    if target is operator.getitem:
        return "getitem"
    schema = getattr(target, "_schema", None)
    if schema is None:
        return f"{getattr(target, '__module__', '')}::{getattr(target, '__name__', target)}"
    overload = target._overloadname
    name = schema.name.removeprefix("aten::")
    return name if overload == "default" else f"{name}.{overload}"


def find_op(name: str) -> Any:
    """Inverse of `show_op`; None for an op that does not exist."""
    if name == "getitem":
        return operator.getitem
    namespace, _, rest = name.rpartition("::")
    packet_name, _, overload = rest.partition(".")
    if namespace == "planish":
        from .quantized import operators  # noqa: F401  they exist once this module is loaded
    packet = getattr(getattr(torch.ops, namespace or "aten"), packet_name, None)
    return getattr(packet, overload or "default", None)


def show_tensor(tensor: torch.Tensor) -> str | None:
    """Nested lists of exact values, None for a tensor that is too large (or has odd NaN bits) to print."""
    if tensor.numel() > INLINE or tensor.dtype.is_complex or tensor.is_quantized:
        return None
    text = _show_items(tensor)
    again = read_tensor(_read_items(text), tensor.dtype, list(tensor.shape))
    return text if again is not None and _bits(again) == _bits(tensor) else None


def read_tensor(values: Any, dtype: torch.dtype, shape: list[int]) -> torch.Tensor | None:
    """A tensor of nested lists; None where they do not have that shape."""
    wide = torch.float64 if dtype.is_floating_point else dtype
    try:
        tensor = torch.tensor(values, dtype=wide).to(dtype)
    except (TypeError, ValueError, RuntimeError):
        return None
    if tensor.numel() == 0 and 0 in shape:
        tensor = tensor.reshape(shape)
    return tensor if list(tensor.shape) == shape else None


def make_tensor(kind: str, seed: int, dtype: torch.dtype, shape: list[int]) -> torch.Tensor:
    """Seeded values: `random` is normal (0 or 1 for integers and bools), `positive` uniform in [0.5, 1.5)."""
    generator = torch.Generator().manual_seed(seed)
    if not dtype.is_floating_point and not dtype.is_complex:
        return torch.randint(0, 2, shape, generator=generator).to(dtype)
    if kind == "positive":
        return (torch.rand(shape, generator=generator, dtype=torch.float64) + 0.5).to(dtype)
    return torch.randn(shape, generator=generator, dtype=torch.float64).to(dtype)


def default_tensor(name: str, dtype: torch.dtype, shape: list[int]) -> torch.Tensor:
    """What a declaration without values gets: seeded by its name; variances are positive."""
    kind = "positive" if name.endswith("var") else "random"
    return make_tensor(kind, zlib.crc32(name.encode()), dtype, shape)


def _show_items(tensor: torch.Tensor) -> str:
    if tensor.dim():
        return "[" + ", ".join(_show_items(item) for item in tensor) + "]"
    value = tensor.item()
    if tensor.dtype in (torch.float32, torch.float16) and isinstance(value, float):
        kind = np.float32 if tensor.dtype == torch.float32 else np.float16
        return str(kind(value)) if np.isfinite(value) else repr(value)
    return show_literal(value)


def _read_items(text: str) -> Any:
    """Nested lists of Python numbers from `_show_items`' text."""
    words = {"true": "true", "false": "false", "inf": "Infinity", "nan": "NaN"}
    for word, spelled in words.items():
        text = text.replace(word, spelled)
    return json.loads(text)


def _bits(tensor: torch.Tensor) -> bytes:
    return bytes(tensor.detach().contiguous().reshape(-1).view(torch.uint8).tolist())
