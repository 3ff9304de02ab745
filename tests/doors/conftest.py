"""A small model, and the artifact that is made of it once."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from torch import nn

import planish


class Small(nn.Module):
    """Convolution, batch norm, residual, pool, linear; two outputs in a dict."""

    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(3, 8, 3, padding=1, bias=False)
        self.norm = nn.BatchNorm2d(8)
        self.fc = nn.Linear(8, 5)

    def forward(self, x: torch.Tensor, shift: torch.Tensor) -> dict[str, torch.Tensor]:
        y = self.norm(self.conv(x)).relu()
        return {"logits": self.fc(y.mean((2, 3))) + shift, "features": y}


def make_small() -> Small:
    """In evaluation mode, with statistics that are not the initial ones."""
    torch.manual_seed(0)
    model = Small()
    model.norm.running_mean.normal_()  # type: ignore[operator]
    model.norm.running_var.uniform_(0.5, 2.0)  # type: ignore[operator]
    return model.eval()


def small_inputs() -> tuple[torch.Tensor, torch.Tensor]:
    """Example inputs of `Small`."""
    generator = torch.Generator().manual_seed(1)
    return torch.randn(2, 3, 9, 11, generator=generator), torch.randn(5, generator=generator)


@pytest.fixture(scope="session")
def small() -> Small:
    return make_small()


@pytest.fixture(scope="session")
def small_file(small: Small, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An artifact of `Small`."""
    path = tmp_path_factory.mktemp("artifact") / "small.planish"
    planish.compile(small, small_inputs(), threads=2).save(path)
    return path
