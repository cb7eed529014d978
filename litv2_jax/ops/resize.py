"""Resizing of feature maps by PyTorch's conventions, corners not aligned.

As `torch.nn.functional.interpolate` with `align_corners=False`: no antialiasing, and
positions outside the map take the value at its edge.
"""

from collections.abc import Callable, Sequence

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
    """Resizes linearly: `[B, H, W, C]` -> `[B, *size, C]`.

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
    return resample_in_steps(x, [(sizes, new_sizes)], canvas, first_row)


# Integers [B, 2], height and width of the part of each map, and what they become.
Step = tuple[jax.Array, jax.Array]


def resample_in_steps(
    x: jax.Array,
    steps: Sequence[Step],
    canvas: tuple[int, int],
    first_row: int | jax.Array = 0,
    *,
    is_mirrored: bool = False,
) -> jax.Array:
    """Resizes like `resample_bilinear`, several times, keeping no map in between.

    Args:
        x: [B, H, W, C].
        steps: One or more.
        canvas: As in `resample_bilinear`, of the last step.
        first_row: As in `resample_bilinear`.
        is_mirrored: Whether to mirror each map left and right at the end, within its
            part.
    """

    def resample_one(x, steps):
        width = steps[-1][1][1]
        columns = jnp.arange(canvas[1])
        if is_mirrored:
            columns = jnp.maximum(width - 1 - columns, 0)
        for axis, index in enumerate((first_row + jnp.arange(canvas[0]), columns)):
            lengths = [(size[axis], new_size[axis]) for size, new_size in steps]
            x = _sample(x, axis, index, lengths)
        return x

    return jax.vmap(resample_one)(x, list(steps))


def _sample(
    x: jax.Array,
    axis: int,
    index: jax.Array,
    lengths: Sequence[tuple[jax.Array, jax.Array]],
) -> jax.Array:
    """Returns what a map has at indices of an axis, once that is resized.

    Args:
        x: [H, W, C].
        axis: 0 or 1.
        index: Integers [N], after the last step.
        lengths: Of each step, the axis before and after.
    """
    *earlier, (length, new_length) = lengths

    def take(index: jax.Array) -> jax.Array:
        return _sample(x, axis, index, earlier) if earlier else jnp.take(x, index, axis)

    scale = length.astype(jnp.float32) / new_length.astype(jnp.float32)
    position = (index + 0.5) * scale - 0.5
    position = jnp.clip(position, 0, length.astype(jnp.float32) - 1)
    low = jnp.floor(position).astype(jnp.int32)
    high = jnp.minimum(low + 1, length - 1)
    share = jnp.expand_dims((position - low).astype(x.dtype), (1 - axis, 2))
    return (1 - share) * take(low) + share * take(high)


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

    def resample(canvas: tuple[int, int], first_row: jax.Array) -> jax.Array:
        return resample_bilinear(x, sizes, new_sizes, canvas, first_row)

    return argmax_in_strips(resample, canvas, x.shape[-1])


def argmax_in_strips(
    compute: Callable[[tuple[int, int], jax.Array], jax.Array],
    canvas: tuple[int, int],
    num_channels: int,
) -> jax.Array:
    """Returns the largest channel of each position of maps that are never kept.

    Args:
        compute: Returns [B, *size, C], a strip of the maps, given its size and the
            first of its rows, which may go beyond the canvas.
        canvas: Height and width of the maps.
        num_channels: Channels C.

    Returns:
        [B, *canvas] int32.
    """
    height, width = canvas
    rows = min(height, max(1, _STRIP_SIZE // (width * num_channels)))

    def compute_strip(first_row: jax.Array) -> jax.Array:
        return compute((rows, width), first_row).argmax(-1).astype(jnp.int32)

    # [strips, B, rows, width]; the last strip may go beyond the canvas.
    strips = jax.lax.map(compute_strip, jnp.arange(0, height, rows))
    batch = strips.shape[1]
    return strips.swapaxes(0, 1).reshape(batch, -1, width)[:, :height]
