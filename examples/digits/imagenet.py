"""An ImageNet-sized ResNet-50 with seeded weights, for its speed and size; nothing is downloaded."""

from __future__ import annotations

import torch
from torch import Tensor, nn


class Bottleneck(nn.Module):
    """relu(shortcut(x) + 1x1(3x3(1x1(x))))."""

    def __init__(self, inputs: int, width: int, stride: int) -> None:
        """Four times `width` channels come out."""
        super().__init__()
        self.conv1, self.bn1 = nn.Conv2d(inputs, width, 1, bias=False), nn.BatchNorm2d(width)
        self.conv2, self.bn2 = nn.Conv2d(width, width, 3, stride, 1, bias=False), nn.BatchNorm2d(width)
        self.conv3, self.bn3 = nn.Conv2d(width, 4 * width, 1, bias=False), nn.BatchNorm2d(4 * width)
        self.shortcut = nn.Sequential()
        if inputs != 4 * width:
            self.shortcut = nn.Sequential(
                nn.Conv2d(inputs, 4 * width, 1, stride, bias=False), nn.BatchNorm2d(4 * width)
            )

    def forward(self, x: Tensor) -> Tensor:
        """One block."""
        y = torch.relu(self.bn1(self.conv1(x)))
        y = torch.relu(self.bn2(self.conv2(y)))
        return torch.relu(self.bn3(self.conv3(y)) + self.shortcut(x))


class ResNet50(nn.Module):
    """Stem, 3 + 4 + 6 + 3 bottlenecks, classifier of 1,000."""

    def __init__(self) -> None:
        """25.6 million parameters."""
        super().__init__()
        self.conv1, self.bn1, self.pool = (
            nn.Conv2d(3, 64, 7, 2, 3, bias=False),
            nn.BatchNorm2d(64),
            nn.MaxPool2d(3, 2, 1),
        )
        blocks, inputs = [], 64
        for width, depth, stride in ((64, 3, 1), (128, 4, 2), (256, 6, 2), (512, 3, 2)):
            for index in range(depth):
                blocks.append(Bottleneck(inputs, width, stride if index == 0 else 1))
                inputs = 4 * width
        self.blocks, self.fc = nn.Sequential(*blocks), nn.Linear(inputs, 1000)

    def forward(self, x: Tensor) -> Tensor:
        """Logits of (N, 3, 224, 224)."""
        x = self.blocks(self.pool(torch.relu(self.bn1(self.conv1(x)))))
        return self.fc(x.mean((2, 3)))


def resnet50() -> nn.Module:
    """Seeded weights, batch norm statistics of one random batch, in eval mode."""
    with torch.random.fork_rng(devices=[]), torch.no_grad():
        torch.manual_seed(0)
        model = ResNet50()
        for module in model.modules():
            if isinstance(module, nn.BatchNorm2d):
                module.momentum = None  # running statistics become the average over what follows
                module.weight.uniform_(0.5, 1.0)
                module.bias.normal_(0, 0.1)
        model.train()(torch.randn(4, 3, 224, 224))
    return model.eval()
