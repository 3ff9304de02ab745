"""RegNet X and Y: grouped bottlenecks whose widths follow one quantized line (Radosavovic et al. 2020)."""

from __future__ import annotations

import math

from torch import Tensor, nn

from .common import ConvNorm, SqueezeExcite, divisible


class Block(nn.Module):
    """1x1, grouped 3x3, (squeeze-excite,) 1x1 and a shortcut."""

    def __init__(self, inputs: int, width: int, stride: int, group: int, excite: float) -> None:
        """`excite` is the squeeze ratio of the input width, 0 for none."""
        super().__init__()
        layers: list[nn.Module] = [ConvNorm(inputs, width, 1), ConvNorm(width, width, 3, stride, width // group)]
        if excite:
            layers.append(SqueezeExcite(width, max(1, round(inputs * excite))))
        layers.append(ConvNorm(width, width, 1, activation=None))
        self.f = nn.Sequential(*layers)
        same = stride == 1 and inputs == width
        self.proj = None if same else ConvNorm(inputs, width, 1, stride, activation=None)
        self.activation = nn.ReLU(inplace=True)

    def forward(self, x: Tensor) -> Tensor:
        """relu(shortcut(x) + f(x))."""
        shortcut = x if self.proj is None else self.proj(x)
        return self.activation(shortcut + self.f(x))


def stage_widths(depth: int, w0: int, wa: float, wm: float, group: int) -> list[tuple[int, int, int]]:
    """(width, group width, blocks) of each stage."""
    widths = []
    for index in range(depth):
        capacity = round(math.log((w0 + wa * index) / w0) / math.log(wm))
        widths.append(round(w0 * wm**capacity / 8) * 8)
    stages = []
    for width in sorted(set(widths)):
        g = min(group, width)
        stages.append((divisible(width, g), g, widths.count(width)))
    return stages


class RegNet(nn.Module):
    """Stem, stages at stride two, classifier."""

    def __init__(
        self,
        depth: int,
        w0: int,
        wa: float,
        wm: float,
        group: int,
        excite: float = 0.0,
        stem: int = 32,
        classes: int = 1000,
    ) -> None:
        """The line is w0 + wa * i, quantized to powers of wm."""
        super().__init__()
        layers: list[nn.Module] = [ConvNorm(3, stem, 3, 2)]
        n = stem
        for width, g, blocks in stage_widths(depth, w0, wa, wm, group):
            for index in range(blocks):
                layers.append(Block(n, width, 2 if index == 0 else 1, g, excite))
                n = width
        self.trunk, self.avgpool, self.fc = nn.Sequential(*layers), nn.AdaptiveAvgPool2d((1, 1)), nn.Linear(n, classes)

    def forward(self, x: Tensor) -> Tensor:
        """Logits of an image batch."""
        return self.fc(self.avgpool(self.trunk(x)).flatten(start_dim=1))


def regnet_x_400mf(depth: int = 22, w0: int = 24, wa: float = 24.48, group: int = 16, classes: int = 1000) -> nn.Module:
    """RegNetX-400MF."""
    return RegNet(depth, w0, wa, 2.54, group, classes=classes)


def regnet_y_400mf(depth: int = 16, w0: int = 48, wa: float = 27.89, group: int = 8, classes: int = 1000) -> nn.Module:
    """RegNetY-400MF."""
    return RegNet(depth, w0, wa, 2.09, group, 0.25, classes=classes)
