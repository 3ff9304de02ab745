"""FastViT of RepMixer stages: x + gamma (mixer(x) - norm(x)), large kernels beside small ones (Vasu et al. 2023)."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from .common import ConvNorm
from .merging import convolution, folded, identity, summed
from .mobileone import OneBlock


class LargeKernel(nn.Module):
    """Between stages: a depthwise 7x7 beside a 3x3, stride 2, then a pointwise block."""

    def __init__(self, inputs: int, outputs: int) -> None:
        """Each input channel makes outputs / inputs channels."""
        super().__init__()
        self.inputs = inputs
        self.large, self.small = (ConvNorm(inputs, outputs, k, 2, inputs, None) for k in (7, 3))

    def forward(self, x: Tensor) -> Tensor:
        """Their sum."""
        return self.large(x) + self.small(x)

    def merged(self) -> nn.Module:
        """One 7x7."""
        kernels = [folded(branch[0], branch[1]) for branch in (self.large, self.small)]  # type: ignore[arg-type]
        return convolution(summed(kernels, 7), 2, self.inputs)


class RepMixer(nn.Module):
    """x + gamma (mixer(x) - norm(x))."""

    def __init__(self, dim: int) -> None:
        """The mixer is a depthwise 3x3 block without an activation."""
        super().__init__()
        self.mixer, self.norm = OneBlock(dim, dim, 3, groups=dim, activation=nn.Identity), nn.BatchNorm2d(dim)
        self.gamma = nn.Parameter(torch.ones(dim, 1, 1))

    def forward(self, x: Tensor) -> Tensor:
        """Mix positions."""
        return x + self.gamma * (self.mixer(x) - self.norm(x))

    def merged(self) -> nn.Module:
        """One depthwise 3x3: I + gamma (mixer - norm)."""
        dim = self.norm.num_features
        mixer, gamma = self.mixer.merged()[0], self.gamma.detach().double()  # type: ignore[index]
        weight, bias = mixer.weight.detach().double(), mixer.bias.detach().double()
        norm, shift = identity(self.norm, dim, dim)
        scaled = (gamma.unsqueeze(-1) * weight, gamma.flatten() * bias)
        minus = (-gamma.unsqueeze(-1) * norm, -gamma.flatten() * shift)
        return convolution(summed([identity(None, dim, dim), scaled, minus], 3), 1, dim)


class Perceptron(nn.Module):
    """x + gamma fc2(gelu(fc1(depthwise 7x7 (x))))."""

    def __init__(self, dim: int, hidden: int) -> None:
        """1x1 convolutions."""
        super().__init__()
        self.depth, self.act = ConvNorm(dim, dim, 7, groups=dim, activation=None), nn.GELU()
        self.fc1, self.fc2 = nn.Conv2d(dim, hidden, 1), nn.Conv2d(hidden, dim, 1)
        self.gamma = nn.Parameter(torch.ones(dim, 1, 1))

    def forward(self, x: Tensor) -> Tensor:
        """Mix channels."""
        return x + self.gamma * self.fc2(self.act(self.fc1(self.depth(x))))

    def merged(self) -> nn.Module:
        """Without a norm and without a gain."""
        gamma = self.gamma.detach().double()
        depth = convolution(folded(self.depth[0], self.depth[1]), 1, len(gamma))  # type: ignore[arg-type]
        bias = self.fc2.bias.detach().double()  # type: ignore[union-attr]
        fc2 = convolution((gamma.unsqueeze(-1) * self.fc2.weight.detach().double(), gamma.flatten() * bias), 1, 1)
        return Residual(nn.Sequential(depth, self.fc1, self.act, fc2))


class Residual(nn.Module):
    """x + body(x)."""

    def __init__(self, body: nn.Module) -> None:
        """The branch."""
        super().__init__()
        self.body = body

    def forward(self, x: Tensor) -> Tensor:
        """The sum."""
        return x + self.body(x)


class FastViT(nn.Module):
    """Stem of stride 4, stages of mixers and perceptrons, a depthwise expansion, global average, classifier."""

    def __init__(self, dims: Sequence[int], depths: Sequence[int], ratio: int, classes: int) -> None:
        """`ratio` is hidden channels / channels of the perceptrons."""
        super().__init__()
        first = dims[0]
        blocks: list[nn.Module] = [
            OneBlock(3, first, 3, 2, activation=nn.GELU),
            OneBlock(first, first, 3, 2, first, activation=nn.GELU),
            OneBlock(first, first, 1, activation=nn.GELU),
        ]
        for stage, (dim, depth) in enumerate(zip(dims, depths, strict=True)):
            if stage:
                blocks += [LargeKernel(dims[stage - 1], dim), OneBlock(dim, dim, 1, activation=nn.GELU)]
            for _ in range(depth):
                blocks += [RepMixer(dim), Perceptron(dim, ratio * dim)]
        blocks.append(OneBlock(dims[-1], 2 * dims[-1], 3, groups=dims[-1], activation=nn.GELU))
        self.blocks = nn.Sequential(*blocks)
        self.pool, self.head = nn.AdaptiveAvgPool2d(1), nn.Linear(2 * dims[-1], classes)

    def forward(self, x: Tensor) -> Tensor:
        """Logits of an image batch."""
        return self.head(torch.flatten(self.pool(self.blocks(x)), 1))


def fastvit_t8(
    dims: Sequence[int] = (48, 96, 192, 384), depths: Sequence[int] = (2, 2, 4, 2), ratio: int = 3, classes: int = 1000
) -> nn.Module:
    """FastViT-T8 as trained, without the gate of its last layer."""
    return FastViT(dims, depths, ratio, classes)
