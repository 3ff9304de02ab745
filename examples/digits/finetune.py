"""Quantization-aware training of the three networks: `python examples/digits/finetune.py [names...]`, a minute each.

    float model → integers by calibration alone (64 images) → trained in integers for a few epochs → one artifact

The held-out digits go through all of them. The trained module's results are its artifact's, bit for bit.
"""

from __future__ import annotations

import copy
import sys
import time

import numpy as np
import torch
import torch.nn.functional as F
from data import Digits, Stream, draw, held_out, scans
from torch import nn
from train import accuracy

import planish
from models import load

CALIBRATION = 64
BATCH = 32
EPOCHS = 2
"""Of as many images as there are scans to train on."""
RATE = {"resnet20": 5e-4, "vit": 5e-5, "mobilenet": 5e-4}


def main(names: list[str]) -> int:
    """The accuracy of each network in float, in integers and trained in integers."""
    torch.set_num_threads(2)
    train, test = scans()[0], held_out()
    images = torch.from_numpy(draw(train, CALIBRATION, Stream(11)).inputs())
    wrong = 0
    for name in names or list(RATE):
        model = load(name)
        before = accuracy(model, test)
        settings = planish.Quantization(measure=False)
        calibrated = planish.compile(model, images[:BATCH], precision=settings, calibration=[images])
        module = planish.fake_quantize(copy.deepcopy(model), images[:BATCH], calibration=[images], precision=settings)
        seconds = fit(module, train, RATE[name])
        trained = planish.compile(module, images[:BATCH], precision=settings)
        with torch.no_grad():
            same = torch.equal(module(images[:BATCH]), trained(images[:BATCH]))
        shares = [share(artifact, test) for artifact in (calibrated, trained)]
        print(
            f"{name}: {before:.2%} in float, {shares[0]:.2%} calibrated, {shares[1]:.2%} trained in integers "
            f"({seconds:.0f} s); module and artifact {'agree in every bit' if same else 'DIFFER'}",
            flush=True,
        )
        wrong += not same or shares[1] < shares[0]
    return 1 if wrong else 0


def fit(module: nn.Module, source: Digits, rate: float) -> float:
    """AdamW with a rate that falls to 0, on freshly drawn images; the seconds that it takes."""
    steps, start = EPOCHS * len(source.labels) // BATCH, time.perf_counter()
    optimizer = torch.optim.AdamW(module.parameters(), rate, weight_decay=0.0)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, steps)
    stream = Stream(13)
    module.train()
    for _ in range(steps):
        digits = draw(source, BATCH, stream)
        logits = module(torch.from_numpy(digits.inputs()))
        loss = F.cross_entropy(logits, torch.from_numpy(digits.labels), label_smoothing=0.1)
        optimizer.zero_grad()
        loss.backward()
        nn.utils.clip_grad_norm_(module.parameters(), 1.0)
        optimizer.step()
        schedule.step()
    module.eval()
    return time.perf_counter() - start


def share(artifact: planish.Compiled, digits: Digits) -> float:
    """The accuracy of an artifact for batches; the last batch is filled up."""
    inputs = torch.from_numpy(digits.inputs())
    filled = torch.cat([inputs, inputs[: -len(inputs) % BATCH]])
    logits = torch.cat([artifact(part) for part in filled.split(BATCH)])[: len(inputs)]
    return float(np.mean(logits.argmax(1).numpy() == digits.labels))


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
