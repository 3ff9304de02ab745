"""Weights that compiled code has baked in, and the check that they are still what they were.

    unchanged  <=>  same tensor objects, same versions, same addresses, same bits at a few probes

PyTorch counts in-place writes in `_version`, but not those made through `.data`; the probes see these. Dynamo
hands one graph to every instance of a module class, so "other weights" may also mean "another instance".
"""

from __future__ import annotations

import ctypes
import weakref
from collections.abc import Mapping, Sequence

import torch

_PROBES = 4
_Word = ctypes.c_uint8 | ctypes.c_uint16 | ctypes.c_uint32 | ctypes.c_uint64
_WORDS: dict[int, type[_Word]] = {1: ctypes.c_uint8, 2: ctypes.c_uint16, 4: ctypes.c_uint32, 8: ctypes.c_uint64}


class FrozenWeights:
    """The state of some weights at one moment; keeps no weight alive."""

    def __init__(self, names: Mapping[int, str], args: Sequence[torch.Tensor]) -> None:
        """`names[i]` is the name of the weight at `args[i]`."""
        self._seals = [(index, name, _Seal(args[index])) for index, name in names.items()]

    def same_objects(self, args: Sequence[torch.Tensor]) -> bool:
        """Whether these are the tensors that were frozen, whatever they hold now."""
        return all(seal.tensor() is args[index] for index, _, seal in self._seals)

    def stale(self, args: Sequence[torch.Tensor]) -> str | None:
        """What is no longer as it was, in words; None if all is."""
        for index, name, seal in self._seals:
            if seal.tensor() is not args[index]:
                return f"weight {name!r} is another tensor than the one compiled"
            if seal.broken(args[index]):
                return f"weight {name!r} was written after it was compiled"
        return None

    def dead(self) -> bool:
        """Whether some of the tensors are gone, so that nothing can match again."""
        return any(seal.tensor() is None for _, _, seal in self._seals)


class _Seal:
    """One weight's version, address and probed bits."""

    __slots__ = ("address", "bits", "probes", "tensor", "version")

    def __init__(self, tensor: torch.Tensor) -> None:
        self.tensor = weakref.ref(tensor)
        self.version = tensor._version
        self.address = tensor.data_ptr()
        self.probes = _probes(tensor)
        self.bits = [probe.value for probe in self.probes]

    def broken(self, tensor: torch.Tensor) -> bool:
        """Whether anything that we look at differs (the address first: it makes the probes safe to read)."""
        if tensor._version != self.version or tensor.data_ptr() != self.address:
            return True
        return [probe.value for probe in self.probes] != self.bits


def _probes(tensor: torch.Tensor) -> list[_Word]:
    """Elements to look at, spread over the tensor, read in place and as bits so that NaN equals itself."""
    size, last = tensor.element_size(), tensor.numel() - 1
    if last < 0:
        return []
    word = _WORDS[min(size, 8)]
    places = sorted({last * i // (_PROBES - 1) for i in range(_PROBES)})
    return [word.from_address(tensor.data_ptr() + _offset(tensor, place) * size) for place in places]


def _offset(tensor: torch.Tensor, index: int) -> int:
    """Where the index-th element lies, in elements from the first."""
    offset = 0
    for extent, stride in zip(reversed(tensor.shape), reversed(tensor.stride()), strict=True):
        index, position = divmod(index, extent)
        offset += position * stride
    return offset
