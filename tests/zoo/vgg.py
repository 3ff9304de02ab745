"""VGG (plain chains of 3x3 convolutions and max pools) and SqueezeNet 1.1 (fire modules)."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn

VGG11 = (64, 0, 128, 0, 256, 256, 0, 512, 512, 0, 512, 512, 0)
VGG16 = (64, 64, 0, 128, 128, 0, 256, 256, 256, 0, 512, 512, 512, 0, 512, 512, 512, 0)
"""Channels of each convolution; 0 is a max pool."""


class VGG(nn.Module):
    """Convolutions, 7x7 adaptive pool, three linear layers."""

    def __init__(self, plan: Sequence[int], norm: bool, width: float, hidden: int, classes: int) -> None:
        """`norm` puts a batch norm behind each (biased) convolution."""
        super().__init__()
        layers: list[nn.Module] = []
        n = 3
        for base in plan:
            if base == 0:
                layers.append(nn.MaxPool2d(2, 2))
                continue
            outputs = max(4, int(base * width))
            layers.append(nn.Conv2d(n, outputs, 3, padding=1))
            layers += [nn.BatchNorm2d(outputs)] if norm else []
            layers.append(nn.ReLU(inplace=True))
            n = outputs
        self.features, self.avgpool = nn.Sequential(*layers), nn.AdaptiveAvgPool2d((7, 7))
        self.classifier = nn.Sequential(
            nn.Linear(n * 49, hidden), nn.ReLU(True), nn.Dropout(), nn.Linear(hidden, hidden), nn.ReLU(True),
            nn.Dropout(), nn.Linear(hidden, classes),
        )  # fmt: skip

    def forward(self, x: Tensor) -> Tensor:
        """Logits of an image batch."""
        return self.classifier(torch.flatten(self.avgpool(self.features(x)), 1))


class Fire(nn.Module):
    """1x1 squeeze, then 1x1 and 3x3 side by side."""

    def __init__(self, inputs: int, squeeze: int, expand: int) -> None:
        """`expand` channels on each side."""
        super().__init__()
        self.squeeze = nn.Conv2d(inputs, squeeze, 1)
        self.expand1x1, self.expand3x3 = nn.Conv2d(squeeze, expand, 1), nn.Conv2d(squeeze, expand, 3, padding=1)
        self.relu = nn.ReLU(inplace=True)

    def forward(self, x: Tensor) -> Tensor:
        """Concatenate both sides."""
        x = self.relu(self.squeeze(x))
        return torch.cat([self.relu(self.expand1x1(x)), self.relu(self.expand3x3(x))], 1)


class SqueezeNet(nn.Module):
    """SqueezeNet 1.1: fire modules, ceil-mode pools, convolutional classifier."""

    def __init__(self, width: float = 1.0, classes: int = 1000) -> None:
        """`width` scales every fire module."""
        super().__init__()

        def w(channels: int) -> int:
            return max(2, int(channels * width))

        layers: list[nn.Module] = [nn.Conv2d(3, w(64), 3, 2), nn.ReLU(inplace=True)]
        n = w(64)
        for squeeze in (0, 16, 16, 0, 32, 32, 0, 48, 48, 64, 64):
            if squeeze == 0:
                layers.append(nn.MaxPool2d(3, 2, ceil_mode=True))
                continue
            layers.append(Fire(n, w(squeeze), w(4 * squeeze)))
            n = 2 * w(4 * squeeze)
        self.features = nn.Sequential(*layers)
        self.classifier = nn.Sequential(
            nn.Dropout(), nn.Conv2d(n, classes, 1), nn.ReLU(inplace=True), nn.AdaptiveAvgPool2d((1, 1))
        )

    def forward(self, x: Tensor) -> Tensor:
        """Logits of an image batch."""
        return torch.flatten(self.classifier(self.features(x)), 1)


def vgg11_bn(width: float = 1.0, hidden: int = 4096, classes: int = 1000) -> nn.Module:
    """VGG-11 with batch norm."""
    return VGG(VGG11, True, width, hidden, classes)


def vgg16(width: float = 1.0, hidden: int = 4096, classes: int = 1000) -> nn.Module:
    """VGG-16 without batch norm."""
    return VGG(VGG16, False, width, hidden, classes)


def squeezenet1_1(width: float = 1.0, classes: int = 1000) -> nn.Module:
    """SqueezeNet 1.1."""
    return SqueezeNet(width, classes)
