"""Per-channel maps through reshapes: what stays per-channel, and where it then lies."""

from __future__ import annotations

import torch

from planish.passes.fold.affine import Affine
from planish.passes.fold.views import through_reshape


def per_channel(axis: int, *values: float) -> Affine:
    return Affine(
        axis, torch.tensor(values, dtype=torch.float64), torch.zeros(len(values), dtype=torch.float64), torch.float32
    )


def test_a_channel_that_is_split_or_merged() -> None:
    moved = through_reshape(per_channel(1, 2.0, 3.0), (5, 2, 4), (5, 1, 2, 4))
    assert moved is not None
    assert moved.axis == 2
    assert moved.scale.tolist() == [2.0, 3.0]
    assert through_reshape(per_channel(0, 2.0, 3.0), (2, 3), (3, 2)) is None


def test_a_channel_of_one_that_disappears() -> None:
    """No dimension of the target holds the axis any more: the map is the same everywhere."""
    moved = through_reshape(per_channel(1, 7.0), (3, 1), (3,))
    assert moved is not None
    assert moved.axis is None
    assert moved.scale.tolist() == [7.0]
