"""Merging by hand: what somebody deploys who knows the architecture, its weights computed in float64.

conv_k(x) + conv_1(x) + norm(x) == conv(x, W, b)
"""

from __future__ import annotations

import copy

import torch
import torch.nn.functional as F
from torch import Tensor, nn

Kernel = tuple[Tensor, Tensor]
"""Weight and bias in float64."""


def folded(conv: nn.Conv2d, norm: nn.BatchNorm2d) -> Kernel:
    """norm(conv(x)) as one convolution."""
    scale, shift = affine(norm)
    bias = 0.0 if conv.bias is None else conv.bias.detach().double()
    return conv.weight.detach().double() * scale.reshape(-1, 1, 1, 1), shift + scale * bias


def affine(norm: nn.BatchNorm2d) -> Kernel:
    """norm(x) = scale x + shift."""
    assert norm.running_var is not None
    assert norm.running_mean is not None
    scale = norm.weight.detach().double() / torch.sqrt(norm.running_var.double() + norm.eps)
    return scale, norm.bias.detach().double() - scale * norm.running_mean.double()


def identity(norm: nn.BatchNorm2d | None, channels: int, groups: int) -> Kernel:
    """norm(x), or x, as a 1x1 convolution."""
    scale, shift = (torch.ones(channels), torch.zeros(channels)) if norm is None else affine(norm)
    weight = torch.zeros(channels, channels // groups, 1, 1, dtype=torch.float64)
    index = torch.arange(channels)
    weight[index, index % (channels // groups), 0, 0] = scale.double()
    return weight, shift.double()


def summed(kernels: list[Kernel], size: int) -> Kernel:
    """The sum of branches of odd kernels, each padded to keep its input's size."""
    weights = [F.pad(weight, [(size - weight.shape[-1]) // 2] * 4) for weight, _ in kernels]
    return torch.stack(weights).sum(0), torch.stack([bias for _, bias in kernels]).sum(0)


def convolution(kernel: Kernel, stride: int, groups: int) -> nn.Conv2d:
    """A layer with that weight and bias."""
    weight, bias = kernel
    size = weight.shape[-1]
    conv = nn.Conv2d(weight.shape[1] * groups, weight.shape[0], size, stride, size // 2, groups=groups).double()
    with torch.no_grad():
        conv.weight.copy_(weight), conv.bias.copy_(bias)  # type: ignore[union-attr]
    return conv


def deployed(model: nn.Module) -> nn.Module:
    """A copy of a model in eval mode, in which every module that has `merged()` is what that returns."""
    if hasattr(model, "merged"):
        return model.merged().eval().to(next(model.parameters()).dtype)  # type: ignore[operator, no-any-return]
    twin = copy.copy(model)
    twin._modules = {name: child and deployed(child) for name, child in model._modules.items()}
    return twin
