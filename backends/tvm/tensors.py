"""What callers pass and get: NumPy arrays, torch tensors, anything with DLPack; checked, and copied only if needed.

accept(value) = the same elements, contiguous, on the CPU, aligned as the kernels that read them assume

bfloat16 crosses this border as its bits, in uint16, for which every library has DLPack. torch has bfloat16 itself,
NumPy by way of `ml_dtypes`, which need not be installed: it is used only where a bfloat16 array is to be returned.

Imports neither torch nor TVM; torch is used only where the caller has imported it.
"""

from __future__ import annotations

import functools
import sys
from collections.abc import Sequence
from typing import Any

import numpy as np

from ...errors import InputError
from ...ir.signature import TensorSpec

BFLOAT16 = "bfloat16"


def accept(value: Any, spec: TensorSpec, alignment: int) -> Any:
    """An object with DLPack that holds the elements of `value`; raises InputError if it does not fit `spec`."""
    if _is_torch(value):
        return _accept_torch(value, spec, alignment)
    return _accept_numpy(_to_numpy(value, spec), spec, alignment)


def family(values: Sequence[Any]) -> str:
    """What the outputs should be: "torch" if any input is a torch tensor, else the first input's own kind."""
    if any(_is_torch(value) for value in values):
        return "torch"
    namespaces = (
        v for v in values if not isinstance(v, (np.ndarray, np.generic)) and hasattr(v, "__array_namespace__")
    )
    first = next(namespaces, None)
    return "numpy" if first is None else str(first.__array_namespace__().__name__)


def deliver(tensor: Any, kind: str, copy: bool, spec: TensorSpec) -> Any:
    """A result (or weight, or input) in the caller's kind and shape, sharing memory with nothing if `copy`."""
    if kind == "torch":
        result = _torch_view(tensor, spec)
        return result.clone() if copy else result
    array = np.from_dlpack(tensor).reshape(spec.extents)
    if copy:
        array = array.copy()
    if spec.dtype == BFLOAT16:
        array = array.view(_bfloat16(spec))
    if kind == "numpy":
        return array
    return sys.modules[kind].from_dlpack(array)


def check_out(value: Any, spec: TensorSpec) -> None:
    """Raise InputError unless an output can be written into `value`."""
    if _is_torch(value):
        _check_torch(value, spec, "Output")
        return
    if not isinstance(value, np.ndarray):
        raise InputError(
            f"Output {spec.name!r} is a {type(value).__name__}, into which no result can be written.",
            "Give a NumPy array or a torch tensor, as numpy.empty or torch.empty make them.",
        )
    _check_numpy(value, spec, "Output")
    if not value.flags.writeable:
        raise InputError(f"Output {spec.name!r} is a read-only array.", "Give an array that may be written.")


def write_out(out: Any, tensor: Any, spec: TensorSpec) -> None:
    """Copy a result into the caller's `out`."""
    if _is_torch(out):
        out.detach().copy_(_torch_view(tensor, spec))
    else:
        target = out.view(np.uint16) if spec.dtype == BFLOAT16 else out
        np.copyto(target, np.from_dlpack(tensor).reshape(spec.extents))


def _torch_view(tensor: Any, spec: TensorSpec) -> Any:
    """A result as a torch tensor on the same memory."""
    import torch
    from torch.utils.dlpack import from_dlpack

    result = from_dlpack(tensor).reshape(spec.extents)
    return result.view(torch.bfloat16) if spec.dtype == BFLOAT16 else result


def _bfloat16(spec: TensorSpec) -> np.dtype[Any]:
    """NumPy's dtype for bfloat16."""
    try:
        import ml_dtypes
    except ImportError:
        raise InputError(
            f"Output {spec.name!r} is bfloat16, which NumPy lacks without ml_dtypes.",
            "Give torch tensors, or: pip install ml_dtypes.",
        ) from None
    found: np.dtype[Any] = np.dtype(ml_dtypes.bfloat16)
    return found


def aligned_copy(array: np.ndarray, alignment: int = 64) -> np.ndarray:
    """A contiguous copy at an aligned address."""
    memory = np.empty(array.nbytes + alignment, np.uint8)
    start = -_address(memory) % alignment
    copy = memory[start : start + array.nbytes].view(array.dtype).reshape(array.shape)
    copy[...] = array
    return copy


def _is_torch(value: Any) -> bool:
    torch = sys.modules.get("torch")
    return torch is not None and isinstance(value, getattr(torch, "Tensor", ()))


