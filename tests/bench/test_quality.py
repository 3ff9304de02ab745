"""How exact integers are: on inputs that neither calibration nor the measurement of time has seen, for every engine."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from planish.benchmarks.case import CALIBRATION, HELD_OUT, Case
from planish.benchmarks.engines.base import Loaded
from planish.benchmarks.quality import decibels, quality, read_held_out, write_held_out

SMALL = Case("resnet18", precision="int8", size="small")


def test_quality_is_measured_on_what_is_held_out(tmp_path: Path) -> None:
    """An engine that computes 3 where 4 is right, 0 where 0 is: 10 log10(16 / 1) dB, a quarter of the scale."""
    path = tmp_path / "x.npz"
    np.savez(path, **{
        "000.input000": np.array([3.0]), "000.output000": np.array([4.0]),
        "001.input000": np.array([0.0]), "001.output000": np.array([0.0]),
    })  # fmt: skip
    given = [np.array([7.0])]
    found = quality(Loaded(lambda: given[0].copy(), lambda result: [result]), given, path)
    assert found == {"error": 0.25, "sqnr": pytest.approx(12.0412, abs=1e-4)}
    assert given[0] == 7  # what is timed afterwards


def test_no_noise_has_a_number() -> None:
    assert decibels(100.0, 1.0) == 20
    assert decibels(1.0, 0.0) == 999


def test_engines_calibrate_on_the_same_inputs_and_see_none_of_the_others() -> None:
    def arrays(calls: Any) -> list[np.ndarray]:
        return [args[0].numpy() for args, _ in calls]

    first, second, held = arrays(SMALL.calibration()), arrays(SMALL.calibration()), arrays(SMALL.held_out())
    assert (len(first), len(held)) == (CALIBRATION, HELD_OUT)
    assert all(np.array_equal(one, other) for one, other in zip(first, second, strict=True))
    drawn = [*first, *held, SMALL.sample()[1][0].numpy()]
    assert len({array.tobytes() for array in drawn}) == CALIBRATION + HELD_OUT + 1


def test_held_out_calls_have_float64_results(tmp_path: Path) -> None:
    write_held_out(SMALL, tmp_path / "x.npz")
    calls = list(read_held_out(tmp_path / "x.npz"))
    assert len(calls) == HELD_OUT
    model, _, _ = SMALL.sample()
    (inputs, outputs), *_ = calls
    import torch

    with torch.no_grad():
        expected = model.double()(torch.from_numpy(inputs[0]).double())
    assert outputs[0].dtype == np.float64
    assert np.array_equal(outputs[0], expected.numpy())


def test_images_have_their_size_and_batch() -> None:
    args, _ = next(Case("resnet18", batch=3, image=40, precision="int8").calibration())
    assert args[0].shape == (3, 3, 40, 40)
