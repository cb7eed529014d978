"""Targets of the mask head on the device, and its masks in images on the host."""

import jax
import jax.numpy as jnp
import numpy as np

SIDE = 28  # Of what the mask head predicts.


def create_mask_targets(
    masks: jax.Array,
    boxes: jax.Array,
    *,
    image_size: jax.Array,
    row_map: jax.Array,
    column_map: jax.Array,
) -> jax.Array:
    """Returns what the mask head is to predict inside each box of one image.

    As mmdetection's `crop_and_resize` of masks that were resized by nearest neighbor
    and mirrored together with the image: RoIAlign, and 1 from a half on. All of it is
    linear, so the weights of the image's rows are added up at the rows of the file that
    they show, and masks are never resized. It takes 4 bytes per pixel of each mask at
    once: use `jax.lax.map` over images where memory is short.

    Args:
        masks: uint8 [P, H, W] of 0 and 1 at the size of the file, padded: that of the
            true box of each box.
        boxes: [P, 4] in pixels of the image; no image is read beyond its border.
        image_size: Integers [2], height and width of the resized image.
        row_map: int32 [..] of `map_pixels`: which row of the file each row of the image
            shows; no longer than the canvas.
        column_map: int32 [..] likewise.

    Returns:
        float32 [P, 28, 28] of 0 and 1.
    """
    boxes = jax.lax.stop_gradient(boxes.astype(jnp.float32))
    weights = [
        _weigh_pixels(
            jnp.clip(boxes[:, axis], 0, image_size[1 - axis]) - 0.5,
            jnp.clip(boxes[:, axis + 2], 0, image_size[1 - axis]) - 0.5,
            image_size[1 - axis],
            source,
            masks.shape[2 - axis],
        )
        for axis, source in ((1, row_map), (0, column_map))
    ]
    # With fewer digits, such as those of TF32, a mean may cross a half.
    values = jnp.einsum(
        "npy,nyx->npx", weights[0], masks.astype(jnp.float32), precision="highest"
    )
    values = jnp.einsum("npx,nqx->npq", values, weights[1], precision="highest")
    return (values >= 0.5).astype(jnp.float32)


def _weigh_pixels(
    low: jax.Array, high: jax.Array, size: jax.Array, source: jax.Array, length: int
) -> jax.Array:
    """Returns the weight of each row of the file in each bin, [P, 28, length].

    Args:
        low: [P] where boxes begin, the centers of rows being whole numbers.
        high: [P] where they end.
        size: Rows of the image.
        source: int32 [..], the row of the file that each row of the image shows.
        length: Rows of the file, padded.
    """
    step = ((high - low) / SIDE)[:, None, None]
    count = jnp.ceil(step)
    counted = jnp.maximum(count, 1)
    # Most samples that a bin of a box of the whole image has.
    number = jnp.arange(-(-source.shape[0] // SIDE))[None, None]
    place = low[:, None, None] + step * jnp.arange(SIDE)[None, :, None]
    place = place + (number + 0.5) * step / counted
    is_sample = (number < count) & (place >= -1) & (place <= size)
    weight = jnp.where(is_sample, 1 / counted, 0)
    place = jnp.clip(place, 0, size - 1)
    cell = jnp.floor(place).astype(jnp.int32)
    upper = (place - cell) * weight
    box = jnp.arange(low.shape[0])[:, None, None]
    bin_ = jnp.arange(SIDE)[None, :, None]
    result = jnp.zeros((low.shape[0], SIDE, length))
    result = result.at[box, bin_, source[cell]].add(weight - upper)
    return result.at[box, bin_, source[jnp.minimum(cell + 1, size - 1)]].add(upper)


def paste_mask(
    probabilities: np.ndarray,
    box: np.ndarray,
    image_size: tuple[int, int],
    threshold: float = 0.5,
) -> np.ndarray:
    """Returns the mask of an image from that of a box: [28, 28] -> bool [H, W].

    As mmdetection: probabilities are interpolated at the center of every pixel, with
    zeros around the box. Boxes without extent give empty masks, where mmdetection
    paints a stripe across the image.

    Args:
        probabilities: float32 [28, 28], or of any other side.
        box: [4] in pixels of the image.
        image_size: H and W.
        threshold: Least probability of the mask.
    """
    top, left, values = resample_mask(probabilities, box, image_size)
    mask = np.zeros(image_size, bool)
    height, width = values.shape
    mask[top : top + height, left : left + width] = values >= threshold
    return mask


def resample_mask(
    probabilities: np.ndarray, box: np.ndarray, image_size: tuple[int, int]
) -> tuple[int, int, np.ndarray]:
    """Returns the first row, first column and probabilities of what `paste_mask` fills.

    The probabilities are float32 [h, w], those of the box and of a margin around it
    where they fall to 0; there are none if the box has no extent or misses the image.
    """
    x_min, y_min, x_max, y_max = np.asarray(box, np.float32)
    if not (x_max > x_min and y_max > y_min):
        return 0, 0, np.zeros((0, 0), np.float32)
    side_y, side_x = probabilities.shape
    top, rows = _interpolate(side_y, y_min, y_max, image_size[0])
    left, columns = _interpolate(side_x, x_min, x_max, image_size[1])
    return top, left, rows @ np.asarray(probabilities, np.float32) @ columns.T


def _interpolate(
    side: int, low: np.float32, high: np.float32, size: int
) -> tuple[int, np.ndarray]:
    """Returns the first pixel along an axis and weights float32 [pixels, side]."""
    margin = (high - low) / side
    first = int(np.clip(np.floor(low - margin), 0, size))
    last = int(np.clip(np.ceil(high + margin), first, size))
    center = np.arange(first, last, dtype=np.float32) + np.float32(0.5)
    # In the steps of mmdetection, through the range from -1 to 1 of its `grid_sample`.
    place = (center - low) / (high - low) * 2 - 1
    place = ((place + 1) * side - 1) / 2
    cell = np.arange(side, dtype=np.float32)
    weights = np.maximum(1 - np.abs(place[:, None] - cell[None]), 0)
    return first, weights.astype(np.float32)
