"""Train the three networks and store their weights here (minutes): `python examples/digits/train.py [names...]`."""

from __future__ import annotations

import sys
import time

import torch
import torch.nn.functional as F
from data import Digits, Stream, draw, held_out, scans
from safetensors.torch import save_file
from torch import nn

from models import MODELS, WEIGHTS

BATCH = 64
STEPS = {"resnet20": 800, "mobilenet": 1200, "vit": 1600}
RATE = {"resnet20": 1e-2, "vit": 2e-3, "mobilenet": 1e-2}


def main(names: list[str]) -> None:
    """Train, test, save."""
    torch.set_num_threads(2)
    train, _ = scans()
    test = held_out()
    for seed, name in enumerate(names or list(STEPS)):
        torch.manual_seed(seed)
        model = MODELS[name]().to(memory_format=torch.channels_last)  # three times as fast to train
        fit(model, train, STEPS[name], RATE[name])
        state = {k: v.contiguous() for k, v in model.state_dict().items() if not k.endswith("num_batches_tracked")}
        save_file(state, WEIGHTS / f"{name}.safetensors")
        print(f"{name}: {accuracy(model, test):.2%} of {len(test.labels):,} held-out digits", flush=True)


def fit(model: nn.Module, source: Digits, steps: int, rate: float) -> None:
    """AdamW with a one-cycle rate on freshly drawn images, labels smoothed by a tenth."""
    optimizer = torch.optim.AdamW(model.parameters(), rate, weight_decay=0.02)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, rate, steps)
    stream, start = Stream(7), time.time()
    for step in range(steps):
        digits = draw(source, BATCH, stream)
        loss = F.cross_entropy(
            model(torch.from_numpy(digits.inputs())), torch.from_numpy(digits.labels), label_smoothing=0.1
        )
        optimizer.zero_grad()
        loss.backward()
        nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        schedule.step()
        if step % 100 == 99:
            print(f"  step {step + 1} of {steps}, loss {loss.item():.3f}, {time.time() - start:.0f} s", flush=True)
    model.eval()


@torch.inference_mode()
def accuracy(model: nn.Module, digits: Digits) -> float:
    """Share of images whose largest logit is the label's."""
    logits = torch.cat([model(part) for part in torch.from_numpy(digits.inputs()).split(500)])
    return (logits.argmax(1).numpy() == digits.labels).mean().item()


if __name__ == "__main__":
    main(sys.argv[1:])
