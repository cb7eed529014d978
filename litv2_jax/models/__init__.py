"""Flax NNX modules: arrays in, arrays out."""

from litv2_jax.models.families import CLASSIFIER, MASK_RCNN, RETINANET, SEMANTIC_FPN
from litv2_jax.models.family import create_model, list_models
from litv2_jax.models.flops import count_flops

__all__ = [
    "CLASSIFIER",
    "MASK_RCNN",
    "RETINANET",
    "SEMANTIC_FPN",
    "count_flops",
    "create_model",
    "list_models",
]
