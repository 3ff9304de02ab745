"""decompose_resizes: every upsampling is gathers, views and weighted sums with PyTorch's own numbers."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from rewriting import op_names
from torch import nn
from torch.nn import functional as F

from planish.ir.capture import capture
from planish.passes.normalize.decompose_resizes import DecomposeResizes


class Resize(nn.Module):
    def __init__(self, **options: Any) -> None:
        super().__init__()
        self.options = options

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Resize by the options."""
        return F.interpolate(x, **self.options)


@pytest.mark.parametrize(
    ("options", "ops"),
    [
        ({"scale_factor": 2}, {"reshape", "expand"}),
        ({"scale_factor": (1, 3)}, {"reshape", "expand"}),
        ({"size": (5, 3)}, {"index_select"}),
        ({"scale_factor": 0.5}, {"index_select"}),
        ({"size": (7, 12), "mode": "nearest-exact"}, {"reshape", "expand"}),
        ({"scale_factor": 2, "mode": "bilinear"}, {"index_select", "mul", "add"}),
        ({"scale_factor": 1.7, "mode": "bilinear"}, {"index_select", "mul", "add"}),
        ({"size": (9, 4), "mode": "bilinear", "align_corners": True}, {"index_select", "mul", "add"}),
        ({"size": (4, 12), "mode": "bicubic"}, {"index_select", "mul", "add"}),
        ({"size": (1, 1), "mode": "bilinear", "antialias": True}, {"permute", "linear"}),
    ],
)
def test_images(options: dict[str, Any], ops: set[str]) -> None:
    x = torch.randn(2, 3, 7, 6, dtype=torch.float64)
    model = Resize(**options).eval()
    after, applied, _ = DecomposeResizes().run(capture(model, x), verify=True)
    assert len(applied) == 1
    assert set(op_names(after)) == ops
    assert (after(x) - model(x)).abs().max() <= 1e-12


@pytest.mark.parametrize(
    ("shape", "options"),
    [
        ((1, 2, 5), {"scale_factor": 2, "mode": "linear"}),
        ((1, 2, 5), {"size": 7}),
        ((1, 2, 3, 4, 5), {"scale_factor": 2, "mode": "trilinear"}),
        ((1, 2, 3, 4, 5), {"scale_factor": 2}),
    ],
)
def test_lines_and_volumes(shape: tuple[int, ...], options: dict[str, Any]) -> None:
    x = torch.randn(shape, dtype=torch.float64)
    model = Resize(**options).eval()
    after, applied, _ = DecomposeResizes().run(capture(model, x), verify=True)
    assert len(applied) == 1
    assert (after(x) - model(x)).abs().max() <= 1e-12


@pytest.mark.parametrize("size", [3, 5, 11, 14, 29])
def test_nearest_takes_the_same_places_as_single_precision(size: int) -> None:
    x = torch.arange(2 * 7 * 7, dtype=torch.float32).reshape(1, 2, 7, 7)
    model = Resize(size=size).eval()
    after, _, _ = DecomposeResizes().run(capture(model, x))
    assert torch.equal(after(x), model(x))
