"""Benchmarks of training steps, of networks as trained, of norms: what is kept, what is compared, what tables say."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from planish.benchmarks import merged, norms, tune_checks, tune_mode
from planish.benchmarks.case import Case
from planish.benchmarks.engines import TRAINING, engine
from planish.benchmarks.engines.training import saved
from planish.benchmarks.measure import Measured

pytestmark = pytest.mark.filterwarnings("ignore:.*torch.jit.script_method:DeprecationWarning")  # Inductor imports it


def measured(name: str, ms: float, model: str = "m", **known: float) -> Measured:
    return Measured(Case(model, name), [[ms, ms]] if ms else [], dict(known), failed="" if ms else "no compiler")


def test_what_is_kept_is_counted_once_and_without_parameters() -> None:
    """x (6 floats) for the weight's gradient, the product (8) twice: as sigmoid's result and as the square's input."""
    linear = nn.Linear(3, 4, bias=False)
    x = torch.ones(2, 3)

    def forward() -> torch.Tensor:
        y = torch.sigmoid(linear(x))
        return y * y

    assert saved(linear, forward) == 4 * (6 + 8)


def test_training_is_measured_in_float32() -> None:
    for name in TRAINING:
        assert engine(name).refuses(Case("m", name)) is None
        assert "float32" in str(engine(name).refuses(Case("m", name, precision="bfloat16")))


def test_the_table_of_tune_mode_compares_under_one_engine() -> None:
    known = {"peak_kb": 1024.0, "error": 1e-6}
    group = [
        measured("tune", 8, saved_bytes=5e6, **known),
        measured("eval", 10, saved_bytes=1e7, **known),
        measured("inductor_tune", 3, saved_bytes=2e6, **known),
        measured("inductor_own", 0),
        measured("inductor_eval", 4, saved_bytes=8e6, **known),
    ]
    lines = tune_mode.table([group]).splitlines()[2:]
    assert lines[0] == "| m | tune | 8.00 (8.00 to 8.00) | 0.80 | 5 | 0.50 | 1 | 1.0e-06 |"
    assert lines[2] == "| m | inductor_tune | 3.00 (3.00 to 3.00) | 0.75 | 2 | 0.25 | 1 | 1.0e-06 |"
    assert lines[3] == "| m | inductor_own | no compiler | - | - | - | - | - |"


@pytest.fixture(scope="module")
def checks() -> dict[str, tune_checks.Check]:
    return {check.name: check for check in tune_checks.hard_networks()}


def test_gradients_of_tune_mode_are_those_of_eval_mode(checks: dict[str, tune_checks.Check]) -> None:
    assert all(float(check.tune) < 1e-12 for check in checks.values())
    assert float(checks["conv, norm"].own) < 1e-12


@pytest.mark.parametrize(
    "name", ["transposed conv of 2 groups", "transposed depthwise conv", "linear, norm over positions"]
)
def test_where_the_other_pass_is_wrong(name: str, checks: dict[str, tune_checks.Check]) -> None:
    own = checks[name].own
    assert own.endswith("Error") or float(own) > 1e-3


def test_the_error_of_gradients_is_relative_to_each_tensor() -> None:
    expected = [torch.tensor([0.0, 4.0]), torch.tensor([100.0])]
    assert tune_checks.error([torch.tensor([1.0, 4.0]), torch.tensor([101.0])], expected) == 0.25


def test_the_table_of_merged_networks() -> None:
    group = [measured("planish", 3, error=1e-7), measured("merged", 2, error=1e-7)]
    same = merged.table([group], {"m": [["a", "b"], ["a", "b"]]}).splitlines()[2]
    assert same == "| m | 3.00 (3.00 to 3.00) | 2.00 (2.00 to 2.00) | 1.500 | 2 and 2 | the same | 1.0e-07 |"
    assert "| 1 and 2 | others |" in merged.table([group], {"m": [["a"], ["a", "b"]]})
    assert "no compiler" in merged.table([[group[0], measured("merged", 0)]], {"m": [["a"]]})


def test_the_table_of_norms() -> None:
    """4 ms against 3.2 is faster by a quarter; 8 MB above Python's against 6 is a quarter less."""
    before = {"before_kb": 1024.0, "error": 1e-6}
    layer = measured("planish", 4, "a", peak_kb=9 * 1024.0, calls=9, **before)
    unified = measured("planish", 3.2, "b", peak_kb=7 * 1024.0, calls=7, **before)
    lines = norms.table([[layer, unified]]).splitlines()[2:]
    assert lines[0] == "| a | layer | 4.00 (4.00 to 4.00) |  | 8 |  | 9 | 1.0e-06 |"
    assert lines[1] == "| a | unified | 3.20 (3.20 to 3.20) | 25.0 % | 6 | 25.0 % | 7 | 1.0e-06 |"
    assert norms.table([[layer, measured("planish", 0, "b")]]).count("no compiler") == 1
