"""Swin transformer: attention in shifted windows with a relative position bias (Liu et al. 2021)."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from .vit import Mlp


def windows_of(x: Tensor, size: int) -> Tensor:
    """(B, H, W, C) -> (B * windows, size * size, C)."""
    b, h, w, c = x.shape
    x = x.view(b, h // size, size, w // size, size, c)
    return x.permute(0, 1, 3, 2, 4, 5).contiguous().view(-1, size * size, c)


def merge_windows(windows: Tensor, size: int, h: int, w: int) -> Tensor:
    """Inverse of `windows_of`."""
    b = windows.shape[0] // (h * w // size // size)
    x = windows.view(b, h // size, w // size, size, size, -1)
    return x.permute(0, 1, 3, 2, 4, 5).contiguous().view(b, h, w, -1)


def shift_mask(h: int, w: int, size: int, shift: int) -> Tensor:
    """-100 between pixels that the cyclic shift brought together, (windows, size^2, size^2)."""
    image = torch.zeros(1, h, w, 1)
    slices = (slice(0, -size), slice(-size, -shift), slice(-shift, None))
    for index, (rows, columns) in enumerate((r, c) for r in slices for c in slices):
        image[:, rows, columns, :] = index
    flat = windows_of(image, size).squeeze(-1)
    return torch.where(flat.unsqueeze(1) == flat.unsqueeze(2), 0.0, -100.0)


def relative_index(size: int) -> Tensor:
    """Row of the bias table for each pair of positions of a window."""
    axis = torch.arange(size)
    grid = torch.stack(torch.meshgrid(axis, axis, indexing="ij")).flatten(1)
    offset = (grid[:, :, None] - grid[:, None, :]).permute(1, 2, 0) + size - 1
    return offset[..., 0] * (2 * size - 1) + offset[..., 1]


class WindowAttention(nn.Module):
    """softmax(q k^T / sqrt(d) + bias + mask) v inside each window."""

    relative_position_index: Tensor

    def __init__(self, dim: int, size: int, heads: int) -> None:
        """One bias for each head and offset."""
        super().__init__()
        self.heads, self.scale = heads, (dim // heads) ** -0.5
        self.relative_position_bias_table = nn.Parameter(torch.zeros((2 * size - 1) ** 2, heads))
        self.register_buffer("relative_position_index", relative_index(size))
        self.qkv, self.proj = nn.Linear(dim, 3 * dim), nn.Linear(dim, dim)

    def forward(self, x: Tensor, mask: Tensor | None) -> Tensor:
        """`x` is (B * windows, tokens, dim)."""
        b, n, c = x.shape
        q, k, v = self.qkv(x).reshape(b, n, 3, self.heads, c // self.heads).permute(2, 0, 3, 1, 4).unbind(0)
        attention = (q * self.scale) @ k.transpose(-2, -1)
        bias = self.relative_position_bias_table[self.relative_position_index.view(-1)].view(n, n, -1)
        attention = attention + bias.permute(2, 0, 1).contiguous().unsqueeze(0)
        if mask is not None:
            count = mask.shape[0]
            attention = attention.view(b // count, count, self.heads, n, n) + mask.unsqueeze(1).unsqueeze(0)
            attention = attention.view(-1, self.heads, n, n)
        return self.proj((attention.softmax(dim=-1) @ v).transpose(1, 2).reshape(b, n, c))


class Block(nn.Module):
    """Windowed attention (shifted in every second block) and MLP."""

    def __init__(self, dim: int, heads: int, side: int, size: int, shift: int, traced_mask: bool) -> None:
        """`traced_mask` computes the mask in forward instead of keeping it as a buffer."""
        super().__init__()
        self.side, self.size, self.shift, self.traced_mask = (
            side,
            min(size, side),
            0 if side <= size else shift,
            traced_mask,
        )
        self.norm1, self.attn = nn.LayerNorm(dim), WindowAttention(dim, self.size, heads)
        self.norm2, self.mlp = nn.LayerNorm(dim), Mlp(dim, 4 * dim)
        stored = shift_mask(side, side, self.size, self.shift) if self.shift and not traced_mask else None
        self.register_buffer("attn_mask", stored)

    def forward(self, x: Tensor) -> Tensor:
        """`x` is (B, H, W, C)."""
        y, mask = self.norm1(x), self.attn_mask
        if self.shift and self.traced_mask:
            mask = shift_mask(self.side, self.side, self.size, self.shift)
        if self.shift:
            y = torch.roll(y, shifts=(-self.shift, -self.shift), dims=(1, 2))
        y = merge_windows(self.attn(windows_of(y, self.size), mask), self.size, self.side, self.side)
        if self.shift:
            y = torch.roll(y, shifts=(self.shift, self.shift), dims=(1, 2))
        x = x + y
        return x + self.mlp(self.norm2(x))


class PatchMerging(nn.Module):
    """Four neighbours to one position of twice the channels."""

    def __init__(self, dim: int) -> None:
        """Norm before the reduction."""
        super().__init__()
        self.norm, self.reduction = nn.LayerNorm(4 * dim), nn.Linear(4 * dim, 2 * dim, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        """(B, H, W, C) -> (B, H/2, W/2, 2C)."""
        parts = [x[:, 0::2, 0::2, :], x[:, 1::2, 0::2, :], x[:, 0::2, 1::2, :], x[:, 1::2, 1::2, :]]
        return self.reduction(self.norm(torch.cat(parts, -1)))


class Swin(nn.Module):
    """Patchify, stages of window blocks, classifier on the mean."""

    def __init__(
        self,
        dim: int,
        depths: Sequence[int],
        heads: Sequence[int],
        image: int,
        window: int,
        traced_mask: bool,
        classes: int,
    ) -> None:
        """Patches of 4; each stage halves the side and doubles the channels."""
        super().__init__()
        self.patch, self.patch_norm = nn.Conv2d(3, dim, 4, 4), nn.LayerNorm(dim)
        side, layers = image // 4, []
        for index, (depth, count) in enumerate(zip(depths, heads, strict=True)):
            if index:
                layers.append(PatchMerging(dim))
                side, dim = side // 2, dim * 2
            for i in range(depth):
                layers.append(Block(dim, count, side, window, window // 2 * (i % 2), traced_mask))
        self.layers = nn.Sequential(*layers)
        self.norm, self.head = nn.LayerNorm(dim), nn.Linear(dim, classes)

    def forward(self, x: Tensor) -> Tensor:
        """Logits of an image batch."""
        x = self.patch_norm(self.patch(x).permute(0, 2, 3, 1))
        return self.head(self.norm(self.layers(x)).mean(dim=(1, 2)))


def swin_tiny(
    dim: int = 96, depths: Sequence[int] = (2, 2, 6, 2), heads: Sequence[int] = (3, 6, 12, 24), image: int = 224,
    window: int = 7, traced_mask: bool = False, classes: int = 1000,
) -> nn.Module:  # fmt: skip
    """Swin-Tiny."""
    return Swin(dim, depths, heads, image, window, traced_mask, classes)
