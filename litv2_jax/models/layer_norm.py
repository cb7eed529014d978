"""Layer normalisation as PyTorch has it."""

import jax
import jax.numpy as jnp
from flax import nnx
from jax.typing import DTypeLike

from litv2_jax.ops.layer_norm import layer_norm, normalize

# PyTorch's; flax adds 1e-6.
EPSILON = 1e-5


class LayerNorm(nnx.Module):
    """Normalizes the channels of each position, then scales and shifts them.

    Where `fuse_for_inference` has folded scale and bias into the layer after it, it
    only normalizes.

    Shapes: [..., C] -> [..., C].
    """

    def __init__(self, dim: int, *, dtype: DTypeLike, rngs: nnx.Rngs):
        self.scale: nnx.Param | None = nnx.Param(jnp.ones(dim))
        self.bias: nnx.Param | None = nnx.Param(jnp.zeros(dim))
        self.dtype = jnp.dtype(dtype)

    def __call__(self, x: jax.Array) -> jax.Array:
        if self.scale is None or self.bias is None:
            return normalize(x, EPSILON).astype(self.dtype)
        return layer_norm(x, self.scale[...], self.bias[...], EPSILON, self.dtype)

    def remove_affine(self) -> None:
        """Drops scale and bias, which another layer has taken over."""
        self.scale = self.bias = None


class NoNorm(nnx.Module):
    """Identity, for a map that the original does not normalize.

    Shapes: [..., C] -> [..., C].
    """

    def __call__(self, x: jax.Array) -> jax.Array:
        return x
