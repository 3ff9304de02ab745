"""Networks as they are trained, each with what remains of it when it is merged by hand, in plain PyTorch.

Other spellings than those of `blocks`: strides, groups, crops, several dimensions, modules used twice, sums that start
at zero. `PAIRS` has (as trained, merged by hand, shape of the input).
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from .blocks import shaken

Conv = nn.Conv2d


def settled(model: nn.Module) -> nn.Module:
    """The model in float64, with statistics as after training."""
    for module in model.modules():
        if isinstance(module, nn.BatchNorm1d | nn.BatchNorm2d | nn.BatchNorm3d):
            shaken(module)
    return model.eval().double()


def normed(*arguments: int, groups: int = 1, bias: bool = False) -> nn.Sequential:
    """Conv2d(inputs, outputs, kernel, stride, padding) and its norm."""
    conv = Conv(*arguments, groups=groups, bias=bias)
    return nn.Sequential(conv, nn.BatchNorm2d(conv.out_channels))


class Added(nn.Module):
    """Branches added up from zero, then an activation."""

    def __init__(self, *branches: nn.Module, then: Callable[[Tensor], Tensor] = F.relu) -> None:
        super().__init__()
        self.branches, self.then = nn.ModuleList(branches), then

    def forward(self, x: Tensor) -> Tensor:
        """Python's sum."""
        return self.then(sum(branch(x) for branch in self.branches))  # type: ignore[arg-type]


class Residual(nn.Sequential):
    """x + f(x)."""

    def forward(self, x: Tensor) -> Tensor:
        """The sum."""
        return x + super().forward(x)


class Crop(nn.Module):
    """Positions without a border."""

    def __init__(self, rows: int, columns: int) -> None:
        super().__init__()
        self.rows, self.columns = slice(rows, -rows or None), slice(columns, -columns or None)

    def forward(self, x: Tensor) -> Tensor:
        """What is inside."""
        return x[:, :, self.rows, self.columns]


class Gain(nn.Module):
    """A learned gain for each channel, and a shift."""

    def __init__(self, channels: int, shift: bool = False) -> None:
        super().__init__()
        self.gain = nn.Parameter(torch.rand(channels, 1, 1) + 0.5)
        self.shift = nn.Parameter(torch.randn(channels, 1, 1)) if shift else 0.0

    def forward(self, x: Tensor) -> Tensor:
        """Scaled."""
        return x * self.gain + self.shift


class Minus(nn.Module):
    """The difference of two branches."""

    def __init__(self, first: nn.Module, second: nn.Module) -> None:
        super().__init__()
        self.first, self.second = first, second

    def forward(self, x: Tensor) -> Tensor:
        """first - second."""
        return self.first(x) - self.second(x)


class Side(nn.Module):
    """Branches side by side, over the same input or over its parts."""

    def __init__(self, *branches: nn.Module, parts: list[int] | None = None) -> None:
        super().__init__()
        self.branches, self.parts = nn.ModuleList(branches), parts

    def forward(self, x: Tensor) -> Tensor:
        """Their cat."""
        sources = [x] * len(self.branches) if self.parts is None else x.split(self.parts, 1)
        return torch.cat([branch(part) for branch, part in zip(self.branches, sources, strict=True)], 1)


class Tokens(nn.Module):
    """A module over the positions of an image as tokens, with its norm over the flattened tokens."""

    def __init__(self, inner: nn.Module, norm: nn.Module | None = None) -> None:
        super().__init__()
        self.inner, self.norm = inner, norm

    def forward(self, x: Tensor) -> Tensor:
        """As LeViT does it."""
        y = self.inner(x.flatten(2).transpose(1, 2))
        return y if self.norm is None else self.norm(y.flatten(0, 1)).reshape_as(y)


class Dropouts(nn.Module):
    """One head behind several dropouts."""

    def __init__(self, count: int) -> None:
        super().__init__()
        self.dropouts, self.head = nn.ModuleList(nn.Dropout(0.5) for _ in range(count)), nn.Linear(6, 3)

    def forward(self, x: Tensor) -> Tensor:
        """The mean of what it says."""
        return torch.stack([self.head(dropout(F.relu(x))) for dropout in self.dropouts]).mean(0)


class Rotated(nn.Module):
    """A flattened linear layer with a low-rank one beside it, in a rotated basis."""

    def __init__(self) -> None:
        super().__init__()
        self.weight, self.bias = nn.Parameter(torch.randn(6, 8)), nn.Parameter(torch.randn(8))
        self.down, self.up = nn.Linear(6, 2, bias=False), nn.Linear(2, 8)
        self.register_buffer("basis", torch.linalg.qr(torch.randn(6, 6))[0])

    def forward(self, x: Tensor) -> Tensor:
        """GELU of the sum."""
        y = torch.einsum("bnc,cd->bnd", x, self.basis)
        flat = torch.addmm(self.bias, y.view(-1, 6), self.weight).view(2, 5, 8)
        return F.gelu(flat + 0.5 * self.up(self.down(y)))


