"""Structural torture: small modules that break compilers which assume one conv, one norm, one input, one output.

Each case names the property it attacks. `HOSTILE` is in the zoo's form, small size only.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from .common import ConvNorm, Inputs, Sample, SqueezeExcite, image, sample


class ReusedConv(nn.Module):
    """One convolution under two different norms, and once bare: no norm may be folded into the shared weight."""

    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(3, 3, 3, padding=1)
        self.first, self.second = nn.BatchNorm2d(3), nn.BatchNorm2d(3)

    def forward(self, x: Tensor) -> Tensor:
        """Each call must be judged alone."""
        return self.first(self.conv(x)) + F.relu(self.second(self.conv(x + 1))) - self.conv(x * 0.5)


class ReusedNorm(nn.Module):
    """One norm behind two convolutions; one convolution's raw output is also read elsewhere."""

    def __init__(self) -> None:
        super().__init__()
        self.a, self.b = nn.Conv2d(3, 6, 1, bias=False), nn.Conv2d(3, 6, 3, padding=1)
        self.norm = nn.BatchNorm2d(6)

    def forward(self, x: Tensor) -> Tensor:
        """The raw `b(x)` is an operand, so its norm must stay apart."""
        raw = self.b(x)
        return self.norm(self.a(x)) * self.norm(raw) + raw


class TiedWeights(nn.Module):
    """Encoder and decoder share a matrix, used as an embedding, as a linear weight and transposed."""

    def __init__(self) -> None:
        super().__init__()
        self.embed, self.mix, self.norm = nn.Embedding(17, 12), nn.Linear(12, 12), nn.BatchNorm1d(12)
        self.head = nn.Linear(12, 17, bias=False)
        self.head.weight = self.embed.weight

    def forward(self, ids: Tensor) -> tuple[Tensor, Tensor]:
        """Folding the norm into one use must not move the others."""
        x = self.norm(self.mix(self.embed(ids)).transpose(1, 2)).transpose(1, 2)
        return self.head(x), x @ self.embed.weight.t() + F.linear(x, self.head.weight)


class ManyInputs(nn.Module):
    """Float, integer and bool inputs, nested inputs, a keyword, an input that is returned as it is."""

    def __init__(self) -> None:
        super().__init__()
        self.embed, self.linear = nn.Embedding(11, 8), nn.Linear(8, 5)

    def forward(self, pair: tuple[Tensor, Tensor], extra: dict[str, Tensor], *, scale: Tensor) -> dict[str, Any]:
        """Outputs: nested, a repeated tensor, an untouched input, an integer, a bool, a Python constant."""
        ids, keep = pair
        x = torch.where(keep.unsqueeze(-1), self.embed(ids), extra["fill"])
        y = self.linear(x) * scale
        return {
            "y": y,
            "again": (y, [ids, {"count": keep.sum(-1), "any": keep.any()}]),
            "best": y.argmax(-1),
            "version": 3,
            "none": None,
        }


class Named(NamedTuple):
    """A structured result."""

    logits: Tensor
    features: tuple[Tensor, ...]


class NamedOutputs(nn.Module):
    """A namedtuple with a tuple inside."""

    def __init__(self) -> None:
        super().__init__()
        self.a, self.b = ConvNorm(3, 5), ConvNorm(5, 7, stride=2)

    def forward(self, x: Tensor) -> Named:
        """Intermediate values leave too, so they may not be fused away."""
        first = self.a(x)
        second = self.b(first)
        return Named(second.mean((2, 3)), (first, second))


class InPlace(nn.Module):
    """In-place arithmetic on temporaries, through views, and an in-place ReLU whose input is read again."""

    def __init__(self) -> None:
        super().__init__()
        self.conv, self.norm = nn.Conv2d(3, 8, 3, padding=1), nn.BatchNorm2d(8)

    def forward(self, x: Tensor) -> Tensor:
        """Writes through slices and a transpose must all be seen."""
        y = self.norm(self.conv(x))
        y[:, :3] += 1.5
        y.transpose(2, 3)[..., 0].mul_(2.0)
        first, second = y[:, :4], y.narrow(1, 4, 4)
        F.relu_(first)
        second.clamp_(min=-0.5)
        z = y.clone()
        z.zero_().add_(y, alpha=0.5)
        z[:, 1] = x[:, 1]
        return z.sub_(y.sigmoid_())


