"""Image: what makes pixels a model's input. No torch.

x[n, c, h, w] = (scale · pixel[n, h, w, c] - mean[c]) / std[c]
"""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

from ..errors import OptionError

LAYOUTS = ("NHWC", "NCHW")
"""How a batch of images lies in memory; the model itself takes NCHW."""


@dataclass(frozen=True)
class Image:
    """The preprocessing of an image model, to be compiled with it: the model then takes uint8 images.

    `mean` and `std` are one number, or one a channel, in units of `scale · pixel`: with the default scale of 1/255
    those that torchvision's `Normalize` takes after `ToTensor`. `layout` is that of the images. `input` names the input
    that takes images where the model has several of four dimensions.
    """

    mean: float | tuple[float, ...] = 0.0
    std: float | tuple[float, ...] = 1.0
    layout: str = "NHWC"
    scale: float = 1 / 255
    input: str | None = None

    def __post_init__(self) -> None:
        """Refuse what is no preprocessing; lists become tuples."""
        object.__setattr__(self, "mean", _numbers("mean", self.mean))
        object.__setattr__(self, "std", _numbers("std", self.std))
        object.__setattr__(self, "scale", _number("scale", self.scale))
        if self.layout not in LAYOUTS:
            raise OptionError(f"Image: layout={self.layout!r} is unknown.", f"Layouts are {' and '.join(LAYOUTS)}.")
        if self.input is not None and not isinstance(self.input, str):
            raise OptionError(f"Image: input={self.input!r} is no name.", "Give the name of one of the model's inputs.")
        if any(std <= 0 for std in self.stds) or self.scale <= 0:
            raise OptionError("Image: std and scale have to be positive.", "Give what the model was trained with.")
        if 1 not in (len(self.means), len(self.stds)) and len(self.means) != len(self.stds):
            raise OptionError(
                f"Image: mean has {len(self.means)} channels and std {len(self.stds)}.",
                "Give one number, or one a channel, for each.",
            )

    @property
    def means(self) -> tuple[float, ...]:
        """One number, or one a channel."""
        return self.mean if isinstance(self.mean, tuple) else (self.mean,)

    @property
    def stds(self) -> tuple[float, ...]:
        """One number, or one a channel."""
        return self.std if isinstance(self.std, tuple) else (self.std,)

    @property
    def channels(self) -> int:
        """How many channels the numbers are for; 1 fits any."""
        return max(len(self.means), len(self.stds))

    def affine(self, channels: int) -> tuple[list[float], list[float]]:
        """(factor, term) of each channel:  x = pixel · factor + term."""
        means, stds = (v * (channels // len(v)) for v in (self.means, self.stds))
        return [self.scale / s for s in stds], [-m / s for m, s in zip(means, stds, strict=True)]

    def extents(self, shape: tuple[int, ...]) -> tuple[int, ...]:
        """The shape of the images for a model's input of that shape."""
        n, c, h, w = shape
        return (n, h, w, c) if self.layout == "NHWC" else (n, c, h, w)

    def to_json(self) -> dict[str, Any]:
        """Plain data, for the manifest."""
        return {"mean": list(self.means), "std": list(self.stds), "layout": self.layout, "scale": self.scale}


def _numbers(name: str, value: object) -> float | tuple[float, ...]:
    """One finite number, or a tuple of some."""
    if isinstance(value, Iterable) and not isinstance(value, str | bytes):
        if numbers := tuple(_number(name, item) for item in value):
            return numbers
        raise OptionError(f"Image: {name} is empty.", "Give one number, or one a channel.")
    return _number(name, value)


def _number(name: str, value: object) -> float:
    try:
        number = math.nan if isinstance(value, str | bytes) else float(value)  # type: ignore[arg-type]
    except (TypeError, ValueError):
        number = math.nan
    if not math.isfinite(number):
        raise OptionError(f"Image: {name}={value!r} is no finite number.", "Give one number, or one a channel.")
    return number
