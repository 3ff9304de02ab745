"""Weights that compiled code has baked in, and the check that they are still what they were.

    unchanged  <=>  same tensor objects, same versions, same addresses, same bits at a few probes

PyTorch counts in-place writes in `_version`, but not those made through `.data`; the probes see these. Dynamo
hands one graph to every instance of a module class, so "other weights" may also mean "another instance". The
check runs before every call, hence by `map` over C functions.
"""

from __future__ import annotations

import ctypes
import weakref
from collections.abc import Callable, Mapping, Sequence
from operator import attrgetter, itemgetter
from typing import Any

import torch

_PROBES = 4
_Word = ctypes.c_uint8 | ctypes.c_uint16 | ctypes.c_uint32 | ctypes.c_uint64
_WORDS: dict[int, type[_Word]] = {1: ctypes.c_uint8, 2: ctypes.c_uint16, 4: ctypes.c_uint32, 8: ctypes.c_uint64}
_version, _value, _address = attrgetter("_version"), attrgetter("value"), torch.Tensor.data_ptr


class FrozenWeights:
    """The state of some weights at one moment; keeps no weight alive."""

    def __init__(self, names: Mapping[int, str], args: Sequence[torch.Tensor]) -> None:
        """`names[i]` is the name of the weight at `args[i]`."""
        self._names = list(names.values())
        self._pick = _picker(list(names))
        tensors = self._pick(args)
        self._gone = False
        self._references = [weakref.ref(tensor, self._note_death) for tensor in tensors]
        self._ids = list(map(id, tensors))
        self._versions = list(map(_version, tensors))
        self._addresses = list(map(_address, tensors))
        self._owners, self._probes = _probes(tensors)
        self._bits = list(map(_value, self._probes))

    def same_objects(self, args: Sequence[torch.Tensor]) -> bool:
        """Whether these are the tensors that were frozen, whatever they hold now."""
        return not self._gone and list(map(id, self._pick(args))) == self._ids

    def stale(self, args: Sequence[torch.Tensor]) -> str | None:
        """What is no longer as it was, in words; None if all is."""
        tensors = self._pick(args)
        ids = list(map(id, tensors))
        if self._gone or ids != self._ids:
            other = next((i for i, r in enumerate(self._references) if r() is not tensors[i]), 0)
            return f"weight {self._names[other]!r} is another tensor than the one compiled"
        versions, addresses = list(map(_version, tensors)), list(map(_address, tensors))
        if versions != self._versions or addresses != self._addresses:
            return self._written(_different([*zip(versions, addresses, strict=True)], self._seals()))
        bits = list(map(_value, self._probes))  # safe: each tensor is alive and at its address
        if bits != self._bits:
            return self._written(self._owners[_different(bits, self._bits)])
        return None

    def dead(self) -> bool:
        """Whether some of the tensors are gone, so that nothing can match again."""
        return self._gone

    def _note_death(self, _: Any) -> None:
        self._gone = True

    def _seals(self) -> list[tuple[int, int]]:
        return [*zip(self._versions, self._addresses, strict=True)]

    def _written(self, index: int) -> str:
        return f"weight {self._names[index]!r} was written after it was compiled"


def _picker(places: list[int]) -> Callable[[Sequence[Any]], Sequence[Any]]:
    """The values at some places, always as a sequence."""
    if len(places) > 1:
        return itemgetter(*places)
    return lambda args: tuple(args[place] for place in places)


def _different(now: Sequence[Any], before: Sequence[Any]) -> int:
    """The first position at which two lists of one length differ."""
    return next(i for i, (one, other) in enumerate(zip(now, before, strict=True)) if one != other)


def _probes(tensors: Sequence[torch.Tensor]) -> tuple[list[int], list[_Word]]:
    """Elements to look at, spread over each tensor, read in place and as bits so that NaN equals itself."""
    owners: list[int] = []
    words: list[_Word] = []
    for index, tensor in enumerate(tensors):
        size, last = tensor.element_size(), tensor.numel() - 1
        places = sorted({last * i // (_PROBES - 1) for i in range(_PROBES)}) if last >= 0 else []
        word = _WORDS[min(size, 8)]
        words += [word.from_address(tensor.data_ptr() + _offset(tensor, place) * size) for place in places]
        owners += [index] * len(places)
    return owners, words


def _offset(tensor: torch.Tensor, index: int) -> int:
    """Where the index-th element lies, in elements from the first."""
    offset = 0
    for extent, stride in zip(reversed(tensor.shape), reversed(tensor.stride()), strict=True):
        index, position = divmod(index, extent)
        offset += position * stride
    return offset
