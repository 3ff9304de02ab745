"""Quantization: how `planish.compile` makes integers of a model. No torch.

precision="int8"  ==  precision=Quantization()
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from math import inf
from typing import Any, TypeGuard

from .errors import OptionError

OBSERVERS = ("mse", "minmax", "moving_average", "percentile", "entropy")
"""How the range of a value follows from calibration data; the first unless somebody says otherwise."""

MAX_DROP = 0.005
"""By so much a score may fall unless somebody says otherwise."""


@dataclass(frozen=True)
class Quantization:
    """8-bit weights and activations, with integers alone between input and output.

    `observer` says how ranges follow from the calibration data: "mse" (the least square error), "minmax" (all that was
    seen), "moving_average" (a typical batch; `momentum`), "percentile" (all but the outermost values; `kept` is the
    fraction that stays) or "entropy" (the least information lost). `keep_float` are names of layers, or patterns as in
    "head.*", that stay in float. With `correct_bias` what rounded weights add to the mean of a channel is taken off its
    bias. With `equalize` channels of layers that follow one another are made alike first.

    With `integer_only` an operator that has no integer form is an error. Without, it stays in float, and so do layers
    that are faster so on this machine, conversions at their borders counted, and those that `evaluate` asks for: it
    gets a compiled model and returns a score, higher is better; as few layers as possible stay in float, those with
    the most noise first, until the score is at most `max_drop` (0.005) below that of the model in float.
    `integer_only` is True unless there is an `evaluate`.

    With `measure` both times of every layer, in integers and in float, are in the report; float kernels have to be
    compiled for that.
    """

    observer: str = OBSERVERS[0]
    momentum: float = 0.9
    kept: float = 0.9999
    keep_float: tuple[str, ...] = ()
    integer_only: bool | None = None
    correct_bias: bool = True
    equalize: bool = False
    evaluate: Callable[[Any], Any] | None = None
    max_drop: float | None = None
    measure: bool = True

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
        if self.integer_only is None:
            object.__setattr__(self, "integer_only", self.evaluate is None)
        for name in ("integer_only", "correct_bias", "equalize", "measure"):
            if not isinstance(value := getattr(self, name), bool):
                raise OptionError(f"Quantization: {name}={value!r} is neither True nor False.", "Give one of them.")
        object.__setattr__(self, "keep_float", _patterns(self.keep_float))
        self._check_evaluate()

    def _check_evaluate(self) -> None:
        """It keeps layers in float, and says with `max_drop` when that is enough."""
        if self.evaluate is None:
            if self.max_drop is not None:
                raise OptionError(
                    f"Quantization: max_drop={self.max_drop!r} is a drop of nothing.",
                    "Give evaluate= with it, a function of the compiled model that returns a score.",
                )
            return
        if not callable(self.evaluate):
            raise OptionError(
                f"Quantization: evaluate={self.evaluate!r} is no function.",
                "Give one that takes the compiled model and returns a score: higher is better.",
            )
        if self.integer_only:
            raise OptionError(
                "Quantization: evaluate keeps layers in float where integers cost too much, which integer_only=True "
                "forbids.",
                "Leave integer_only out, or leave evaluate out and score the compiled model yourself.",
            )
        if self.max_drop is None:
            object.__setattr__(self, "max_drop", MAX_DROP)
        if not _number(self.max_drop) or not 0 <= self.max_drop < inf:
            raise OptionError(f"Quantization: max_drop={self.max_drop!r} is no drop.", "Give one such as 0.005.")

    def to_json(self) -> dict[str, Any]:
        """Plain data, for the manifest."""
        settings = {"percentile": {"kept": self.kept}, "moving_average": {"momentum": self.momentum}}
        return {
            "observer": self.observer,
            **settings.get(self.observer, {}),
            "keep_float": list(self.keep_float),
            "integer_only": self.integer_only,
            "correct_bias": self.correct_bias,
            **({"equalize": True} if self.equalize else {}),
            **({} if self.evaluate is None else {"max_drop": self.max_drop}),
        }


def _number(value: object) -> TypeGuard[float]:
    return isinstance(value, int | float) and not isinstance(value, bool)


def _patterns(value: object) -> tuple[str, ...]:
    """One name or several."""
    patterns = (value,) if isinstance(value, str) else tuple(value) if isinstance(value, Iterable) else (None,)
    if not all(isinstance(pattern, str) and pattern for pattern in patterns):
        raise OptionError(
            f"Quantization: keep_float={value!r} holds what is no name.", 'Give names of layers, or patterns: "head.*".'
        )
    return patterns
