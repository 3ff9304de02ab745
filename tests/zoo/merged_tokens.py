"""More networks as they are trained, each with what remains of it when it is merged by hand: over tokens.

`TOKENS` has (as trained, merged by hand, shape of the input), as `merged.PAIRS` has.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from .merged import Conv, Make, Residual, normed
from .unified import Attention, UnifiedNorm, Vit

C = 8

Norm = Callable[[int], nn.Module]


class Same(nn.Identity):
    """No norm, whatever the channels."""


class Rms(nn.Module):
    """What is left of a layer norm: neither a mean nor weights."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.shape = (channels,)

    def forward(self, x: Tensor) -> Tensor:
        """Of the last axis."""
        return F.rms_norm(x, self.shape, eps=1e-5)


class PowerNorm(nn.Module):
    """Each token over the root mean square of its head's channels; then, when whole, a batch's scale and an affine."""

    def __init__(self, channels: int, whole: bool = True) -> None:
        super().__init__()
        self.whole = whole
        if whole:
            self.weight, self.bias = nn.Parameter(torch.rand(channels) + 0.5), nn.Parameter(torch.randn(channels))
            self.register_buffer("phi", torch.rand(1, channels, 1) + 0.5)

    def forward(self, x: Tensor) -> Tensor:
        """[B, N, C]."""
        heads = x.unflatten(2, (2, -1))
        x = (heads / torch.sqrt((heads * heads).mean(3, keepdim=True) + 1e-5)).flatten(2)
        if not self.whole:
            return x
        y = x.permute(0, 2, 1) / torch.sqrt(self.phi + 1e-5)
        return (self.weight.view(1, -1, 1) * y + self.bias.view(1, -1, 1)).permute(0, 2, 1).contiguous()


class Scaled(nn.Module):
    """A layer, and a learned gain for each channel of what it makes, in place."""

    def __init__(self, inner: nn.Module) -> None:
        super().__init__()
        self.inner, self.gamma = inner, nn.Parameter(torch.rand(C))

    def forward(self, x: Tensor) -> Tensor:
        """Times gamma."""
        return self.inner(x).mul_(self.gamma)  # type: ignore[no-any-return]


class Patches(nn.Module):
    """Patches of an image as tokens, with positions."""

    def __init__(self) -> None:
        super().__init__()
        self.patches, self.places = Conv(3, C, 4, 4), nn.Parameter(torch.randn(1, 4, C))

    def forward(self, x: Tensor) -> Tensor:
        """[B, N, C]."""
        return self.patches(x).flatten(2).transpose(1, 2) + self.places  # type: ignore[no-any-return]


def transformer(norm: Norm, gain: Callable[[nn.Module], nn.Module]) -> nn.Module:
    """Two blocks, norms in front of the branches, gains behind them; a norm and a head."""
    layers: list[nn.Module] = [Patches()]
    for _ in range(2):
        layers.append(Residual(norm(C), gain(Attention(C))))
        layers.append(Residual(norm(C), gain(nn.Sequential(nn.Linear(C, 16), nn.GELU(), nn.Linear(16, C)))))
    return nn.Sequential(*layers, norm(C), nn.Linear(C, 3))


def plain(inner: nn.Module) -> nn.Module:
    """No gain."""
    return inner


class ConvNext(nn.Module):
    """A depthwise convolution, a norm over the channels, a perceptron, a gain."""

    def __init__(self, affine: bool, gain: Callable[[nn.Module], nn.Module]) -> None:
        super().__init__()
        self.depth, self.norm = Conv(C, C, 7, 1, 3, groups=C), nn.LayerNorm(C, 1e-6, elementwise_affine=affine)
        self.mlp = gain(nn.Sequential(nn.Linear(C, 16), nn.GELU(), nn.Linear(16, C)))

    def forward(self, x: Tensor) -> Tensor:
        """Residual, the channels last inside."""
        return x + self.mlp(self.norm(self.depth(x).permute(0, 2, 3, 1))).permute(0, 3, 1, 2)  # type: ignore[no-any-return]


class Reduced(nn.Module):
    """NextViT's attention: queries of all positions; keys and values of averages of four, which have a norm too."""

    def __init__(self, image: Norm, line: Norm) -> None:
        super().__init__()
        self.norm, self.few, self.average = image(C), line(C), nn.AvgPool1d(4, 4)
        self.q, self.k, self.v, self.out = (nn.Linear(C, C) for _ in range(4))

    def forward(self, x: Tensor) -> Tensor:
        """Residual."""
        tokens = self.norm(F.gelu(x)).flatten(2).transpose(1, 2)
        few = self.few(self.average(tokens.transpose(1, 2))).transpose(1, 2)
        q, k, v = (
            layer(y).unflatten(2, (2, -1)).transpose(1, 2)
            for layer, y in ((self.q, tokens), (self.k, few), (self.v, few))
        )
        y = F.scaled_dot_product_attention(q, k, v).transpose(1, 2).flatten(2)
        return x + self.out(y).transpose(1, 2).unflatten(2, x.shape[2:])  # type: ignore[no-any-return]


