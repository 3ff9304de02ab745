"""DenseNet: every layer reads the concatenation of all before it, norm and ReLU first (Huang et al. 2016)."""

from __future__ import annotations

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn


class Layer(nn.Module):
    """norm, relu, 1x1, norm, relu, 3x3: `growth` new channels."""

    def __init__(self, inputs: int, growth: int, bottleneck: int = 4) -> None:
        """The first norm reads a concatenation, so it cannot fold backward."""
        super().__init__()
        hidden = bottleneck * growth
        self.norm1, self.conv1 = nn.BatchNorm2d(inputs), nn.Conv2d(inputs, hidden, 1, bias=False)
        self.norm2, self.conv2 = nn.BatchNorm2d(hidden), nn.Conv2d(hidden, growth, 3, padding=1, bias=False)

    def forward(self, features: list[Tensor]) -> Tensor:
        """New features from all before."""
        x = self.conv1(F.relu(self.norm1(torch.cat(features, 1)), inplace=True))
        return self.conv2(F.relu(self.norm2(x), inplace=True))


class Block(nn.ModuleList):
    """Layers, each reading all before."""

    def forward(self, x: Tensor) -> Tensor:
        """Concatenate the input and every layer's output."""
        features = [x]
        for layer in self:
            features.append(layer(features))
        return torch.cat(features, 1)


class DenseNet(nn.Module):
    """Stem, dense blocks with transitions, final norm, classifier."""

    def __init__(self, growth: int = 32, depths: Sequence[int] = (6, 12, 24, 16), classes: int = 1000) -> None:
        """DenseNet-121 by default."""
        super().__init__()
        n = 2 * growth
        layers: list[nn.Module] = [nn.Conv2d(3, n, 7, 2, 3, bias=False), nn.BatchNorm2d(n), nn.ReLU(inplace=True)]
        layers.append(nn.MaxPool2d(3, 2, 1))
        for index, depth in enumerate(depths):
            layers.append(Block(Layer(n + i * growth, growth) for i in range(depth)))
            n += depth * growth
            if index < len(depths) - 1:
                layers += [nn.BatchNorm2d(n), nn.ReLU(inplace=True), nn.Conv2d(n, n // 2, 1, bias=False)]
                layers.append(nn.AvgPool2d(2, 2))
                n //= 2
        self.features = nn.Sequential(*layers, nn.BatchNorm2d(n))
        self.classifier = nn.Linear(n, classes)

    def forward(self, x: Tensor) -> Tensor:
        """Logits of an image batch."""
        x = F.adaptive_avg_pool2d(F.relu(self.features(x), inplace=True), (1, 1))
        return self.classifier(torch.flatten(x, 1))


def densenet121(growth: int = 32, depths: Sequence[int] = (6, 12, 24, 16), classes: int = 1000) -> nn.Module:
    """DenseNet-121."""
    return DenseNet(growth, depths, classes)
