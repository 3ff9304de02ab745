"""MobileNetV2 (inverted residuals, ReLU6) and V3 (squeeze-excite, hardswish)."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from .common import ConvNorm, SqueezeExcite, divisible

V2 = ((1, 16, 1, 1), (6, 24, 2, 2), (6, 32, 3, 2), (6, 64, 4, 2), (6, 96, 3, 1), (6, 160, 3, 2), (6, 320, 1, 1))
"""(expansion, channels, blocks, stride)."""

Row = tuple[int, int, int, bool, bool, int]
V3_LARGE: tuple[Row, ...] = (
    (3, 16, 16, False, False, 1),
    (3, 64, 24, False, False, 2),
    (3, 72, 24, False, False, 1),
    (5, 72, 40, True, False, 2),
    (5, 120, 40, True, False, 1),
    (5, 120, 40, True, False, 1),
    (3, 240, 80, False, True, 2),
    (3, 200, 80, False, True, 1),
    (3, 184, 80, False, True, 1),
    (3, 184, 80, False, True, 1),
    (3, 480, 112, True, True, 1),
    (3, 672, 112, True, True, 1),
    (5, 672, 160, True, True, 2),
    (5, 960, 160, True, True, 1),
    (5, 960, 160, True, True, 1),
)
V3_SMALL: tuple[Row, ...] = (
    (3, 16, 16, True, False, 2),
    (3, 72, 24, False, False, 2),
    (3, 88, 24, False, False, 1),
    (5, 96, 40, True, True, 2),
    (5, 240, 40, True, True, 1),
    (5, 240, 40, True, True, 1),
    (5, 120, 48, True, True, 1),
    (5, 144, 48, True, True, 1),
    (5, 288, 96, True, True, 2),
    (5, 576, 96, True, True, 1),
    (5, 576, 96, True, True, 1),
)
"""(kernel, expanded channels, output channels, squeeze-excite, hardswish, stride)."""


class InvertedResidual(nn.Module):
    """1x1 expand, depthwise, 1x1 project (linear); added to x where shapes agree."""

    def __init__(self, inputs: int, outputs: int, stride: int, expansion: int) -> None:
        """Without expansion the first 1x1 is left out."""
        super().__init__()
        hidden = inputs * expansion
        expand = [ConvNorm(inputs, hidden, 1, activation=nn.ReLU6)] if expansion != 1 else []
        self.conv = nn.Sequential(
            *expand,
            ConvNorm(hidden, hidden, 3, stride, hidden, nn.ReLU6),
            nn.Conv2d(hidden, outputs, 1, bias=False),
            nn.BatchNorm2d(outputs),
        )
        self.residual = stride == 1 and inputs == outputs

    def forward(self, x: Tensor) -> Tensor:
        """x + f(x) or f(x)."""
        return x + self.conv(x) if self.residual else self.conv(x)


class MobileNetV2(nn.Module):
    """Seven groups of inverted residuals."""

    def __init__(self, width: float = 1.0, divisor: int = 8, depth: float = 1.0, classes: int = 1000) -> None:
        """`depth` scales the number of blocks of each group."""
        super().__init__()
        channels, last = (
            divisible(32 * width, divisor),
            divisible(1280 * max(1.0, width) if width >= 1 else 1280 * width),
        )
        layers: list[nn.Module] = [ConvNorm(3, channels, 3, 2, activation=nn.ReLU6)]
        for expansion, base, blocks, stride in V2:
            outputs = divisible(base * width, divisor)
            for index in range(max(1, round(blocks * depth))):
                layers.append(InvertedResidual(channels, outputs, stride if index == 0 else 1, expansion))
                channels = outputs
        layers.append(ConvNorm(channels, last, 1, activation=nn.ReLU6))
        self.features = nn.Sequential(*layers)
        self.classifier = nn.Sequential(nn.Dropout(0.2), nn.Linear(last, classes))

    def forward(self, x: Tensor) -> Tensor:
        """Logits of an image batch."""
        x = nn.functional.adaptive_avg_pool2d(self.features(x), (1, 1))
        return self.classifier(torch.flatten(x, 1))


class BlockV3(nn.Module):
    """Inverted residual with optional squeeze-excite."""

    def __init__(self, inputs: int, row: Row, width: float, divisor: int) -> None:
        """`row` is a line of the table."""
        super().__init__()
        kernel, expanded, outputs, squeeze, hard, stride = row
        hidden, outputs = divisible(expanded * width, divisor), divisible(outputs * width, divisor)
        activation = nn.Hardswish if hard else nn.ReLU
        layers: list[nn.Module] = []
        if hidden != inputs:
            layers.append(ConvNorm(inputs, hidden, 1, activation=activation, eps=1e-3))
        layers.append(ConvNorm(hidden, hidden, kernel, stride, hidden, activation, eps=1e-3))
        if squeeze:
            layers.append(SqueezeExcite(hidden, divisible(hidden / 4, divisor), gate=nn.Hardsigmoid))
        layers.append(ConvNorm(hidden, outputs, 1, activation=None, eps=1e-3))
        self.block, self.outputs = nn.Sequential(*layers), outputs
        self.residual = stride == 1 and inputs == outputs

    def forward(self, x: Tensor) -> Tensor:
        """x + f(x) or f(x)."""
        result = self.block(x)
        if self.residual:
            result += x
        return result


class MobileNetV3(nn.Module):
    """Stem, table of blocks, 1x1 head, two-layer classifier."""

    def __init__(self, rows: Sequence[Row], hidden: int, width: float, divisor: int, classes: int) -> None:
        """`hidden` is the classifier's width."""
        super().__init__()
        channels = divisible(16 * width, divisor)
        layers: list[nn.Module] = [ConvNorm(3, channels, 3, 2, activation=nn.Hardswish, eps=1e-3)]
        for row in rows:
            block = BlockV3(channels, row, width, divisor)
            layers.append(block)
            channels = block.outputs
        layers.append(ConvNorm(channels, 6 * channels, 1, activation=nn.Hardswish, eps=1e-3))
        self.features, self.avgpool = nn.Sequential(*layers), nn.AdaptiveAvgPool2d(1)
        self.classifier = nn.Sequential(
            nn.Linear(6 * channels, hidden), nn.Hardswish(inplace=True), nn.Dropout(0.2), nn.Linear(hidden, classes)
        )

    def forward(self, x: Tensor) -> Tensor:
        """Logits of an image batch."""
        return self.classifier(self.avgpool(self.features(x)).flatten(1))


def mobilenet_v2(width: float = 1.0, divisor: int = 8, depth: float = 1.0, classes: int = 1000) -> nn.Module:
    """MobileNetV2."""
    return MobileNetV2(width, divisor, depth, classes)


def mobilenet_v3_large(
    width: float = 1.0, divisor: int = 8, rows: Sequence[Row] = V3_LARGE, hidden: int = 1280, classes: int = 1000
) -> nn.Module:
    """MobileNetV3-Large."""
    return MobileNetV3(rows, hidden, width, divisor, classes)


def mobilenet_v3_small(
    width: float = 1.0, divisor: int = 8, rows: Sequence[Row] = V3_SMALL, hidden: int = 1024, classes: int = 1000
) -> nn.Module:
    """MobileNetV3-Small."""
    return MobileNetV3(rows, hidden, width, divisor, classes)
