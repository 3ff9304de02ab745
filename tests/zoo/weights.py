"""Convolutions and linear layers whose weight is computed in every forward from parameters alone, in plain PyTorch."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.nn.utils import parametrizations, parametrize

C = 4


class Conv(nn.Module):
    """A 3x3 convolution over `weight_now()`, or over its weight."""

    def __init__(self) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.randn(C, C, 3, 3))
        self.bias = nn.Parameter(torch.randn(C))

    def weight_now(self) -> Tensor:
        """The weight of this forward."""
        return self.weight

    def forward(self, x: Tensor) -> Tensor:
        """Convolve."""
        return F.conv2d(x, self.weight_now(), self.bias, padding=1)


class Standardized(Conv):
    """Weight standardization with the unbiased deviation."""

    def weight_now(self) -> Tensor:
        """(w - mean) / (std + eps)."""
        flat = self.weight.flatten(1)
        mean, deviation = flat.mean(1), flat.std(1) + 1e-5
        return (self.weight - mean.view(-1, 1, 1, 1)) / deviation.view(-1, 1, 1, 1)


class ScaledStandardized(Conv):
    """As NFNets do it: a training-mode batch norm of the weight, a gain, a scale."""

    def __init__(self) -> None:
        super().__init__()
        self.gain = nn.Parameter(torch.rand(C, 1, 1, 1) + 0.5)

    def weight_now(self) -> Tensor:
        """Biased variance, in one call."""
        gain = (self.gain * (9 * C) ** -0.5).view(-1)
        return F.batch_norm(
            self.weight.reshape(1, C, -1), None, None, weight=gain, training=True, momentum=0.0, eps=1e-6
        ).reshape_as(self.weight)


class OverParameterized(Conv):
    """DO-Conv: a depthwise kernel times a wider one."""

    def __init__(self) -> None:
        super().__init__()
        self.wide = nn.Parameter(torch.randn(C, C, 9))
        self.depth = nn.Parameter(torch.randn(C, 9, 9))
        self.register_buffer("eye", torch.eye(9).repeat(C, 1, 1))

    def weight_now(self) -> Tensor:
        """Their product."""
        return torch.einsum("ims,ois->oim", self.depth + self.eye, self.wide).reshape(C, C, 3, 3)


class LearnedSpacing(Conv):
    """DCLS: a few values laid on a 5x5 grid at learned places, linearly or by a Gauss bell."""

    def __init__(self, gauss: bool) -> None:
        super().__init__()
        self.gauss = gauss
        self.values = nn.Parameter(torch.randn(C, C, 3))
        self.places = nn.Parameter(torch.rand(2, C, C, 3) * 4)

    def weight_now(self) -> Tensor:
        """The dense kernel."""
        grid = torch.arange(5, dtype=self.places.dtype).view(5, 1, 1, 1)
        row, column = (grid - place for place in self.places)
        near = [torch.exp(-0.5 * gap**2) if self.gauss else F.relu(1 - gap.abs()) for gap in (row, column)]
        kernel = near[0].unsqueeze(1) * near[1].unsqueeze(0)
        kernel = kernel / (kernel.sum((0, 1)) + 1e-7)
        return (kernel * self.values).sum(-1).permute(2, 3, 0, 1)

    def forward(self, x: Tensor) -> Tensor:
        """Convolve with the larger kernel."""
        return F.conv2d(x, self.weight_now(), self.bias, padding=2)


class DetailEnhanced(Conv):
    """DEConv: plain, central, angular, horizontal and vertical differences, summed up."""

    def weight_now(self) -> Tensor:
        """The five kernels as one."""
        flat = self.weight.flatten(2)
        central = flat.clone()
        central[:, :, 4] = flat[:, :, 4] - flat.sum(2)
        angular = flat - flat[:, :, [3, 0, 1, 6, 4, 2, 7, 8, 5]]
        sides = self.weight[:, :, :, :1]
        horizontal = torch.cat([sides, torch.zeros_like(sides), -sides], 3)
        return self.weight + (central + angular).reshape_as(self.weight) + horizontal + horizontal.transpose(2, 3)


class Weighted(Conv):
    """Weighted convolution: a fixed density over the kernel."""

    def __init__(self) -> None:
        super().__init__()
        density = torch.tensor([0.7, 1.0, 0.7])
        self.register_buffer("density", torch.outer(density, density))

    def weight_now(self) -> Tensor:
        """Weight times density."""
        return self.weight * self.density


class Compander(Conv):
    """Weight compander: a learned non-linearity of each weight."""

    def __init__(self) -> None:
        super().__init__()
        self.a, self.b = nn.Parameter(torch.rand(())), nn.Parameter(torch.rand(()))

    def weight_now(self) -> Tensor:
        """a atan(w / b)."""
        return self.a * torch.atan(self.weight / self.b)


class SigmaReparam(Conv):
    """The weight over its spectral norm by one power step, which is noted in a buffer even in eval mode."""

    def __init__(self) -> None:
        super().__init__()
        self.sigma = nn.Parameter(torch.ones(()))
        self.register_buffer("u", torch.randn(C))
        self.register_buffer("noted", torch.ones(()))

    def weight_now(self) -> Tensor:
        """sigma w / (u' w v)."""
        flat = self.weight.flatten(1)
        v = F.normalize(self.u @ flat, dim=0)
        norm = F.normalize(flat @ v, dim=0) @ flat @ v
        self.noted.data.copy_(norm)
        return self.weight * (self.sigma / norm)


class LowRank(Conv):
    """LoRA merged in every forward."""

    def __init__(self) -> None:
        super().__init__()
        self.down, self.up = nn.Parameter(torch.randn(2, 9 * C)), nn.Parameter(torch.randn(C, 2))

    def weight_now(self) -> Tensor:
        """w + alpha / r * up down."""
        return self.weight + 2.0 * (self.up @ self.down).reshape_as(self.weight)


class Masked(Conv):
    """A pruning mask."""

    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("mask", (torch.randn(C, C, 3, 3) > 0).float())

    def weight_now(self) -> Tensor:
        """Weight times mask."""
        return self.weight * self.mask


class Hyper(Conv):
    """A hypernetwork over a learned code."""

    def __init__(self) -> None:
        super().__init__()
        self.code = nn.Parameter(torch.randn(1, 5))
        self.net = nn.Sequential(nn.Linear(5, 7), nn.GELU(), nn.LayerNorm(7), nn.Linear(7, C * C * 9))

    def weight_now(self) -> Tensor:
        """What it makes of the code."""
        return self.net(self.code).reshape(C, C, 3, 3)


def parametrized(how: Any, **options: Any) -> nn.Module:
    """A convolution with one of torch's own parametrizations."""
    return how(nn.Conv2d(C, C, 3, padding=1), **options)


class Symmetric(nn.Module):
    """A parametrization of one's own."""

    def forward(self, weight: Tensor) -> Tensor:
        """The symmetric part."""
        return 0.5 * (weight + weight.transpose(0, 1))


def own_parametrization() -> nn.Module:
    """A convolution with it."""
    conv = nn.Conv2d(C, C, 3, padding=1)
    parametrize.register_parametrization(conv, "weight", Symmetric())
    return conv


def layers() -> dict[str, nn.Module]:
    """One of each, by name."""
    return {
        "standardized": Standardized(),
        "scaled": ScaledStandardized(),
        "over": OverParameterized(),
        "spacing": LearnedSpacing(gauss=False),
        "gauss": LearnedSpacing(gauss=True),
        "detail": DetailEnhanced(),
        "weighted": Weighted(),
        "compander": Compander(),
        "sigma": SigmaReparam(),
        "lora": LowRank(),
        "masked": Masked(),
        "hyper": Hyper(),
        "weight_norm": parametrized(parametrizations.weight_norm),
        "spectral": parametrized(parametrizations.spectral_norm),
        "orthogonal": parametrized(parametrizations.orthogonal, orthogonal_map="cayley"),
        "matrix_exp": parametrized(parametrizations.orthogonal, orthogonal_map="matrix_exp"),
        "own": own_parametrization(),
    }
