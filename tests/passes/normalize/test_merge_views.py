"""merge_views: neighbours merged, no-ops dropped, other readers served."""

from __future__ import annotations

import pytest
from spelling import calls, checked

from planish.passes.normalize.merge_views import MergeViews

X = "%x: f32[2, 1, 3, 4]"


@pytest.mark.parametrize(
    ("lines", "wanted"),
    [
        (["reshape(%x, [6, 4])", "reshape(#, [24])"], ["reshape(%x, [24])"]),
        (["reshape(%x, [6, 4])", "reshape(#, [2, 1, 3, 4])"], []),
        (["permute(%x, [3, 0, 1, 2])", "permute(#, [1, 2, 3, 0])"], []),
        (["permute(%x, [3, 0, 1, 2])", "permute(#, [0, 3, 1, 2])"], ["permute(%x, [3, 2, 0, 1])"]),
        (["permute(%x, [1, 0, 2, 3])"], ["reshape(%x, [1, 2, 3, 4])"]),
        (["expand(%x, [2, 1, 3, 4])"], []),
        (["expand(%x, [2, 5, 3, 4])", "expand(#, [7, 2, 5, 3, 4])"], ["expand(%x, [7, 2, 5, 3, 4])"]),
        (["expand(%x, [1, 1, 2, 1, 3, 4])"], ["reshape(%x, [1, 1, 2, 1, 3, 4])"]),
        (["slice.Tensor(%x, 3, 0, 4, 1)"], []),
        (["slice.Tensor(%x, 3, 1, 4, 1)", "slice.Tensor(#, 3, 1, 3, 1)"], ["slice.Tensor(%x, 3, 2, 4, 1)"]),
        (["slice.Tensor(%x, 3, 0, 4, 2)", "slice.Tensor(#, 3, 1, 2, 1)"], ["slice.Tensor(%x, 3, 2, 3, 2)"]),
        (
            ["slice.Tensor(%x, 3, 1, 4, 1)", "slice.Tensor(#, 2, 0, 2, 1)"],
            ["slice.Tensor(%x, 3, 1, 4, 1)", "slice.Tensor(#0, 2, 0, 2, 1)"],
        ),
    ],
)
def test_chains(lines: list[str], wanted: list[str]) -> None:
    body = " ".join(f"%v{i} = {line.replace('#', f'%v{i - 1}')}" for i, line in enumerate(lines))
    text = f"program({X}) {{ {body} return %v{len(lines) - 1} }}"
    assert calls(checked(MergeViews(), text)) == wanted


def test_the_first_view_stays_for_its_other_readers() -> None:
    text = f"program({X}) {{ %a = reshape(%x, [6, 4]) %b = reshape(%a, [24]) return (%a, %b) }}"
    assert calls(checked(MergeViews(), text)) == ["reshape(%x, [6, 4])", "reshape(%x, [24])"]


@pytest.mark.parametrize(
    ("first", "second", "whole"),
    [
        ((0, 2, 1), (2, 4, 1), True),
        ((0, 2, 1), (1, 3, 1), False),
        ((2, 4, 1), (0, 2, 1), False),
        ((0, 4, 2), (1, 4, 2), False),
    ],
)
def test_parts_put_together_again(first: tuple[int, ...], second: tuple[int, ...], whole: bool) -> None:
    one, two = (f"slice.Tensor(%x, 3, {part[0]}, {part[1]}, {part[2]})" for part in (first, second))
    text = f"program({X}) {{ %a = {one} %b = {two} %y = cat([%a, %b], 3) return %y }}"
    wanted = [] if whole else [one, two, "cat([#0, #1], 3)"]
    assert calls(checked(MergeViews(), text)) == wanted
