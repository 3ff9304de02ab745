"""Why was something not folded, and why can something not be compiled? planish says where and for what reason.

python examples/explain_a_refusal.py
"""

from __future__ import annotations

import torch
from torch import nn

import planish


class Shared(nn.Module):
    """A convolution whose output is read twice: its batch norm cannot go into its weights."""

    def __init__(self) -> None:
        """Random weights."""
        super().__init__()
        self.conv = nn.Conv2d(3, 8, 3, padding=1)
        self.norm = nn.BatchNorm2d(8)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Use the convolution before and after the norm."""
        y = self.conv(x)
        return y + self.norm(y).relu()


class Sorted(nn.Module):
    """An operator that planish does not compile, twice."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Sort along both axes."""
        return x.sort(dim=2).values.sort(dim=3).values


def main() -> None:
    """Print each refusal."""
    x = torch.randn(1, 3, 8, 8)
    for entry in planish.rewrite(Shared().eval(), (x,), passes="exact").report:
        for site in entry.refused:
            print(f"{entry.name} left {', '.join(site.layers)} as it is: {site.reason}")
    try:
        planish.compile(Sorted().eval(), (x,))
    except planish.errors.UnsupportedOperators as error:
        print(error)


if __name__ == "__main__":
    main()
