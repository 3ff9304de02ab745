"""Time: a whole ResNet-50 in seconds, and twice the graph in about twice the time. Processor time, not the clock's."""

from __future__ import annotations

import time

import pytest
import torch
from torch import Tensor, nn
from zoo import find

from planish.ir.capture import capture
from planish.ir.program import Program
from planish.passes.manager import count_nodes, run_passes
from planish.passes.pipelines import PIPELINES

pytestmark = pytest.mark.bars


def seconds(program: Program) -> float:
    """Processor time of the exact pipeline on one thread, the better of two runs."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        times = []
        for _ in range(2):
            start = time.process_time()
            run_passes(program, PIPELINES["exact"])
            times.append(time.process_time() - start)
    finally:
        torch.set_num_threads(threads)
    return min(times)


def test_resnet50_takes_less_than_five_seconds() -> None:
    model, args, kwargs = find("resnet50").full()
    assert seconds(capture(model, args, kwargs)) <= 5


class Block(nn.Module):
    """Branches with norms, a residual sum."""

    def __init__(self) -> None:
        super().__init__()
        self.three, self.norm = nn.Conv2d(4, 4, 3, padding=1), nn.BatchNorm2d(4)
        self.one, self.skip = nn.Conv2d(4, 4, 1), nn.BatchNorm2d(4)

    def forward(self, x: Tensor) -> Tensor:
        """Eight operators."""
        return torch.relu(self.norm(self.three(x)) + self.one(x) + self.skip(x)) + x


def test_a_thousand_nodes_grow_no_worse_than_n_log_n() -> None:
    x = torch.randn(1, 4, 8, 8)
    small, large = (capture(nn.Sequential(*(Block() for _ in range(n))).eval(), (x,)) for n in (35, 140))
    assert count_nodes(large) >= 1000
    # four times the nodes: n log n is 4 * log(1400) / log(350) = 4.95 times the time; the rest is for noise
    assert seconds(large) <= 4.95 * 1.3 * seconds(small)
