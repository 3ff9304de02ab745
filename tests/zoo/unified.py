"""Vision transformers with unified or layer normalization, in front of the branches or behind the sums."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional as F


class UnifiedNorm(nn.Module):
    """Eval mode of UN1d: a scale by running statistics, a shift, no mean; over an image of one column."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.rand(channels) + 0.5)
        self.bias = nn.Parameter(0.1 * torch.randn(channels))
        self.register_buffer("running_var", torch.rand(channels) + 0.5)

    def forward(self, x: Tensor) -> Tensor:
        """[B, N, C] by way of [B, C, N, 1]."""
        n, tokens, channels = x.shape
        y = x.permute(0, 2, 1).contiguous().reshape(n, channels, tokens).unsqueeze(-1)
        y = y / torch.sqrt(self.running_var.view(1, -1, 1, 1) + 1e-5)
        y = self.weight.view(1, -1, 1, 1) * y + self.bias.view(1, -1, 1, 1)
        return y.reshape(n, channels, tokens).permute(0, 2, 1).contiguous()


class Attention(nn.Module):
    """Two heads."""

    def __init__(self, dim: int) -> None:
        super().__init__()
        self.qkv, self.proj = nn.Linear(dim, 3 * dim), nn.Linear(dim, dim)

    def forward(self, x: Tensor) -> Tensor:
        """Self-attention."""
        n, tokens, dim = x.shape
        q, k, v = self.qkv(x).reshape(n, tokens, 3, 2, dim // 2).permute(2, 0, 3, 1, 4).unbind(0)
        return self.proj(F.scaled_dot_product_attention(q, k, v).transpose(1, 2).reshape(n, tokens, dim))


class Block(nn.Module):
    """Attention and a perceptron, each with a residual sum."""

    def __init__(self, dim: int, norm: type[nn.Module], post: bool) -> None:
        super().__init__()
        self.post = post
        self.norm1, self.norm2, self.attention = norm(dim), norm(dim), Attention(dim)
        self.mlp = nn.Sequential(nn.Linear(dim, 2 * dim), nn.GELU(), nn.Linear(2 * dim, dim))

    def forward(self, x: Tensor) -> Tensor:
        """Norms in front of the branches, or behind the sums."""
        if self.post:
            x = self.norm1(x + self.attention(x))
            return self.norm2(x + self.mlp(x))
        x = x + self.attention(self.norm1(x))
        return x + self.mlp(self.norm2(x))


class Vit(nn.Module):
    """Patches, class token, positions, blocks, norm, head."""

    def __init__(self, norm: type[nn.Module], post: bool, depth: int, dim: int = 8) -> None:
        super().__init__()
        self.patches = nn.Conv2d(3, dim, 4, 4)
        self.token, self.places = nn.Parameter(torch.randn(1, 1, dim)), nn.Parameter(torch.randn(1, 5, dim))
        self.blocks = nn.Sequential(*(Block(dim, norm, post) for _ in range(depth)))
        self.norm, self.head = norm(dim), nn.Linear(dim, 5)

    def forward(self, x: Tensor) -> Tensor:
        """Logits of the class token."""
        y = self.patches(x).flatten(2).transpose(1, 2)
        y = torch.cat([self.token.expand(len(y), -1, -1), y], 1) + self.places
        return self.head(self.norm(self.blocks(y))[:, 0])