def repvgg(inputs: int, outputs: int, kernel: int, stride: int, groups: int) -> Added:
    """The official block: the identity only where it fits."""
    branches = [
        normed(inputs, outputs, kernel, stride, kernel // 2, groups=groups),
        normed(inputs, outputs, 1, stride, 0, groups=groups),
    ]
    return Added(*branches, *([nn.BatchNorm2d(inputs)] if inputs == outputs and stride == 1 else []))


def repvgg_trained() -> nn.Module:
    """A stride, groups, a kernel of five, one block twice."""
    twice = repvgg(8, 8, 5, 1, 2)
    return nn.Sequential(repvgg(3, 8, 3, 2, 1), twice, twice)


def repvgg_merged() -> nn.Module:
    """One convolution a block."""
    twice = Conv(8, 8, 5, 1, 2, groups=2)
    return nn.Sequential(Conv(3, 8, 3, 2, 1), nn.ReLU(), twice, nn.ReLU(), twice, nn.ReLU())


def along(kernel: int) -> nn.Sequential:
    """A grouped 1d convolution and its norm."""
    return nn.Sequential(nn.Conv1d(6, 6, kernel, padding=kernel // 2, groups=3), nn.BatchNorm1d(6))


def spatial(outputs: int, kernel: tuple[int, int, int], padding: tuple[int, int, int], **more: bool) -> nn.Sequential:
    """A 3d convolution of stride two and its norm."""
    return nn.Sequential(nn.Conv3d(4, outputs, kernel, (1, 2, 2), padding, **more), nn.BatchNorm3d(outputs))


def cropped() -> nn.Module:
    """ACNet without padding: the skeleton's inputs are cropped."""
    column = nn.Sequential(Crop(0, 1), Conv(4, 6, (3, 1), bias=False, groups=2), nn.BatchNorm2d(6))
    row = nn.Sequential(Crop(1, 0), Conv(4, 6, (1, 3), bias=False, groups=2), nn.BatchNorm2d(6))
    return Added(normed(4, 6, 3, 1, 0, groups=2), column, row)


def mixer() -> nn.Module:
    """FastViT: a difference with a gain, then a 7x7 and two 1x1 convolutions with one."""
    mixed = Added(normed(6, 6, 3, 1, 1, groups=6), normed(6, 6, 1, groups=6), nn.BatchNorm2d(6), then=nn.Identity())
    mlp = [normed(6, 6, 7, 1, 3, groups=6), Conv(6, 12, 1), nn.GELU(), Conv(12, 6, 1), Gain(6)]
    return nn.Sequential(Residual(Minus(mixed, nn.BatchNorm2d(6)), Gain(6)), Residual(*mlp))


def mixer_merged() -> nn.Module:
    """One depthwise convolution, and the residual perceptron."""
    mlp = Residual(Conv(6, 6, 7, 1, 3, groups=6), Conv(6, 12, 1), nn.GELU(), Conv(12, 6, 1))
    return nn.Sequential(Conv(6, 6, 3, 1, 1, groups=6), mlp)


def repvit() -> nn.Module:
    """A norm behind a sum with the identity, and two heads that are averaged."""
    block = Added(normed(6, 6, 3, 1, 1, groups=6), Conv(6, 6, 1, groups=6), nn.Identity(), then=nn.BatchNorm2d(6))
    heads = [nn.Sequential(nn.BatchNorm1d(6), nn.Linear(6, 3)) for _ in range(2)]
    pool = [nn.GELU(), nn.AdaptiveAvgPool2d(1), nn.Flatten()]
    return nn.Sequential(block, *pool, Added(*heads, then=lambda y: y / 2))


def repvit_merged() -> nn.Module:
    """One depthwise convolution and one head."""
    convs = [Conv(6, 6, 3, 1, 1, groups=6), nn.GELU()]
    return nn.Sequential(*convs, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(6, 3))


def mixnet() -> nn.Module:
    """Three kernels over parts of the channels at stride two, one norm behind their cat."""
    parts = [Conv(2, 2, k, 2, k // 2, groups=2, bias=False) for k in (3, 5, 7)]
    return nn.Sequential(Side(*parts, parts=[2, 2, 2]), nn.BatchNorm2d(6), nn.SiLU())


def mixnet_merged() -> nn.Module:
    """The same without the norm."""
    return nn.Sequential(Side(*(Conv(2, 2, k, 2, k // 2, groups=2) for k in (3, 5, 7)), parts=[2, 2, 2]), nn.SiLU())


def dense() -> nn.Module:
    """DenseNet: a norm and ReLU in front of a convolution; the scale goes on, the shift stays."""
    return nn.Sequential(Residual(nn.BatchNorm2d(6), nn.ReLU(), normed(6, 6, 1), nn.ReLU(), Gain(6)))


class Shift(nn.Module):
    """A shift for each channel."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.shift = nn.Parameter(torch.randn(channels, 1, 1))

    def forward(self, x: Tensor) -> Tensor:
        """Shifted."""
        return x + self.shift


IMAGE = (1, 6, 9, 8)
Make = Callable[[], nn.Module]

PAIRS: dict[str, tuple[Make, Make, tuple[int, ...]]] = {
    "repvgg": (repvgg_trained, repvgg_merged, (2, 3, 11, 9)),
    "sequence": (
        lambda: Added(along(7), along(1), nn.BatchNorm1d(6)),
        lambda: nn.Sequential(nn.Conv1d(6, 6, 7, padding=3, groups=3), nn.ReLU()),
        (2, 6, 17),
    ),
    "volume": (
        lambda: Added(spatial(8, (3, 3, 3), (1, 1, 1), bias=False), spatial(8, (3, 1, 1), (1, 0, 0))),
        lambda: nn.Sequential(nn.Conv3d(4, 8, 3, (1, 2, 2), 1), nn.ReLU()),
        (1, 4, 4, 5, 6),
    ),
    "acnet": (cropped, lambda: nn.Sequential(Conv(4, 6, 3, groups=2), nn.ReLU()), (1, 4, 9, 8)),
    "transposed": (
        lambda: Added(
            nn.ConvTranspose2d(6, 4, 4, 2, 1), nn.Sequential(nn.ConvTranspose2d(6, 4, 2, 2), nn.BatchNorm2d(4))
        ),
        lambda: nn.Sequential(nn.ConvTranspose2d(6, 4, 4, 2, 1), nn.ReLU()),
        (1, 6, 4, 4),
    ),
    "replknet": (
        lambda: Residual(nn.BatchNorm2d(6), normed(6, 8, 1), nn.ReLU(),
                         Added(normed(8, 8, 13, 1, 6, groups=8), normed(8, 8, 5, 1, 2, groups=8)), normed(8, 6, 1)),
        lambda: Residual(Conv(6, 8, 1), nn.ReLU(), Conv(8, 8, 13, 1, 6, groups=8), nn.ReLU(), Conv(8, 6, 1)),
        IMAGE,
    ),
    "fastvit": (mixer, mixer_merged, IMAGE),
    "repvit": (repvit, repvit_merged, IMAGE),
    "levit": (
        lambda: Tokens(nn.Linear(6, 8, bias=False), nn.BatchNorm1d(8)),
        lambda: Tokens(nn.Linear(6, 8)),
        IMAGE,
    ),
    "mixnet": (mixnet, mixnet_merged, IMAGE),
    "nextvit": (
        lambda: nn.Sequential(Side(nn.Identity(), nn.GELU()), nn.BatchNorm2d(12), Conv(12, 4, 1), nn.ReLU()),
        lambda: nn.Sequential(Side(nn.Identity(), nn.GELU()), Conv(12, 4, 1), nn.ReLU()),
        IMAGE,
    ),
    "conv-gelu-norm-depthwise": (
        lambda: nn.Sequential(Conv(6, 6, 1), nn.GELU(), nn.BatchNorm2d(6), Conv(6, 6, 3, 1, 1, groups=6)),
        lambda: nn.Sequential(Conv(6, 6, 1), nn.GELU(), Gain(6, shift=True), Conv(6, 6, 3, 1, 1, groups=6)),
        IMAGE,
    ),
    "densenet": (
        dense,
        lambda: nn.Sequential(Residual(Shift(6), nn.ReLU(), Conv(6, 6, 1), nn.ReLU())),
        IMAGE,
    ),
    "maximum": (
        lambda: nn.Sequential(Conv(6, 4, 3), nn.MaxPool2d(2), nn.BatchNorm2d(4), nn.ReLU()),
        lambda: nn.Sequential(Conv(6, 4, 3), nn.MaxPool2d(2), nn.ReLU()),
        IMAGE,
    ),
    "dropouts": (lambda: Dropouts(5), lambda: nn.Sequential(nn.ReLU(), nn.Linear(6, 3)), (4, 6)),
    "rotated": (Rotated, lambda: nn.Sequential(nn.Linear(6, 8), nn.GELU()), (2, 5, 6)),
}  # fmt: skip
