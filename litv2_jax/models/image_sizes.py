"""What a backbone takes: normalised images, and their sizes on a larger canvas."""

import jax
import jax.numpy as jnp
import numpy as np
from jax.core import Tracer

NUM_STAGES = 4
# Pixels of an image, of which the last stage has a position.
MIN_SIDE = 29


def find_map_sizes(sizes: jax.Array | None) -> list[jax.Array | None]:
    """Returns height and width [B, 2] of the image's part of the four maps.

    Args:
        sizes: [B, 2], height and width of each image. Sides below 29 pixels, which
            leave nothing for the last map, count as 29. None gives four of its kind.
    """
    if sizes is None:
        return [None] * NUM_STAGES
    sizes = -(-jnp.maximum(sizes, MIN_SIDE) // 4)
    return [sizes // 2**i for i in range(NUM_STAGES)]


def check_image_sizes(sizes: jax.Array, shape: tuple[int, ...]) -> jax.Array:
    """Returns sizes of images as an array on the device.

    Args:
        sizes: [B, 2], height and width.
        shape: Of the images, [B, H, W, 3].

    Raises:
        ValueError: If they are of another shape or type, or do not fit the canvas; the
            latter is not known while a program is compiled.
    """
    given, sizes = sizes, jnp.asarray(sizes)
    if sizes.shape != (shape[0], 2) or not jnp.issubdtype(sizes.dtype, jnp.integer):
        raise ValueError(
            f"Sizes are {sizes.dtype} of shape {list(sizes.shape)}, but must be "
            f"integers of shape {[shape[0], 2]}: height and width of each image."
        )
    if not isinstance(given, Tracer):
        numbers = np.asarray(given)
        if (numbers < 1).any() or (numbers > np.array([shape[1:3]])).any():
            raise ValueError(
                f"Sizes {numbers.tolist()} must be within 1 and the height and width "
                f"of the canvas, {shape[1]}x{shape[2]}."
            )
    return sizes


def check_images(images: jax.Array, in_chans: int) -> None:
    """Raises ValueError if there are no normalised images [B, H, W, in_chans]."""
    if images.ndim != 4 or images.shape[3] != in_chans:
        raise ValueError(
            f"Images must be [B, H, W, {in_chans}], not {list(images.shape)}."
        )
    if not jnp.issubdtype(images.dtype, jnp.floating):
        raise ValueError(
            f"Images of type {images.dtype} have not been normalised: subtract the "
            "mean and divide by the standard deviation of ImageNet in floating point."
        )
    # One by one, because sides that are symbols, for export, cannot be compared.
    if any(side < MIN_SIDE for side in images.shape[1:3]):
        raise ValueError(
            f"Images of {images.shape[1]}x{images.shape[2]} pixels leave nothing for "
            "the last stage, which has stride 32: both sides must have "
            f"{MIN_SIDE} or more."
        )
