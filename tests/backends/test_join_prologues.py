"""Norms and activations in the regions of the 1x1 convolutions after them: which join, which do not and why."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from compare import assert_close_to_reference
from kernel_case import HOST
from torch import Tensor, nn

from planish.backends.tvm.join_prologues import join_prologues
from planish.backends.tvm.lower import lower
from planish.ir.capture import capture
from planish.ir.interpret import eager, reference
from planish.ir.program import Program
from planish.passes.manager import run_passes
from planish.passes.pipelines import COMPILE

BLOCK = HOST.block


def _norm(channels: int) -> nn.BatchNorm2d:
    norm = nn.BatchNorm2d(channels)
    generator = torch.Generator().manual_seed(channels)
    assert norm.running_mean is not None
    norm.running_mean.copy_(torch.randn(channels, generator=generator))
    return norm


class Dense(nn.Module):
    """x joined by what two convolutions make of it and of each other, norms and ReLUs before them."""

    def __init__(self, kernel: int = 1, growth: int = BLOCK) -> None:
        """`growth` channels are added each time."""
        super().__init__()
        self.stem = nn.Conv2d(3, BLOCK, 3)
        sizes = (BLOCK + growth, BLOCK + 2 * growth)
        self.first = nn.Conv2d(BLOCK, growth, 3, padding=1)
        self.norms = nn.ModuleList(_norm(size) for size in sizes)
        self.convs = nn.ModuleList(nn.Conv2d(size, growth, kernel, padding=kernel // 2) for size in sizes)

    def forward(self, x: Tensor) -> Tensor:
        """Concatenate, norm, ReLU, convolve; twice."""
        features = [self.stem(x)]
        features.append(self.first(features[0]))
        for norm, conv in zip(self.norms, self.convs, strict=True):
            features.append(conv(torch.relu(norm(torch.cat(features, 1)))))
        return features[-1]


def _grouped(net: nn.Module, batch: int = 1, channels: int = 3) -> tuple[Program, Tensor]:
    x = torch.randn(batch, channels, 10, 12, generator=torch.Generator().manual_seed(batch))
    return run_passes(capture(net.eval(), (x,)), COMPILE), x


def test_concatenations_become_bare_and_are_made_in_place() -> None:
    net = Dense()
    before, x = _grouped(net)
    after = join_prologues(before, HOST)
    assert [site.layers for site in after.report[-1].applied] == [
        ("", "norms.0", "convs.0"),
        ("", "norms.1", "convs.1"),
    ]
    bare = [r for r in after.regions.values() if r.kind == "concat"]
    assert [len(r.epilogue) for r in bare] == [0, 0]
    steps = [step for step in lower(after, HOST).steps if step.kind == "concat"]
    assert [step.symbol for step in steps] == ["", ""]
    with torch.no_grad():
        assert_close_to_reference(eager(after, [x])[0], reference(before, [x])[0], net(x))


def test_a_norm_of_what_is_read_elsewhere_too_is_no_pass_of_its_own() -> None:
    class Residual(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.stem, self.conv, self.norm = nn.Conv2d(3, 20, 3), nn.Conv2d(20, 20, 1), _norm(20)

        def forward(self, x: Tensor) -> Tensor:
            x = torch.relu(self.stem(x))
            return x + self.conv(torch.relu(self.norm(x)))

    net = Residual()
    before, x = _grouped(net)
    after = join_prologues(before, HOST)
    assert [r.kind for r in before.regions.values()] == ["conv", "pointwise", "conv"]
    assert [r.kind for r in after.regions.values()] == ["conv", "conv"]
    with torch.no_grad():
        assert_close_to_reference(eager(after, [x])[0], reference(before, [x])[0], net(x))


class Norm(nn.Module):
    """A norm, a ReLU and a convolution of the input itself, and what is done with what the convolution reads."""

    def __init__(self, also: Callable[[Tensor], Tensor | float]) -> None:
        """`also` takes what the convolution reads."""
        super().__init__()
        self.norm, self.conv, self.also = _norm(20), nn.Conv2d(20, 20, 1), also

    def forward(self, x: Tensor) -> Tensor:
        """Convolve, add the rest."""
        x = torch.relu(self.norm(x))
        return self.conv(x) + self.also(x)


@pytest.mark.parametrize("also", [torch.sum, torch.tanh], ids=["another region", "the epilogue"])
def test_what_is_read_twice_is_stored(also: Callable[[Tensor], Tensor]) -> None:
    before, _ = _grouped(Norm(also), channels=20)
    assert join_prologues(before, HOST) is before


@pytest.mark.parametrize(
    ("net", "batch", "channels", "reason"),
    [
        (Norm(lambda x: 0.0), 1, 20, "not in blocks of channels"),
        (Dense(), 2, 3, "not made in place"),
        (Dense(growth=BLOCK // 2 + 1), 1, 3, "not made in place"),
    ],
    ids=["the program's input", "a batch", "parts that begin within a block"],
)
def test_refusals(net: nn.Module, batch: int, channels: int, reason: str) -> None:
    before, _ = _grouped(net, batch, channels)
    after = join_prologues(before, HOST)
    assert reason in str(after.report[-1].refused[-1].reason)
    assert after.regions.keys() == before.regions.keys() or after.report[-1].applied


def test_larger_kernels_are_no_candidates() -> None:
    before, _ = _grouped(Dense(kernel=3))
    assert join_prologues(before, HOST) is before
