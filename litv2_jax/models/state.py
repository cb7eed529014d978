"""The arrays of a model, in plain dictionaries."""

from typing import Any

import jax.numpy as jnp
from flax import nnx


def find_dtype(model: nnx.Module) -> jnp.dtype:
    """Returns the narrowest type that a layer of a model computes in."""
    found = (getattr(layer, "dtype", None) for _, layer in nnx.iter_modules(model))
    types = [jnp.dtype(dtype) for dtype in found if dtype is not None]
    return min(types, key=lambda x: x.itemsize, default=jnp.dtype(jnp.float32))


def split_state(model: nnx.Module) -> tuple[dict[str, Any], dict[str, Any]]:
    """Returns weights and running statistics."""
    _, params, stats = nnx.split(model, nnx.Param, nnx.BatchStat)
    return nnx.to_pure_dict(params), nnx.to_pure_dict(stats)
