"""Instance masks as bit-packed crops in one buffer of fixed size for each image.

A mask is kept at the size of its file, cut to its own extent: about 20 kB for all of an
image's. How the image was resized and mirrored is in the maps of `map_pixels`.
"""

from collections.abc import Sequence

import jax
import jax.numpy as jnp
import numpy as np


def pack_masks(
    masks: Sequence[np.ndarray], num_bytes: int
) -> tuple[np.ndarray, np.ndarray]:
    """Puts the bits within the extent of each mask into one buffer.

    Args:
        masks: bool [H, W] each, at the size of the file.
        num_bytes: Of the buffer.

    Returns:
        The buffer uint8 [num_bytes], and int32 [G, 5] of each mask: its first byte in
        the buffer, first row, first column over eight, rows, and bytes of a row.

    Raises:
        ValueError: If the buffer is too small.
    """
    crops = [_crop(mask) for mask in masks]
    ends = np.cumsum([0, *(bits.size for _, _, bits in crops)])
    if ends[-1] > num_bytes:
        raise ValueError(
            f"{len(masks)} masks take {ends[-1]} bytes, more than the {num_bytes} of "
            f"the buffer; make num_bytes at least {ends[-1]}."
        )
    buffer = np.zeros(num_bytes, np.uint8)
    places = np.zeros((len(masks), 5), np.int32)
    for i, (top, left, bits) in enumerate(crops):
        buffer[ends[i] : ends[i + 1]] = bits.ravel()
        places[i] = (ends[i], top, left, *bits.shape)
    return buffer, places


def unpack_masks(
    buffer: jax.Array, places: jax.Array, size: tuple[int, int]
) -> jax.Array:
    """Returns masks uint8 [P, H, W] of 0 and 1 from what `pack_masks` returned.

    Args:
        buffer: uint8 [num_bytes].
        places: int32 [P, 5], those of the masks wanted; zeros give an empty mask.
        size: H and W, at least those of the file.
    """
    height, width = size
    offset, top, left, rows, row_bytes = (places[:, i, None, None] for i in range(5))
    y = jnp.arange(height)[None, :, None] - top
    x = jnp.arange(-(-width // 8))[None, None] - left
    is_inside = (y >= 0) & (y < rows) & (x >= 0) & (x < row_bytes)
    index = jnp.where(is_inside, offset + y * row_bytes + x, 0)
    bits = jnp.where(is_inside, buffer[index], 0)[..., None]
    shifts = jnp.arange(7, -1, -1, dtype=jnp.uint8)[None, None, None]
    bits = (bits >> shifts) & 1
    return bits.reshape(*bits.shape[:2], 8 * bits.shape[2])[:, :, :width]


def map_pixels(
    size: int, new_size: int, *, length: int | None = None, is_flipped: bool = False
) -> np.ndarray:
    """Returns which row of a file each row of a resized image shows, or column.

    As OpenCV's resizing by the nearest pixel, which multiplies by the inverse of a
    rounded ratio: size / new_size gives others for one size in sixteen.

    Args:
        size: Rows of the file.
        new_size: Rows of the image.
        length: Of the result; the last entry is repeated.
        is_flipped: Whether the image was mirrored along this axis after resizing.

    Returns:
        int32 [length], or [new_size] without it.
    """
    factor = 1 / (new_size / size)
    source = np.floor(np.arange(new_size) * factor)
    source = np.minimum(source, size - 1).astype(np.int32)
    source = source[::-1] if is_flipped else source
    return np.pad(source, (0, (length or new_size) - new_size), mode="edge")


def _crop(mask: np.ndarray) -> tuple[int, int, np.ndarray]:
    """Returns the first row, first column over eight, and packed bits [rows, bytes]."""
    rows, columns = (np.flatnonzero(mask.any(axis=axis)) for axis in (1, 0))
    if not rows.size:
        return 0, 0, np.zeros((0, 0), np.uint8)
    top, left = int(rows[0]), int(columns[0]) // 8
    bits = np.packbits(mask[top : rows[-1] + 1, 8 * left : columns[-1] + 1], axis=1)
    return top, left, bits
