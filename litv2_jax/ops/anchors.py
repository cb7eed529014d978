"""Anchor boxes of every level of a pyramid, as constants of the program.

Equal to mmdetection's `AnchorGenerator` with `center_offset=0`: boxes are [x_min,
y_min, x_max, y_max] in pixels; the anchors of a position follow each other, positions
row by row, levels from fine to coarse.
"""

from collections.abc import Sequence

import jax
import jax.numpy as jnp
import numpy as np

RATIOS = (0.5, 1.0, 2.0)  # Height over width.


def create_base_anchors(
    stride: int, scales: Sequence[float], ratios: Sequence[float] = RATIOS
) -> np.ndarray:
    """Returns the anchors around the origin, float32 [A, 4]; scales vary fastest.

    Args:
        stride: Pixels between positions, the side of a square anchor of scale 1.
        scales: Sides over the stride.
        ratios: Heights over widths; the area is that of the square.
    """
    heights = np.sqrt(np.array(ratios, np.float32))[:, None]
    sides = np.array(scales, np.float32)
    half_width = (stride * (1 / heights) * sides).ravel() / 2
    half_height = (stride * heights * sides).ravel() / 2
    return np.stack([-half_width, -half_height, half_width, half_height], axis=1)


def create_anchors(
    sizes: Sequence[tuple[int, int]],
    strides: Sequence[int],
    scales: Sequence[float],
    ratios: Sequence[float] = RATIOS,
) -> list[np.ndarray]:
    """Returns the anchors of each level, float32 [H * W * A, 4].

    Args:
        sizes: Height and width of the map of each level.
        strides: Pixels between its positions.
        scales: As in `create_base_anchors`.
        ratios: As in `create_base_anchors`.
    """
    levels = []
    for (height, width), stride in zip(sizes, strides, strict=True):
        y, x = np.mgrid[:height, :width].astype(np.float32) * stride
        shifts = np.stack([x, y, x, y], axis=-1).reshape(-1, 1, 4)
        base = create_base_anchors(stride, scales, ratios)
        levels.append((shifts + base).reshape(-1, 4))
    return levels


def find_anchors_inside(
    sizes: Sequence[tuple[int, int]],
    strides: Sequence[int],
    image_size: jax.Array,
    num_anchors: int,
) -> jax.Array:
    """Returns which anchors belong to positions of an image in a larger canvas.

    Args:
        sizes: Height and width of the map of each level, for the canvas.
        strides: Pixels between its positions.
        image_size: [2] height and width of the image, as padded for itself alone.
        num_anchors: A, per position.

    Returns:
        bool [sum of H * W * A], all levels in one.
    """
    inside = []
    for (height, width), stride in zip(sizes, strides, strict=True):
        # A position at the border that sees some of the image counts.
        rows = jnp.arange(height) * stride < image_size[0]
        columns = jnp.arange(width) * stride < image_size[1]
        positions = (rows[:, None] & columns[None]).ravel()
        inside.append(jnp.repeat(positions, num_anchors))
    return jnp.concatenate(inside)
