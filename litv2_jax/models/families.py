"""The families of the published models."""

import dataclasses
from collections.abc import Iterator
from typing import Any

from flax import nnx

from litv2_jax.models.backbone import VARIANTS
from litv2_jax.models.classifier import Classifier, ClassifierConfig
from litv2_jax.models.family import Family, register
from litv2_jax.models.flops import count_classifier, count_semantic_fpn
from litv2_jax.models.fpn import Fpn
from litv2_jax.models.semantic_fpn import (
    Branch,
    ConvNormRelu,
    SemanticFpn,
    SemanticFpnConfig,
    SemanticFpnHead,
    Upsample,
)


def _describe_classifier_input(image_size: int) -> dict[str, Any]:
    # The original resizes the whole image to 384 pixels, and crops at 224.
    return {"image_size": image_size, "crop": 1.0 if image_size == 384 else 0.875}


def _classifier_norms(model: Classifier) -> Iterator[tuple[Any, str | int, Any]]:
    # The mean over the map, which lies between, commutes with scale and bias.
    yield model, "norm", model.head


CLASSIFIER = register(
    Family(
        task="classification",
        module=Classifier,
        configs={name: ClassifierConfig(sizes) for name, sizes in VARIANTS.items()},
        torch_names={Classifier: {"backbone": "", "norm": "norm", "head": "head"}},
        torch_head="head",
        torch_entry="model",
        torch_sizes={"num_classes": ("head.weight", 0)},
        class_names="imagenet",
        describe_input=_describe_classifier_input,
        norms_to_fold=_classifier_norms,
        count_flops=count_classifier,
    )
)


def _semantic_fpn_norms(model: SemanticFpn) -> Iterator[tuple[Any, str | int, Any]]:
    for i, lateral in enumerate(model.fpn.laterals):
        yield model.norms, i, lateral


SEMANTIC_FPN = register(
    Family(
        task="segmentation",
        module=SemanticFpn,
        configs={
            f"semantic_fpn_{name}": SemanticFpnConfig(
                dataclasses.replace(VARIANTS[name], drop_path_rate=rate)
            )
            for name, rate in (("litv2_s", 0.2), ("litv2_m", 0.2), ("litv2_b", 0.3))
        },
        torch_names={
            SemanticFpn: {
                "backbone": "backbone",
                "norms": "backbone.norm{}",
                "fpn": "neck",
                "head": "decode_head",
            },
            Fpn: {"laterals": "lateral_convs.{}.conv", "outputs": "fpn_convs.{}.conv"},
            SemanticFpnHead: {
                "branches": "scale_heads.{}",
                "dropout": "dropout",
                "classify": "conv_seg",
            },
            Branch: {"layers": "{}"},
            ConvNormRelu: {"conv": "conv", "norm": "bn"},
            Upsample: {},
            nnx.Dropout: {},
        },
        torch_head="decode_head.conv_seg",
        torch_entry="state_dict",
        torch_sizes={
            "num_classes": ("decode_head.conv_seg.weight", 0),
            "fpn_dim": ("neck.lateral_convs.0.conv.weight", 0),
            "head_dim": ("decode_head.conv_seg.weight", 1),
        },
        class_names="ade20k",
        describe_input=lambda _: {"scale": (2048, 512), "multiple": 32},
        norms_to_fold=_semantic_fpn_norms,
        count_flops=count_semantic_fpn,
    )
)
