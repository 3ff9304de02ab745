"""EfficientNet-B0: MBConv blocks with SiLU and squeeze-excite (Tan and Le 2019)."""

from __future__ import annotations

from torch import Tensor, nn

from .common import ConvNorm, SqueezeExcite, divisible

ROWS = (
    (1, 3, 1, 16, 1),
    (6, 3, 2, 24, 2),
    (6, 5, 2, 40, 2),
    (6, 3, 2, 80, 3),
    (6, 5, 1, 112, 3),
    (6, 5, 2, 192, 4),
    (6, 3, 1, 320, 1),
)
"""(expansion, kernel, stride, channels, blocks)."""


class MBConv(nn.Module):
    """Expand, depthwise, squeeze-excite, project; stochastic depth is the identity in eval."""

    def __init__(self, inputs: int, outputs: int, expansion: int, kernel: int, stride: int) -> None:
        """The squeeze is a quarter of the block's input."""
        super().__init__()
        hidden = inputs * expansion
        expand = [ConvNorm(inputs, hidden, 1, activation=nn.SiLU)] if expansion != 1 else []
        self.block = nn.Sequential(
            *expand,
            ConvNorm(hidden, hidden, kernel, stride, hidden, nn.SiLU),
            SqueezeExcite(hidden, max(1, inputs // 4), nn.SiLU),
            ConvNorm(hidden, outputs, 1, activation=None),
        )
        self.residual = stride == 1 and inputs == outputs

    def forward(self, x: Tensor) -> Tensor:
        """x + f(x) or f(x)."""
        result = self.block(x)
        if self.residual:
            result += x
        return result


class EfficientNet(nn.Module):
    """Stem, seven stages, 1x1 head, classifier."""

    def __init__(self, width: float, depth: float, divisor: int, classes: int) -> None:
        """B0 is width = depth = 1."""
        super().__init__()
        n = divisible(32 * width, divisor)
        layers: list[nn.Module] = [ConvNorm(3, n, 3, 2, activation=nn.SiLU)]
        for expansion, kernel, stride, base, blocks in ROWS:
            outputs = divisible(base * width, divisor)
            for index in range(max(1, round(blocks * depth))):
                layers.append(MBConv(n, outputs, expansion, kernel, stride if index == 0 else 1))
                n = outputs
        layers.append(ConvNorm(n, 4 * n, 1, activation=nn.SiLU))
        self.features, self.avgpool = nn.Sequential(*layers), nn.AdaptiveAvgPool2d(1)
        self.classifier = nn.Sequential(nn.Dropout(0.2), nn.Linear(4 * n, classes))

    def forward(self, x: Tensor) -> Tensor:
        """Logits of an image batch."""
        return self.classifier(self.avgpool(self.features(x)).flatten(1))


def efficientnet_b0(width: float = 1.0, depth: float = 1.0, divisor: int = 8, classes: int = 1000) -> nn.Module:
    """EfficientNet-B0."""
    return EfficientNet(width, depth, divisor, classes)
