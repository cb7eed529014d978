"""Areas, overlaps, clipping, and boxes encoded relative to other boxes.

Boxes are [x_min, y_min, x_max, y_max] in pixels; mmdetection's `DeltaXYWHBBoxCoder` and
`bbox_overlaps` define the values. Everything is computed in float32.
"""

import math

import jax
import jax.numpy as jnp

# Shortest side of a box that is encoded. Padding is a box without extent: this keeps
# its deltas finite.
_MIN_SIDE = 1e-6


def compute_areas(boxes: jax.Array) -> jax.Array:
    """Returns the areas of boxes: [..., 4] -> [...]."""
    x_min, y_min, x_max, y_max = _split(boxes)
    return (x_max - x_min) * (y_max - y_min)


def have_extent(boxes: jax.Array) -> jax.Array:
    """Returns which boxes are wider and higher than 0: [..., 4] -> bool [...]."""
    x_min, y_min, x_max, y_max = _split(boxes)
    return (x_max > x_min) & (y_max > y_min)


def compute_iou(a: jax.Array, b: jax.Array, *, min_union: float = 1e-6) -> jax.Array:
    """Returns the intersection over union of every pair: [N, 4], [M, 4] -> [N, M].

    Args:
        a: [N, 4].
        b: [M, 4].
        min_union: Smaller unions count as this; two boxes without area overlap by 0.
    """
    x_min, y_min, x_max, y_max = (
        choose(one[:, None], other[None])
        for choose, one, other in zip(
            (jnp.maximum, jnp.maximum, jnp.minimum, jnp.minimum),
            _split(a),
            _split(b),
            strict=True,
        )
    )
    overlap = jnp.maximum(x_max - x_min, 0) * jnp.maximum(y_max - y_min, 0)
    union = compute_areas(a)[:, None] + compute_areas(b)[None] - overlap
    return overlap / jnp.maximum(union, min_union)


def clip_boxes(boxes: jax.Array, image_size: jax.Array) -> jax.Array:
    """Clips boxes [..., 4] to an image of [2] height and width."""
    x_min, y_min, x_max, y_max = _split(boxes)
    height, width = jnp.asarray(image_size, jnp.float32)
    return jnp.stack(
        [
            jnp.clip(x_min, 0, width),
            jnp.clip(y_min, 0, height),
            jnp.clip(x_max, 0, width),
            jnp.clip(y_max, 0, height),
        ],
        axis=-1,
    )


def encode_boxes(
    boxes: jax.Array,
    references: jax.Array,
    *,
    stds: tuple[float, float, float, float] = (1.0, 1.0, 1.0, 1.0),
) -> jax.Array:
    """Returns the offsets and log scales that turn references into boxes.

    Args:
        boxes: [..., 4].
        references: [..., 4] such as anchors.
        stds: What the results are divided by.

    Returns:
        Deltas float32 [..., 4]: x, y, width, height. They are finite for boxes without
        extent, too.
    """
    x, y, width, height = _to_centers(boxes)
    ref_x, ref_y, ref_width, ref_height = _to_centers(references)
    ref_width = jnp.maximum(ref_width, _MIN_SIDE)
    ref_height = jnp.maximum(ref_height, _MIN_SIDE)
    deltas = (
        (x - ref_x) / ref_width,
        (y - ref_y) / ref_height,
        jnp.log(jnp.maximum(width, _MIN_SIDE) / ref_width),
        jnp.log(jnp.maximum(height, _MIN_SIDE) / ref_height),
    )
    return jnp.stack(
        [delta / std for delta, std in zip(deltas, stds, strict=True)], axis=-1
    )


def decode_boxes(
    deltas: jax.Array,
    references: jax.Array,
    *,
    stds: tuple[float, float, float, float] = (1.0, 1.0, 1.0, 1.0),
    image_size: jax.Array | None = None,
    max_ratio: float = 1000 / 16,
) -> jax.Array:
    """Returns the boxes that `encode_boxes` has made deltas of.

    Args:
        deltas: [..., 4].
        references: [..., 4] or, for deltas of several classes each, [..., 1, 4].
        stds: What the deltas are multiplied by.
        image_size: [2] height and width to clip to, if given.
        max_ratio: A box becomes longer or shorter than its reference by this at most.

    Returns:
        float32 [..., 4].
    """
    limit = math.log(max_ratio)
    dx, dy, log_width, log_height = (
        delta * std for delta, std in zip(_split(deltas), stds, strict=True)
    )
    x, y, width, height = _to_centers(references)
    x, y = x + width * dx, y + height * dy
    half_width = width * jnp.exp(jnp.clip(log_width, -limit, limit)) * 0.5
    half_height = height * jnp.exp(jnp.clip(log_height, -limit, limit)) * 0.5
    boxes = jnp.stack(
        [x - half_width, y - half_height, x + half_width, y + half_height], axis=-1
    )
    return boxes if image_size is None else clip_boxes(boxes, image_size)


def _split(boxes: jax.Array) -> tuple[jax.Array, jax.Array, jax.Array, jax.Array]:
    boxes = boxes.astype(jnp.float32)
    return boxes[..., 0], boxes[..., 1], boxes[..., 2], boxes[..., 3]


def _to_centers(boxes: jax.Array) -> tuple[jax.Array, jax.Array, jax.Array, jax.Array]:
    """Returns x and y of the centers, widths and heights, each [...]."""
    x_min, y_min, x_max, y_max = _split(boxes)
    return (x_min + x_max) * 0.5, (y_min + y_max) * 0.5, x_max - x_min, y_max - y_min
