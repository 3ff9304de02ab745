"""The main job: compile a trained ResNet-20 and an ImageNet-sized ResNet-50, save, run without torch, compare.

    python examples/digits/demo.py [--output FOLDER]

10,000 held-out digits go through the saved artifact in a fresh process. Ends with status 1 if a number is off.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np
import torch
from data import held_out
from imagenet import resnet50
from rich.console import Console
from rich.table import Table
from run_saved import BATCH, latency
from torch import nn

import planish
from models import load

CHECKED = 500
"""Digits that also go through a float64 reference."""


def main() -> int:
    """Compile, save, run elsewhere, judge."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--output", type=Path, help="keep the artifacts here (default: a temporary folder)")
    given = parser.parse_args()
    if given.output is not None:
        given.output.mkdir(parents=True, exist_ok=True)
        return demo(given.output)
    with tempfile.TemporaryDirectory() as folder:
        return demo(Path(folder))


def demo(folder: Path) -> int:
    """Everything, with artifacts in `folder`."""
    console = Console()
    digits, small, large = held_out(), load("resnet20"), resnet50()
    inputs = torch.from_numpy(digits.inputs())
    image = torch.randn(1, 3, 224, 224, generator=torch.Generator().manual_seed(1))
    console.print(f"{len(digits.labels):,} held-out digits through PyTorch...")
    eager = run_eager(small, inputs, large, image)  # before TVM's threads exist in this process
    console.print("compiling...")
    jobs = {
        "resnet20": (small, inputs[:1]),
        f"resnet20_batch{BATCH}": (small, inputs[:BATCH]),
        "resnet50": (large, image),
    }
    built = {name: build(console, name, model, x, folder) for name, (model, x) in jobs.items()}
    np.savez(folder / "held_out.npz", inputs=digits.inputs())
    np.save(folder / "image.npy", image.numpy())
    console.print("running the artifacts in a fresh process, without torch...")
    script = Path(__file__).with_name("run_saved.py")
    done = subprocess.run([sys.executable, script, folder], stdout=subprocess.PIPE, text=True, check=False)
    if done.returncode:
        console.print(f"[red]the fresh process failed with status {done.returncode}")
        return 1
    found = json.loads(done.stdout.splitlines()[-1])
    logits = np.load(folder / "compiled_logits.npy")
    image_logits = np.load(folder / "compiled_image_logits.npy")
    accuracy = {"eager": share(eager["logits"], digits.labels), "compiled": share(logits, digits.labels)}
    errors = {
        "resnet20": Errors(small, inputs[:CHECKED], eager["logits"], logits),
        "resnet50": Errors(large, image, eager["image_logits"], image_logits),
    }
    show(console, built, eager, found, accuracy, errors)
    wrong = judge(accuracy, errors, found, built)
    for line in wrong:
        console.print(f"[red]wrong: {line}")
    console.print("[green]all numbers agree" if not wrong else "[red]something is off")
    return 1 if wrong else 0


def build(console: Console, name: str, model: nn.Module, x: torch.Tensor, folder: Path) -> dict[str, Any]:
    """Compile and save one artifact; say what was folded."""
    start = time.perf_counter()
    compiled = planish.compile(model, (x,))
    seconds = time.perf_counter() - start
    path = folder / f"{name}.planish"
    compiled.save(path)
    weights = sum(p.numel() * p.element_size() for p in model.parameters())
    console.print(f"  {name}: compiled in {seconds:.1f} s")
    return {"report": compiled.report, "bytes": path.stat().st_size, "weights": weights, "seconds": seconds}


@torch.inference_mode()
def run_eager(small: nn.Module, inputs: torch.Tensor, large: nn.Module, image: torch.Tensor) -> dict[str, Any]:
    """The same work by PyTorch, in this process."""
    return {
        "logits": torch.cat([small(part) for part in inputs.split(BATCH)]).numpy(),
        "image_logits": large(image).numpy(),
        "resnet20_ms": latency(small, inputs[:1]),
        "batch_ms": latency(small, inputs[:BATCH]),
        "resnet50_ms": latency(large, image),
    }


def share(logits: np.ndarray, labels: np.ndarray) -> float:
    """Accuracy."""
    return float((logits.argmax(1) == labels).mean())


