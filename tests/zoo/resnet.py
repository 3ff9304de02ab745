"""ResNet (basic and bottleneck blocks): relu(x + f(x)) (He et al. 2015; stride on the 3x3, as in v1.5)."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from .common import ConvNorm


class Basic(nn.Module):
    """Two 3x3 convolutions and a shortcut."""

    expansion = 1

    def __init__(self, inputs: int, width: int, stride: int) -> None:
        """A 1x1 projection where the shape changes."""
        super().__init__()
        self.conv1, self.bn1 = nn.Conv2d(inputs, width, 3, stride, 1, bias=False), nn.BatchNorm2d(width)
        self.conv2, self.bn2 = nn.Conv2d(width, width, 3, 1, 1, bias=False), nn.BatchNorm2d(width)
        self.relu = nn.ReLU(inplace=True)
        self.downsample = project(inputs, width, stride)

    def forward(self, x: Tensor) -> Tensor:
        """relu(f(x) + shortcut(x)), written in place as torchvision does."""
        out = self.relu(self.bn1(self.conv1(x)))
        out = self.bn2(self.conv2(out))
        out += x if self.downsample is None else self.downsample(x)
        return self.relu(out)


class Bottleneck(nn.Module):
    """1x1, 3x3, 1x1 and a shortcut."""

    expansion = 4

    def __init__(self, inputs: int, width: int, stride: int) -> None:
        """`width` is that of the 3x3."""
        super().__init__()
        outputs = width * self.expansion
        self.conv1, self.bn1 = nn.Conv2d(inputs, width, 1, bias=False), nn.BatchNorm2d(width)
        self.conv2, self.bn2 = nn.Conv2d(width, width, 3, stride, 1, bias=False), nn.BatchNorm2d(width)
        self.conv3, self.bn3 = nn.Conv2d(width, outputs, 1, bias=False), nn.BatchNorm2d(outputs)
        self.relu = nn.ReLU(inplace=True)
        self.downsample = project(inputs, outputs, stride)

    def forward(self, x: Tensor) -> Tensor:
        """relu(f(x) + shortcut(x))."""
        out = self.relu(self.bn1(self.conv1(x)))
        out = self.relu(self.bn2(self.conv2(out)))
        out = self.bn3(self.conv3(out))
        out += x if self.downsample is None else self.downsample(x)
        return self.relu(out)


def project(inputs: int, outputs: int, stride: int) -> nn.Module | None:
    """The shortcut's projection, None where the identity fits."""
    if stride == 1 and inputs == outputs:
        return None
    return ConvNorm(inputs, outputs, 1, stride, activation=None)


class ResNet(nn.Module):
    """Stem, four stages, global average, classifier."""

    def __init__(
        self, block: type[Basic] | type[Bottleneck], depths: Sequence[int], width: int = 64, classes: int = 1000
    ) -> None:
        """Stage i has depths[i] blocks of width * 2**i."""
        super().__init__()
        self.conv1, self.bn1 = nn.Conv2d(3, width, 7, 2, 3, bias=False), nn.BatchNorm2d(width)
        self.relu, self.maxpool = nn.ReLU(inplace=True), nn.MaxPool2d(3, 2, 1)
        channels = width
        for stage, depth in enumerate(depths):
            blocks: list[nn.Module] = []
            for index in range(depth):
                stride = 2 if stage > 0 and index == 0 else 1
                blocks.append(block(channels, width << stage, stride))
                channels = (width << stage) * block.expansion
            self.add_module(f"layer{stage + 1}", nn.Sequential(*blocks))
        self.avgpool, self.fc = nn.AdaptiveAvgPool2d((1, 1)), nn.Linear(channels, classes)

    def forward(self, x: Tensor) -> Tensor:
        """Logits of an image batch."""
        x = self.maxpool(self.relu(self.bn1(self.conv1(x))))
        for stage in (self.layer1, self.layer2, self.layer3, self.layer4):
            x = stage(x)
        return self.fc(torch.flatten(self.avgpool(x), 1))


def resnet18(width: int = 64, depths: Sequence[int] = (2, 2, 2, 2), classes: int = 1000) -> nn.Module:
    """ResNet of basic blocks."""
    return ResNet(Basic, depths, width, classes)


def resnet50(width: int = 64, depths: Sequence[int] = (3, 4, 6, 3), classes: int = 1000) -> nn.Module:
    """ResNet of bottlenecks."""
    return ResNet(Bottleneck, depths, width, classes)
