"""Islands of float: units, borders and the best of all choices, from kernels and times that are made up."""

from __future__ import annotations

from itertools import chain, combinations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from planish.ir.text import parse_program
from planish.passes.quantize.islands import CODES, FLOAT, Border, Islands, Kernel, Unit, islands, with_views

NET = parse_program("""
program(%x: f32[1, 4, 6, 6]) optimized {
  @w: f32[4, 4, 1, 1]
  @v: f32[4, 36]
  %a: f32[1, 4, 6, 6] = convolution(%x, @w, none, [1, 1], [0, 0], [1, 1], false, [0, 0], 1)   # a
  %r: f32[1, 4, 6, 6] = relu(%a)   # r
  %b: f32[1, 4, 6, 6] = convolution(%r, @w, none, [1, 1], [0, 0], [1, 1], false, [0, 0], 1)   # b
  %s: f32[1, 4, 6, 6] = add.Tensor(%b, %r)   # s
  %flat: f32[4, 36] = reshape(%s, [4, 36])
  %y: f32[4, 4] = linear(%flat, @v, none)   # y
  return %y
}
""")


def kernel(names: str, milliseconds: float = 0.0) -> Kernel:
    return Kernel(frozenset(names.split()), milliseconds)


def test_units_and_borders() -> None:
    """Kernels that share a node are one unit; a view that two kernels copy joins none, and borders look through it."""
    found = islands(
        NET,
        [kernel("x"), kernel("a r", 1.0), kernel("b s", 2.0), kernel("y flat", 3.0)],
        [kernel("a", 4.0), kernel("r", 0.5), kernel("b s flat", 5.0), kernel("y flat", 6.0)],
        {"r": (0.1, 0.2), "x": (0.3, 0.4)},
    )
    assert found.units == (
        Unit(frozenset({"a", "r"}), ("a", "r"), 1.0, 4.5),
        Unit(frozenset({"b", "s"}), ("b", "s"), 2.0, 5.0),
        Unit(frozenset({"y"}), ("y",), 3.0, 6.0),
    )
    assert set(found.borders) == {
        Border("x", FLOAT, frozenset({0}), 0.3, 0.4),
        Border("r", 0, frozenset({1}), 0.1, 0.2),
        Border("s", 1, frozenset({2})),
    }
    assert found.milliseconds([]) == pytest.approx(1 + 2 + 3 + 0.3)  # the input is quantized
    assert found.milliseconds([0]) == pytest.approx(4.5 + 2 + 3 + 0.1)  # what it makes is
    assert found.milliseconds([1]) == pytest.approx(1 + 5 + 3 + 0.3 + 0.2)
    assert found.alone(0) == pytest.approx(-0.2)
    assert found.alone(1) == pytest.approx(0.2)


def test_what_is_in_float_already_is_fixed() -> None:
    found = islands(NET, [kernel("a r", 1.0), kernel("b s", 9.0)], [kernel("a r", 1.0), kernel("b s", 1.0)], {}, ["r"])
    assert found.fixed == {0}
    assert found.fastest() == {1}


def test_a_value_is_converted_once() -> None:
    """Two readers on the other side: one conversion."""
    units = tuple(Unit(frozenset({name}), (), 0.0, 0.0) for name in "pqr")
    found = Islands(units, (Border("p", 0, frozenset({1, 2}), 3.0, 5.0),))
    assert found.milliseconds([0]) == found.milliseconds([0, 1]) == 3.0
    assert found.milliseconds([1]) == found.milliseconds([1, 2]) == 5.0
    assert found.milliseconds([0, 1, 2]) == 0.0


def test_a_loser_between_two_winners_comes_along() -> None:
    """0.5 ms lost in the middle are less than the conversions that would stand around it."""
    units = tuple(
        Unit(frozenset({name}), (), *times) for name, times in zip("abc", ((9, 1), (1, 1.5), (9, 1)), strict=True)
    )
    borders = (
        Border("x", CODES, frozenset({0}), 1, 1),
        Border("a", 0, frozenset({1}), 1, 1),
        Border("b", 1, frozenset({2}), 1, 1),
    )
    assert Islands(units, borders).fastest() == {0, 1, 2}
    apart = tuple(Border(b.value, b.producer, b.readers, 0.01, 0.01) for b in borders)
    assert Islands(units, apart).fastest() == {0, 2}


def test_conversions_may_not_be_worth_it() -> None:
    unit = Unit(frozenset({"a"}), (), 2.0, 1.0)
    assert unit.loses
    assert Islands((unit,), (Border("x", CODES, frozenset({0}), 0.0, 1.5),)).fastest() == frozenset()
    assert Islands((unit,), (Border("x", CODES, frozenset({0}), 0.0, 0.5),)).fastest() == {0}


def test_noise_is_no_reason() -> None:
    """A win has to be more than 5 % and a microsecond."""
    for times, wins in (((1.0, 0.97), False), ((0.005, 0.0042), False), ((1.0, 0.94), True)):
        unit = Unit(frozenset({"a"}), (), *times)
        assert unit.loses == wins
        assert bool(Islands((unit,), ()).fastest()) == wins


times = st.floats(0.01, 10)


@settings(max_examples=200)
@given(st.data())
def test_no_choice_is_faster(data: st.DataObject) -> None:
    """Against every subset of five units in a random graph; margins are part of what float costs."""
    count = 5
    units = tuple(Unit(frozenset({str(i)}), (), data.draw(times), data.draw(times)) for i in range(count))
    borders = []
    for producer in (FLOAT, CODES, *range(count - 1)):
        later = range(producer + 1 if isinstance(producer, int) else 0, count)
        readers = data.draw(st.frozensets(st.sampled_from(later), min_size=1))
        borders.append(Border(str(producer), producer, readers, data.draw(times), data.draw(times)))
    fixed = data.draw(st.frozensets(st.integers(0, count - 1), max_size=1))
    dear = tuple(Unit(u.nodes, (), u.integer_ms, u.float_ms * 1.05 + 0.001) for u in units)
    counted = Islands(dear, tuple(borders), fixed)
    subsets = chain.from_iterable(combinations(range(count), n) for n in range(count + 1))
    least = min(counted.milliseconds(subset) for subset in subsets)
    assert counted.milliseconds(Islands(units, tuple(borders), fixed).fastest()) == pytest.approx(least)


def test_views_between_layers_in_float() -> None:
    """A view of a float value that a layer in float reads is one, too; one that integers read is moved in codes."""
    assert with_views(NET, {"b", "s", "y"}) == {"b", "s", "y", "flat"}
    assert with_views(NET, {"b", "s"}) == {"b", "s"}
    assert with_views(NET, {"y"}) == {"y"}
