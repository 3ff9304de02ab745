"""Vision transformers: DeiT (fused qkv, scaled_dot_product_attention), ViT on nn.MultiheadAttention, and MLP-Mixer."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from .unified import UnifiedNorm

Norm = Callable[[int], nn.Module]


def layer_norm(dim: int) -> nn.Module:
    """As vision transformers have it."""
    return nn.LayerNorm(dim, eps=1e-6)


class Mlp(nn.Module):
    """fc2(gelu(fc1(x)))."""

    def __init__(self, dim: int, hidden: int) -> None:
        """Biased, exact GELU."""
        super().__init__()
        self.fc1, self.act, self.fc2 = nn.Linear(dim, hidden), nn.GELU(), nn.Linear(hidden, dim)

    def forward(self, x: Tensor) -> Tensor:
        """Apply to the last axis."""
        return self.fc2(self.act(self.fc1(x)))


class FusedAttention(nn.Module):
    """One linear for q, k and v, attention by F.scaled_dot_product_attention."""

    def __init__(self, dim: int, heads: int) -> None:
        """`dim` is split over `heads`."""
        super().__init__()
        self.heads, self.qkv, self.proj = heads, nn.Linear(dim, 3 * dim), nn.Linear(dim, dim)

    def forward(self, x: Tensor) -> Tensor:
        """Self-attention over axis 1."""
        b, n, c = x.shape
        q, k, v = self.qkv(x).reshape(b, n, 3, self.heads, c // self.heads).permute(2, 0, 3, 1, 4).unbind(0)
        y = F.scaled_dot_product_attention(q, k, v)
        return self.proj(y.transpose(1, 2).reshape(b, n, c))


class ManualAttention(FusedAttention):
    """The same by matmul and softmax, as older code has it."""

    def forward(self, x: Tensor) -> Tensor:
        """Self-attention over axis 1."""
        b, n, c = x.shape
        q, k, v = self.qkv(x).reshape(b, n, 3, self.heads, c // self.heads).permute(2, 0, 3, 1, 4)
        weights = ((q @ k.transpose(-2, -1)) * (c // self.heads) ** -0.5).softmax(dim=-1)
        return self.proj((weights @ v).transpose(1, 2).reshape(b, n, c))


class ModuleAttention(nn.Module):
    """nn.MultiheadAttention, batch first, without returning weights."""

    def __init__(self, dim: int, heads: int) -> None:
        """`dim` is split over `heads`."""
        super().__init__()
        self.attention = nn.MultiheadAttention(dim, heads, batch_first=True)

    def forward(self, x: Tensor) -> Tensor:
        """Self-attention over axis 1."""
        return self.attention(x, x, x, need_weights=False)[0]


ATTENTION = {"fused": FusedAttention, "manual": ManualAttention, "module": ModuleAttention}


class Block(nn.Module):
    """Pre-norm attention and MLP."""

    def __init__(self, dim: int, heads: int, attention: str, norm: Norm) -> None:
        """`attention` is a key of ATTENTION."""
        super().__init__()
        self.norm1, self.attn = norm(dim), ATTENTION[attention](dim, heads)
        self.norm2, self.mlp = norm(dim), Mlp(dim, 4 * dim)

    def forward(self, x: Tensor) -> Tensor:
        """Two residuals."""
        x = x + self.attn(self.norm1(x))
        return x + self.mlp(self.norm2(x))


class ViT(nn.Module):
    """Patches, class token, learned positions, pre-norm blocks, classifier on the token."""

    def __init__(
        self, dim: int, depth: int, heads: int, image: int, patch: int, attention: str, classes: int, channels: int = 3,
        norm: Norm = layer_norm,
    ) -> None:  # fmt: skip
        """`image` must be a multiple of `patch`."""
        super().__init__()
        self.patch_embed = nn.Conv2d(channels, dim, patch, patch)
        self.cls_token = nn.Parameter(torch.zeros(1, 1, dim))
        self.pos_embed = nn.Parameter(torch.zeros(1, (image // patch) ** 2 + 1, dim))
        self.blocks = nn.Sequential(*(Block(dim, heads, attention, norm) for _ in range(depth)))
        self.norm, self.head = norm(dim), nn.Linear(dim, classes)

    def forward(self, x: Tensor) -> Tensor:
        """Logits of an image batch."""
        x = self.patch_embed(x).flatten(2).transpose(1, 2)
        x = torch.cat((self.cls_token.expand(x.shape[0], -1, -1), x), dim=1) + self.pos_embed
        return self.head(self.norm(self.blocks(x))[:, 0])


class MixerBlock(nn.Module):
    """MLP across tokens, MLP across channels."""

    def __init__(self, dim: int, tokens: int, token_hidden: int, channel_hidden: int) -> None:
        """Token mixing works on the transposed sequence."""
        super().__init__()
        self.norm1, self.mlp_tokens = nn.LayerNorm(dim, eps=1e-6), Mlp(tokens, token_hidden)
        self.norm2, self.mlp_channels = nn.LayerNorm(dim, eps=1e-6), Mlp(dim, channel_hidden)

    def forward(self, x: Tensor) -> Tensor:
        """Two residuals."""
        x = x + self.mlp_tokens(self.norm1(x).transpose(1, 2)).transpose(1, 2)
        return x + self.mlp_channels(self.norm2(x))


class Mixer(nn.Module):
    """MLP-Mixer (Tolstikhin et al. 2021)."""

    def __init__(self, dim: int, depth: int, image: int, patch: int, classes: int) -> None:
        """Token MLP of width dim / 2, channel MLP of 4 dim."""
        super().__init__()
        self.stem = nn.Conv2d(3, dim, patch, patch)
        tokens = (image // patch) ** 2
        self.blocks = nn.Sequential(*(MixerBlock(dim, tokens, dim // 2, 4 * dim) for _ in range(depth)))
        self.norm, self.head = nn.LayerNorm(dim, eps=1e-6), nn.Linear(dim, classes)

    def forward(self, x: Tensor) -> Tensor:
        """Logits of an image batch."""
        x = self.stem(x).flatten(2).transpose(1, 2)
        return self.head(self.norm(self.blocks(x)).mean(dim=1))


def vit(
    dim: int = 192, depth: int = 12, heads: int = 3, image: int = 224, patch: int = 16, attention: str = "fused",
    classes: int = 1000, channels: int = 3,
) -> nn.Module:  # fmt: skip
    """ViT or DeiT; Tiny by default."""
    return ViT(dim, depth, heads, image, patch, attention, classes, channels)


def unified_vit(**options: Any) -> nn.Module:
    """The same with unified norms; their statistics are seeded, and grow as the residual stream does."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        usual: dict[str, Any] = {"attention": "fused", "patch": 16, "image": 224, "depth": 12, "classes": 1000}
        model = ViT(**{**usual, **options, "norm": UnifiedNorm})
    for index, norm in enumerate(m for m in model.modules() if isinstance(m, UnifiedNorm)):
        norm.running_var.mul_(1 + index)  # type: ignore[operator]
    return model


def mixer_b16(dim: int = 768, depth: int = 12, image: int = 224, patch: int = 16, classes: int = 1000) -> nn.Module:
    """MLP-Mixer B/16."""
    return Mixer(dim, depth, image, patch, classes)
