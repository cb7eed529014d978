"""Images of different sizes in one canvas, each in the upper left corner.

What lies beyond an image must not reach it: it is zero before each operation that mixes
neighbors, like what lies outside of a map, and no attention has keys there.
"""

import jax
import jax.numpy as jnp


def zero_beyond(x: jax.Array, sizes: jax.Array | None) -> jax.Array:
    """Returns maps [B, H, W, C] that are zero beyond their images.

    Args:
        x: [B, H, W, C].
        sizes: Integers [B, 2], height and width of the image's part of each map; None
            leaves everything as it is.
    """
    if sizes is None:
        return x
    rows, columns = (jnp.arange(side)[None] for side in x.shape[1:3])
    is_inside = (rows < sizes[:, :1])[:, :, None] & (columns < sizes[:, 1:])[:, None]
    return jnp.where(is_inside[..., None], x, jnp.zeros((), x.dtype))


def mirror_inside(x: jax.Array, sizes: jax.Array) -> jax.Array:
    """Mirrors each image left and right, within its part of the map.

    Args:
        x: [B, H, W, C]; what is beyond the images stays.
        sizes: Integers [B, 2], height and width of the image's part of each map.
    """
    columns = jnp.arange(x.shape[2])

    def mirror(pixels: jax.Array, width: jax.Array) -> jax.Array:
        source = jnp.where(columns < width, width - 1 - columns, columns)
        return jnp.take(pixels, source, axis=1)

    return jax.vmap(mirror)(x, sizes[:, 1])


def pack_inside(x: jax.Array, sizes: jax.Array) -> jax.Array:
    """Moves each image's positions to the front of its map, row by row.

    Args:
        x: [B, H, W, C].
        sizes: Integers [B, 2], height and width of the image's part of each map.

    Returns:
        [B, H, W, C], of whose positions in a row the first height * width are those of
        the image, in their order; the others have no meaning.
    """
    height, width = x.shape[1:3]

    def pack(pixels: jax.Array, size: jax.Array) -> jax.Array:
        row, column = jnp.divmod(jnp.arange(height * width), size[1])
        return jnp.take(pixels, row * width + column, axis=0, mode="clip")

    pixels = x.reshape(x.shape[0], height * width, -1)
    return jax.vmap(pack)(pixels, sizes).reshape(x.shape)
