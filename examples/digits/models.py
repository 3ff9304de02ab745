"""Three small networks for 32x32 digits: ResNet-20, a vision transformer and a MobileNet-style net."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import torch
import torch.nn.functional as F
from torch import Tensor, nn

WEIGHTS = Path(__file__).parent


class ResidualBlock(nn.Module):
    """relu(shortcut(x) + bn(conv(relu(bn(conv(x))))))."""

    def __init__(self, inputs: int, outputs: int, stride: int) -> None:
        """A 1x1 projection where the shape changes."""
        super().__init__()
        self.conv1, self.bn1 = nn.Conv2d(inputs, outputs, 3, stride, 1, bias=False), nn.BatchNorm2d(outputs)
        self.conv2, self.bn2 = nn.Conv2d(outputs, outputs, 3, 1, 1, bias=False), nn.BatchNorm2d(outputs)
        self.shortcut = nn.Sequential()
        if stride != 1:
            self.shortcut = nn.Sequential(nn.Conv2d(inputs, outputs, 1, stride, bias=False), nn.BatchNorm2d(outputs))

    def forward(self, x: Tensor) -> Tensor:
        """One block."""
        y = F.relu(self.bn1(self.conv1(x)))
        return F.relu(self.bn2(self.conv2(y)) + self.shortcut(x))


class ResNet20(nn.Module):
    """Nine blocks in three stages of 16, 32 and 64 channels."""

    def __init__(self) -> None:
        """The CIFAR ResNet, for one input channel."""
        super().__init__()
        self.conv1, self.bn1 = nn.Conv2d(1, 16, 3, 1, 1, bias=False), nn.BatchNorm2d(16)
        plan = [(16, 16, 1)] * 3 + [(16, 32, 2)] + [(32, 32, 1)] * 2 + [(32, 64, 2)] + [(64, 64, 1)] * 2
        self.blocks = nn.Sequential(*(ResidualBlock(*row) for row in plan))
        self.fc = nn.Linear(64, 10)

    def forward(self, x: Tensor) -> Tensor:
        """Logits of (N, 1, 32, 32)."""
        x = self.blocks(F.relu(self.bn1(self.conv1(x))))
        return self.fc(x.mean((2, 3)))


class TransformerBlock(nn.Module):
    """Pre-norm attention and MLP."""

    def __init__(self, dim: int, heads: int) -> None:
        """The MLP is twice as wide."""
        super().__init__()
        self.heads = heads
        self.norm1, self.qkv, self.proj = nn.LayerNorm(dim), nn.Linear(dim, 3 * dim), nn.Linear(dim, dim)
        self.norm2, self.fc1, self.fc2 = nn.LayerNorm(dim), nn.Linear(dim, 2 * dim), nn.Linear(2 * dim, dim)

    def forward(self, x: Tensor) -> Tensor:
        """Two residuals."""
        b, n, c = x.shape
        q, k, v = self.qkv(self.norm1(x)).reshape(b, n, 3, self.heads, -1).permute(2, 0, 3, 1, 4).unbind(0)
        x = x + self.proj(F.scaled_dot_product_attention(q, k, v).transpose(1, 2).reshape(b, n, c))
        return x + self.fc2(F.gelu(self.fc1(self.norm2(x))))


class SmallViT(nn.Module):
    """64 patches of 4x4, four blocks of width 80, mean of the tokens."""

    def __init__(self, dim: int = 80, depth: int = 4, heads: int = 4) -> None:
        """Learned positions."""
        super().__init__()
        self.patches, self.positions = nn.Conv2d(1, dim, 4, 4), nn.Parameter(torch.randn(1, 64, dim) * 0.02)
        self.blocks = nn.Sequential(*(TransformerBlock(dim, heads) for _ in range(depth)))
        self.norm, self.head = nn.LayerNorm(dim), nn.Linear(dim, 10)

    def forward(self, x: Tensor) -> Tensor:
        """Logits of (N, 1, 32, 32)."""
        x = self.patches(x).flatten(2).transpose(1, 2) + self.positions
        return self.head(self.norm(self.blocks(x)).mean(1))


class Separable(nn.Module):
    """Inverted residual with squeeze-excite and hardswish, as in MobileNetV3."""

    def __init__(self, inputs: int, outputs: int, stride: int, expansion: int = 4) -> None:
        """Expand, depthwise, gate, project."""
        super().__init__()
        hidden = inputs * expansion
        self.expand, self.bn1 = nn.Conv2d(inputs, hidden, 1, bias=False), nn.BatchNorm2d(hidden)
        self.depthwise = nn.Conv2d(hidden, hidden, 3, stride, 1, groups=hidden, bias=False)
        self.bn2, self.squeeze, self.excite = nn.BatchNorm2d(hidden), nn.Conv2d(hidden, 8, 1), nn.Conv2d(8, hidden, 1)
        self.project, self.bn3 = nn.Conv2d(hidden, outputs, 1, bias=False), nn.BatchNorm2d(outputs)
        self.residual = stride == 1 and inputs == outputs

    def forward(self, x: Tensor) -> Tensor:
        """x + f(x) or f(x)."""
        y = F.hardswish(self.bn2(self.depthwise(F.hardswish(self.bn1(self.expand(x))))))
        y = y * F.hardsigmoid(self.excite(F.relu(self.squeeze(F.adaptive_avg_pool2d(y, 1)))))
        y = self.bn3(self.project(y))
        return x + y if self.residual else y


class MobileNet(nn.Module):
    """Seven separable blocks up to 64 channels."""

    def __init__(self) -> None:
        """Strided stem, 1x1 head."""
        super().__init__()
        self.stem, self.bn = nn.Conv2d(1, 16, 3, 2, 1, bias=False), nn.BatchNorm2d(16)
        plan = ((16, 16, 1), (16, 32, 2), (32, 32, 1), (32, 32, 1), (32, 64, 2), (64, 64, 1), (64, 64, 1))
        self.blocks = nn.Sequential(*(Separable(*row) for row in plan))
        self.last, self.bn_last = nn.Conv2d(64, 128, 1, bias=False), nn.BatchNorm2d(128)
        self.fc = nn.Linear(128, 10)

    def forward(self, x: Tensor) -> Tensor:
        """Logits of (N, 1, 32, 32)."""
        x = self.blocks(F.relu6(self.bn(self.stem(x))))
        x = F.hardswish(self.bn_last(self.last(x)))
        return self.fc(F.dropout(x.mean((2, 3)), 0.1, self.training))


MODELS: dict[str, Callable[[], nn.Module]] = {"resnet20": ResNet20, "vit": SmallViT, "mobilenet": MobileNet}


def load(name: str) -> nn.Module:
    """The trained network, in eval mode."""
    from safetensors.torch import load_file

    model = MODELS[name]()
    model.load_state_dict(load_file(WEIGHTS / f"{name}.safetensors"))
    return model.eval()


def resnet20() -> nn.Module:
    """Factory for `planish compile models:resnet20`."""
    return load("resnet20")