class LinearNorm(nn.Module):
    """LeViT's linear layer: a norm over the flattened tokens, or none."""

    def __init__(self, outputs: int, norm: bool) -> None:
        super().__init__()
        self.linear = nn.Linear(C, outputs, bias=not norm)
        self.norm = nn.BatchNorm1d(outputs) if norm else None

    def forward(self, x: Tensor) -> Tensor:
        """Its shape is read from the value that is normalized."""
        y = self.linear(x)
        return y if self.norm is None else self.norm(y.flatten(0, 1)).reshape_as(y)


class LeVit(nn.Module):
    """Attention with a hard swish, over an image's positions."""

    def __init__(self, norm: bool) -> None:
        super().__init__()
        self.qkv, self.out = LinearNorm(24, norm), LinearNorm(C, norm)

    def forward(self, x: Tensor) -> Tensor:
        """Residual."""
        tokens = x.flatten(2).transpose(1, 2)
        q, k, v = self.qkv(tokens).unflatten(2, (2, 12)).split([4, 4, 4], 3)
        scores = q.permute(0, 2, 1, 3) @ k.permute(0, 2, 3, 1) * 0.5
        y = F.hardswish((scores.softmax(-1) @ v.permute(0, 2, 1, 3)).transpose(1, 2).flatten(2))
        return (tokens + self.out(y)).transpose(1, 2).reshape(x.shape)


class Heads(nn.Module):
    """Two heads over the mean of a residual sum, averaged; each with the norm in front."""

    def __init__(self, norms: bool) -> None:
        super().__init__()
        self.conv = normed(C, C, 3, 1, 1) if norms else Conv(C, C, 3, 1, 1)
        self.norm = nn.BatchNorm2d(C) if norms else nn.Identity()
        self.heads = nn.ModuleList(nn.Linear(C, 3) for _ in range(1 + norms))

    def forward(self, x: Tensor) -> Tensor:
        """Logits."""
        y = F.gelu(x)
        y = self.norm(y + self.conv(F.relu(y))).flatten(2).mean(-1)
        return sum(head(y) for head in self.heads) / len(self.heads)


class Samples(nn.Module):
    """One head behind five dropouts, averaged by Python's own sum; or the head."""

    def __init__(self, rates: tuple[float, ...]) -> None:
        super().__init__()
        self.rates, self.head = rates, nn.Linear(C, 3)

    def forward(self, x: Tensor) -> Tensor:
        """Logits."""
        if not self.rates:
            return self.head(x)  # type: ignore[no-any-return]
        return sum(self.head(F.dropout(x, rate, self.training)) for rate in self.rates) / len(self.rates)


def stacked() -> nn.Module:
    """Linear layers in a row."""
    return nn.Sequential(nn.Linear(C, 32), nn.Linear(32, 16), nn.Dropout(0.1), nn.Linear(16, 4))


IMAGE = (1, C, 8, 4)

TOKENS: dict[str, tuple[Make, Make, tuple[int, ...]]] = {
    "unified, in front": (lambda: Vit(UnifiedNorm, False, 2), lambda: Vit(Same, False, 2), (1, 3, 8, 8)),
    "unified, behind": (lambda: Vit(UnifiedNorm, True, 2), lambda: Vit(Same, True, 2), (1, 3, 8, 8)),
    "layer norms and gains": (lambda: transformer(nn.LayerNorm, Scaled), lambda: transformer(Rms, plain),
                              (1, 3, 8, 8)),
    "power norms": (lambda: transformer(PowerNorm, plain), lambda: transformer(lambda c: PowerNorm(c, False), plain),
                    (1, 3, 8, 8)),
    "convnext": (lambda: ConvNext(True, Scaled), lambda: ConvNext(False, plain), IMAGE),
    "nextvit attention": (lambda: Reduced(nn.BatchNorm2d, nn.BatchNorm1d), lambda: Reduced(Same, Same), IMAGE),
    "levit attention": (lambda: LeVit(True), lambda: LeVit(False), IMAGE),
    "heads": (lambda: Heads(True), lambda: Heads(False), IMAGE),
    "samples": (lambda: Samples((0.1, 0.2, 0.3, 0.4, 0.5)), lambda: Samples(()), (4, C)),
    "stacked": (stacked, lambda: nn.Linear(C, 4), (3, C)),
}  # fmt: skip
