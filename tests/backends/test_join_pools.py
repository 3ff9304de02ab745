"""Pools in the regions of convolutions: which join, which stay apart and why, and that numbers stay."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from compare import assert_close_to_reference
from kernel_case import HOST
from torch import Tensor, nn

from planish.backends.tvm.join_pools import join_pools
from planish.ir.capture import capture
from planish.ir.interpret import eager, reference
from planish.ir.program import Program
from planish.passes.manager import run_passes
from planish.passes.pipelines import COMPILE


class Net(nn.Module):
    """A convolution and what is done with its result."""

    def __init__(self, after: Callable[[Tensor], object], channels: int = 32, kernel: int = 7) -> None:
        """`after` takes the convolution's result."""
        super().__init__()
        self.conv = nn.Conv2d(3, channels, kernel, 2)
        self.after = after

    def forward(self, x: Tensor) -> object:
        """Convolve, then the rest."""
        return self.after(torch.relu(self.conv(x)))


def _grouped(net: nn.Module, size: int = 65) -> tuple[Program, Tensor]:
    x = torch.randn(1, 3, size, size, generator=torch.Generator().manual_seed(size))
    return run_passes(capture(net.eval(), (x,)), COMPILE), x


def _pool(x: Tensor) -> Tensor:
    return nn.functional.max_pool2d(x, 3, 2, 1)


def test_a_pool_joins_the_convolution_that_it_alone_reads() -> None:
    net = Net(lambda z: torch.tanh(_pool(z)))
    before, x = _grouped(net)
    after = join_pools(before, HOST)
    assert [(r.kind, r.layers) for r in after.regions.values()] == [("conv", ("conv", ""))]
    (region,) = after.regions.values()
    anchor = region.anchor_node
    assert anchor is not None
    assert anchor.target is torch.ops.aten.convolution.default
    names = [str(n.target).split(".")[1] for n in region.body.nodes if n.op == "call_function"]
    assert names == ["convolution", "relu", "max_pool2d", "tanh"]
    (site,) = after.report[-1].applied
    assert (site.rule, site.op, site.reason) == ("join_pools", "pool", None)
    assert (after.report[-1].nodes_before, after.report[-1].nodes_after) == (2, 1)
    with torch.no_grad():
        assert_close_to_reference(eager(after, [x])[0], reference(before, [x])[0], net(x))


def test_operands_of_both_are_read_once() -> None:
    """The bias's factor is an input of both regions: the joined one has one placeholder for it."""

    class Scaled(Net):
        def forward(self, x: Tensor, s: Tensor) -> Tensor:
            return _pool(self.conv(x) * s) + s

    x, s = torch.randn(1, 3, 65, 65), torch.randn(1, 32, 1, 1)
    net = Scaled(_pool).eval()
    before = run_passes(capture(net, (x, s)), COMPILE)
    after = join_pools(before, HOST)
    (region,) = after.regions.values()
    assert len(region.placeholders) == 4  # x, s, weight, bias
    with torch.no_grad():
        assert_close_to_reference(eager(after, [x, s])[0], reference(before, [x, s])[0], net(x, s))


@pytest.mark.parametrize(
    "after",
    [
        lambda z: (_pool(z), z),
        lambda z: _pool(z) + nn.functional.max_pool2d(z, 3, 2, 1, dilation=1, ceil_mode=False) * z.mean(),
        lambda z: nn.functional.max_pool2d(z, 3, 1, 1) + z,
        lambda z: _pool(torch.flip(z, [3])),
    ],
    ids=["a result too", "another reader", "a sum after the pool", "a view between"],
)
def test_what_others_read_stays_apart(after: Callable[[Tensor], object]) -> None:
    before, _ = _grouped(Net(after))
    assert join_pools(before, HOST) is before


def test_a_template_that_does_not_take_the_pool_keeps_the_convolution() -> None:
    """Winograd is worth more than the pool's pass over memory; and the reason is reported."""
    net = nn.Sequential(nn.Conv2d(64, 64, 3, padding=1), nn.MaxPool2d(3, 2, 1))
    x = torch.randn(1, 64, 56, 56)
    before = run_passes(capture(net.eval(), (x,)), COMPILE)
    after = join_pools(before, HOST)
    assert after.graph is before.graph
    (site,) = after.report[-1].refused
    assert site.layers == ("0", "1")
    assert site.reason is not None
    assert site.reason.startswith("winograd4: ")
    assert join_pools(before, HOST, "strict").report[-1].applied  # the direct template takes both


@pytest.mark.parametrize(
    ("conv", "template"),
    [
        (nn.ConvTranspose2d(32, 32, 3, 2), "conv_transposed"),
        (nn.ConvTranspose2d(32, 32, 3, 2, groups=2), "conv_transposed"),
        (nn.Conv2d(32, 32, 3, groups=32), "depthwise"),
    ],
)
@pytest.mark.parametrize("pool", [nn.MaxPool2d(2), nn.AvgPool2d(3, 2, 1)])
def test_other_templates_leave_pools_alone(conv: nn.Module, template: str, pool: nn.Module) -> None:
    x = torch.randn(1, 32, 12, 12)
    before = run_passes(capture(nn.Sequential(conv, nn.SiLU(), pool).eval(), (x,)), COMPILE)
    (site,) = join_pools(before, HOST).report[-1].refused
    assert site.reason is not None
    assert site.reason.startswith(f"{template}: ")
