"""Inception V3 without its auxiliary head: concatenated branches of factorized convolutions (Szegedy et al. 2015)."""

from __future__ import annotations

from functools import partial

import torch
import torch.nn.functional as F
from torch import Tensor, nn


class Unit(nn.Module):
    """Convolution, batch norm (eps 1e-3), ReLU."""

    def __init__(
        self,
        inputs: int,
        outputs: int,
        kernel: int | tuple[int, int],
        stride: int = 1,
        padding: int | tuple[int, int] = 0,
    ) -> None:
        """Kernels may be 1x7 or 7x1."""
        super().__init__()
        self.conv = nn.Conv2d(inputs, outputs, kernel, stride, padding, bias=False)
        self.bn = nn.BatchNorm2d(outputs, eps=0.001)

    def forward(self, x: Tensor) -> Tensor:
        """relu(bn(conv(x)))."""
        return F.relu(self.bn(self.conv(x)), inplace=True)


def average(x: Tensor) -> Tensor:
    """3x3 average at stride 1; the padding counts."""
    return F.avg_pool2d(x, kernel_size=3, stride=1, padding=1)


class A(nn.Module):
    """1x1, 5x5, double 3x3, pool."""

    def __init__(self, n: int, pool: int, w: partial[int]) -> None:
        """`pool` channels on the pooled branch."""
        super().__init__()
        self.branch1x1 = Unit(n, w(64), 1)
        self.branch5x5_1, self.branch5x5_2 = Unit(n, w(48), 1), Unit(w(48), w(64), 5, padding=2)
        self.branch3x3_1, self.branch3x3_2 = Unit(n, w(64), 1), Unit(w(64), w(96), 3, padding=1)
        self.branch3x3_3, self.branch_pool = Unit(w(96), w(96), 3, padding=1), Unit(n, w(pool), 1)
        self.outputs = w(64) + w(64) + w(96) + w(pool)

    def forward(self, x: Tensor) -> Tensor:
        """Concatenate the branches."""
        deep = self.branch3x3_3(self.branch3x3_2(self.branch3x3_1(x)))
        branches = [self.branch1x1(x), self.branch5x5_2(self.branch5x5_1(x)), deep, self.branch_pool(average(x))]
        return torch.cat(branches, 1)


class B(nn.Module):
    """Reduction: strided 3x3, double 3x3, max pool."""

    def __init__(self, n: int, w: partial[int]) -> None:
        """Halve the size."""
        super().__init__()
        self.branch3x3 = Unit(n, w(384), 3, 2)
        self.dbl_1, self.dbl_2 = Unit(n, w(64), 1), Unit(w(64), w(96), 3, padding=1)
        self.dbl_3 = Unit(w(96), w(96), 3, 2)
        self.outputs = w(384) + w(96) + n

    def forward(self, x: Tensor) -> Tensor:
        """Concatenate the branches."""
        return torch.cat([self.branch3x3(x), self.dbl_3(self.dbl_2(self.dbl_1(x))), F.max_pool2d(x, 3, 2)], 1)


class C(nn.Module):
    """1x1, factorized 7x7, double factorized 7x7, pool."""

    def __init__(self, n: int, mid: int, w: partial[int]) -> None:
        """`mid` is the inner width of the 7x7 branches."""
        super().__init__()
        c = w(mid)
        row, column = {"kernel": (1, 7), "padding": (0, 3)}, {"kernel": (7, 1), "padding": (3, 0)}
        self.branch1x1 = Unit(n, w(192), 1)
        self.shallow = nn.Sequential(Unit(n, c, 1), Unit(c, c, **row), Unit(c, w(192), **column))  # type: ignore[arg-type]
        self.deep = nn.Sequential(
            Unit(n, c, 1),
            Unit(c, c, **column),  # type: ignore[arg-type]
            Unit(c, c, **row),  # type: ignore[arg-type]
            Unit(c, c, **column),  # type: ignore[arg-type]
            Unit(c, w(192), **row),  # type: ignore[arg-type]
        )
        self.branch_pool = Unit(n, w(192), 1)
        self.outputs = 4 * w(192)

    def forward(self, x: Tensor) -> Tensor:
        """Concatenate the branches."""
        return torch.cat([self.branch1x1(x), self.shallow(x), self.deep(x), self.branch_pool(average(x))], 1)


