"""The options of `planish.compile`, checked in one place. Imports neither torch nor TVM.

check_options(given) = Options(**given)   or OptionError, which says what there is instead
"""

from __future__ import annotations

import difflib
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, fields, replace
from math import inf
from os import PathLike
from typing import Any

from .errors import DynamicShapeError, OptionError
from .ir.image import Image
from .quantization import Quantization

Progress = Callable[[str, int, int], None]
"""Called as (what is done, how many are done, how many there are). What follows a colon in the first may change."""

MOST_THREADS = 1024
"""More would be started all the same, and take all memory for their stacks."""

_SCALES = {"s": 1.0, "m": 60.0, "h": 3600.0}


@dataclass(frozen=True)
class Options:
    """How to compile; see `planish.compile`."""

    target: str = "native"
    precision: str | Quantization = "float32"
    """A Quantization where it was given as "int8", too."""
    numerics: str = "fast"
    calibration: Any = None
    select: Any = None
    preprocess: Image | None = None
    passes: Any = None
    dynamic_shapes: Any = None
    tune: float = 0.0
    """Seconds to tune for."""
    tuning_db: Any = None
    rpc: str | None = None
    metaschedule: bool = False
    threads: int | None = None
    verify: bool = False
    progress: bool | Progress | None = None


def check_options(given: Mapping[str, Any]) -> Options:
    """Options from keywords; raises OptionError for an unknown name or a value that does not work."""
    known = [field.name for field in fields(Options)]
    for name in given:
        if name not in known:
            near = difflib.get_close_matches(str(name), known, n=1)
            hint = f"Did you mean {near[0]!r}?" if near else f"Options are {', '.join(known)}."
            raise OptionError(f"There is no option {name!r}.", hint)
    options = Options(**given)
    if options.precision == "int8":
        options = replace(options, precision=Quantization())
    if isinstance(options.tune, str):
        options = replace(options, tune=parse_seconds(options.tune))
    _check_values(options)
    _check_metaschedule(options)
    _check_objects(options)
    _check_calibration(options)
    _check_available(options)
    return options


def parse_seconds(text: str) -> float:
    """Seconds of "90", "90s", "2m" or "1.5h"."""
    number, scale = (text[:-1], _SCALES[text[-1]]) if text[-1:] in _SCALES else (text, 1.0)
    try:
        return float(number) * scale
    except ValueError:
        raise OptionError(f"{text!r} is not a time.", "Give seconds or minutes, as in 90, 90s or 2m.") from None


def check_thread_count(threads: object) -> None:
    """Refuse what is no number of threads, or one that no machine could start."""
    if not isinstance(threads, int) or isinstance(threads, bool) or not 1 <= threads <= MOST_THREADS:
        raise OptionError(
            f"threads={threads!r} is not a number of threads from 1 to {MOST_THREADS}.",
            "Give as many as there are cores, or None for all that this process may use.",
        )


def _check_available(options: Options) -> None:
    """Refuse, by name, what planish does not do yet."""
    if options.dynamic_shapes:
        raise DynamicShapeError(
            f"dynamic_shapes={options.dynamic_shapes!r} asks for symbolic dimensions, which are not available yet.",
            "Leave dynamic_shapes out: compile once for each shape that is needed.",
        )


def _check_metaschedule(options: Options) -> None:
    """It searches within the seconds of `tune`."""
    if not isinstance(options.metaschedule, bool):
        raise OptionError(
            f"metaschedule={options.metaschedule!r} is neither True nor False.", "Give True together with tune=."
        )
    if options.metaschedule and not options.tune:
        raise OptionError(
            "metaschedule=True asks for a search, but tune gives it no time.",
            "Give tune=120.0, say; what an earlier search found is used from the tuning database without it.",
        )


def _check_values(options: Options) -> None:
    """Refuse values of a wrong kind before anything long begins."""
    if not isinstance(options.target, str):
        raise OptionError(f"target={options.target!r} is not a string.", "Give 'native' or the name of a cpu.")
    if isinstance(options.tune, bool) or not isinstance(options.tune, int | float) or not 0 <= options.tune < inf:
        raise OptionError(f"tune={options.tune!r} is not a number of seconds.", "Give seconds, or leave it out.")
    if not (options.tuning_db is None or isinstance(options.tuning_db, str | PathLike)) or options.tuning_db == "":
        raise OptionError(
            f"tuning_db={options.tuning_db!r} is not the path of a file.",
            "Give a path, or leave it out: tuning then uses your own database.",
        )
    if options.rpc is not None and not isinstance(options.rpc, str):
        raise OptionError(f"rpc={options.rpc!r} is not host:port/key.", "Give a tracker and a key, or leave it out.")
    if options.threads is not None:
        check_thread_count(options.threads)
    if not (isinstance(options.precision, Quantization) or options.precision in ("float32", "bfloat16")):
        raise OptionError(
            f"precision={options.precision!r} is not available: it is 'float32', 'bfloat16' or 'int8'.",
            "Give 'bfloat16' for half the bytes, 'int8' or a planish.Quantization with calibration data for a quarter.",
        )
    if options.numerics not in ("fast", "strict"):
        raise OptionError(
            f"numerics={options.numerics!r} is neither 'fast' nor 'strict'.",
            "Give 'strict' for direct kernels only, which keep NaN and inf where they are, or leave it out.",
        )
    if not isinstance(options.verify, bool):
        raise OptionError(f"verify={options.verify!r} is neither True nor False.", "Give verify=True or leave it out.")


def needs_data() -> OptionError:
    """What is wrong with integers of a model that has no codes of its own, and no data to choose them."""
    return OptionError(
        "precision='int8' needs calibration data, to know which values each layer has.",
        "Give calibration=loader: a list or a DataLoader of a few dozen typical inputs.",
    )


def _check_calibration(options: Options) -> None:
    """Data are for integers, which need them unless the model brings its codes (`needs_data`)."""
    data = options.calibration
    if isinstance(options.precision, Quantization):
        if data is not None and (isinstance(data, str | bytes | Mapping) or not isinstance(data, Iterable)):
            raise OptionError(
                f"calibration is a {type(data).__name__}, not a loader.",
                "Give a list or a loader whose items are a tensor, a tuple of inputs, or a dict of inputs by name.",
            )
    elif data is not None:
        raise OptionError(f"calibration means nothing for {options.precision!r}.", "Give precision='int8' with it.")
    if not (options.select is None or callable(options.select)):
        raise OptionError(f"select={options.select!r} is not a function.", "Give one that takes labels off an item.")
    if options.select is not None and data is None:
        raise OptionError("select means nothing without calibration data.", "Give calibration=loader, or leave it out.")


def _check_objects(options: Options) -> None:
    """Refuse functions and objects that are none."""
    if not (options.preprocess is None or isinstance(options.preprocess, Image)):
        raise OptionError(
            f"preprocess={options.preprocess!r} is no preprocessing.",
            "Give planish.Image(mean, std, layout), or leave it out.",
        )
    progress = options.progress
    if not (progress is None or isinstance(progress, bool) or callable(progress)):
        raise OptionError(
            f"progress={progress!r} is neither True, False, None nor a function.",
            "Give a function of (what, done, total), or leave it out.",
        )
