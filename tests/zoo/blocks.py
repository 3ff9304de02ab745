"""Blocks whose trained form has more branches and norms than they need, in plain PyTorch, C channels in and out.

All weights and statistics are random, so that nothing cancels by chance.
"""

from __future__ import annotations

from typing import TypeVar

import torch
from torch import Tensor, nn
from torch.nn import functional as F

C = 8

Norm = TypeVar("Norm", bound=nn.Module)


def norm(channels: int = C) -> nn.BatchNorm2d:
    """A batch norm that has seen something."""
    return shaken(nn.BatchNorm2d(channels))


def shaken(module: Norm) -> Norm:
    """The module with random statistics, weights and biases."""
    for name, value in (*module.named_parameters(), *module.named_buffers()):
        if value.is_floating_point():
            value.data.uniform_(0.5, 1.5) if name in ("weight", "running_var") else value.data.normal_()
    return module


def conv(kernel: int | tuple[int, int], groups: int = 1, channels: int = C, pad: bool = True) -> nn.Sequential:
    """A convolution of odd kernel and a batch norm."""
    k = (kernel, kernel) if isinstance(kernel, int) else kernel
    padding = (k[0] // 2, k[1] // 2) if pad else 0
    return nn.Sequential(nn.Conv2d(C, channels, k, padding=padding, groups=groups, bias=False), norm(channels))


class RepVgg(nn.Module):
    """3x3, 1x1 and identity, each with its norm."""

    def __init__(self) -> None:
        super().__init__()
        self.three, self.one, self.skip = conv(3), conv(1), norm()

    def forward(self, x: Tensor) -> Tensor:
        """ReLU of the sum."""
        return F.relu(self.three(x) + self.one(x) + self.skip(x))


class MobileOne(nn.Module):
    """Several equal depthwise branches, a scale branch and a norm."""

    def __init__(self) -> None:
        super().__init__()
        self.branches = nn.ModuleList([conv(3, C) for _ in range(3)])
        self.scale, self.skip = conv(1, C), norm()

    def forward(self, x: Tensor) -> Tensor:
        """ReLU of the sum, added up in place as the original does."""
        out = self.scale(x) + self.skip(x)
        for branch in self.branches:
            out += branch(x)
        return F.relu(out)


class AcNet(nn.Module):
    """A square kernel and its skeleton."""

    def __init__(self) -> None:
        super().__init__()
        self.square, self.row, self.column = conv(3), conv((1, 3)), conv((3, 1))

    def forward(self, x: Tensor) -> Tensor:
        """ReLU of the sum; the skeleton first."""
        return F.relu(self.row(x) + self.column(x) + self.square(x))


class NormAndPad(nn.Module):
    """A batch norm, and a border of what it makes of zero."""

    def __init__(self, channels: int = C) -> None:
        super().__init__()
        self.norm = norm(channels)

    def forward(self, x: Tensor) -> Tensor:
        """Pad, then overwrite the border."""
        n = self.norm
        deviation = torch.sqrt(n.running_var + n.eps)  # type: ignore[operator]
        border = (n.bias - n.running_mean * n.weight / deviation).view(1, -1, 1, 1)  # type: ignore[operator]
        out = F.pad(n(x), [1, 1, 1, 1])
        out[:, :, 0:1, :] = border
        out[:, :, -1:, :] = border
        out[:, :, :, 0:1] = border
        out[:, :, :, -1:] = border
        return out


class DiverseBranch(nn.Module):
    """kxk; 1x1; 1x1 then average; 1x1 then kxk."""

    def __init__(self) -> None:
        super().__init__()
        self.square, self.one = conv(3), conv(1)
        self.average = nn.Sequential(nn.Conv2d(C, C, 1, bias=False), NormAndPad(), nn.AvgPool2d(3, 1), norm())
        self.pair = nn.Sequential(nn.Conv2d(C, C, 1, bias=False), NormAndPad(), conv(3, pad=False))

    def forward(self, x: Tensor) -> Tensor:
        """ReLU of the sum."""
        return F.relu(self.square(x) + self.one(x) + self.average(x) + self.pair(x))


class LargeKernel(nn.Module):
    """RepLKNet: a norm, 1x1, a large depthwise kernel with a small one beside it, 1x1, residual."""

    def __init__(self) -> None:
        super().__init__()
        self.before, self.one, self.two = norm(), conv(1), conv(1)
        self.large, self.small = conv(9, C), conv(5, C)

    def forward(self, x: Tensor) -> Tensor:
        """ReLU of the residual sum."""
        y = F.relu(self.one(self.before(x)))
        return F.relu(x + self.two(F.relu(self.large(y) + self.small(y))))


class RepMixer(nn.Module):
    """FastViT: x + gamma * (mixer(x) - norm(x))."""

    def __init__(self) -> None:
        super().__init__()
        self.three, self.one, self.skip, self.norm = conv(3, C), conv(1, C), norm(), norm()
        self.gamma = nn.Parameter(torch.randn(C, 1, 1))

    def forward(self, x: Tensor) -> Tensor:
        """ReLU of it."""
        mixed = self.three(x) + self.one(x) + self.skip(x)
        return F.relu(x + self.gamma * (mixed - self.norm(x)))


class RepVit(nn.Module):
    """A norm behind a sum with the identity."""

    def __init__(self) -> None:
        super().__init__()
        self.three, self.one, self.norm = conv(3, C), nn.Conv2d(C, C, 1, groups=C), norm()

    def forward(self, x: Tensor) -> Tensor:
        """ReLU of it."""
        return F.relu(self.norm(self.three(x) + self.one(x) + x))


class LeVit(nn.Module):
    """Linear layers over tokens with norms over the flattened tokens."""

    def __init__(self) -> None:
        super().__init__()
        self.linear, self.norm = nn.Linear(C, C, bias=False), shaken(nn.BatchNorm1d(C))

    def forward(self, x: Tensor) -> Tensor:
        """ReLU over tokens, as an image again."""
        y = self.linear(x.flatten(2).transpose(1, 2))
        return F.relu(self.norm(y.flatten(0, 1)).reshape_as(y)).transpose(1, 2).reshape(x.shape)


class NextVit(nn.Module):
    """Norms behind a sum and behind a cat, each read by 1x1 convolutions."""

    def __init__(self) -> None:
        super().__init__()
        self.sum, self.cat = norm(), norm(2 * C)
        self.one, self.two = nn.Conv2d(C, C, 1), nn.Conv2d(2 * C, C, 1)

    def forward(self, x: Tensor) -> Tensor:
        """ReLU of both."""
        y = F.gelu(x)
        z = F.relu(self.one(self.sum(x + y)))
        return F.relu(self.two(self.cat(torch.cat([z, y], 1))))


class MixNet(nn.Module):
    """Depthwise kernels of two sizes on a split, one norm behind their cat."""

    def __init__(self) -> None:
        super().__init__()
        half = C // 2
        self.three, self.five = (nn.Conv2d(half, half, k, padding=k // 2, groups=half, bias=False) for k in (3, 5))
        self.norm = norm()

    def forward(self, x: Tensor) -> Tensor:
        """ReLU of the cat."""
        a, b = x.chunk(2, 1)
        return F.relu(self.norm(torch.cat([self.three(a), self.five(b)], 1)))


class ConvMixer(nn.Module):
    """x + BN(GELU(depthwise(x))), then BN(GELU(1x1)); the next depthwise pads what the norm makes."""

    def __init__(self) -> None:
        super().__init__()
        self.depth = nn.Sequential(nn.Conv2d(C, C, 3, padding=1, groups=C), nn.GELU(), norm())
        self.point = nn.Sequential(nn.Conv2d(C, C, 1), nn.GELU(), norm())
        self.next = nn.Conv2d(C, C, 3, padding=1, groups=C)

    def forward(self, x: Tensor) -> Tensor:
        """ReLU of the next depthwise convolution."""
        return F.relu(self.next(self.point(x + self.depth(x))))


class Ghost(nn.Module):
    """Cheap features beside the primary ones; both with re-parameterizable branches."""

    def __init__(self) -> None:
        super().__init__()
        half = C // 2
        self.primary, self.scale = conv(1, channels=half), conv(1, channels=half)
        self.cheap = nn.Sequential(nn.Conv2d(half, half, 3, padding=1, groups=half, bias=False), norm(half))
        self.skip = norm(half)

    def forward(self, x: Tensor) -> Tensor:
        """Primary and cheap features side by side."""
        y = F.relu(self.primary(x) + self.scale(x))
        return torch.cat([y, F.relu(self.cheap(y) + self.skip(y))], 1)


class Shuffle(nn.Module):
    """Half the channels through a branch, then a channel shuffle."""

    def __init__(self) -> None:
        super().__init__()
        half = C // 2
        self.one = nn.Sequential(nn.Conv2d(half, half, 1, bias=False), norm(half))
        self.depth = nn.Sequential(nn.Conv2d(half, half, 3, padding=1, groups=half, bias=False), norm(half))

    def forward(self, x: Tensor) -> Tensor:
        """Shuffled."""
        a, b = x.chunk(2, 1)
        y = torch.cat([a, F.relu(self.depth(F.relu(self.one(b))))], 1)
        n, c, h, w = y.shape
        return y.view(n, 2, c // 2, h, w).transpose(1, 2).reshape(n, c, h, w)


class Adapter(nn.Module):
    """A convolution with a low-rank one beside it, and averaged heads over what it makes."""

    def __init__(self) -> None:
        super().__init__()
        self.base, self.down, self.up = nn.Conv2d(C, C, 3, padding=1), nn.Conv2d(C, 2, 3, padding=1), nn.Conv2d(2, C, 1)
        self.heads = nn.ModuleList([nn.Conv2d(C, C, 1) for _ in range(3)])

    def forward(self, x: Tensor) -> Tensor:
        """Mean of the heads."""
        y = F.relu(self.base(x) + 0.5 * self.up(self.down(x)))
        return torch.stack([head(F.dropout(y, 0.5, self.training)) for head in self.heads]).mean(0)
