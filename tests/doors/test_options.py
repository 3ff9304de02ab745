"""Options: each is checked before anything long begins, and a wrong one says what there is instead."""

from __future__ import annotations

from typing import Any

import pytest

import planish
from planish.errors import DynamicShapeError, OptionError
from planish.options import Options, check_options


def test_defaults() -> None:
    assert check_options({}) == Options()
    assert check_options({"threads": 2, "verify": True}) == Options(threads=2, verify=True)


@pytest.mark.parametrize(("text", "seconds"), [("90", 90), ("1.5s", 1.5), ("2m", 120), ("0.5h", 1800), ("0", 0)])
def test_times_may_be_written_with_their_unit(text: str, seconds: float) -> None:
    assert check_options({"tune": text}).tune == seconds


@pytest.mark.parametrize(
    ("given", "said"),
    [
        ({"precison": "float32"}, "Did you mean 'precision'"),
        ({"frobnicate": 1}, "Options are target"),
        ({"precision": None}, "precision=None is not available"),
        ({"numerics": "exact"}, "numerics='exact' is neither 'fast' nor 'strict'"),
        ({"numerics": ["fast"]}, "numerics=['fast'] is neither"),
        ({"calibration": [1]}, "calibration means nothing for 'float32'"),
        ({"preprocess": object}, "preprocess=<class 'object'> is no preprocessing"),
        ({"tuning_db": 3}, "tuning_db=3 is not the path of a file"),
        ({"rpc": 9190}, "rpc=9190 is not host:port/key"),
        ({"metaschedule": True}, "metaschedule=True asks for a search, but tune gives it no time"),
        ({"metaschedule": "yes", "tune": 1.0}, "metaschedule='yes' is neither"),
        ({"tuning_db": ""}, "tuning_db='' is not the path of a file"),
        ({"tune": "long"}, "'long' is not a time"),
        ({"tune": "m"}, "'m' is not a time"),
        ({"tune": "-2m"}, "tune=-120.0 is not a number of seconds"),
        ({"tune": float("inf")}, "tune=inf is not a number of seconds"),
        ({"tune": float("nan")}, "tune=nan is not a number of seconds"),
        ({"tune": True}, "tune=True is not a number of seconds"),
        ({"threads": 0}, "threads=0"),
        ({"threads": 1.5}, "threads=1.5"),
        ({"threads": True}, "threads=True"),
        ({"threads": 10**6}, "threads=1000000 is not a number of threads from 1 to 1024"),
        ({"target": 3}, "target=3"),
        ({"verify": "yes"}, "verify='yes'"),
        ({"progress": "bar"}, "progress='bar'"),
    ],
)
def test_what_is_refused(given: dict[str, Any], said: str) -> None:
    with pytest.raises(OptionError) as caught:
        check_options(given)
    assert said in str(caught.value)
    assert caught.value.todo


def test_dynamic_shapes_are_refused_by_name() -> None:
    with pytest.raises(DynamicShapeError, match=r"dynamic_shapes=\{'x': \{0: 'batch'\}\}"):
        check_options({"dynamic_shapes": {"x": {0: "batch"}}})


def test_compile_checks_options_before_the_model() -> None:
    with pytest.raises(OptionError, match="Did you mean 'threads'"):
        planish.compile(None, None, thread=2)  # type: ignore[arg-type]
