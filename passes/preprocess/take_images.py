"""take_images: a model of normalized floats becomes one of uint8 images.

    take_images(program, image)[0](pixels) == program((scale · pixels - mean) / std)

The conversion is written in front of the model as a permutation, a cast and one affine a channel, which the exact
rewrites then fold like any other: it goes into the weights of the first convolution. In front of one that pads, whose
zeros stand for a pixel of the mean, the shift stays, unless a map of what it adds at each place costs less. The
signature changes, so this is a function and not a pass.

Before:
    program(%x: f32[1, 3, 8, 8]) {
      %relu: f32[1, 3, 8, 8] = relu(%x)
      return %relu
    }

After, with mean=0.5, std=0.25:
    program(%x: u8[1, 8, 8, 3]) {
      @image.scale: f32[3, 1, 1] = [[[0.015686275]], [[0.015686275]], [[0.015686275]]]
      @image.shift: f32[3, 1, 1] = [[[-2.0]], [[-2.0]], [[-2.0]]]
      %permute: u8[1, 3, 8, 8] = permute(%x, [0, 3, 1, 2])   # preprocess
      %_to_copy: f32[1, 3, 8, 8] = _to_copy(%permute, dtype=f32)   # preprocess
      %mul: f32[1, 3, 8, 8] = mul.Tensor(%_to_copy, @image.scale)   # preprocess
      %add: f32[1, 3, 8, 8] = add.Tensor(%mul, @image.shift)   # preprocess
      %relu: f32[1, 3, 8, 8] = relu(%add)
      return %relu
    }
"""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import torch
from torch import Tensor, fx
from torch.utils._pytree import tree_map_only

from ...errors import InputError, OptionError
from ...ir.fake import Fakes
from ...ir.image import Image
from ...ir.names import WeightNames
from ...ir.program import Origin, Program
from ...ir.signature import Signature, TensorSpec

aten = torch.ops.aten
_ORIGIN = (Origin("preprocess"),)
_FLOATS = ("float32", "bfloat16", "float16", "float64")


def take_images(program: Program, image: Image) -> tuple[Program, int]:
    """The program with `image` in front, and which of its inputs takes uint8 in the layout of the images."""
    place = image_input(program.signature, image)
    weights = dict(program.weights)
    inputs = list(program.signature.inputs)
    pixels = replace(inputs[place], dtype="uint8", shape=image.extents(inputs[place].extents))
    graph, fakes, copies = fx.Graph(), Fakes(program.graph), dict[fx.Node, fx.Node]()
    holder = [node for node in program.graph.nodes if node.op == "placeholder"][place]
    for node in program.graph.nodes:
        if node.op not in ("placeholder", "get_attr") and copies[holder].op == "placeholder":
            copies[holder] = _normalize(graph, copies[holder], image, inputs[place], weights, fakes)
        copies[node] = graph.node_copy(node, copies.__getitem__)
        if node is holder:
            copies[node].meta["val"] = fakes.run(aten.empty.memory_format, (pixels.extents,), {"dtype": torch.uint8})
    inputs[place] = pixels
    signature = replace(program.signature, inputs=tuple(inputs))
    return program.evolve(graph=graph, weights=weights, signature=signature), place


def image_input(signature: Signature, image: Image) -> int:
    """Which input takes images. Raises OptionError if none does, or several do and none is named."""
    shown = f"The inputs are {', '.join(map(str, signature.inputs)) or 'none'}; Image(input=...) names one."
    if image.input is not None:
        names = [spec.name for spec in signature.inputs]
        if image.input not in names:
            raise OptionError(f"preprocess: there is no input {image.input!r}.", shown)
        found = [names.index(image.input)]
    else:
        found = [i for i, spec in enumerate(signature.inputs) if spec.dtype in _FLOATS and len(spec.shape) == 4]
    if len(found) != 1:
        what = "several inputs that may be" if found else "no input that is"
        raise OptionError(f"preprocess: the model has {what} a batch of images.", shown)
    spec = signature.inputs[found[0]]
    if spec.dtype not in _FLOATS or len(spec.shape) != 4 or image.channels not in (1, spec.extents[1]):
        channels = f"of {image.channels} channels" if image.channels > 1 else "[n, c, h, w]"
        raise OptionError(f"preprocess: input {spec} is no batch of floating images {channels}.", shown)
    return found[0]


