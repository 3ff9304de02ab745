"""ConvNeXt: depthwise 7x7, layer norm over channels, pointwise MLP with layer scale (Liu et al. 2022)."""

from __future__ import annotations

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn


class LayerNorm2d(nn.LayerNorm):
    """Layer norm over the channels of an NCHW tensor."""

    def forward(self, x: Tensor) -> Tensor:
        """Permute, normalize, permute back."""
        x = x.permute(0, 2, 3, 1)
        return F.layer_norm(x, self.normalized_shape, self.weight, self.bias, self.eps).permute(0, 3, 1, 2)


class Block(nn.Module):
    """x + scale * mlp(norm(depthwise(x)))."""

    def __init__(self, dim: int) -> None:
        """The MLP runs channels-last."""
        super().__init__()
        self.depthwise, self.norm = nn.Conv2d(dim, dim, 7, padding=3, groups=dim), nn.LayerNorm(dim, eps=1e-6)
        self.fc1, self.fc2 = nn.Linear(dim, 4 * dim), nn.Linear(4 * dim, dim)
        self.layer_scale = nn.Parameter(torch.full((dim, 1, 1), 1e-6))

    def forward(self, x: Tensor) -> Tensor:
        """Residual block."""
        y = self.norm(self.depthwise(x).permute(0, 2, 3, 1))
        y = self.fc2(F.gelu(self.fc1(y))).permute(0, 3, 1, 2)
        return x + self.layer_scale * y


class ConvNeXt(nn.Module):
    """Patchify stem, four stages with 2x2 downsampling, classifier."""

    def __init__(self, dims: Sequence[int], depths: Sequence[int], classes: int) -> None:
        """Tiny is dims (96, 192, 384, 768), depths (3, 3, 9, 3)."""
        super().__init__()
        layers: list[nn.Module] = [nn.Conv2d(3, dims[0], 4, 4), LayerNorm2d(dims[0], eps=1e-6)]
        for index, (dim, depth) in enumerate(zip(dims, depths, strict=True)):
            if index:
                layers += [LayerNorm2d(dims[index - 1], eps=1e-6), nn.Conv2d(dims[index - 1], dim, 2, 2)]
            layers += [Block(dim) for _ in range(depth)]
        self.features, self.avgpool = nn.Sequential(*layers), nn.AdaptiveAvgPool2d(1)
        self.classifier = nn.Sequential(LayerNorm2d(dims[-1], eps=1e-6), nn.Flatten(1), nn.Linear(dims[-1], classes))

    def forward(self, x: Tensor) -> Tensor:
        """Logits of an image batch."""
        return self.classifier(self.avgpool(self.features(x)))


def convnext_tiny(
    dims: Sequence[int] = (96, 192, 384, 768), depths: Sequence[int] = (3, 3, 9, 3), classes: int = 1000
) -> nn.Module:
    """ConvNeXt-Tiny."""
    return ConvNeXt(dims, depths, classes)
