"""More networks as they are trained, each with what remains of it when it is merged by hand: blocks of convolutions.

`CONVOLUTIONS` has (as trained, merged by hand, shape of the input), as `merged.PAIRS` has.
"""

from __future__ import annotations

import math
from collections.abc import Callable

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from .blocks import NormAndPad
from .merged import Added, Conv, Gain, Make, Residual, Shift, Side, normed
from .weights import DetailEnhanced, ScaledStandardized

Build = Callable[..., nn.Module]


def same(inputs: int, outputs: int, kernel: int, stride: int = 1, groups: int = 1) -> nn.Module:
    """A convolution with its norm that keeps the extents, but for the stride."""
    return normed(inputs, outputs, kernel, stride, kernel // 2, groups=groups)


def bare(inputs: int, outputs: int, kernel: int, stride: int = 1, groups: int = 1) -> nn.Module:
    """The same as one convolution."""
    return Conv(inputs, outputs, kernel, stride, kernel // 2, groups=groups)


def active(conv: Build, *arguments: int) -> nn.Module:
    """With a ReLU."""
    return nn.Sequential(conv(*arguments), nn.ReLU())


class Excited(nn.Module):
    """Squeeze and excitation."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.down, self.up = Conv(channels, 4, 1), Conv(4, channels, 1)

    def forward(self, x: Tensor) -> Tensor:
        """Gated by what its mean says."""
        return x * torch.sigmoid(self.up(F.relu(self.down(x.mean((2, 3), keepdim=True)))))


def overdone(inputs: int, outputs: int, kernel: int, stride: int = 1, groups: int = 1) -> nn.Module:
    """MobileOne's sum: equal branches, a scale branch, a norm, where they fit."""
    fits = inputs == outputs and stride == 1
    one = [normed(inputs, outputs, 1, stride, 0, groups=groups)] if kernel > 1 else []
    skip = [nn.BatchNorm2d(inputs)] if fits else []
    three = [same(inputs, outputs, kernel, stride, groups) for _ in range(3)]
    return Added(*three, *one, *skip, then=nn.Identity())


def mobileone(conv: Build) -> nn.Module:
    """Depthwise, pointwise, and gated at stride two."""
    layers = [active(conv, 3, 8, 3, 2), active(conv, 8, 8, 3, 1, 8), active(conv, 8, 8, 1)]
    return nn.Sequential(*layers, conv(8, 8, 3, 2, 8), Excited(8), nn.ReLU())


def diverse(inputs: int, outputs: int, kernel: int, stride: int = 1, groups: int = 1) -> nn.Module:
    """DBB: kxk; 1x1; 1x1 then average; 1x1 then kxk, at a stride, in groups."""
    one = [Conv(inputs, width, 1, groups=groups, bias=False) for width in (outputs, inputs)]
    average = nn.Sequential(one[0], NormAndPad(outputs), nn.AvgPool2d(3, stride), nn.BatchNorm2d(outputs))
    pair = nn.Sequential(one[1], NormAndPad(inputs), normed(inputs, outputs, 3, stride, 0, groups=groups))
    point = normed(inputs, outputs, 1, stride, 0, groups=groups)
    return Added(same(inputs, outputs, kernel, stride, groups), point, average, pair, then=nn.Identity())


def three_blocks(conv: Build) -> nn.Module:
    """Dense, at stride two, grouped."""
    return nn.Sequential(active(conv, 6, 6, 3), active(conv, 6, 8, 3, 2), active(conv, 8, 8, 3, 1, 2))


def mixer(norm: Build, last: Build) -> nn.Module:
    """ConvMixer: two blocks, the mean, a head; the norm before the mean is the only one that a layer takes in."""
    layers: list[nn.Module] = [Conv(3, 8, 4, 4), nn.GELU(), norm(8)]
    for after in (norm, last):
        layers += [Residual(Conv(8, 8, 5, padding=2, groups=8), nn.GELU(), norm(8))]
        layers += [Conv(8, 8, 1), nn.GELU(), after(8)]
    return nn.Sequential(*layers, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(8, 5))


class Ghost(nn.Module):
    """Primary features and cheap ones made of them, cut to the channels that are wanted."""

    def __init__(self, inputs: int, outputs: int, conv: Build) -> None:
        super().__init__()
        half = math.ceil(outputs / 2)
        self.outputs, self.primary = outputs, active(conv, inputs, half, 1)
        self.cheap = active(conv, half, half, 3, 1, half)

    def forward(self, x: Tensor) -> Tensor:
        """Side by side."""
        y = self.primary(x)
        return torch.cat([y, self.cheap(y)], 1)[:, : self.outputs]


def ghosts(conv: Build) -> nn.Module:
    """A residual pair of ghost modules around a depthwise one, then one of an odd width."""
    return nn.Sequential(Residual(Ghost(8, 16, conv), conv(16, 16, 3, 1, 16), Ghost(16, 8, conv)), Ghost(8, 15, conv))


class Shuffled(nn.Module):
    """ShuffleNet v2: half the channels, or all of them twice at stride two, through a branch; then a shuffle."""

    def __init__(self, channels: int, stride: int, conv: Build) -> None:
        super().__init__()
        c = channels if stride > 1 else channels // 2
        self.branch = nn.Sequential(active(conv, c, c, 1), conv(c, c, 3, stride, c), active(conv, c, c, 1))
        self.short = nn.Sequential(conv(c, c, 3, 2, c), active(conv, c, c, 1)) if stride > 1 else None

    def forward(self, x: Tensor) -> Tensor:
        """Shuffled in two groups."""
        a, b = x.chunk(2, 1) if self.short is None else (self.short(x), x)
        y = torch.cat([a, self.branch(b)], 1)
        return y.unflatten(1, (2, -1)).transpose(1, 2).flatten(1, 2)


class Half(nn.Module):
    """IBN: instance norm for half of the channels, batch norm for the others."""

    def __init__(self, channels: int, norm: Build) -> None:
        super().__init__()
        self.instance, self.batch = nn.InstanceNorm2d(channels // 2, affine=True), norm(channels // 2)

    def forward(self, x: Tensor) -> Tensor:
        """Both halves."""
        a, b = torch.split(x, x.shape[1] // 2, 1)
        return torch.cat((self.instance(a.contiguous()), self.batch(b.contiguous())), 1)


def ibn(norm: Build, conv: Build) -> nn.Module:
    """The residual bottleneck of IBN-a."""
    first = Conv(8, 8, 1, bias=norm is nn.Identity)
    return Residual(first, Half(8, norm), nn.ReLU(), active(conv, 8, 8, 3), conv(8, 8, 1))


class Frozen(nn.Module):
    """torchvision's batch norm of four buffers."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        for name in ("weight", "bias", "running_mean", "running_var"):
            self.register_buffer(name, torch.rand(channels) + 0.5)

    def forward(self, x: Tensor) -> Tensor:
        """x * scale + shift."""
        weight, bias, mean, var = (b.reshape(1, -1, 1, 1) for b in self.buffers())
        scale = weight * (var + 1e-5).rsqrt()
        return x * scale + (bias - mean * scale)


def frozen(*arguments: int) -> nn.Module:
    """A convolution without a bias, and it."""
    inputs, outputs, kernel = arguments
    return nn.Sequential(Conv(inputs, outputs, kernel, 1, kernel // 2, bias=False), Frozen(outputs))


def bottleneck(conv: Build) -> nn.Module:
    """1x1, 3x3, 1x1, residual."""
    return Residual(active(conv, 8, 4, 1), active(conv, 4, 4, 3), conv(4, 8, 1))


def parts(*widths: tuple[int, int, int], bias: bool) -> nn.Module:
    """Depthwise or 1x1 convolutions over parts of the channels."""
    convs = [Conv(i, o, k, 1, k // 2, groups=i if k > 1 else 1, bias=bias) for i, o, k in widths]
    return Side(*convs, parts=[i for i, _, _ in widths])


def mixnet(norm: Build) -> nn.Module:
    """A whole block: parts of 1x1, of three kernels, a gate, parts of 1x1; each with a norm behind its cat."""
    bias = norm is nn.Identity
    layers = [parts((4, 6, 1), (4, 6, 1), bias=bias), norm(12), nn.SiLU()]
    layers += [parts((4, 4, 3), (4, 4, 5), (4, 4, 7), bias=bias), norm(12), nn.SiLU(), Excited(12)]
    return nn.Sequential(*layers, parts((6, 4, 1), (6, 4, 1), bias=bias), norm(8))


class Guided(nn.Module):
    """DEA-Net's block with its attention over places, channels and pixels."""

    def __init__(self, conv: Build) -> None:
        super().__init__()
        self.first, self.second = conv(), Conv(4, 4, 3, padding=1)
        self.place = Conv(2, 1, 7, padding=3, padding_mode="reflect")
        self.channel = nn.Sequential(nn.AdaptiveAvgPool2d(1), Conv(4, 2, 1), nn.ReLU(), Conv(2, 4, 1))
        self.pixel = Conv(8, 4, 7, padding=3, padding_mode="reflect", groups=4)

    def forward(self, x: Tensor) -> Tensor:
        """Two convolutions, guided, residual."""
        y = self.second(F.relu(self.first(x)) + x)
        means = torch.cat([y.mean(1, keepdim=True), y.amax(1, keepdim=True)], 1)
        pattern = torch.stack([y, self.place(means) + self.channel(y)], 2).flatten(1, 2)
        return torch.sigmoid(self.pixel(pattern)) * y + x


class NormFree(nn.Module):
    """NFNet's residual branch: gains around every convolution, a gate, a skip gain."""

    def __init__(self, conv: Build, gain: float) -> None:
        super().__init__()
        self.convs, self.gain, self.gate = nn.ModuleList(conv() for _ in range(2)), gain, Excited(4)
        self.skip = nn.Parameter(torch.tensor(0.7)) if gain != 1 else None

    def forward(self, x: Tensor) -> Tensor:
        """Scaled in place, as the original does it."""
        y = x
        for conv in self.convs:
            y = F.relu(y) * self.gain
            y = conv(y)
        y = self.gate(y)
        return x + y if self.skip is None else x + (2.0 * y).mul_(self.skip) * 0.2


def preactivated(front: Build, conv: Build) -> nn.Module:
    """A residual branch of norm, ReLU, convolution, twice: the first norm's scale goes on, its shift stays."""
    return Residual(front(6), nn.ReLU(), conv(6, 6, 3), nn.ReLU(), Conv(6, 6, 3, padding=1))


IMAGE = (1, 8, 9, 8)

CONVOLUTIONS: dict[str, tuple[Make, Make, tuple[int, ...]]] = {
    "mobileone": (lambda: mobileone(overdone), lambda: mobileone(bare), (1, 3, 17, 12)),
    "dbb": (lambda: three_blocks(diverse), lambda: three_blocks(bare), (1, 6, 11, 10)),
    "convmixer": (lambda: mixer(nn.BatchNorm2d, nn.BatchNorm2d),
                  lambda: mixer(lambda c: Gain(c, shift=True), nn.Identity), (1, 3, 24, 24)),
    "ghost": (lambda: ghosts(same), lambda: ghosts(bare), IMAGE),
    "ghost v3": (lambda: ghosts(overdone), lambda: ghosts(bare), IMAGE),
    "shufflenet": (lambda: nn.Sequential(Shuffled(8, 2, same), Shuffled(16, 1, same)),
                   lambda: nn.Sequential(Shuffled(8, 2, bare), Shuffled(16, 1, bare)), IMAGE),
    "ibn": (lambda: ibn(nn.BatchNorm2d, same), lambda: ibn(nn.Identity, bare), IMAGE),
    "frozen": (lambda: bottleneck(frozen), lambda: bottleneck(bare), IMAGE),
    "mixnet block": (lambda: mixnet(nn.BatchNorm2d), lambda: mixnet(nn.Identity), IMAGE),
    "dea-net": (lambda: Guided(DetailEnhanced), lambda: Guided(lambda: Conv(4, 4, 3, padding=1)), (1, 4, 9, 8)),
    "nfnet": (lambda: NormFree(ScaledStandardized, 1.7), lambda: NormFree(lambda: Conv(4, 4, 3, padding=1), 1.0),
              (1, 4, 9, 8)),
    "preactivated": (lambda: preactivated(nn.BatchNorm2d, same), lambda: preactivated(Shift, bare), (1, 6, 9, 8)),
    "inception": (lambda: Side(same(8, 4, 3), same(8, 2, 3), active(same, 8, 4, 1)),
                  lambda: Side(bare(8, 6, 3), active(bare, 8, 4, 1)), IMAGE),
}  # fmt: skip