class Views(nn.Module):
    """Permuted, strided, flipped, expanded and squeezed values between the convolutions."""

    def __init__(self) -> None:
        super().__init__()
        self.a, self.b = nn.Conv2d(3, 6, 3, padding=1), nn.Conv2d(12, 4, 1)

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """A view is an output; another is read three ways."""
        y = self.a(x)
        t = y.permute(0, 2, 3, 1)
        left, right = t[:, ::2, 1::2, :], t[:, 1::2, ::2, :].flip(1)
        z = torch.cat([left, right], -1).permute(0, 3, 1, 2)
        return self.b(z) + y.mean((2, 3), keepdim=True).narrow(1, 1, 4).expand(-1, -1, *z.shape[2:]), t[:, 0].unsqueeze(
            1
        )


class PlainNorms(nn.Module):
    """Norms without affine, batch norm without running statistics (it normalizes by the batch even in eval)."""

    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(3, 12, 3, padding=1)
        self.batch, self.live = nn.BatchNorm2d(12, affine=False), nn.BatchNorm2d(12, track_running_stats=False)
        self.group, self.instance = nn.GroupNorm(3, 12), nn.InstanceNorm2d(12)
        self.layer, self.rms = nn.LayerNorm(8, elementwise_affine=False), nn.RMSNorm(8)

    def forward(self, x: Tensor) -> Tensor:
        """Six norms in a row."""
        x = self.batch(self.conv(x))
        x = self.group(self.instance(x) + x)
        return self.rms(self.layer(x)) + self.live(x)


class OneDimension(nn.Module):
    """Conv1d, transposed conv1d (grouped, with output padding), norms and pools over sequences."""

    def __init__(self) -> None:
        super().__init__()
        self.down = nn.Sequential(nn.Conv1d(5, 10, 4, 2, 1, bias=False), nn.BatchNorm1d(10), nn.LeakyReLU(0.1))
        self.wide = nn.Conv1d(10, 10, 3, padding=4, dilation=4, groups=5, padding_mode="circular")
        self.up = nn.Sequential(nn.ConvTranspose1d(10, 6, 3, 2, 1, 1, groups=2), nn.BatchNorm1d(6), nn.ELU())
        self.even = nn.Conv1d(6, 4, 4)

    def forward(self, x: Tensor) -> Tensor:
        """Down, dilate, up; an even kernel padded on one side more."""
        y = F.pad(self.up(self.wide(self.down(x))), (1, 2))
        y = F.max_pool1d(self.even(y), 3, 2, ceil_mode=True)
        return y + F.adaptive_avg_pool1d(x[:, :4], y.shape[-1])


class ThreeDimensions(nn.Module):
    """Conv3d, transposed conv3d, 3d norms and pools."""

    def __init__(self) -> None:
        super().__init__()
        self.a, self.norm = nn.Conv3d(2, 6, (1, 3, 3), padding=(0, 1, 1)), nn.BatchNorm3d(6)
        self.b = nn.Conv3d(6, 6, (3, 1, 1), padding=(1, 0, 0), groups=3, bias=False)
        self.up, self.last = nn.ConvTranspose3d(6, 3, 2, 2, bias=False), nn.BatchNorm3d(3)

    def forward(self, x: Tensor) -> Tensor:
        """(2+1)D block, pool, upsample."""
        y = F.max_pool3d(F.relu(self.norm(self.a(x))), 2)
        return self.last(self.up(F.avg_pool3d(self.b(y), 3, 1, 1))).mean(2)


class OddChannels(nn.Module):
    """Prime channel counts, odd sizes, asymmetric kernels, strides, dilations and paddings."""

    def __init__(self) -> None:
        super().__init__()
        self.a, self.na = nn.Conv2d(3, 17, (3, 1), (2, 1), (0, 2)), nn.BatchNorm2d(17)
        self.b, self.nb = nn.Conv2d(17, 31, (1, 5), (1, 3), (1, 0), (1, 2)), nn.BatchNorm2d(31)
        self.depth, self.nd = nn.Conv2d(31, 31, 3, padding=1, groups=31, bias=False), nn.BatchNorm2d(31)
        self.multiplied = nn.Conv2d(31, 62, 3, 2, groups=31)
        self.one = nn.Conv2d(62, 1, 1)

    def forward(self, x: Tensor) -> Tensor:
        """One output channel at the end."""
        y = F.relu6(self.nb(self.b(F.relu(self.na(self.a(x))))))
        return self.one(self.multiplied(F.hardswish(self.nd(self.depth(y)))))