class Errors:
    """Largest differences: from eager over all rows, and from float64 over the first ones."""

    def __init__(self, model: nn.Module, x: torch.Tensor, eager: np.ndarray, compiled: np.ndarray) -> None:
        """`x` are the inputs of the first rows."""
        with torch.inference_mode():
            exact = model.double()(x.double()).numpy()
        model.float()
        rows = len(x)
        self.between = float(np.abs(compiled - eager).max())
        self.eager = float(np.abs(eager[:rows] - exact).max())
        self.compiled = float(np.abs(compiled[:rows] - exact).max())
        self.bound = 4 * self.eager + 8 * float(np.spacing(np.float32(np.abs(exact).max())))


def judge(
    accuracy: dict[str, float], errors: dict[str, Errors], found: dict[str, Any], built: dict[str, Any]
) -> list[str]:
    """What is off, in words."""
    wrong = [
        f"{name}: error {e.compiled:.3g} against float64, allowed {e.bound:.3g}"
        for name, e in errors.items()
        if not e.compiled <= e.bound
    ]
    if not abs(accuracy["compiled"] - accuracy["eager"]) <= 5e-4:
        wrong.append(f"accuracy {accuracy['compiled']:.2%}, eager {accuracy['eager']:.2%}")
    if accuracy["eager"] < 0.97:
        wrong.append(f"eager accuracy {accuracy['eager']:.2%}: these are not the trained weights")
    if found["foreign"]:
        wrong.append(f"the fresh process loaded {', '.join(found['foreign'])}")
    if not found["batch_1_against_100"] <= errors["resnet20"].bound:
        wrong.append(f"batches of 1 and {BATCH} differ by {found['batch_1_against_100']:.3g}")
    wrong += [f"{name}: nothing was folded" for name, made in built.items() if not folded(made["report"])]
    return wrong


def folded(report: tuple[Any, ...]) -> list[str]:
    """`fold_affine_backward at 19 sites (bn1, blocks.0.bn1, ...)` for each folding pass that did something."""
    lines = []
    for step in report:
        if "fold" in step.name and step.applied:
            layers = [site.layers[-1] for site in step.applied if site.layers]
            lines.append(f"{step.name} at {len(step.applied)} sites ({', '.join(layers[:3])}, ...)")
    return lines


def show(
    console: Console,
    built: dict[str, Any],
    eager: dict[str, Any],
    found: dict[str, Any],
    accuracy: dict[str, float],
    errors: dict[str, Errors],
) -> None:
    """The tables."""
    table = Table(title=f"PyTorch eager and planish, {torch.get_num_threads()} threads")
    for heading in ("", "eager", "compiled"):
        table.add_column(heading, justify="left" if not heading else "right")
    table.add_row("digits: accuracy", f"{accuracy['eager']:.2%}", f"{accuracy['compiled']:.2%}")
    for name, e in errors.items():
        table.add_row(f"{name}: largest error against float64", f"{e.eager:.2e}", f"{e.compiled:.2e}")
        table.add_row(f"{name}: largest difference from eager", "", f"{e.between:.2e}")
    for key, label in (
        ("resnet20_ms", "ResNet-20, 1 digit"),
        ("batch_ms", f"ResNet-20, {BATCH} digits"),
        ("resnet50_ms", "ResNet-50, 1 image"),
    ):
        table.add_row(f"{label}: median", f"{eager[key]:.2f} ms", f"{found[key]:.2f} ms")
    table.add_row("ResNet-20: import, load and first result", "", f"{found['ready_s']:.2f} s")
    table.add_row("ResNet-50: load and first result", "", f"{found['resnet50_ready_s']:.2f} s")
    console.print(table)
    table = Table(title="artifacts")
    for heading in ("artifact", "compiled in", "size", "of its weights"):
        table.add_column(heading, justify="left" if heading == "artifact" else "right")
    for name, made in built.items():
        size = f"{made['bytes'] / 1e6:.2f} MB"
        table.add_row(name, f"{made['seconds']:.1f} s", size, f"{made['bytes'] / made['weights']:.2f}")
    console.print(table)
    for name, made in built.items():
        console.print(f"folded in {name}: {'; '.join(folded(made['report']))}", highlight=False)


if __name__ == "__main__":
    sys.exit(main())
