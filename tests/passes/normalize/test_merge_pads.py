"""merge_pads: symmetric zero pads go into convolutions, pads into pads."""

from __future__ import annotations

import pytest
from rewriting import refusal
from spelling import calls, checked

from planish.passes.normalize.merge_pads import MergePads

REST = "[1, 1], [1, 0], [1, 1], false, [0, 0], 1"


def text(pad: str, rest: str = REST, channels: int = 2) -> str:
    return f"""
    program(%x: f64[1, 2, 5, 6]) {{
      @w: f64[{channels}, {channels}, 3, 3]
      %p = constant_pad_nd(%x, {pad})
      %y = convolution(%p, @w, none, {rest})
      return %y
    }}
    """


@pytest.mark.parametrize(
    ("pad", "padding"), [("[2, 2, 1, 1], 0.0", "[2, 2]"), ("[3, 3], 0.0", "[1, 3]"), ("[1, 1, 0, 0], -0.0", "[1, 1]")]
)
def test_a_convolution_takes_the_pad(pad: str, padding: str) -> None:
    wanted = f"convolution(%x, @w, none, [1, 1], {padding}, [1, 1], false, [0, 0], 1)"
    assert calls(checked(MergePads(), text(pad))) == [wanted]


@pytest.mark.parametrize(
    ("pad", "channels", "reason"),
    [
        ("[0, 1, 0, 1], 0.0", 2, "the input is padded more at one end than at the other"),
        ("[1, 1, 1, 1, 1, 1], 0.0", 4, "the input is padded in its channels"),
    ],
)
def test_other_pads_are_refused(pad: str, channels: int, reason: str) -> None:
    assert refusal(MergePads(), text(pad, channels=channels)) == reason


@pytest.mark.parametrize("case", [("[1, 1], 1.0", REST), ("[1, 1], 0.0", REST.replace("false", "true"))])
def test_other_values_and_transposed_convolutions_are_left_alone(case: tuple[str, str]) -> None:
    assert len(calls(checked(MergePads(), text(*case)))) == 2


def test_a_pad_with_another_reader_stays_for_it() -> None:
    program = text("[1, 1, 1, 1], 0.0").replace("return %y", "return (%y, %p)")
    assert [call.split("(")[0] for call in calls(checked(MergePads(), program))] == ["constant_pad_nd", "convolution"]


def test_pads_add_up_if_they_fill_with_the_same() -> None:
    def twice(value: str) -> list[str]:
        lines = f"%a = constant_pad_nd(%x, [1, 2], 1.0) %b = constant_pad_nd(%a, [0, 3, 4, 0], {value})"
        return calls(checked(MergePads(), f"program(%x: f32[2, 3]) {{ {lines} return %b }}"))

    assert twice("1.0") == ["constant_pad_nd(%x, [1, 5, 4, 0], 1.0)"]
    assert len(twice("0.0")) == 2
