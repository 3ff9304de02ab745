"""Direct convolutions inside a whole network, against what the machine's multiply-adds reach in registers alone."""

from __future__ import annotations

import pytest
import torch
from zoo import resnet

import planish
from planish.backends.tvm.profile import Profile

CONVOLUTIONS, ELSEWHERE = 0.85, 0.10


def shares(profile: Profile) -> tuple[float, float]:
    """(convolutions' share of peak, share of the run that is spent elsewhere)."""
    rows = [row for row in profile.rows if row.kind == "conv"]
    milliseconds = sum(row.milliseconds for row in rows)
    assert len(rows) == 20  # a stem, sixteen in blocks, three shortcuts
    assert {row.template for row in rows} == {"conv_direct"}
    assert profile.limits is not None
    reached = sum(row.flops for row in rows) / milliseconds / 1e6
    return reached / profile.limits.gflops["float32"], 1 - milliseconds / profile.milliseconds


@pytest.mark.bars
def test_a_network_of_direct_convolutions_runs_near_the_peak() -> None:
    """Untuned, one image, weights that come from memory. The best of some profiles: others may use the machine, too."""
    x = torch.randn(1, 3, 224, 224, generator=torch.Generator().manual_seed(0))
    compiled = planish.compile(resnet.resnet18().eval(), (x,), numerics="strict", threads=2)
    found = [shares(compiled.profile(x, runs=20)) for _ in range(5)]
    assert max(convolutions for convolutions, _ in found) >= CONVOLUTIONS
    assert min(elsewhere for _, elsewhere in found) <= ELSEWHERE
