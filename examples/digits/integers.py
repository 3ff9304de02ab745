"""Three trained networks in integers: 64 training images calibrate, 10,000 held-out digits judge.

    python examples/digits/integers.py [--models resnet20,vit,mobilenet]

Ends with status 1 where an integer network is off by more than 0.2 points of accuracy, or agrees with its float
original on less than 99.5 % of the digits.
"""

from __future__ import annotations

import argparse
import sys

import numpy as np
import torch
from data import Stream, draw, held_out, scans
from rich.console import Console
from rich.table import Table
from torch import Tensor

import planish
from models import MODELS, load

BATCH = 16
IMAGES, SEED = 64, 7
POINTS, AGREEMENT = 0.2, 0.995


def main() -> int:
    """Quantize, compile, run every held-out digit, judge."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--models", default=",".join(MODELS))
    names = parser.parse_args().models.split(",")
    digits = held_out()
    x = torch.from_numpy(digits.inputs())
    training = torch.from_numpy(draw(scans()[0], IMAGES, Stream(SEED)).inputs())
    table = Table(title=f"float32 and 8-bit integers, {len(x):,} held-out digits, {IMAGES} training images")
    for heading in ("network", "float32", "integers", "points", "agreement", "ok"):
        table.add_column(heading, justify="left" if heading == "network" else "right")
    good = True
    for name in names:
        own, other = logits(name, x, training)
        accuracy = [float((found.argmax(1) == digits.labels).mean()) for found in (own, other)]
        points, agreement = 100 * (accuracy[1] - accuracy[0]), float((own.argmax(1) == other.argmax(1)).mean())
        fine = abs(points) <= POINTS + 1e-9 and agreement >= AGREEMENT
        good = good and fine
        table.add_row(
            name, *(f"{share:.2%}" for share in accuracy), f"{points:+.2f}", f"{agreement:.2%}", "yes" if fine else "no"
        )
    Console().print(table)
    return 0 if good else 1


def logits(name: str, x: Tensor, training: Tensor) -> tuple[np.ndarray, np.ndarray]:
    """Of all digits, by PyTorch and by the compiled integers."""
    model = load(name)
    with torch.inference_mode():
        own = torch.cat([model(part) for part in x.split(BATCH)]).numpy()
    compiled = planish.compile(model, x[:BATCH], precision="int8", calibration=training.split(BATCH))
    return own, np.concatenate([np.asarray(compiled(part)) for part in x.split(BATCH)])


if __name__ == "__main__":
    sys.exit(main())
