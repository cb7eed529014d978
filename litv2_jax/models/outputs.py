"""Changes to the layer that a model ends with, whose outputs are its classes."""

from collections.abc import Sequence

import jax.numpy as jnp
from flax import nnx


def reorder_outputs(layer: nnx.Linear | nnx.Conv, order: Sequence[int]) -> None:
    """Makes output k of a layer, in place, the one that was output order[k]."""
    indices = jnp.asarray(order)
    for variable in (layer.kernel, layer.bias):
        if variable is not None:
            variable.set_value(variable.get_value()[..., indices])