def _to_numpy(value: Any, spec: TensorSpec) -> np.ndarray:
    if type(value) is np.ndarray:
        return value
    if isinstance(value, np.ma.MaskedArray):
        raise InputError(f"Input {spec.name!r} is a masked array.", "Fill it first: x.filled(0).")
    if isinstance(value, (np.ndarray, np.generic)):
        return np.asarray(value)
    if not hasattr(value, "__dlpack__"):
        raise InputError(
            f"Input {spec.name!r} is a {type(value).__name__}, not an array.",
            f"Give a NumPy array, a torch tensor or anything with DLPack, as {spec}.",
        )
    try:
        device = int(value.__dlpack_device__()[0])
        if device != 1:
            raise InputError(f"Input {spec.name!r} is not in the CPU's memory.", "Copy it to the CPU first.")
        return np.from_dlpack(value)
    except (BufferError, TypeError, ValueError, RuntimeError) as error:
        raise InputError(f"Input {spec.name!r} cannot be read: {error}.", f"Give {spec} on the CPU.") from None


def _accept_numpy(array: np.ndarray, spec: TensorSpec, alignment: int) -> np.ndarray:
    _check_numpy(array, spec)
    if spec.dtype == BFLOAT16:
        array = array.view(np.uint16)
    flags = array.flags
    if (
        flags.c_contiguous
        and flags.writeable
        and flags.aligned
        and (alignment == 1 or _address(array) % alignment == 0)
    ):
        return array
    return aligned_copy(array)


def _address(array: np.ndarray) -> int:
    return int(array.__array_interface__["data"][0])


@functools.cache
def _dtype(name: str) -> np.dtype[Any] | None:
    """Of a signature's few names (making one takes microseconds); None for what NumPy lacks, such as bfloat16."""
    try:
        return np.dtype(name)
    except TypeError:
        return None


def _accept_torch(value: Any, spec: TensorSpec, alignment: int) -> Any:
    _check_torch(value, spec)
    try:
        tensor = value.detach().resolve_neg().contiguous()
        address = tensor.data_ptr()
        if address % max(alignment, tensor.element_size()):
            tensor = tensor.clone()  # torch allocates at 64 bytes
        return tensor.view(sys.modules["torch"].uint16) if spec.dtype == BFLOAT16 else tensor
    except (RuntimeError, NotImplementedError) as error:
        said = str(error).splitlines()[0] if str(error) else type(error).__name__
        raise InputError(f"Input {spec.name!r} cannot be read: {said}", f"Give {spec} on the CPU.") from None


def _check_numpy(array: np.ndarray, spec: TensorSpec, noun: str = "Input") -> None:
    if array.dtype == _dtype(spec.dtype) or array.dtype.name == spec.dtype == BFLOAT16:
        _check_shape(array.shape, spec, noun)
        return
    if not array.dtype.isnative:
        raise InputError(
            f"{noun} {spec.name!r} is in the other byte order ({array.dtype.str}).",
            f"Convert it: x.astype({spec.dtype!r}).",
        )
    raise InputError(
        f"{noun} {spec.name!r} is {array.dtype.name}, expected {spec.dtype}.",
        f"Convert it: x.astype({spec.dtype!r}).",
    )


def _check_torch(tensor: Any, spec: TensorSpec, noun: str = "Input") -> None:
    import torch

    if tensor.device.type != "cpu":
        raise InputError(f"{noun} {spec.name!r} is on {tensor.device}.", "Copy it to the CPU first: x.cpu().")
    if tensor.layout is not torch.strided or tensor.is_quantized:
        kind = "quantized" if tensor.is_quantized else str(tensor.layout)
        raise InputError(f"{noun} {spec.name!r} is a {kind} tensor.", "Make it dense first: x.to_dense().")
    dtype = str(tensor.dtype).removeprefix("torch.")
    if dtype != spec.dtype:
        raise InputError(
            f"{noun} {spec.name!r} is {dtype}, expected {spec.dtype}.", f"Convert it: x.to(torch.{spec.dtype})."
        )
    _check_shape(tuple(tensor.shape), spec, noun)


def _check_shape(shape: tuple[int, ...], spec: TensorSpec, noun: str) -> None:
    if shape == spec.shape:
        return
    if len(shape) != len(spec.shape):
        raise InputError(
            f"{noun} {spec.name!r} has {len(shape)} dimensions {_show(shape)}, expected {len(spec.shape)}: {spec}.",
            "Add or remove dimensions, or compile the model for this shape.",
        )
    if wrong := [i for i, (a, b) in enumerate(zip(shape, spec.shape, strict=True)) if a != b]:
        raise InputError(
            f"{noun} {spec.name!r} has shape {_show(shape)}, expected {_show(spec.shape)}"
            f" (dimension{'s' * (len(wrong) > 1)} {', '.join(map(str, wrong))} differ{'s' * (len(wrong) == 1)}).",
            "Bring it to that shape, or compile the model for this one.",
        )


def _show(shape: Sequence[int | str]) -> str:
    return f"[{', '.join(map(str, shape))}]"
