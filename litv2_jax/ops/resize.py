"""Resizing of feature maps by PyTorch's conventions, corners not aligned.

As `torch.nn.functional.interpolate` with `align_corners=False`: no antialiasing, and
positions outside the map take the value at its edge.
"""

import jax
import jax.numpy as jnp
import numpy as np


def resize_bilinear(x: jax.Array, size: tuple[int, int]) -> jax.Array:
    """Resizes linearly: [B, H, W, C] -> [B, *size, C]."""
    shape = (x.shape[0], *size, x.shape[3])
    return jax.image.resize(x, shape, "linear", antialias=False)


def resize_nearest(x: jax.Array, size: tuple[int, int]) -> jax.Array:
    """Repeats the nearest position up and left: [B, H, W, C] -> [B, *size, C]."""
    for axis, length in enumerate(size, 1):
        repeats, rest = divmod(length, x.shape[axis])
        if rest:
            # Rounded as in PyTorch, where the scale is a float32.
            scale = np.float32(x.shape[axis]) / np.float32(length)
            index = np.floor(np.arange(length, dtype=np.float32) * scale)
            x = jnp.take(x, index.astype(np.int32), axis, mode="clip")
        elif repeats > 1:
            # Its gradient is a sum and no scatter.
            x = jnp.repeat(x, repeats, axis)
    return x


def resample_bilinear(
    x: jax.Array, sizes: jax.Array, new_sizes: jax.Array, canvas: tuple[int, int]
) -> jax.Array:
    """Resizes the upper left part of each map to a size of its own, as above.

    One program serves all sizes, because they are arrays.

    Args:
        x: [B, H, W, C].
        sizes: [B, 2] integers, height and width of the part.
        new_sizes: [B, 2] integers, what they become.
        canvas: Height and width of the result, which hold the largest of these.

    Returns:
        [B, *canvas, C]; what is beyond the new size has no meaning.
    """

    def resample_one(x, size, new_size):
        for axis in (0, 1):
            length = size[axis].astype(jnp.float32)
            scale = length / new_size[axis].astype(jnp.float32)
            position = (jnp.arange(canvas[axis]) + 0.5) * scale - 0.5
            position = jnp.clip(position, 0, length - 1)
            low = jnp.floor(position).astype(jnp.int32)
            high = jnp.minimum(low + 1, size[axis] - 1)
            share = (position - low).astype(x.dtype)
            share = jnp.expand_dims(share, (1 - axis, 2))
            x = (1 - share) * jnp.take(x, low, axis) + share * jnp.take(x, high, axis)
        return x

    return jax.vmap(resample_one)(x, sizes, new_sizes)
