"""Convolution whose kernel is as wide as its stride."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
from einops import rearrange
from flax import nnx
from jax.typing import DTypeLike

from litv2_jax.ops.linear import add_bias, multiply


class PatchConv(nnx.Module):
    """Convolution with bias over patches that do not overlap.

    One matrix product of the patches. Incomplete patches at the right and bottom
    are dropped.

    Shapes: [B, H, W, C] -> [B, H // k, W // k, D].
    """

    def __init__(
        self,
        in_features: int,
        out_features: int,
        size: int,
        *,
        kernel_init: nnx.Initializer,
        bias_init: nnx.Initializer,
        dtype: DTypeLike,
        rngs: nnx.Rngs,
    ):
        """Creates the layer.

        Args:
            in_features: Channels C.
            out_features: Channels D.
            size: Side k of the patches.
            kernel_init: Of the kernel [k, k, C, D].
            bias_init: Of the bias [D].
            dtype: Type of the result; the product multiplies in the type of the input
                and adds up in this one.
            rngs: Stream `params` initialises the layer.
        """
        shape = (size, size, in_features, out_features)
        self.kernel = nnx.Param(kernel_init(rngs.params(), shape))
        self.bias = nnx.Param(bias_init(rngs.params(), (out_features,)))
        self.dtype = dtype

    def __call__(self, x: jax.Array) -> jax.Array:
        size, _, channels, features = self.kernel.shape
        rows, cols = x.shape[1] // size, x.shape[2] // size
        x = x[:, : rows * size, : cols * size]
        # What is rearranged is the smaller of the two: pixels or products.
        multiply = (
            _multiply_patches if channels < size**2 * features else _pick_products
        )
        return add_bias(multiply(x, self.kernel[...], self.dtype), self.bias[...])


def _multiply_patches(x: jax.Array, kernel: jax.Array, dtype: DTypeLike) -> jax.Array:
    """Gathers the pixels of each patch, then multiplies them at once."""
    size, _, _, features = kernel.shape
    patches = rearrange(x, "b (r s) (c t) d -> b r c (s t d)", s=size, t=size)
    kernel = kernel.reshape(-1, features)
    return multiply(patches, kernel, dtype)


def _pick_products(x: jax.Array, kernel: jax.Array, dtype: DTypeLike) -> jax.Array:
    """Multiplies every pixel with every tap, then adds up those that belong."""
    size, _, _, features = kernel.shape
    taps = rearrange(kernel, "s t d f -> d (s t f)")
    products: jax.Array = multiply(x, taps, dtype)
    # Indexing would gather, if the batch is a symbol, for export.
    belonging = [
        jax.lax.slice(
            products,
            (0, i, j, n * features),
            (*products.shape[:3], (n + 1) * features),
            (1, size, size, 1),
        )
        for n, (i, j) in enumerate(np.ndindex(size, size))
    ]
    return functools.reduce(jnp.add, belonging)
