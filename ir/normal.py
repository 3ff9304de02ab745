"""What NORMALIZED forbids: for each op that has another spelling, that spelling. Data only.

verify(program at NORMALIZED)  refuses every call of a key of `RESPELLED`
"""

from __future__ import annotations

from .optable import FAMILIES, Op, _a

_RESHAPES = (
    _a.view.default,
    _a._unsafe_view.default,
    _a.flatten.using_ints,
    _a.unflatten.int,
    _a.squeeze.default,
    _a.squeeze.dim,
    _a.squeeze.dims,
    _a.unsqueeze.default,
)
_PERMUTES = (_a.transpose.int, _a.t.default, _a.movedim.int, _a.movedim.intlist, _a.swapaxes.default)
_SLICES = (
    _a.select.int,
    _a.narrow.default,
    _a.split.Tensor,
    _a.split_with_sizes.default,
    _a.chunk.default,
    _a.unbind.int,
)

RESPELLED: dict[Op, str] = {
    **dict.fromkeys((op for op in FAMILIES["conv"] if op is not _a.convolution.default), "convolution.default"),
    _a._native_batch_norm_legit_no_training.default: "batch_norm.default",
    _a.addmm.default: "linear.default or matmul.default and add.Tensor",
    **dict.fromkeys((_a.mm.default, _a.bmm.default, _a.baddbmm.default), "matmul.default"),
    **dict.fromkeys(_RESHAPES, "reshape.default"),
    **dict.fromkeys(_PERMUTES, "permute.default"),
    **dict.fromkeys(_SLICES, "slice.Tensor"),
    _a.stack.default: "reshape.default and cat.default",
    _a.instance_norm.default: "group_norm.default",
    **dict.fromkeys((_a.add.Scalar, _a.rsub.Scalar, _a.rsub.Tensor, _a.sub.Scalar), "add.Tensor or sub.Tensor"),
    **dict.fromkeys((_a.mul.Scalar, _a.div.Scalar), "mul.Tensor or div.Tensor"),
    **dict.fromkeys(
        (_a.relu6.default, _a.hardtanh.default, _a.clamp_min.default, _a.clamp_max.default), "clamp.default"
    ),
    _a.softmax.int: "_softmax.default",
    _a.log_softmax.int: "_log_softmax.default",
    **dict.fromkeys(
        (_a.clone.default, _a.contiguous.default, _a.alias.default, _a.detach.default, _a.dropout.default),
        "its own argument",
    ),
}
