"""The zoo: every architecture planish names, in plain PyTorch, each with a small and a full size."""

from __future__ import annotations

from . import (
    convnext,
    densenet,
    efficientnet,
    fastvit,
    inception,
    language,
    mobilenet,
    mobileone,
    regnet,
    repvgg,
    resnet,
    swin,
    vgg,
    vit,
)  # fmt: skip
from .common import Entry, Sample, Size, image

__all__ = ["MORE", "ZOO", "Entry", "Sample", "Size", "find"]

PREACTIVATION = "DenseNet normalizes a concatenation that other layers read too"

V3_LARGE_SMALL = tuple(mobilenet.V3_LARGE[i] for i in (0, 1, 3, 4, 6, 10, 12))
V3_SMALL_SMALL = tuple(mobilenet.V3_SMALL[i] for i in (0, 1, 2, 3, 4, 8))

ZOO: tuple[Entry, ...] = (
    Entry(
        "resnet18", resnet.resnet18, Size(image(32), {"width": 12, "classes": 10}), Size(image(224)),
        parameters=11_689_512,
    ),
    Entry(
        "resnet50", resnet.resnet50, Size(image(32), {"width": 8, "depths": (1, 2, 1, 1), "classes": 10}),
        Size(image(224)), parameters=25_557_032,
    ),
    Entry(
        "mobilenet_v2", mobilenet.mobilenet_v2,
        Size(image(32), {"width": 0.25, "divisor": 4, "depth": 0.5, "classes": 10}), Size(image(224)),
        parameters=3_504_872,
    ),
    Entry(
        "mobilenet_v3_large", mobilenet.mobilenet_v3_large,
        Size(image(32), {"width": 0.25, "divisor": 4, "rows": V3_LARGE_SMALL, "hidden": 36, "classes": 10}),
        Size(image(224)), parameters=5_483_032,
    ),
    Entry(
        "mobilenet_v3_small", mobilenet.mobilenet_v3_small,
        Size(image(32), {"width": 0.25, "divisor": 4, "rows": V3_SMALL_SMALL, "hidden": 36, "classes": 10}),
        Size(image(224)), parameters=2_542_856,
    ),
    Entry(
        "inception_v3", inception.inception_v3, Size(image(75), {"width": 0.125, "classes": 10}), Size(image(299)),
        parameters=23_834_568,
    ),
    Entry(
        "densenet121", densenet.densenet121, Size(image(32), {"growth": 12, "depths": (2, 3, 2), "classes": 10}),
        Size(image(224)), parameters=7_978_856, affine_left=PREACTIVATION,
    ),
    Entry(
        "vgg11_bn", vgg.vgg11_bn, Size(image(32), {"width": 0.125, "hidden": 36, "classes": 10}), Size(image(224)),
        parameters=132_868_840,
    ),
    Entry(
        "vgg16", vgg.vgg16, Size(image(32), {"width": 0.125, "hidden": 36, "classes": 10}), Size(image(224)),
        parameters=138_357_544,
    ),
    Entry(
        "squeezenet1_1", vgg.squeezenet1_1, Size(image(47), {"width": 0.25, "classes": 10}), Size(image(224)),
        parameters=1_235_496,
    ),
    Entry(
        "regnet_x_400mf", regnet.regnet_x_400mf,
        Size(image(32), {"depth": 5, "w0": 16, "wa": 13.0, "group": 8, "classes": 10}), Size(image(224)),
        parameters=5_495_976,
    ),
    Entry(
        "regnet_y_400mf", regnet.regnet_y_400mf,
        Size(image(32), {"depth": 5, "w0": 16, "wa": 13.0, "group": 8, "classes": 10}), Size(image(224)),
        parameters=4_344_144,
    ),
    Entry(
        "repvgg_a0", repvgg.repvgg_a0,
        Size(image(33), {"widths": (12, 12, 20, 40), "depths": (2, 2, 1), "classes": 10}),
        Size(image(224)), parameters=9_108_968,
    ),
    Entry(
        "repvgg_a0_merged", repvgg.repvgg_a0,
        Size(image(33), {"widths": (12, 12, 20, 40), "depths": (2, 2, 1), "classes": 10, "merged": True}),
        Size(image(224), {"merged": True}), parameters=8_309_384,
    ),
    Entry(
        "efficientnet_b0", efficientnet.efficientnet_b0,
        Size(image(32), {"width": 0.25, "divisor": 4, "depth": 0.5, "classes": 10}), Size(image(224)),
        parameters=5_288_548,
    ),
    Entry(
        "convnext_tiny", convnext.convnext_tiny,
        Size(image(32), {"dims": (12, 24, 36, 48), "depths": (1, 1, 2, 1), "classes": 10}), Size(image(224)),
        parameters=28_589_128,
    ),
    Entry(
        "deit_tiny", vit.vit, Size(image(32), {"dim": 24, "depth": 2, "image": 32, "patch": 8, "classes": 10}),
        Size(image(224)), "transformer", 5_717_416,
    ),
    Entry(
        "deit_small", vit.vit,
        Size(
            image(48),
            {"dim": 40, "depth": 2, "heads": 5, "image": 48, "patch": 8, "attention": "manual", "classes": 10},
        ),
        Size(image(224), {"dim": 384, "heads": 6}), "transformer", 22_050_664,
    ),
    Entry(
        "vit_small", vit.vit,
        Size(
            image(32),
            {"dim": 32, "depth": 2, "heads": 4, "image": 32, "patch": 8, "attention": "module", "classes": 10},
        ),
        Size(image(224), {"dim": 384, "heads": 6, "attention": "module"}), "transformer", 22_050_664,
    ),
    Entry(
        "swin_tiny", swin.swin_tiny,
        Size(image(32), {"dim": 12, "depths": (2, 2), "heads": (2, 3), "image": 32, "window": 4, "classes": 10}),
        Size(image(224)), "transformer", 28_288_354,
    ),
    Entry(
        "swin_tiny_traced_mask", swin.swin_tiny,
        Size(
            image(32),
            {
                "dim": 12, "depths": (2, 2), "heads": (2, 3), "image": 32, "window": 4, "classes": 10,
                "traced_mask": True,
            },
        ),
        Size(image(224), {"traced_mask": True}), "transformer", 28_288_354,
    ),
    Entry(
        "mixer_b16", vit.mixer_b16, Size(image(32), {"dim": 20, "depth": 2, "image": 32, "patch": 8, "classes": 10}),
        Size(image(224)), "transformer", 59_880_472,
    ),
    Entry(
        "bert_base", language.bert,
        Size(language.masked_tokens(50, 12), {"vocabulary": 50, "length": 16, "dim": 24, "depth": 2, "heads": 3}),
        Size(language.masked_tokens(30522, 128)), "transformer", 109_482_240,
    ),
    Entry(
        "gpt2", language.gpt,
        Size(language.tokens(50, 12), {"vocabulary": 50, "length": 16, "dim": 24, "depth": 2, "heads": 3}),
        Size(language.tokens(50257, 128)), "transformer", 124_439_808,
    ),
    Entry(
        "gpt2_manual", language.gpt,
        Size(
            language.tokens(50, 12),
            {"vocabulary": 50, "length": 16, "dim": 24, "depth": 2, "heads": 3, "manual": True},
        ),
        Size(language.tokens(50257, 128), {"manual": True}), "transformer", 124_439_808,
    ),
)  # fmt: skip

MORE: tuple[Entry, ...] = (
    Entry(
        "mobileone_s0", mobileone.mobileone_s0,
        Size(image(33), {"widths": (12, 12, 20), "depths": (2, 2), "branches": 2, "classes": 10}), Size(image(224)),
    ),
    Entry(
        "fastvit_t8", fastvit.fastvit_t8,
        Size(image(33), {"dims": (12, 24), "depths": (2, 1), "classes": 10}), Size(image(224)),
    ),
    Entry(
        "deit_small_un", vit.unified_vit,
        Size(image(48), {"dim": 40, "depth": 2, "heads": 5, "image": 48, "patch": 8, "classes": 10}),
        Size(image(224), {"dim": 384, "heads": 6}), "transformer",
    ),
)  # fmt: skip
"""What benchmarks compare with networks of the zoo; tests of their own, not those of every network."""


def find(name: str) -> Entry:
    """The entry of that name."""
    for entry in (*ZOO, *MORE):
        if entry.name == name:
            return entry
    raise KeyError(f"no {name!r} in the zoo; it has {', '.join(e.name for e in (*ZOO, *MORE))}")