class Shuffle(nn.Module):
    """ShuffleNetV2 unit: split, branch, concatenate, shuffle channels; blocks of 10 channels."""

    def __init__(self, channels: int = 20) -> None:
        super().__init__()
        half = channels // 2
        self.stem = ConvNorm(3, channels, stride=2)
        self.branch = nn.Sequential(
            ConvNorm(half, half, 1), ConvNorm(half, half, 3, groups=half, activation=None), ConvNorm(half, half, 1)
        )

    def forward(self, x: Tensor) -> Tensor:
        """Twice, with shared weights."""
        x = self.stem(x)
        for _ in range(2):
            kept, worked = x.chunk(2, dim=1)
            y = torch.cat((kept, self.branch(worked)), dim=1)
            b, c, h, w = y.shape
            x = y.view(b, 2, c // 2, h, w).transpose(1, 2).reshape(b, c, h, w)
        return x


class Branches(nn.Module):
    """Uneven splits and nested concatenations on several axes, a gate, a value concatenated with itself."""

    def __init__(self) -> None:
        super().__init__()
        self.a, self.b, self.c = ConvNorm(3, 7), ConvNorm(3, 9, 1, activation=nn.SiLU), nn.Conv2d(3, 5, 3, padding=1)
        self.gate, self.last = SqueezeExcite(21, 3, gate=nn.Hardsigmoid), nn.Conv2d(42, 6, 1)

    def forward(self, x: Tensor) -> Tensor:
        """A concatenation feeds a gate and another concatenation."""
        joined = torch.cat([self.a(x), self.b(x), self.c(x)], 1)
        head, middle, tail = joined.split([4, 10, 7], 1)
        mixed = torch.cat([tail, head, F.softmax(middle, 1)], 1)
        y = self.last(torch.cat([self.gate(mixed), mixed], 1))
        return torch.cat([y, torch.cat([y, y.flip(3)], 2)], 2)


class UNet(nn.Module):
    """Encoder and decoder with skips: nearest and bilinear upsampling, transposed convolution, reflection padding."""

    def __init__(self, width: int = 6) -> None:
        super().__init__()
        self.enter, self.down1, self.down2 = (
            ConvNorm(3, width),
            ConvNorm(width, 2 * width),
            ConvNorm(2 * width, 4 * width),
        )
        self.up1 = nn.Sequential(nn.ConvTranspose2d(4 * width, 2 * width, 2, 2, bias=False), nn.BatchNorm2d(2 * width))
        self.join1, self.join2 = ConvNorm(4 * width, 2 * width), ConvNorm(3 * width, width)
        self.exit = nn.Conv2d(width, 2, 3, padding=1, padding_mode="reflect")

    def forward(self, x: Tensor) -> Tensor:
        """Per-pixel log-probabilities."""
        a = self.enter(x)
        b = self.down1(F.max_pool2d(a, 2))
        c = self.down2(F.avg_pool2d(b, 2))
        y = self.join1(torch.cat([self.up1(c), b], 1))
        y = self.join2(torch.cat([F.interpolate(y, scale_factor=2, mode="nearest"), a], 1))
        y = y + F.interpolate(c[:, :6], size=y.shape[2:], mode="bilinear", align_corners=False)
        return F.log_softmax(self.exit(y), 1)


class AffineChain(nn.Module):
    """Per-channel affines in every spelling: norm on norm, scales, biases, subtraction, division, before and after."""

    def __init__(self) -> None:
        super().__init__()
        self.conv, self.n1, self.n2 = nn.Conv2d(3, 9, 3, padding=1), nn.BatchNorm2d(9), nn.BatchNorm2d(9, affine=False)
        self.scale, self.shift = nn.Parameter(torch.ones(1, 9, 1, 1)), nn.Parameter(torch.zeros(9, 1, 1))
        self.linear, self.n3 = nn.Linear(9, 7, bias=False), nn.BatchNorm1d(7)
        self.register_buffer("mean", torch.tensor([0.485, 0.456, 0.406]).view(3, 1, 1))
        self.register_buffer("std", torch.tensor([0.229, 0.224, 0.225]).view(3, 1, 1))

    def forward(self, x: Tensor) -> Tensor:
        """Normalized input (zero padding makes it wrong to fold into the conv behind), then a chain."""
        y = self.conv((x - self.mean) / self.std)
        y = (1.0 - self.n2(self.n1(y)) * self.scale) / 0.7 + self.shift
        return self.n3(self.linear(y.mean((-2, -1)))) * 2


class DeadAndConstant(nn.Module):
    """Unused work, dropout, identities, constants computed in forward, a shape query, an unused input."""

    def __init__(self) -> None:
        super().__init__()
        self.linear, self.unused, self.drop = nn.Linear(6, 6), nn.Linear(6, 6), nn.Dropout(0.5)
        self.identity = nn.Identity()

    def forward(self, x: Tensor, ignored: Tensor) -> tuple[Tensor, Tensor]:
        """The second output is a constant."""
        self.unused(x)
        positions = torch.arange(x.shape[1], dtype=x.dtype) / x.shape[-1]
        table = torch.outer(positions.sin(), torch.linspace(0, 1, 6, dtype=x.dtype))
        y = self.drop(self.identity(self.linear(x))).contiguous().to(x.dtype) + table
        return y.view(y.shape).reshape(-1, 6) * 1, table


class Parametrized(nn.Module):
    """Weight norm, spectral norm and a standardized weight: all are functions of constants."""

    def __init__(self) -> None:
        super().__init__()
        self.a = nn.utils.parametrizations.weight_norm(nn.Conv2d(3, 6, 3))
        self.b = nn.utils.parametrizations.spectral_norm(nn.Linear(6, 4))
        self.c, self.norm = nn.Conv2d(6, 6, 3, bias=False), nn.BatchNorm2d(6)

    def forward(self, x: Tensor) -> Tensor:
        """A norm follows the standardized convolution."""
        w = self.c.weight
        w = (w - w.mean((1, 2, 3), keepdim=True)) / (w.std((1, 2, 3), keepdim=True) + 1e-5)
        y = self.norm(F.conv2d(self.a(x), w))
        return self.b(y.mean((2, 3)))


class Extremes(nn.Module):
    """Infinities from a mask, sums of large numbers, tiny epsilon: what careless softmax and variance get wrong."""

    def forward(self, x: Tensor, keep: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Softmax with masked entries, log-sum-exp of large values, layer norm of nearly equal values."""
        masked = x.masked_fill(~keep, float("-inf"))
        large = torch.logsumexp(x * 100 + 1000, -1)
        return masked.softmax(-1), large, F.layer_norm(x * 1e-3 + 5, x.shape[-1:], eps=1e-12)


class CrossAttention(nn.Module):
    """Different lengths for queries and keys, a bool mask, a cached constant key, grouped heads, returned weights."""

    def __init__(self, dim: int = 12) -> None:
        super().__init__()
        self.q, self.kv, self.heads = nn.Linear(dim, dim), nn.Linear(dim, 2 * (dim // 2)), 4
        self.register_buffer("memory", torch.linspace(-1, 1, 3 * dim).view(1, 3, dim))
        self.attention = nn.MultiheadAttention(dim, 3, batch_first=True)

    def forward(self, x: Tensor, context: Tensor, keep: Tensor) -> tuple[Tensor, Tensor]:
        """Two query heads share each key head."""
        b, t, c = x.shape
        memory = torch.cat([self.memory.expand(b, -1, -1), context], 1)
        keep = F.pad(keep, (3, 0), value=True)
        q = self.q(x).view(b, t, self.heads, -1).transpose(1, 2)
        k, v = self.kv(memory).view(b, -1, 2, self.heads // 2, c // self.heads).permute(2, 0, 3, 1, 4)
        k, v = (part.repeat_interleave(2, 1) for part in (k, v))
        y = F.scaled_dot_product_attention(q, k, v, attn_mask=keep[:, None, None, :])
        y = y.transpose(1, 2).reshape(b, t, c)
        out, weights = self.attention(y, memory, memory, need_weights=True)
        return out, weights


class EncoderStack(nn.Module):
    """nn.TransformerEncoder, post-norm and pre-norm, with a causal mask."""

    def __init__(self, dim: int = 12) -> None:
        super().__init__()
        post = nn.TransformerEncoderLayer(dim, 3, 20, batch_first=True)
        pre = nn.TransformerEncoderLayer(dim, 3, 20, batch_first=True, norm_first=True, activation="gelu")
        self.post = nn.TransformerEncoder(post, 2, enable_nested_tensor=False)
        self.pre = nn.TransformerEncoder(pre, 1, enable_nested_tensor=False)

    def forward(self, x: Tensor) -> Tensor:
        """The mask is a constant of forward."""
        mask = nn.Transformer.generate_square_subsequent_mask(x.shape[1], dtype=x.dtype)
        return self.pre(self.post(x), mask=mask, is_causal=True)


@dataclass(frozen=True)
class Hostile:
    """A case: a module whose docstring says what it is there to break, and its inputs."""

    name: str
    factory: Callable[..., nn.Module]
    inputs: Callable[[torch.Generator, int], Inputs]
    options: Mapping[str, Any] = field(default_factory=dict)

    def small(self, batch: int = 1) -> Sample:
        """Model in eval mode, args, kwargs."""
        return sample(self.factory(**self.options), self.inputs, batch)


def floats(*shape: int) -> Callable[[torch.Generator, int], Inputs]:
    """One normal tensor behind the batch axis."""

    def make(generator: torch.Generator, batch: int) -> Inputs:
        return (torch.randn(batch, *shape, generator=generator),), {}

    return make


def two_floats(generator: torch.Generator, batch: int) -> Inputs:
    """Inputs of DeadAndConstant."""
    return (torch.randn(batch, 4, 6, generator=generator), torch.randn(batch, 2, generator=generator)), {}


def ids(generator: torch.Generator, batch: int) -> Inputs:
    """Inputs of TiedWeights."""
    return (torch.randint(17, (batch, 6), generator=generator),), {}


def mixed(generator: torch.Generator, batch: int) -> Inputs:
    """Inputs of ManyInputs."""
    numbers = torch.randint(11, (batch, 6), generator=generator)
    keep = torch.rand(batch, 6, generator=generator) < 0.6
    fill = {"fill": torch.randn(8, generator=generator), "unread": torch.zeros(2, dtype=torch.int32)}
    return ((numbers, keep), fill), {"scale": torch.randn(1, 5, generator=generator)}


def kept(generator: torch.Generator, batch: int) -> Inputs:
    """Inputs of Extremes: each row keeps its first entry."""
    keep = torch.rand(batch, 5, 33, generator=generator) < 0.5
    keep[..., 0] = True
    return (torch.randn(batch, 5, 33, generator=generator), keep), {}


def context(generator: torch.Generator, batch: int) -> Inputs:
    """Inputs of CrossAttention."""
    x, other = torch.randn(batch, 5, 12, generator=generator), torch.randn(batch, 7, 12, generator=generator)
    return (x, other, torch.rand(batch, 7, generator=generator) < 0.5), {}


HOSTILE: tuple[Hostile, ...] = (
    Hostile("reused_conv", ReusedConv, image(9)),
    Hostile("reused_norm", ReusedNorm, image(9)),
    Hostile("tied_weights", TiedWeights, ids),
    Hostile("many_inputs", ManyInputs, mixed),
    Hostile("named_outputs", NamedOutputs, image(10)),
    Hostile("in_place", InPlace, image(6)),
    Hostile("views", Views, image(8)),
    Hostile("plain_norms", PlainNorms, image(8)),
    Hostile("one_dimension", OneDimension, floats(5, 30)),
    Hostile("three_dimensions", ThreeDimensions, floats(2, 6, 8, 6)),
    Hostile("odd_channels", OddChannels, image(23)),
    Hostile("shuffle", Shuffle, image(12)),
    Hostile("branches", Branches, image(7)),
    Hostile("unet", UNet, image(16)),
    Hostile("affine_chain", AffineChain, image(7)),
    Hostile("dead_and_constant", DeadAndConstant, two_floats),
    Hostile("parametrized", Parametrized, image(10)),
    Hostile("extremes", Extremes, kept),
    Hostile("cross_attention", CrossAttention, context),
    Hostile("encoder_stack", EncoderStack, floats(6, 12)),
)
