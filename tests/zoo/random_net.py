"""Random networks: a seed decides the operators, how they are wired, their shapes, and which values leave.

    random_sample(seed) -> (model.eval(), args, kwargs)

Each step takes one or two values made before (any of them, so that values are read often, late or never) and
makes a new one. Modules are sometimes used twice. Shapes stay small and odd.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from .common import Sample, SqueezeExcite, image, sample

Apply = Callable[..., Tensor]

ACTIVATIONS: tuple[Callable[[], nn.Module], ...] = (
    nn.ReLU, nn.ReLU6, nn.SiLU, nn.GELU, lambda: nn.GELU("tanh"), nn.Hardswish, nn.Hardsigmoid, nn.Sigmoid, nn.Tanh,
    lambda: nn.LeakyReLU(0.1), nn.ELU, nn.Mish, nn.Softplus, lambda: nn.ReLU(inplace=True),
)  # fmt: skip


class RandomNet(nn.Module):
    """`steps` random operators; returns the last value and a few others."""

    def __init__(self, seed: int, steps: int = 14, size: int = 11) -> None:
        """The network is built by running it once, so that every step sees its operands' shapes."""
        super().__init__()
        self.random, self.layers = random.Random(seed), nn.ModuleList()
        self.plan: list[tuple[Apply, tuple[int, ...]]] = []
        values = [torch.zeros(2, 3, size, size)]
        with torch.no_grad(), torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            while len(self.plan) < steps:
                apply, operands = self.choose(values)
                try:
                    value = apply(self, *(values[i].clone() for i in operands))
                except RuntimeError:  # a kernel larger than the image, and the like
                    continue
                if 0 < value[0].numel() <= 6000:
                    self.plan.append((apply, operands))
                    values.append(value)
        self.kept = sorted({len(values) - 1, *self.random.sample(range(1, len(values)), 2)})

    def forward(self, x: Tensor) -> tuple[Tensor, ...]:
        """Replay the plan."""
        values = [x]
        for apply, operands in self.plan:
            values.append(apply(self, *(values[i].clone() if i == 0 else values[i] for i in operands)))
        return tuple(values[i] for i in self.kept)

    def choose(self, values: Sequence[Tensor]) -> tuple[Apply, tuple[int, ...]]:
        """One operator and its operands, later values preferred."""
        first = max(self.random.randrange(len(values)) for _ in range(3))
        x = values[first]
        partners = [i for i, v in enumerate(values) if v.shape == x.shape]
        if self.random.random() < 0.25:
            return self.binary(x), (first, self.random.choice(partners))
        make = self.random.choice(self.image_makers if x.dim() == 4 else self.sequence_makers)
        return make(self, x), (first,)

    def keep(self, module: nn.Module) -> Apply:
        """Own a module, or take one of the same kind and shape again; found by its place, so that copies work."""
        same = [i for i, m in enumerate(self.layers) if repr(m) == repr(module)]
        if same and self.random.random() < 0.3:
            at = self.random.choice(same)
        else:
            at = len(self.layers)
            self.layers.append(module.eval())
        return lambda net, a: net.layers[at](a)

    def parameter(self, *shape: int) -> Callable[[RandomNet], Tensor]:
        """Own a parameter; `settle` fills it."""
        at = len(self.layers)
        self.layers.append(nn.ParameterList([torch.ones(shape)]))
        return lambda net: net.layers[at][0]  # type: ignore[no-any-return,index]

    def binary(self, x: Tensor) -> Apply:
        """Two values of one shape."""
        joins: list[Apply] = [
            lambda net, a, b, op=op: op(a, b) for op in (torch.add, torch.add, torch.sub, torch.mul, torch.maximum)
        ]
        joins += [
            lambda net, a, b: torch.cat([a, b], 1),
            lambda net, a, b: torch.cat([b, a[:, :1]], 1),
            lambda net, a, b: a * b.sigmoid(),
        ]
        return self.random.choice(joins)

    def conv(self, x: Tensor) -> Apply:
        """Convolution of any kind, often with a norm and an activation."""
        r, n = self.random, x.shape[1]
        groups = r.choice([g for g in (1, 1, 2, 3, n) if n % g == 0])
        outputs = groups * r.randint(1, max(1, 24 // groups))
        kernel, dilation = (r.choice([1, 2, 3, 5]), r.choice([1, 3])), r.choice([1, 1, 2])
        padding = tuple((k - 1) * dilation // 2 + r.choice([0, 0, 1]) for k in kernel)
        stride, norm = r.choice([1, 1, 2]), r.random() < 0.7
        if r.random() < 0.15:
            layers: list[nn.Module] = [
                nn.ConvTranspose2d(n, outputs, kernel, stride, padding, groups=groups, bias=not norm)  # type: ignore[arg-type]
            ]
        else:
            mode = r.choice(["zeros", "zeros", "zeros", "reflect"])
            layers = [nn.Conv2d(n, outputs, kernel, stride, padding, dilation, groups, not norm, mode)]  # type: ignore[arg-type]
        layers += [nn.BatchNorm2d(outputs)] if norm else []
        layers += [r.choice(ACTIVATIONS)()] if r.random() < 0.5 else []
        return self.keep(nn.Sequential(*layers))

    def affine(self, x: Tensor) -> Apply:
        """A scale or shift for each channel, or by a number."""
        weight = self.parameter(1, x.shape[1], *([1] * (x.dim() - 2)))
        number = self.random.choice([-1.5, 0.25, 3.0])
        affines: list[Apply] = [
            lambda net, a: a * weight(net), lambda net, a: a + weight(net), lambda net, a: weight(net) - a,
            lambda net, a: a / (weight(net).abs() + 1), lambda net, a: (a + number) * weight(net),
            lambda net, a: a * number, lambda net, a: number - a,
        ]  # fmt: skip
        return self.random.choice(affines)

    def norm(self, x: Tensor) -> Apply:
        """A norm by itself."""
        n = x.shape[1]
        norms: list[nn.Module] = [nn.BatchNorm2d(n), nn.BatchNorm2d(n, affine=False), nn.GroupNorm(1, n)]
        norms += [nn.LayerNorm(x.shape[1:]), nn.InstanceNorm2d(n)] if x.shape[2:].numel() > 1 else []
        return self.keep(self.random.choice(norms))

    def activation(self, x: Tensor) -> Apply:
        """A pointwise function."""
        return self.keep(self.random.choice(ACTIVATIONS)())

    def pool(self, x: Tensor) -> Apply:
        """Pooling, a mean, or a larger image."""
        pools: list[Apply] = [
            lambda net, a: a.mean((2, 3), keepdim=True).expand_as(a),
            lambda net, a: F.interpolate(a, scale_factor=2),
        ]
        pools += [
            lambda net, a: F.adaptive_avg_pool2d(a, (3, 2)),
            lambda net, a: F.interpolate(a, (5, 7), mode="bilinear"),
        ]
        if min(x.shape[2:]) >= 3:
            ceil = self.random.random() < 0.5
            pools += [
                lambda net, a: F.max_pool2d(a, 3, 2, 1, ceil_mode=ceil),
                lambda net, a: F.avg_pool2d(a, 2, ceil_mode=ceil),
            ]
            pools += [
                lambda net, a: F.avg_pool2d(a, 3, 1, 1, count_include_pad=ceil),
                lambda net, a: F.max_pool2d(a, (1, 3), 1, (0, 1)),
            ]
        return self.random.choice(pools)

    def rearrange(self, x: Tensor) -> Apply:
        """Splits, shuffles, pads, flips, transposes."""
        n = x.shape[1]
        cut = self.random.randint(1, n)
        moves: list[Apply] = [
            lambda net, a: a[:, :cut], lambda net, a: a[:, cut - 1 :: 2], lambda net, a: a.transpose(2, 3),
            lambda net, a: F.pad(a, (1, 0, 2, 1), value=0.5), lambda net, a: torch.roll(a, (1, -2), (2, 1)),
            lambda net, a: a.flip(2), lambda net, a: torch.cat(a.split(cut, 1)[::-1], 1), lambda net, a: a[:, :, -3:],
        ]  # fmt: skip
        if n % 2 == 0:
            moves.append(lambda net, a: a.unflatten(1, (2, -1)).transpose(1, 2).flatten(1, 2))
        return self.random.choice(moves)

    def gate(self, x: Tensor) -> Apply:
        """Squeeze and excite."""
        return self.keep(SqueezeExcite(x.shape[1], 3, gate=self.random.choice([nn.Sigmoid, nn.Hardsigmoid])))

    def last_axis(self, x: Tensor) -> Apply:
        """Layer norm and a linear layer over the channels of an image."""
        layer = self.keep(nn.Sequential(nn.LayerNorm(x.shape[1]), nn.Linear(x.shape[1], self.random.randint(2, 20))))
        return lambda net, a: layer(net, a.permute(0, 2, 3, 1)).permute(0, 3, 1, 2)

    def tokens(self, x: Tensor) -> Apply:
        """An image as a sequence of at most 30 tokens."""
        return lambda net, a: a.flatten(2).transpose(1, 2)[:, :30]

    def linear(self, x: Tensor) -> Apply:
        """A linear layer over either axis of a sequence."""
        if self.random.random() < 0.3:
            layer = self.keep(nn.Linear(x.shape[1], self.random.randint(2, 12)))
            return lambda net, a: layer(net, a.transpose(1, 2)).transpose(1, 2)
        layers: list[nn.Module] = [
            nn.Linear(x.shape[2], self.random.choice([6, 12, 20]), bias=self.random.random() < 0.5)
        ]
        layers += [self.random.choice(ACTIVATIONS)()] if self.random.random() < 0.5 else []
        return self.keep(nn.Sequential(*layers))

    def sequence_norm(self, x: Tensor) -> Apply:
        """Layer norm, RMS norm, softmax or batch norm over a sequence."""
        norms: list[Apply] = [lambda net, a: a.softmax(-1), lambda net, a: a - a.mean(1, keepdim=True)]
        if self.random.random() < 0.6:
            n = x.shape[2]
            return self.keep(
                self.random.choice([nn.LayerNorm(n), nn.RMSNorm(n, eps=1e-6), nn.LayerNorm(n, bias=False)])
            )
        if self.random.random() < 0.5:
            norm = self.keep(nn.BatchNorm1d(x.shape[2]))
            return lambda net, a: norm(net, a.transpose(1, 2)).transpose(1, 2)
        return self.random.choice(norms)

    def attention(self, x: Tensor) -> Apply:
        """Self-attention by operator or by hand, maybe causal."""
        n, causal = x.shape[2], self.random.random() < 0.4
        heads = self.random.choice([h for h in (1, 2, 3) if n % h == 0])
        qkv = self.keep(nn.Linear(n, 3 * n))
        manual = self.random.random() < 0.4

        def apply(net: RandomNet, a: Tensor) -> Tensor:
            b, t, _ = a.shape
            q, k, v = qkv(net, a).view(b, t, 3, heads, -1).permute(2, 0, 3, 1, 4)
            if manual:
                scores = (q @ k.mT) / q.shape[-1] ** 0.5
                if causal:
                    scores = scores.masked_fill(torch.ones(t, t).triu(1).bool(), float("-inf"))
                y = scores.softmax(-1) @ v
            else:
                y = F.scaled_dot_product_attention(q, k, v, is_causal=causal)
            return y.transpose(1, 2).flatten(2)

        return apply

    def as_image(self, x: Tensor) -> Apply:
        """A sequence as an image one pixel high."""
        return lambda net, a: a.transpose(1, 2).unsqueeze(2)

    image_makers = (conv, conv, conv, conv, affine, norm, activation, pool, rearrange, gate, last_axis, tokens)
    sequence_makers = (linear, linear, sequence_norm, activation, attention, as_image)


def random_sample(seed: int, steps: int = 14) -> Sample:
    """A network of that seed with weights and inputs."""
    model = RandomNet(seed, steps)
    inputs: Any = image(11)
    return sample(model, inputs, batch=2, seed=seed)
