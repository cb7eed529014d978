"""Random erasing (arXiv:1708.04896), as timm's RandomErasing in its mode `pixel`."""

import jax
import jax.numpy as jnp

# Bounds of the erased fraction of the image, and of height over width.
AREA = (0.02, 1 / 3)
ASPECT = (0.3, 1 / 0.3)
NUM_ATTEMPTS = 10


def erase(images: jax.Array, key: jax.Array, *, probability: float) -> jax.Array:
    """Replaces a box of some images by noise.

    Args:
        images: [B, H, W, 3] float, normalized.
        key: Chooses images, boxes and noise.
        probability: Probability that an image loses a box.

    Returns:
        [B, H, W, 3].
    """
    num_images, height, width, channels = images.shape
    size = (height, width)
    whether, where, what = jax.random.split(key, 3)
    is_erased = jax.random.bernoulli(whether, probability, (num_images,))
    boxes = draw_boxes(where, num_images, size)
    inside = is_erased[:, None, None] & cover(boxes, size)
    # A third of the image's pixels: drawing a number takes longer than fetching it.
    shape = (num_images, count_most_pixels(size), channels)
    noise = fill(boxes, jax.random.normal(what, shape, images.dtype), size)
    return jnp.where(inside[..., None], noise, images)


def draw_boxes(key: jax.Array, num_boxes: int, size: tuple[int, int]) -> jax.Array:
    """Returns boxes [B, 4] int32 within an image; empty where no attempt fits.

    Args:
        key: Random key.
        num_boxes: B.
        size: H and W.
    """
    height, width = size
    shape = (num_boxes, NUM_ATTEMPTS)
    area_key, aspect_key, top_key, left_key = jax.random.split(key, 4)
    area = (
        height
        * width
        * jax.random.uniform(area_key, shape, minval=AREA[0], maxval=AREA[1])
    )
    low, high = jnp.log(jnp.array(ASPECT))
    aspect = jnp.exp(jax.random.uniform(aspect_key, shape, minval=low, maxval=high))
    heights = jnp.round(jnp.sqrt(area * aspect)).astype(jnp.int32)
    widths = jnp.round(jnp.sqrt(area / aspect)).astype(jnp.int32)
    fits = (heights < height) & (widths < width)
    chosen = jnp.argmax(fits, axis=1, keepdims=True)
    heights, widths = (
        jnp.take_along_axis(jnp.where(fits, sides, 0), chosen, axis=1)[:, 0]
        for sides in (heights, widths)
    )
    top = jax.random.randint(top_key, (num_boxes,), 0, height - heights + 1)
    left = jax.random.randint(left_key, (num_boxes,), 0, width - widths + 1)
    return jnp.stack([left, top, left + widths, top + heights], axis=-1)


def cover(boxes: jax.Array, size: tuple[int, int]) -> jax.Array:
    """Returns [B, H, W] bool, which pixels lie inside a box.

    Args:
        boxes: [B, 4] int.
        size: H and W.
    """
    left, top, right, bottom = (boxes[:, i, None, None] for i in range(4))
    rows = jnp.arange(size[0])[None, :, None]
    columns = jnp.arange(size[1])[None, None]
    is_row, is_column = (
        (positions >= start) & (positions < stop)
        for positions, start, stop in ((rows, top, bottom), (columns, left, right))
    )
    return is_row & is_column


def count_most_pixels(size: tuple[int, int]) -> int:
    """Returns how many pixels a box of `draw_boxes` has at most.

    Args:
        size: H and W.
    """
    height, width = size
    # Rounding makes each side at most half a pixel longer.
    return min(height * width, int(height * width * AREA[1] + (height + width) / 2) + 1)


def fill(boxes: jax.Array, values: jax.Array, size: tuple[int, int]) -> jax.Array:
    """Fills each box with its values, row by row.

    Args:
        boxes: [B, 4] int.
        values: [B, N, C], of which each box takes as many as it has pixels.
        size: H and W.

    Returns:
        [B, H, W, C]; outside of the boxes, any of the values.
    """
    left, top, right, _ = (boxes[:, i, None, None] for i in range(4))
    rows = jnp.arange(size[0])[None, :, None] - top
    columns = jnp.arange(size[1])[None, None] - left
    places = rows * (right - left) + columns
    # By vmap, so that the batch axis stays sharded.
    return jax.vmap(lambda x, i: jnp.take(x, i, axis=0, mode="clip"))(values, places)
