"""Handwritten digits at 32x32: scikit-learn's 1,797 scans, drawn larger, rotated, shifted, scaled and noisy.

    image[i, j] = bilinear(scan, R(angle) ((i, j) - center - shift) / scale) + noise

The scans are UCI's Optical Recognition of Handwritten Digits (E. Alpaydin, C. Kaynak; CC BY 4.0), which come
with scikit-learn. Train and held-out images come from different scans. Everything is integer arithmetic on the
raw stream of PCG64, so that every machine and NumPy version makes the same bytes; the held-out set's digest is
checked.
"""

from __future__ import annotations

import hashlib
import math
from typing import NamedTuple

import numpy as np

SIZE = 32
CLASSES = 10
HELD_OUT = 10_000
HELD_OUT_SCANS = 397
HELD_OUT_SEED = 20_240_611
HELD_OUT_SHA256 = "6866fc2c8bb3ae53da5616f58fcaac9fb07294693eceb8f5c3a6d53586e311da"

_BITS = 16
_ONE = 1 << _BITS
_CHUNK = 1000


class Digits(NamedTuple):
    """Images as bytes (N, 32, 32) and their labels (N,)."""

    images: np.ndarray
    labels: np.ndarray

    def inputs(self) -> np.ndarray:
        """What the models take: float32 (N, 1, 32, 32) in 0..1."""
        return self.images[:, None].astype(np.float32) / np.float32(255)


class Stream:
    """Integers from PCG64's raw output, whose bits NumPy promises never to change."""

    def __init__(self, seed: int) -> None:
        """Equal seeds, equal numbers."""
        self._bits = np.random.PCG64(seed)

    def integers(self, low: int, high: int, *shape: int) -> np.ndarray:
        """Whole numbers in low..high, both included."""
        raw = np.asarray(self._bits.random_raw(math.prod(shape)), dtype=np.uint64)
        return (raw % np.uint64(high - low + 1)).astype(np.int64).reshape(shape) + low

    def bell(self, *shape: int) -> np.ndarray:
        """Sums of eight bytes: nearly normal, mean 0, deviation 209."""
        raw = np.asarray(self._bits.random_raw(math.prod(shape)), dtype="<u8")
        return raw.view(np.uint8).reshape(*shape, 8).sum(-1, dtype=np.int64) - 1020


def scans() -> tuple[Digits, Digits]:
    """The 8x8 scans for training and those for the held-out set."""
    from sklearn.datasets import load_digits

    bunch = load_digits()
    images = (bunch.images * 15.9375).astype(np.uint8)  # 0..16 to 0..255, exact in binary
    labels = bunch.target.astype(np.int64)
    order = np.argsort(Stream(1).integers(0, 1 << 60, len(labels)), kind="stable")
    held, train = np.sort(order[:HELD_OUT_SCANS]), np.sort(order[HELD_OUT_SCANS:])
    return Digits(images[train], labels[train]), Digits(images[held], labels[held])


def draw(source: Digits, count: int, stream: Stream) -> Digits:
    """`count` augmented images of random scans."""
    parts = [_draw_chunk(source, min(_CHUNK, count - start), stream) for start in range(0, count, _CHUNK)]
    return Digits(*(np.concatenate(column) for column in zip(*parts, strict=True)))


def held_out() -> Digits:
    """The fixed test set, made from scans that training never sees."""
    digits = draw(scans()[1], HELD_OUT, Stream(HELD_OUT_SEED))
    found = digest(digits)
    if found != HELD_OUT_SHA256:
        raise RuntimeError(
            f"the held-out digits have digest {found}, expected {HELD_OUT_SHA256}: other data or arithmetic"
        )
    return digits


def digest(digits: Digits) -> str:
    """SHA-256 of images and labels."""
    return hashlib.sha256(digits.images.tobytes() + digits.labels.astype("<i8").tobytes()).hexdigest()


def _draw_chunk(source: Digits, count: int, stream: Stream) -> Digits:
    which = stream.integers(0, len(source.labels) - 1, count)
    rows, columns = _coordinates(count, stream)
    images = _bilinear(source.images[which], rows, columns)
    level = stream.integers(0, 20, count, 1, 1)  # deviation of the noise, of 255
    noise = stream.bell(count, SIZE, SIZE) * level // 209
    return Digits(np.clip(images + noise, 0, 255).astype(np.uint8), source.labels[which])


def _coordinates(count: int, stream: Stream) -> tuple[np.ndarray, np.ndarray]:
    """Where each output pixel reads the scan, in 1/65536 of a scan's pixel."""
    angle = stream.integers(-15, 15, count)
    percent = stream.integers(85, 115, count)
    shift = stream.integers(-8, 8, 2, count, 1, 1)  # quarters of an output pixel
    table = {
        a: (round(math.cos(math.radians(a)) * _ONE), round(math.sin(math.radians(a)) * _ONE)) for a in range(-15, 16)
    }
    cos, sin = np.array([table[a] for a in angle.tolist()], dtype=np.int64).T.reshape(2, count, 1, 1)
    quarters = np.arange(SIZE, dtype=np.int64) * 4 - 2 * (SIZE - 1)
    y, x = quarters[:, None] - shift[0], quarters[None, :] - shift[1]
    per = 16 * percent.reshape(count, 1, 1)  # 4 quarters a pixel, 4 pixels of output to 1 of the scan
    center = 7 * _ONE // 2
    return (cos * y - sin * x) * 100 // per + center, (sin * y + cos * x) * 100 // per + center


def _bilinear(images: np.ndarray, rows: np.ndarray, columns: np.ndarray) -> np.ndarray:
    """Interpolate with 8-bit weights; zero outside."""
    padded = np.pad(images.astype(np.int64), ((0, 0), (1, 2), (1, 2)))
    rows, columns = (np.clip(v, -_ONE, 8 * _ONE) + _ONE for v in (rows, columns))
    i, j = rows >> _BITS, columns >> _BITS
    u, v = (rows & (_ONE - 1)) >> 8, (columns & (_ONE - 1)) >> 8
    n = np.arange(len(images))[:, None, None]
    top = padded[n, i, j] * (256 - v) + padded[n, i, j + 1] * v
    bottom = padded[n, i + 1, j] * (256 - v) + padded[n, i + 1, j + 1] * v
    return (top * (256 - u) + bottom * u + (1 << 15)) >> 16
