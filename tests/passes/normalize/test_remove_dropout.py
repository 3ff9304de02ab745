"""remove_dropout: nothing outside training, refused inside."""

from __future__ import annotations

import pytest
from rewriting import refusal
from spelling import calls, checked, spelled

from planish.ir.text import parse_program
from planish.passes.normalize.remove_dropout import RemoveDropout

X = "%x: f32[2, 3]"


@pytest.mark.parametrize("op", ["dropout", "feature_dropout", "alpha_dropout", "feature_alpha_dropout"])
def test_dropout_goes(op: str) -> None:
    assert spelled(RemoveDropout(), X, f"{op}(%x, 0.5, false)") == []
    assert spelled(RemoveDropout(), X, f"{op}(%x, 0.0, true)") == []


def test_the_native_one_goes_too() -> None:
    text = f"program({X}) {{ %d = native_dropout(%x, 0.5, false) %m = getitem(%d, 0) %y = relu(%m) return %y }}"
    assert calls(checked(RemoveDropout(), text)) == ["relu(%x)"]


def test_training_is_refused() -> None:
    text = f"program({X}) {{ %y = dropout(%x, 0.5, true) return %y }}"
    _, applied, refused = RemoveDropout().run(parse_program(text))
    assert not applied
    assert [site.reason for site in refused] == ["it is random: the model is in train mode here"]


def test_a_mask_that_is_read_is_refused() -> None:
    text = f"program({X}) {{ %d = native_dropout(%x, 0.5, false) %y = getitem(%d, 1) return %y }}"
    assert refusal(RemoveDropout(), text) == "its mask is used"
