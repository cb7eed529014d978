"""Resizing of feature maps by PyTorch's conventions, corners not aligned.

As `torch.nn.functional.interpolate` with `align_corners=False`: no antialiasing, and
positions outside the map take the value at its edge.
"""

import jax
import jax.numpy as jnp
import numpy as np

# Values of a strip for each map, which bounds what `resample_argmax` takes: 64 MB.
_STRIP_SIZE = 2**24


def resize_bilinear(
    x: jax.Array,
    size: tuple[int, int],
    part: jax.Array | None = None,
    new_part: jax.Array | None = None,
) -> jax.Array:
    """Resizes linearly: [B, H, W, C] -> [B, *size, C].

    Args:
        x: [B, H, W, C].
        size: Height and width of the result.
        part: Integers [B, 2], height and width of what alone is resized, the upper left
            of each map; None takes all.
        new_part: What it becomes; beyond it, the result has no meaning.
    """
    if part is not None and new_part is not None:
        return resample_bilinear(x, part, new_part, size)
    shape = (x.shape[0], *size, x.shape[3])
    return jax.image.resize(x, shape, "linear", antialias=False)


def resize_nearest(
    x: jax.Array,
    size: tuple[int, int],
    part: jax.Array | None = None,
    new_part: jax.Array | None = None,
) -> jax.Array:
    """Repeats the nearest position up and left: [B, H, W, C] -> [B, *size, C].

    Args:
        x: [B, H, W, C].
        size: Height and width of the result.
        part: As in `resize_bilinear`.
        new_part: As in `resize_bilinear`.
    """
    if part is not None and new_part is not None:
        return _resample_nearest(x, part, new_part, size)
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
    x: jax.Array,
    sizes: jax.Array,
    new_sizes: jax.Array,
    canvas: tuple[int, int],
    first_row: int | jax.Array = 0,
) -> jax.Array:
    """Resizes the upper left part of each map linearly, to a size per image.

    One program serves all sizes, because they are arrays.

    Args:
        x: [B, H, W, C].
        sizes: [B, 2] integers, height and width of the part.
        new_sizes: [B, 2] integers, what they become.
        canvas: Height and width of the result, which hold the largest of these.
        first_row: Row of the resized map that the result begins with.

    Returns:
        [B, *canvas, C]; what is beyond the new size is not valid.
    """

    def resample_one(x, size, new_size):
        for axis, first in enumerate((first_row, 0)):
            length = size[axis].astype(jnp.float32)
            scale = length / new_size[axis].astype(jnp.float32)
            position = (first + jnp.arange(canvas[axis]) + 0.5) * scale - 0.5
            position = jnp.clip(position, 0, length - 1)
            low = jnp.floor(position).astype(jnp.int32)
            high = jnp.minimum(low + 1, size[axis] - 1)
            share = (position - low).astype(x.dtype)
            share = jnp.expand_dims(share, (1 - axis, 2))
            x = (1 - share) * jnp.take(x, low, axis) + share * jnp.take(x, high, axis)
        return x

    return jax.vmap(resample_one)(x, sizes, new_sizes)


def _resample_nearest(
    x: jax.Array, sizes: jax.Array, new_sizes: jax.Array, canvas: tuple[int, int]
) -> jax.Array:
    """Like `resample_bilinear`, but takes the nearest position up and left."""

    def resample_one(x, size, new_size):
        for axis in range(2):
            # Rounded as above.
            scale = size[axis].astype(jnp.float32) / new_size[axis].astype(jnp.float32)
            index = jnp.floor(jnp.arange(canvas[axis], dtype=jnp.float32) * scale)
            x = jnp.take(x, index.astype(jnp.int32), axis, mode="clip")
        return x

    return jax.vmap(resample_one)(x, sizes, new_sizes)


def resample_argmax(
    x: jax.Array, sizes: jax.Array, new_sizes: jax.Array, canvas: tuple[int, int]
) -> jax.Array:
    """Returns the largest channel of each position after `resample_bilinear`.

    Computed strip by strip: a megapixel of 150 channels takes 0.6 GB otherwise.

    Args:
        x: As in `resample_bilinear`.
        sizes: As in `resample_bilinear`.
        new_sizes: As in `resample_bilinear`.
        canvas: As in `resample_bilinear`.

    Returns:
        [B, *canvas] int32.
    """
    height, width = canvas
    rows = min(height, max(1, _STRIP_SIZE // (width * x.shape[-1])))

    def compute_strip(first_row: jax.Array) -> jax.Array:
        strip = resample_bilinear(x, sizes, new_sizes, (rows, width), first_row)
        return strip.argmax(-1).astype(jnp.int32)

    # [strips, B, rows, width]; the last strip may go beyond the canvas.
    strips = jax.lax.map(compute_strip, jnp.arange(0, height, rows))
    return strips.swapaxes(0, 1).reshape(len(x), -1, width)[:, :height]
