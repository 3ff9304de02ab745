"""FrozenWeights notices every kind of change, and nothing else."""

from __future__ import annotations

import gc

import pytest
import torch
from torch import Tensor, nn

from planish.backends.frozen import FrozenWeights

NAMES = {0: "a", 2: "b"}


def tensors() -> list[Tensor]:
    return [torch.randn(3, 5), torch.randn(2), nn.Parameter(torch.randn(7))]


def test_nothing_changed() -> None:
    args = tensors()
    frozen = FrozenWeights(NAMES, args)
    args[1].zero_()  # position 1 is an input
    args[1] = torch.ones(4)
    assert frozen.stale(args) is None
    assert frozen.same_objects(args)
    assert not frozen.dead()


def test_nan_equals_itself() -> None:
    args = [torch.full((4,), torch.nan)]
    assert FrozenWeights({0: "a"}, args).stale(args) is None


def test_a_write_is_seen_by_its_version() -> None:
    args = tensors()
    frozen = FrozenWeights(NAMES, args)
    with torch.no_grad():
        args[2][3:4] += 0  # the same bits, but the version counts
    assert frozen.stale(args) == "weight 'b' was written after it was compiled"
    assert frozen.same_objects(args)


@pytest.mark.parametrize(
    "dtype", [torch.float32, torch.float64, torch.bfloat16, torch.int8, torch.bool, torch.complex128]
)
@pytest.mark.parametrize("layout", ["plain", "transposed", "strided", "scalar"])
def test_a_write_through_data_is_seen_by_the_probes(dtype: torch.dtype, layout: str) -> None:
    base = torch.zeros(6, 8, dtype=dtype)
    views = {"plain": base, "transposed": base.t(), "strided": base[1::2, ::3], "scalar": base[2, 3]}
    args = [views[layout]]
    frozen = FrozenWeights({0: "a"}, args)
    version = args[0]._version
    args[0].data.fill_(1)
    assert args[0]._version == version, "otherwise this test shows nothing"
    assert frozen.stale(args) is not None


@pytest.mark.parametrize("corner", [(0, 0), (5, 7)])
def test_probes_look_at_both_ends(corner: tuple[int, int]) -> None:
    args = [torch.zeros(8, 6).t()]
    frozen = FrozenWeights({0: "a"}, args)
    args[0].data[corner] = 1
    assert frozen.stale(args) is not None


def test_other_data_is_seen_by_its_address() -> None:
    args = tensors()
    frozen = FrozenWeights(NAMES, args)
    args[2].data = args[2].data.clone()
    assert frozen.stale(args) == "weight 'b' was written after it was compiled"


def test_another_tensor_is_not_the_same_object() -> None:
    args = tensors()
    frozen = FrozenWeights(NAMES, args)
    args[0] = args[0].clone()
    assert not frozen.same_objects(args)
    assert frozen.stale(args) == "weight 'a' is another tensor than the one compiled"


def test_empty_weights_have_no_probes() -> None:
    args = [torch.empty(0, 3)]
    assert FrozenWeights({0: "a"}, args).stale(args) is None


def test_no_weight_is_kept_alive() -> None:
    args = tensors()
    frozen = FrozenWeights(NAMES, args)
    args[0] = torch.ones(1)
    gc.collect()
    assert frozen.dead()
