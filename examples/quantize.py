"""Compile an image model to integers: it takes uint8 images, and a report says what each step costs.

python examples/quantize.py
"""

from __future__ import annotations

import torch
from torch import nn

import planish


class Net(nn.Module):
    """Two convolutions with a residual connection, and a classifier."""

    def __init__(self) -> None:
        """As small as an example may be."""
        super().__init__()
        self.stem = nn.Conv2d(3, 32, 3, stride=2, padding=1)
        self.body = nn.Sequential(nn.Conv2d(32, 32, 3, padding=1, bias=False), nn.BatchNorm2d(32))
        self.head = nn.Linear(32, 10)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Logits of normalized images."""
        y = self.stem(x).relu()
        return self.head((y + self.body(y)).relu().mean((2, 3)))


def main() -> None:
    """Calibrate on a few images, and compare the result with the model."""
    torch.manual_seed(0)
    model = Net().eval()
    mean, std = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
    images = torch.randint(0, 256, (65, 32, 32, 3), dtype=torch.uint8)
    loader = torch.utils.data.DataLoader(images[:64], batch_size=8)  # batches are split: the model takes one image

    compiled = planish.compile(
        model, images[:1], precision="int8", calibration=loader, preprocess=planish.Image(mean, std), verify=True
    )
    print(compiled.signature)
    print(compiled.report.fidelity)

    x = ((images[64:] / 255 - torch.tensor(mean)) / torch.tensor(std)).permute(0, 3, 1, 2)
    with torch.no_grad():
        expected = model(x)
    error = (compiled(images[64:]) - expected).norm() / expected.norm()
    print(f"on an image that calibration has not seen, the result is off by {error:.2%}")
    same = "the same" if compiled(images[64:]).argmax() == expected.argmax() else "another"
    print(f"the model and its integers see {same} class")


if __name__ == "__main__":
    main()
