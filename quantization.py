"""Quantization: how `planish.compile` makes integers of a model. No torch.

precision="int8"  ==  precision=Quantization()
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

from .errors import OptionError

OBSERVERS = ("minmax", "moving_average", "percentile", "mse", "entropy")
"""How the range of a value follows from calibration data."""


@dataclass(frozen=True)
class Quantization:
    """8-bit weights and activations, with integers alone between input and output.

    `observer` says how ranges follow from the calibration data: "minmax" (all that was seen), "moving_average" (a
    typical batch; `momentum`), "percentile" (all but the outermost values; `kept` is the fraction that stays), "mse"
    (the least square error) or "entropy" (the least information lost). `keep_float` are names of layers, or patterns
    as in "head.*", that stay in float. With `integer_only` an operator that has no integer form is an error; without,
    it stays in float. With `correct_bias` what rounded weights add to the mean of a channel is taken off its bias.
    """

    observer: str = "minmax"
    momentum: float = 0.9
    kept: float = 0.9999
    keep_float: tuple[str, ...] = ()
    integer_only: bool = True
    correct_bias: bool = True

    def __post_init__(self) -> None:
        """Refuse values of a wrong kind; lists of patterns become tuples."""
        if self.observer not in OBSERVERS:
            raise OptionError(
                f"Quantization: observer={self.observer!r} is unknown.", f"Observers are {', '.join(OBSERVERS)}."
            )
        if not _number(self.momentum) or not 0 <= self.momentum < 1:
            raise OptionError(f"Quantization: momentum={self.momentum!r} does not average.", "Give 0 or more, below 1.")
        if not _number(self.kept) or not 0 < self.kept <= 1:
            raise OptionError(f"Quantization: kept={self.kept!r} is no fraction.", "Give one such as 0.9999.")
        for name, value in (("integer_only", self.integer_only), ("correct_bias", self.correct_bias)):
            if not isinstance(value, bool):
                raise OptionError(f"Quantization: {name}={value!r} is neither True nor False.", "Give one of them.")
        object.__setattr__(self, "keep_float", _patterns(self.keep_float))

    def to_json(self) -> dict[str, Any]:
        """Plain data, for the manifest."""
        settings = {"percentile": {"kept": self.kept}, "moving_average": {"momentum": self.momentum}}
        return {
            "observer": self.observer,
            **settings.get(self.observer, {}),
            "keep_float": list(self.keep_float),
            "integer_only": self.integer_only,
            "correct_bias": self.correct_bias,
        }


def _number(value: object) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)


def _patterns(value: object) -> tuple[str, ...]:
    """One name or several."""
    patterns = (value,) if isinstance(value, str) else tuple(value) if isinstance(value, Iterable) else (None,)
    if not all(isinstance(pattern, str) and pattern for pattern in patterns):
        raise OptionError(
            f"Quantization: keep_float={value!r} holds what is no name.", 'Give names of layers, or patterns: "head.*".'
        )
    return patterns
