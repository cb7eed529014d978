"""Weights from wherever they are: the one place that resolves what a user names."""

from litv2_jax.weights.loading import HEADS, Loaded, Weights
from litv2_jax.weights.model_folder import save_pretrained
from litv2_jax.weights.opening import explain_download, open_weights
from litv2_jax.weights.published import WeightsText, parse_weights

__all__ = [
    "HEADS",
    "Loaded",
    "Weights",
    "WeightsText",
    "explain_download",
    "open_weights",
    "parse_weights",
    "save_pretrained",
]
