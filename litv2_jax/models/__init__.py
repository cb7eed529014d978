"""Flax NNX modules: arrays in, arrays out."""

import dataclasses
from collections.abc import Sequence
from typing import Any

import jax.numpy as jnp
from flax import nnx
from jax.typing import DTypeLike

from litv2_jax.models.backbone import VARIANTS, BackboneConfig
from litv2_jax.models.classifier import Classifier
from litv2_jax.models.mask_rcnn import MASK_RCNNS, MaskRcnn
from litv2_jax.models.retinanet import RETINANETS, RetinaNet
from litv2_jax.models.semantic_fpn import SemanticFpn

Model = Classifier | SemanticFpn | RetinaNet | MaskRcnn

# Name to class, sizes of the backbone, and published number of classes.
MODELS: dict[str, tuple[type[Model], BackboneConfig, int]] = {
    **{name: (Classifier, config, 1000) for name, config in VARIANTS.items()},
    **{
        f"semantic_fpn_{name}": (
            SemanticFpn,
            dataclasses.replace(VARIANTS[name], drop_path_rate=rate),
            150,
        )
        for name, rate in (("litv2_s", 0.2), ("litv2_m", 0.2), ("litv2_b", 0.3))
    },
    **{name: (RetinaNet, config, 80) for name, config in RETINANETS.items()},
    **{name: (MaskRcnn, config, 80) for name, config in MASK_RCNNS.items()},
}


KINDS: dict[str, tuple[type[Model], ...]] = {
    "classification": (Classifier,),
    "segmentation": (SemanticFpn,),
    "detection": (RetinaNet, MaskRcnn),
}

# What they have beside a backbone and classes.
OPTIONS: dict[type[Model], tuple[str, ...]] = {
    Classifier: (),
    SemanticFpn: ("fpn_dim", "head_dim", "dropout_rate"),
    RetinaNet: ("fpn_dim", "head_dim", "num_convs"),
    MaskRcnn: ("fpn_dim", "head_dim", "num_convs", "hidden_dim"),
}


def list_models(task: str = "classification") -> list[str]:
    """Returns the names that `create_model` knows.

    Args:
        task: What the models are for, `classification`, `segmentation` or `detection`.

    Raises:
        ValueError: If there are no models for it.
    """
    if task not in KINDS:
        raise ValueError(f"There are no models for {task!r}; use {' or '.join(KINDS)}.")
    return [name for name, (kind, *_) in MODELS.items() if kind in KINDS[task]]


def create_model(
    name: str,
    *,
    rngs: nnx.Rngs,
    num_classes: int | None = None,
    embed_dim: int | None = None,
    depths: Sequence[int] | None = None,
    num_heads: Sequence[int] | None = None,
    window_sizes: Sequence[int] | None = None,
    alpha: float | None = None,
    drop_path_rate: float | None = None,
    fpn_dim: int | None = None,
    head_dim: int | None = None,
    dropout_rate: float | None = None,
    num_convs: int | None = None,
    hidden_dim: int | None = None,
    dtype: DTypeLike = jnp.float32,
) -> Any:
    """Creates a model with new weights, ready for inference.

    Sizes that are not given are the published ones of the model; the sequences have one
    entry for each of the four stages. `models.backbone.BackboneConfig` explains them.

    Args:
        name: One of `list_models(task)`.
        rngs: Stream `params` initialises the weights.
        num_classes: Size of the logits.
        embed_dim: Channels of the first stage, which each further stage doubles.
        depths: Number of blocks.
        num_heads: Attention heads.
        window_sizes: Side of the HiLo windows; 0 means no attention.
        alpha: Share of the heads that are Lo-Fi.
        drop_path_rate: Stochastic depth of the last block, in training.
        fpn_dim: Channels of the feature pyramid, in all but classifiers.
        head_dim: Channels of the head, in all but classifiers.
        dropout_rate: Share of these that training drops, in Semantic FPN alone.
        num_convs: Convolutions before an output of the head, in detectors alone.
        hidden_dim: Hidden channels of the box head, in Mask R-CNN alone.
        dtype: Type of the computation, float32 or bfloat16; parameters, softmax,
            statistics of the norms and logits stay float32.

    Raises:
        ValueError: If the name is unknown, a size is impossible, or the model has none
            such.
    """
    if name not in MODELS:
        known = ", ".join(MODELS)
        raise ValueError(f"There is no model called {name!r}; there are {known}.")
    kind, config, published_classes = MODELS[name]
    sizes = {
        "embed_dim": embed_dim,
        "depths": depths,
        "num_heads": num_heads,
        "window_sizes": window_sizes,
        "alpha": alpha,
        "drop_path_rate": drop_path_rate,
    }
    options = {
        "fpn_dim": fpn_dim,
        "head_dim": head_dim,
        "dropout_rate": dropout_rate,
        "num_convs": num_convs,
        "hidden_dim": hidden_dim,
    }
    options = _given(options)
    if unknown := [option for option in options if option not in OPTIONS[kind]]:
        noun = "classifier" if kind is Classifier else kind.__name__
        raise ValueError(f"{name} is a {noun} and has no {', '.join(unknown)}.")
    if num_classes is None:
        num_classes = published_classes
    config = dataclasses.replace(config, **_given(sizes))
    return kind(config, num_classes=num_classes, dtype=dtype, rngs=rngs, **options)


def _given(options: dict[str, Any]) -> dict[str, Any]:
    return {name: value for name, value in options.items() if value is not None}
