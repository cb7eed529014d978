"""Normalizes pixels as the published models expect them."""

import jax
import jax.numpy as jnp

from litv2_jax.ops.canvas import zero_beyond

# Of ImageNet's red, green and blue, for pixels in [0, 1].
MEAN = (0.485, 0.456, 0.406)
STD = (0.229, 0.224, 0.225)


def normalize(images: jax.Array) -> jax.Array:
    """Subtracts ImageNet's mean and divides by its standard deviation.

    Args:
        images: [B, H, W, 3] uint8.

    Returns:
        [B, H, W, 3] float32.

    Raises:
        ValueError: If the images have other than three channels.
    """
    if images.shape[-1] != len(MEAN):
        raise ValueError(
            f"Images have {images.shape[-1]} channels, but ImageNet's mean and "
            f"deviation are those of {len(MEAN)}, red, green and blue: normalize them "
            "by those of your data."
        )
    mean, std = (jnp.asarray(x)[None, None, None] for x in (MEAN, STD))
    return (images.astype(jnp.float32) / 255 - mean) / std


def normalize_inside(images: jax.Array, sizes: jax.Array) -> jax.Array:
    """Normalizes images and sets their padding, beyond their sizes, to zero.

    Args:
        images: [B, H, W, 3] uint8.
        sizes: [B, 2] integers, height and width of each.

    Returns:
        [B, H, W, 3] float32.
    """
    return zero_beyond(normalize(images), sizes)


def denormalize(images: jax.Array) -> jax.Array:
    """Undoes `normalize`, to look at images: [B, H, W, 3] float to uint8."""
    mean, std = (jnp.asarray(x)[None, None, None] for x in (MEAN, STD))
    pixels = jnp.rint((images * std + mean) * 255)
    return jnp.clip(pixels, 0, 255).astype(jnp.uint8)
