"""Kernels as arrays of taps: laying one on a finer lattice, and the kernel of one convolution after another.

laid[o, c, start + hop * u] = weight[o, c, u]
convolved[o, c, a * u + b * v] = sum over h, u, v of  second[o, h, v] * first[h, c, u]
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterable, Sequence
from typing import Any

import torch
from torch import Tensor

Ints = tuple[int, ...]


def lattice(axes: Iterable[tuple[int, int, int]]) -> tuple[int, int, int]:
    """(low, step, taps) of the lattice that holds all the taps, each given as (low, dilation, taps)."""
    places = [-low + d * u for low, d, k in axes for u in range(k)]
    start = min(places)
    step = math.gcd(*(place - start for place in places))
    return -start, step or 1, (max(places) - start) // step + 1 if step else 1


def laid(weight: Tensor, starts: Sequence[int], hops: Sequence[int], taps: Sequence[int]) -> Tensor:
    """The weight [O, C, *K] in a kernel of `taps`, its own taps `hops` apart from `starts`, zeros between."""
    result = weight.new_zeros(*weight.shape[:2], *taps)
    where: list[slice] = [slice(None), slice(None)]
    for start, hop, count in zip(starts, hops, weight.shape[2:], strict=True):
        where.append(slice(start, start + hop * (count - 1) + 1, hop))
    result[tuple(where)] = weight
    return result


def convolved(first: Tensor, second: Tensor, groups: int, hops: Sequence[tuple[int, int]]) -> Tensor:
    """The kernel of second after first: each tap of the second, shifted, times the whole first.

    `hops` are, for each axis, the distances of the first's and of the second's taps in the result.
    """
    outputs, hidden = second.shape[0], first.shape[0] // groups
    counts = zip(hops, first.shape[2:], second.shape[2:], strict=True)
    taps = [a * (k1 - 1) + b * (k2 - 1) + 1 for (a, b), k1, k2 in counts]
    one = first.reshape(groups, hidden, -1, *first.shape[2:])
    two = second.reshape(groups, -1, hidden, *second.shape[2:])
    result = one.new_zeros(groups, two.shape[1], one.shape[2], *taps)
    for place in _places(tuple(second.shape[2:])):
        where: list[slice] = [slice(None)] * 3
        for (a, b), k, u in zip(hops, first.shape[2:], place, strict=True):
            where.append(slice(b * u, b * u + a * (k - 1) + 1, a))
        index: Any = (slice(None), slice(None), slice(None), *place)
        product = torch.einsum("goh,gh...->go...", two[index], one.flatten(2))
        result[tuple(where)] += product.reshape(groups, two.shape[1], *one.shape[2:])
    return result.reshape(outputs, -1, *taps)


def _places(taps: Ints) -> Iterable[Ints]:
    """Every index into a kernel."""
    return itertools.product(*map(range, taps))
