"""Flax NNX modules: arrays in, arrays out."""

import dataclasses
from collections.abc import Sequence

import jax.numpy as jnp
from flax import nnx
from jax.typing import DTypeLike

from litv2_jax.models.backbone import VARIANTS
from litv2_jax.models.classifier import Classifier


def list_models() -> list[str]:
    """Returns the names that `create_model` knows."""
    return list(VARIANTS)


def create_model(
    name: str,
    *,
    rngs: nnx.Rngs,
    num_classes: int = 1000,
    embed_dim: int | None = None,
    depths: Sequence[int] | None = None,
    num_heads: Sequence[int] | None = None,
    window_sizes: Sequence[int] | None = None,
    alpha: float | None = None,
    drop_path_rate: float | None = None,
    dtype: DTypeLike = jnp.float32,
) -> Classifier:
    """Creates a model with new weights, ready for inference.

    Sizes that are not given are the published ones of the variant; the sequences have
    one entry for each of the four stages. `models.backbone.BackboneConfig` explains
    them.

    Args:
        name: One of `list_models()`.
        rngs: Stream `params` initialises the weights.
        num_classes: Size of the logits.
        embed_dim: Channels of the first stage, which each further stage doubles.
        depths: Number of blocks.
        num_heads: Attention heads.
        window_sizes: Side of the HiLo windows; 0 means no attention.
        alpha: Share of the heads that are Lo-Fi.
        drop_path_rate: Stochastic depth of the last block, in training.
        dtype: Type of the computation, float32 or bfloat16; parameters, softmax,
            statistics of the norms and logits stay float32.

    Raises:
        ValueError: If the name is unknown or a size is impossible.
    """
    if name not in VARIANTS:
        known = ", ".join(VARIANTS)
        raise ValueError(f"There is no model called {name!r}; there are {known}.")
    sizes = {
        "embed_dim": embed_dim,
        "depths": depths,
        "num_heads": num_heads,
        "window_sizes": window_sizes,
        "alpha": alpha,
        "drop_path_rate": drop_path_rate,
    }
    given = {key: value for key, value in sizes.items() if value is not None}
    config = dataclasses.replace(VARIANTS[name], **given)
    return Classifier(config, num_classes=num_classes, dtype=dtype, rngs=rngs)
