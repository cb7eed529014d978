"""Flax NNX modules: arrays in, arrays out."""

from litv2_jax.models.families import CLASSIFIER, SEMANTIC_FPN
from litv2_jax.models.family import create_model, list_models

__all__ = ["CLASSIFIER", "SEMANTIC_FPN", "create_model", "list_models"]