class D(nn.Module):
    """Reduction: 1x1-3x3, 1x1-1x7-7x1-3x3, max pool."""

    def __init__(self, n: int, w: partial[int]) -> None:
        """Halve the size."""
        super().__init__()
        c = w(192)
        self.short = nn.Sequential(Unit(n, c, 1), Unit(c, w(320), 3, 2))
        self.long = nn.Sequential(
            Unit(n, c, 1), Unit(c, c, (1, 7), padding=(0, 3)), Unit(c, c, (7, 1), padding=(3, 0)), Unit(c, c, 3, 2)
        )
        self.outputs = w(320) + c + n

    def forward(self, x: Tensor) -> Tensor:
        """Concatenate the branches."""
        return torch.cat([self.short(x), self.long(x), F.max_pool2d(x, kernel_size=3, stride=2)], 1)


class E(nn.Module):
    """1x1, split 3x3, double split 3x3, pool: nested concatenations."""

    def __init__(self, n: int, w: partial[int]) -> None:
        """Inner concatenations of 1x3 and 3x1."""
        super().__init__()
        c = w(384)
        self.branch1x1, self.stem3, self.stem_double = Unit(n, w(320), 1), Unit(n, c, 1), Unit(n, w(448), 1)
        self.a, self.b = Unit(c, c, (1, 3), padding=(0, 1)), Unit(c, c, (3, 1), padding=(1, 0))
        self.deep = Unit(w(448), c, 3, padding=1)
        self.deep_a, self.deep_b = Unit(c, c, (1, 3), padding=(0, 1)), Unit(c, c, (3, 1), padding=(1, 0))
        self.branch_pool = Unit(n, w(192), 1)
        self.outputs = w(320) + 4 * c + w(192)

    def forward(self, x: Tensor) -> Tensor:
        """Concatenate the branches."""
        three, double = self.stem3(x), self.deep(self.stem_double(x))
        three = torch.cat([self.a(three), self.b(three)], 1)
        double = torch.cat([self.deep_a(double), self.deep_b(double)], 1)
        return torch.cat([self.branch1x1(x), three, double, self.branch_pool(average(x))], 1)


class InceptionV3(nn.Module):
    """Stem, 3 A, B, 4 C, D, 2 E, classifier."""

    def __init__(self, width: float = 1.0, classes: int = 1000) -> None:
        """`width` scales every convolution."""
        super().__init__()
        w = partial(_scaled, width=width)
        self.stem = nn.Sequential(
            Unit(3, w(32), 3, 2), Unit(w(32), w(32), 3), Unit(w(32), w(64), 3, padding=1), nn.MaxPool2d(3, 2),
            Unit(w(64), w(80), 1), Unit(w(80), w(192), 3), nn.MaxPool2d(3, 2),
        )  # fmt: skip
        n, mixed = w(192), []
        makers = [partial(A, pool=32), partial(A, pool=64), partial(A, pool=64), B]
        makers += [partial(C, mid=mid) for mid in (128, 160, 160, 192)] + [D, E, E]
        for maker in makers:
            mixed.append(maker(n, w=w))
            n = mixed[-1].outputs  # type: ignore[assignment]
        self.mixed = nn.Sequential(*mixed)
        self.avgpool, self.dropout, self.fc = nn.AdaptiveAvgPool2d((1, 1)), nn.Dropout(), nn.Linear(n, classes)

    def forward(self, x: Tensor) -> Tensor:
        """Logits of an image batch."""
        return self.fc(torch.flatten(self.dropout(self.avgpool(self.mixed(self.stem(x)))), 1))


def _scaled(channels: int, width: float) -> int:
    return max(2, round(channels * width))


def inception_v3(width: float = 1.0, classes: int = 1000) -> nn.Module:
    """Inception V3."""
    return InceptionV3(width, classes)
