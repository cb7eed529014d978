"""Histograms of images, as Pillow counts them."""

import jax
import jax.numpy as jnp

from litv2_jax.ops.implementations import Operation

NUM_LEVELS = 256
_BASE = 16  # Of a level's two digits.


def count_levels(images: jax.Array) -> jax.Array:
    """Returns [B, 256, 3] int32, how many pixels have each level.

    Args:
        images: [B, H, W, 3] uint8, of at most 2**24 pixels.
    """
    return _HISTOGRAM(images.reshape(images.shape[0], -1, images.shape[-1]))


def _count_by_scatter(pixels: jax.Array) -> jax.Array:
    """One addition for each pixel."""
    # By vmap, so that the batch axis stays sharded: an index into it would be gathered.
    count_channels = jax.vmap(_count, in_axes=1, out_axes=1)
    return jax.vmap(count_channels)(pixels)


def _count(values: jax.Array) -> jax.Array:
    return jnp.zeros(NUM_LEVELS, jnp.int32).at[values.astype(jnp.int32)].add(1)


def _count_by_product(pixels: jax.Array) -> jax.Array:
    """Pairs of digits to base 16, counted by a matrix product, whose sums are exact.

    On a GPU, additions to 256 places wait for each other, the longer the more uniform
    an image is.
    """
    high, low = (
        jax.nn.one_hot(digit, _BASE, dtype=jnp.bfloat16)
        for digit in jnp.divmod(pixels, _BASE)
    )
    counts = jnp.einsum(
        "bpch,bpcl->bhlc", high, low, preferred_element_type=jnp.float32
    )
    return counts.reshape(-1, NUM_LEVELS, pixels.shape[-1]).astype(jnp.int32)


# Pixels [B, H W, C] uint8 -> counts [B, 256, C] int32.
_HISTOGRAM = Operation(
    "histogram",
    {"scatter": _count_by_scatter, "product": _count_by_product},
    cpu="scatter",
    default="product",
)
