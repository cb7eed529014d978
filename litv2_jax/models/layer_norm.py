"""Layer normalisation as PyTorch has it."""

import jax
import jax.numpy as jnp
from flax import nnx
from jax.typing import DTypeLike

from litv2_jax.ops.layer_norm import layer_norm, normalize

# PyTorch's; flax adds 1e-6.
EPSILON = 1e-5


class LayerNorm(nnx.Module):
    """Normalises the channels of each position, then scales and shifts them.

    Shapes: [..., C] -> [..., C].
    """

    def __init__(self, dim: int, *, dtype: DTypeLike, rngs: nnx.Rngs):
        self.scale = nnx.Param(jnp.ones(dim))
        self.bias = nnx.Param(jnp.zeros(dim))
        self.dtype = jnp.dtype(dtype)

    def __call__(self, x: jax.Array) -> jax.Array:
        return layer_norm(x, self.scale[...], self.bias[...], EPSILON, self.dtype)


class PlainLayerNorm(nnx.Module):
    """The same without scale and shift.

    Shapes: [..., C] -> [..., C].
    """

    def __init__(self, *, dtype: DTypeLike):
        self.dtype = jnp.dtype(dtype)

    def __call__(self, x: jax.Array) -> jax.Array:
        return normalize(x, EPSILON).astype(self.dtype)


class NoNorm(nnx.Module):
    """Identity, for a map that the original does not normalize.

    Shapes: [..., C] -> [..., C].
    """

    def __call__(self, x: jax.Array) -> jax.Array:
        return x
