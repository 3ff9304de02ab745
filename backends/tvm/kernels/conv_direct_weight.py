"""The weights of a direct convolution in the order in which its kernel reads them.

    [chunk of output blocks][input block][kd][kh][channel in block][kw][block of the chunk][lane]

Where the CPU multiplies pairs of bfloat16, two neighbours along one axis, channels or taps, are one element.
"""

from __future__ import annotations

import numpy as np

from ..template import Packed
from .bfloat16 import pack_pairs
from .conv import Conv
from .emit import PackedArg
from .tiles import Tile

CHANNELS, TAPS = 4, 5
"""The axes above along which there may be pairs."""


def pack_weight(conv: Conv, tile: Tile, inner: int, paired: int | None) -> PackedArg:
    """Blocks of `inner` input channels; zeros past the last channel and, in pairs of taps, past the last tap."""
    lanes, kernel = tile.block, tuple(a.kernel for a in conv.axes)
    chunks = -(-conv.out_channels // lanes) // tile.blocks
    in_blocks = -(-(conv.channels // conv.groups) // inner)
    steps, taps, wide = inner, kernel[2], kernel[2]
    if paired == CHANNELS:
        steps = -(-inner // 2)
        inner = 2 * steps
    if paired == TAPS:
        taps = -(-wide // 2)
        wide = 2 * taps
    dims = (chunks, in_blocks, *kernel[:2], steps, taps, tile.blocks, lanes)

    def pack(weight: np.ndarray) -> np.ndarray:
        padded = np.zeros((chunks * tile.columns, in_blocks * inner, *kernel[:2], wide), weight.dtype)
        held = weight.reshape(*weight.shape[:2], *kernel)
        padded[: weight.shape[0], : weight.shape[1], :, :, : kernel[2]] = held
        split = padded.reshape(chunks, tile.blocks, lanes, in_blocks, inner, *kernel[:2], wide)
        ordered = split.transpose(0, 3, 5, 6, 4, 7, 1, 2)
        return np.ascontiguousarray(ordered if paired is None else pack_pairs(ordered, paired))

    key = f"Oidhi{inner}w{tile.blocks}o{lanes}{'' if paired is None else f'p{paired}'}"
    return PackedArg(Packed(conv.w, key, pack), dims, None if paired is None else "int32")
