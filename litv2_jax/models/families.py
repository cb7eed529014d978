"""The families of the published models."""

import dataclasses
from collections.abc import Iterator
from typing import Any

from flax import nnx

from litv2_jax.models.backbone import VARIANTS
from litv2_jax.models.classifier import Classifier, ClassifierConfig
from litv2_jax.models.detector_flops import count_detector
from litv2_jax.models.family import Family, Shapes, count_of, register, side_of
from litv2_jax.models.flops import count_classifier, count_semantic_fpn
from litv2_jax.models.fpn import Fpn
from litv2_jax.models.layer_norm import LayerNorm
from litv2_jax.models.mask_rcnn import MASK_RCNNS, MaskRcnn
from litv2_jax.models.retinanet import ANCHORS, RETINANETS, RetinaHead, RetinaNet
from litv2_jax.models.roi_heads import BoxHead, DoubleSize, MaskHead
from litv2_jax.models.rpn import RpnHead
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


def _classifier_norms(model: Classifier) -> Iterator[tuple[LayerNorm, Any]]:
    # The mean over the map, which lies between, commutes with scale and bias.
    if model.head is not None:
        yield model.norm, model.head


CLASSIFIER = register(
    Family(
        task="classification",
        module=Classifier,
        configs={name: ClassifierConfig(sizes) for name, sizes in VARIANTS.items()},
        torch_names={Classifier: {"backbone": "", "norm": "norm", "head": "head"}},
        torch_heads=("head",),
        torch_entry="model",
        torch_sizes={"num_classes": side_of("head.weight")},
        class_names="imagenet",
        describe_input=_describe_classifier_input,
        norms_to_fold=_classifier_norms,
        count_flops=count_classifier,
    )
)


# How the models with a pyramid keep the backbone's maps.
_PYRAMID = {"backbone": "backbone", "norms": "backbone.norm{}", "fpn": "neck"}
_FPN = {"laterals": "lateral_convs.{}.conv", "outputs": "fpn_convs.{}.conv"}


def _pyramid_norms(model: Any) -> Iterator[tuple[LayerNorm, Any]]:
    # The pyramid may begin at a later map; the first one may have no norm.
    first = len(model.norms) - len(model.fpn.laterals)
    for i, lateral in enumerate(model.fpn.laterals, first):
        if isinstance(model.norms[i], LayerNorm):
            yield model.norms[i], lateral


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
            SemanticFpn: _PYRAMID | {"head": "decode_head"},
            Fpn: _FPN,
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
        torch_heads=("decode_head.conv_seg",),
        torch_entry="state_dict",
        torch_sizes={
            "num_classes": side_of("decode_head.conv_seg.weight"),
            "fpn_dim": side_of("neck.lateral_convs.0.conv.weight"),
            "head_dim": side_of("decode_head.conv_seg.weight", 1),
        },
        class_names="ade20k",
        describe_input=lambda _: {"scale": (2048, 512), "multiple": 32},
        norms_to_fold=_pyramid_norms,
        count_flops=count_semantic_fpn,
    )
)


def _describe_detector_input(image_size: int) -> dict[str, Any]:
    del image_size
    return {"scale": (1333, 800), "multiple": 32}


def _retinanet_norms(model: RetinaNet) -> Iterator[tuple[LayerNorm, Any]]:
    # A coarser level reads the last map as well, with zeros around it.
    *norms, _ = _pyramid_norms(model)
    yield from norms


def _count_retina_classes(shapes: Shapes) -> int:
    return side_of("bbox_head.retina_cls.weight")(shapes) // ANCHORS.num_anchors


RETINANET = register(
    Family(
        task="detection",
        module=RetinaNet,
        configs=RETINANETS,
        torch_names={
            RetinaNet: _PYRAMID | {"head": "bbox_head"},
            RetinaHead: {
                "class_convs": "cls_convs.{}.conv",
                "box_convs": "reg_convs.{}.conv",
                "classify": "retina_cls",
                "regress": "retina_reg",
            },
            Fpn: _FPN,
        },
        torch_heads=("bbox_head.retina_cls",),
        torch_entry="state_dict",
        torch_sizes={
            "num_classes": _count_retina_classes,
            "fpn_dim": side_of("neck.lateral_convs.0.conv.weight"),
            "head_dim": side_of("bbox_head.retina_cls.weight", 1),
            "num_convs": count_of(r"bbox_head\.cls_convs\.\d+\.conv\.weight"),
        },
        class_names="coco",
        describe_input=_describe_detector_input,
        norms_to_fold=_retinanet_norms,
        count_flops=count_detector,
    )
)


def _count_roi_classes(shapes: Shapes) -> int:
    # The last output is background.
    return max(side_of("roi_head.bbox_head.fc_cls.weight")(shapes) - 1, 0)


MASK_RCNN = register(
    Family(
        task="detection",
        module=MaskRcnn,
        configs=MASK_RCNNS,
        torch_names={
            MaskRcnn: _PYRAMID
            | {
                "rpn": "rpn_head",
                "box_head": "roi_head.bbox_head",
                "mask_head": "roi_head.mask_head",
            },
            RpnHead: {"conv": "rpn_conv", "classify": "rpn_cls", "regress": "rpn_reg"},
            BoxHead: {
                "hidden": "shared_fcs.{}",
                "classify": "fc_cls",
                "regress": "fc_reg",
            },
            MaskHead: {
                "convs": "convs.{}.conv",
                "upsample": "upsample",
                "classify": "conv_logits",
            },
            DoubleSize: {"kernel": "weight", "bias": "bias"},
            Fpn: _FPN,
        },
        torch_heads=(
            "roi_head.bbox_head.fc_cls",
            "roi_head.bbox_head.fc_reg",
            "roi_head.mask_head.conv_logits",
        ),
        torch_entry="state_dict",
        torch_sizes={
            "num_classes": _count_roi_classes,
            "fpn_dim": side_of("neck.lateral_convs.0.conv.weight"),
            "head_dim": side_of("rpn_head.rpn_conv.weight"),
            "num_convs": count_of(r"roi_head\.mask_head\.convs\.\d+\.conv\.weight"),
            "hidden_dim": side_of("roi_head.bbox_head.shared_fcs.0.weight"),
        },
        class_names="coco",
        describe_input=_describe_detector_input,
        norms_to_fold=_pyramid_norms,
        count_flops=count_detector,
    )
)
