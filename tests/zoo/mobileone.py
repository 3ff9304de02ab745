"""MobileOne: relu(sum of equal branches + 1x1 + identity), each with its norm, as trained (Vasu et al. 2022)."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from torch import Tensor, nn

from .common import ConvNorm
from .merging import convolution, folded, identity, summed

S0_WIDTHS = (48, 48, 128, 256, 1024)
"""Stem and stages: 64 times 0.75, 128, 256 and 512 times 1, 1 and 2."""


class OneBlock(nn.Module):
    """A block as it is trained: `branches` convolutions, a 1x1 beside larger kernels, a norm where the shape stays."""

    def __init__(
        self, inputs: int, outputs: int, kernel: int, stride: int = 1, groups: int = 1, branches: int = 1,
        activation: Callable[[], nn.Module] = nn.ReLU,
    ) -> None:  # fmt: skip
        """`activation` follows the sum."""
        super().__init__()
        self.kernel, self.stride, self.groups = kernel, stride, groups
        kernels = [kernel] * branches + ([1] if kernel > 1 else [])
        self.branches = nn.ModuleList([ConvNorm(inputs, outputs, k, stride, groups, None) for k in kernels])
        self.skip = nn.BatchNorm2d(inputs) if inputs == outputs and stride == 1 else None
        self.activation = activation()

    def forward(self, x: Tensor) -> Tensor:
        """Activation of the sum, added up in place as the original does."""
        out = 0 if self.skip is None else self.skip(x)
        for branch in self.branches:
            out += branch(x)
        return self.activation(out)

    def merged(self) -> nn.Module:
        """One convolution."""
        kernels = [folded(branch[0], branch[1]) for branch in self.branches]  # type: ignore[index]
        if self.skip is not None:
            kernels.append(identity(self.skip, self.skip.num_features, self.groups))
        return nn.Sequential(convolution(summed(kernels, self.kernel), self.stride, self.groups), self.activation)


class MobileOne(nn.Module):
    """Stem, four stages of depthwise and pointwise blocks, global average, classifier."""

    def __init__(self, widths: Sequence[int], depths: Sequence[int], branches: int, classes: int) -> None:
        """widths[0] is the stem's; each stage begins with stride 2."""
        super().__init__()
        blocks: list[nn.Module] = [OneBlock(3, widths[0], 3, 2)]
        for inputs, outputs, depth in zip(widths[:-1], widths[1:], depths, strict=True):
            for index in range(depth):
                wide = outputs if index else inputs
                blocks.append(OneBlock(wide, wide, 3, 1 if index else 2, wide, branches))
                blocks.append(OneBlock(wide, outputs, 1, branches=branches))
        self.blocks = nn.Sequential(*blocks)
        self.pool, self.linear = nn.AdaptiveAvgPool2d(1), nn.Linear(widths[-1], classes)

    def forward(self, x: Tensor) -> Tensor:
        """Logits of an image batch."""
        return self.linear(torch.flatten(self.pool(self.blocks(x)), 1))


def mobileone_s0(
    widths: Sequence[int] = S0_WIDTHS, depths: Sequence[int] = (2, 8, 10, 1), branches: int = 4, classes: int = 1000
) -> nn.Module:
    """MobileOne-S0 as trained."""
    return MobileOne(widths, depths, branches, classes)