def model_inputs(examples: Any, image: Image) -> Any:
    """Example inputs, nested in any way, with images as the model itself takes them."""

    def normalized(tensor: Tensor) -> Tensor:
        channels = tensor.shape[3 if image.layout == "NHWC" else 1] if tensor.dim() == 4 else 0
        fits = tensor.dtype is torch.uint8 and channels and image.channels in (1, channels)
        return from_pixels(tensor, image) if fits else tensor

    return tree_map_only(Tensor, normalized, examples)


def from_pixels(pixels: Tensor, image: Image, dtype: torch.dtype = torch.float32) -> Tensor:
    """What the model itself takes for these images, rounded once."""
    wide = (pixels.permute(0, 3, 1, 2) if image.layout == "NHWC" else pixels).to(torch.float64)
    factor, term = _columns(image, wide.shape[1])
    return (wide * factor + term).to(dtype).contiguous()


def to_pixels(values: Tensor, image: Image) -> Tensor:
    """The images nearest to what the model itself takes."""
    factor, term = _columns(image, values.shape[1])
    pixels = ((values.to(torch.float64) - term) / factor).round().clamp(0, 255).to(torch.uint8)
    return (pixels.permute(0, 2, 3, 1) if image.layout == "NHWC" else pixels).contiguous()


def image_item(item: Any, image: Image) -> Any:
    """A loader's item as images, where it holds what the model itself takes: pixels, normalized.

    Raises InputError for floats that no pixels give, such as unnormalized ones.
    """

    def pixels(tensor: Tensor) -> Tensor:
        fits = tensor.is_floating_point() and tensor.dim() == 4 and image.channels in (1, tensor.shape[1])
        if not fits:
            return tensor
        made = to_pixels(tensor, image)
        step = max(abs(factor) for factor in image.affine(tensor.shape[1])[0])
        if not bool(((from_pixels(made, image, torch.float64) - tensor).abs() <= 0.05 * step).all()):
            raise InputError(
                "Calibration data holds floats that are no normalized pixels of preprocess.",
                "Give uint8 images, or what this preprocessing makes of such.",
            )
        return made

    return tree_map_only(Tensor, pixels, item)


def _columns(image: Image, channels: int) -> tuple[Tensor, Tensor]:
    """(factor, term), one a channel of NCHW, in float64."""
    factor, term = (torch.tensor(v, dtype=torch.float64).reshape(-1, 1, 1) for v in image.affine(channels))
    return factor, term


def _normalize(
    graph: fx.Graph, pixels: fx.Node, image: Image, spec: TensorSpec, weights: dict[str, Tensor], fakes: Fakes
) -> fx.Node:
    """Nodes that turn pixels into what the model takes."""
    names = WeightNames(weights)
    constants = []
    for name, values in zip(("scale", "shift"), _columns(image, spec.extents[1]), strict=True):
        node = graph.create_node("get_attr", names.add(f"image.{name}", values.to(torch.float32)))
        node.meta.update(val=fakes.of(weights[str(node.target)]), origins=_ORIGIN)
        constants.append(node)

    def call(op: Any, *args: Any, **kwargs: Any) -> fx.Node:
        node = graph.create_node("call_function", op, args, kwargs, name=op.overloadpacket.__name__)
        node.meta.update(val=fakes.run(op, args, kwargs), origins=_ORIGIN)
        return node

    x = call(aten.permute.default, pixels, [0, 3, 1, 2]) if image.layout == "NHWC" else pixels
    x = call(aten._to_copy.default, x, dtype=torch.float32)
    x = call(aten.mul.Tensor, x, constants[0])
    x = call(aten.add.Tensor, x, constants[1])
    return x if spec.dtype == "float32" else call(aten._to_copy.default, x, dtype=getattr(torch, spec.dtype))
