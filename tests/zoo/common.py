"""What all zoo models share: entries with a small and a full size, seeded weights, and the usual blocks.

entry.small() -> (model.eval(), args, kwargs)        same seed, same bits
"""

from __future__ import annotations

import copy
import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils._pytree import tree_map

Inputs = tuple[tuple[Any, ...], dict[str, Any]]
Sample = tuple[nn.Module, tuple[Any, ...], dict[str, Any]]
MakeInputs = Callable[[torch.Generator, int], Inputs]
"""`(generator, batch) -> (args, kwargs)`."""

BATCH_NORMS = (nn.BatchNorm1d, nn.BatchNorm2d, nn.BatchNorm3d)
CALIBRATION_ELEMENTS = 1 << 20


@dataclass(frozen=True)
class Size:
    """One size of a model: the factory's options and how to make inputs for it."""

    inputs: MakeInputs
    options: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class Entry:
    """A model of the zoo. `family` is "cnn" or "transformer"; `parameters` is the published count at full size.

    `affine_left` says why per-channel affines must remain after folding, None if none may.
    """

    name: str
    factory: Callable[..., nn.Module]
    small_size: Size
    full_size: Size
    family: str = "cnn"
    parameters: int = 0
    affine_left: str | None = None

    def small(self, batch: int = 1) -> Sample:
        """A version that compiles in seconds and keeps every structural feature."""
        return self._sample(self.small_size, batch)

    def full(self, batch: int = 1) -> Sample:
        """The published size."""
        return self._sample(self.full_size, batch)

    def _sample(self, size: Size, batch: int) -> Sample:
        model = self.factory(**size.options)
        return sample(model, size.inputs, batch)


def sample(model: nn.Module, inputs: MakeInputs, batch: int = 1, seed: int = 0) -> Sample:
    """Seeded weights for `model` and seeded inputs for it."""
    generator = torch.Generator().manual_seed(seed)
    settle(model, inputs, generator)
    args, kwargs = inputs(generator, batch)
    return model.eval(), args, kwargs


def image(size: int, channels: int = 3) -> MakeInputs:
    """Inputs of an image model: one normal NCHW tensor."""

    def make(generator: torch.Generator, batch: int) -> Inputs:
        return (torch.randn(batch, channels, size, size, generator=generator),), {}

    return make


def settle(model: nn.Module, inputs: MakeInputs, generator: torch.Generator) -> None:
    """Draw weights that keep activations near unit scale, and statistics as training would leave them.

    Running statistics are those of one random batch, perturbed, so that no folding is trivially right.
    """
    with torch.no_grad(), torch.random.fork_rng(devices=[]):
        torch.manual_seed(int(torch.randint(2**31, (1,), generator=generator)))
        for module in model.modules():
            draw(module, generator)
        norms = [m for m in model.modules() if isinstance(m, BATCH_NORMS) and m.track_running_stats]
        if norms:
            calibrate(model, norms, inputs, generator)
    model.eval()


def draw(module: nn.Module, generator: torch.Generator) -> None:
    """Random parameters for one module, by their role."""
    for name, parameter in module.named_parameters(recurse=False):
        if isinstance(module, nn.Embedding):
            parameter.normal_(0, 0.5, generator=generator)
        elif name.endswith("weight") and parameter.dim() > 1:
            parameter.normal_(0, 1.25 / math.sqrt(fan_in(module, parameter)), generator=generator)
        elif name.endswith(("weight", "scale")):
            parameter.uniform_(0.6, 1.4, generator=generator)
        else:
            parameter.normal_(0, 0.1, generator=generator)


def fan_in(module: nn.Module, weight: Tensor) -> float:
    """How many products are summed into one output."""
    taps = math.prod(weight.shape[2:])
    if getattr(module, "transposed", False):
        stride = math.prod(module.stride)  # type: ignore[arg-type]
        return weight.shape[0] / module.groups * max(1.0, taps / stride)  # type: ignore[operator]
    return weight.shape[1] * taps


def calibrate(model: nn.Module, norms: list[nn.Module], inputs: MakeInputs, generator: torch.Generator) -> None:
    """Fill running statistics from one batch, then move them off it."""
    momenta = [norm.momentum for norm in norms]
    for norm in norms:
        norm.reset_running_stats()  # type: ignore[operator]
        norm.momentum = None  # type: ignore[assignment]
    (probe, *_), _ = inputs(generator, 1)
    args, kwargs = inputs(generator, min(32, max(2, CALIBRATION_ELEMENTS // probe.numel())))
    model.train()(*args, **kwargs)
    for norm, momentum in zip(norms, momenta, strict=True):
        norm.momentum = momentum
        mean, var = norm.running_mean, norm.running_var
        var.clamp_(min=0.05).mul_(torch.empty_like(var).uniform_(0.7, 1.4, generator=generator))  # type: ignore[operator,union-attr,arg-type]
        mean.add_(0.2 * var.sqrt() * torch.randn(mean.shape, generator=generator))  # type: ignore[operator,union-attr,arg-type]


def divisible(value: float, by: int = 8) -> int:
    """Round a channel count to a multiple, never losing more than a tenth."""
    rounded = max(by, int(value + by / 2) // by * by)
    return rounded + by if rounded < 0.9 * value else rounded


class ConvNorm(nn.Sequential):
    """Convolution, batch norm, activation (None for none); padded to keep the size at stride 1."""

    def __init__(
        self,
        inputs: int,
        outputs: int,
        kernel: int = 3,
        stride: int = 1,
        groups: int = 1,
        activation: Callable[[], nn.Module] | None = nn.ReLU,
        eps: float = 1e-5,
    ) -> None:
        """Build conv (no bias) and norm."""
        layers: list[nn.Module] = [
            nn.Conv2d(inputs, outputs, kernel, stride, kernel // 2, groups=groups, bias=False),
            nn.BatchNorm2d(outputs, eps=eps),
        ]
        if activation is not None:
            layers.append(activation())
        super().__init__(*layers)


class SqueezeExcite(nn.Module):
    """Channel gate: x * gate(fc2(act(fc1(mean(x)))))."""

    def __init__(
        self,
        channels: int,
        squeeze: int,
        activation: Callable[[], nn.Module] = nn.ReLU,
        gate: Callable[[], nn.Module] = nn.Sigmoid,
    ) -> None:
        """`squeeze` is the hidden width."""
        super().__init__()
        self.pool = nn.AdaptiveAvgPool2d(1)
        self.fc1 = nn.Conv2d(channels, squeeze, 1)
        self.fc2 = nn.Conv2d(squeeze, channels, 1)
        self.activation, self.gate = activation(), gate()

    def forward(self, x: Tensor) -> Tensor:
        """Gate the channels of x."""
        return x * self.gate(self.fc2(self.activation(self.fc1(self.pool(x)))))


def reference(model: nn.Module, args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> Any:
    """The model's output computed in float64: what `compare.assert_close_to_reference` measures against."""
    wide, (args, kwargs) = copy.deepcopy(model).double(), tree_map(_double, (args, dict(kwargs)))
    with torch.no_grad():
        return wide(*args, **kwargs)


def _double(value: Any) -> Any:
    return value.double() if isinstance(value, Tensor) and value.is_floating_point() else value
