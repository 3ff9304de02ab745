"""lift_constants: tensors made from numbers become constants, small where they repeat."""

from __future__ import annotations

import pytest
from spelling import calls, checked, spelled

from planish.passes.normalize.lift_constants import LiftConstants


@pytest.mark.parametrize(
    ("call", "wanted", "values"),
    [
        ("zeros([2, 3])", ["expand(@constant, [2, 3])"], 0.0),
        ("full([2, 2], 1.5)", ["expand(@constant, [2, 2])"], 1.5),
        ("ones_like(%x)", ["expand(@constant, [2, 3])"], 1.0),
        ("new_full(%x, [4], 2, dtype=i64)", ["expand(@constant, [4])"], 2),
        ("scalar_tensor(3.0)", [], 3.0),
        ("arange.start_step(1, 7, 2)", [], [1, 3, 5]),
        ("eye(2)", [], [[1.0, 0.0], [0.0, 1.0]]),
        ("linspace(0, 1, 3)", [], [0.0, 0.5, 1.0]),
        ("zeros([1])", [], [0.0]),
    ],
)
def test_spelling(call: str, wanted: list[str], values: object) -> None:
    after = checked(LiftConstants(), f"program(%x: f32[2, 3]) {{ %y = {call} return (%x, %y) }}")
    assert calls(after) == wanted
    assert [tensor.tolist() for tensor in after.weights.values()] == [values]


def test_what_reads_values_stays() -> None:
    assert spelled(LiftConstants(), "%x: f32[2, 3]", "exp(%x)") == ["exp(%x)"]
