"""RepVGG: relu(bn(conv3(x)) + bn(conv1(x)) + bn(x)) as trained, relu(conv3(x)) merged (Ding et al. 2021)."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from .common import ConvNorm
from .merging import convolution, folded, identity, summed

A0_WIDTHS = (48, 48, 96, 192, 1280)
"""Stem and stages: 64 and (64, 128, 256) * 0.75, 512 * 2.5, the stem no wider than 64."""


class Branches(nn.Module):
    """A block as it is trained: 3x3, 1x1 and, where the shape stays, the identity, each normalized."""

    def __init__(self, inputs: int, outputs: int, stride: int) -> None:
        """The branches are summed before the activation."""
        super().__init__()
        self.dense = ConvNorm(inputs, outputs, 3, stride, activation=None)
        self.pointwise = ConvNorm(inputs, outputs, 1, stride, activation=None)
        self.identity = nn.BatchNorm2d(inputs) if inputs == outputs and stride == 1 else None
        self.relu = nn.ReLU()

    def forward(self, x: Tensor) -> Tensor:
        """relu of the sum."""
        shortcut = 0 if self.identity is None else self.identity(x)
        return self.relu(self.dense(x) + self.pointwise(x) + shortcut)

    def merged(self) -> nn.Module:
        """What is deployed, with these branches' weights."""
        kernels = [folded(branch[0], branch[1]) for branch in (self.dense, self.pointwise)]  # type: ignore[arg-type]
        if self.identity is not None:
            kernels.append(identity(self.identity, self.identity.num_features, 1))
        return nn.Sequential(convolution(summed(kernels, 3), self.dense[0].stride[0], 1), self.relu)  # type: ignore[index, union-attr]


class Merged(nn.Sequential):
    """A block as it is deployed: one convolution with a bias."""

    def __init__(self, inputs: int, outputs: int, stride: int) -> None:
        """What the branches amount to."""
        super().__init__(nn.Conv2d(inputs, outputs, 3, stride, 1), nn.ReLU())


class RepVGG(nn.Module):
    """Stem, four stages that begin with stride 2, global average, classifier."""

    def __init__(
        self, block: type[Branches] | type[Merged], widths: Sequence[int], depths: Sequence[int], classes: int
    ) -> None:
        """widths[0] is the stem's."""
        super().__init__()
        self.stem = block(3, widths[0], 2)
        blocks: list[nn.Module] = []
        for inputs, outputs, depth in zip(widths[:-1], widths[1:], depths, strict=True):
            blocks += [block(inputs if i == 0 else outputs, outputs, 2 if i == 0 else 1) for i in range(depth)]
        self.stages = nn.Sequential(*blocks)
        self.pool, self.linear = nn.AdaptiveAvgPool2d(1), nn.Linear(widths[-1], classes)

    def forward(self, x: Tensor) -> Tensor:
        """Logits of an image batch."""
        return self.linear(torch.flatten(self.pool(self.stages(self.stem(x))), 1))


def repvgg_a0(
    widths: Sequence[int] = A0_WIDTHS, depths: Sequence[int] = (2, 4, 14, 1), classes: int = 1000, merged: bool = False
) -> nn.Module:
    """RepVGG-A0, as trained or merged."""
    return RepVGG(Merged if merged else Branches, widths, depths, classes)
