"""The door of torch.compile: what planish can compile it compiles, the rest runs in eager and one line says so.

python examples/torch_compile.py
"""

from __future__ import annotations

import logging

import torch
from torch import nn


class Net(nn.Module):
    """A convolution, an operator that planish does not compile, and a linear layer."""

    def __init__(self) -> None:
        """Random weights."""
        super().__init__()
        self.conv = nn.Conv1d(4, 8, 3, padding=1)
        self.fc = nn.Linear(8, 2)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Sort in between: the features of each channel, largest last."""
        y = torch.relu(self.conv(x))
        y = torch.sort(y, dim=2).values
        return self.fc(y[:, :, -1])


def main() -> None:
    """Compare with eager."""
    logging.basicConfig(format="%(message)s")  # where planish says what runs in eager
    torch.manual_seed(0)
    model = Net().eval()
    x = torch.randn(2, 4, 32)
    fast = torch.compile(model, backend="planish")
    with torch.no_grad():
        difference = (fast(x) - model(x)).abs().max()
    print(f"largest difference from eager: {difference:.2g}")


if __name__ == "__main__":
    main()
