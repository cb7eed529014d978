"""The arrays of a model, in plain dictionaries."""

from typing import Any

import jax.numpy as jnp
from flax import nnx


def find_dtype(model: nnx.Module) -> jnp.dtype:
    """Returns the narrowest type that a layer of a model computes in."""
    layers = (layer for _, layer in nnx.iter_modules(model))
    types = [jnp.dtype(layer.dtype) for layer in layers if hasattr(layer, "dtype")]
    return min(types, key=lambda x: x.itemsize, default=jnp.dtype(jnp.float32))


def split_state(model: nnx.Module) -> tuple[dict[str, Any], dict[str, Any]]:
    """Returns weights and running statistics."""
    _, params, stats = nnx.split(model, nnx.Param, nnx.BatchStat)
    return nnx.to_pure_dict(params), nnx.to_pure_dict(stats)
