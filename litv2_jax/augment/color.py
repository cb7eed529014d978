"""Color operations with the same rounding as Pillow, on whole batches.

Those that treat every pixel alike are tables: 256 new levels for each image and
channel. The others blend an image with a degenerate version of itself.
"""

import functools
import itertools
import math

import jax
import jax.numpy as jnp

from litv2_jax.ops.histogram import NUM_LEVELS


def autocontrast_table(counts: jax.Array) -> jax.Array:
    """Stretches the levels of each channel to all of 0 to 255.

    Args:
        counts: [B, 256, 3] int32.

    Returns:
        [B, 256, 3] uint8.
    """
    levels = all_levels()
    darkest = jnp.argmax(counts > 0, axis=1, keepdims=True)
    brightest = _find_brightest(counts)
    span = jnp.maximum(brightest - darkest, 1)
    table = jnp.clip((levels - darkest) * 255 // span, 0, 255)
    codes = (darkest * NUM_LEVELS + brightest) * NUM_LEVELS + levels
    table -= jnp.isin(codes, jnp.array(_find_low_results()), method="binary_search")
    return jnp.where(brightest > darkest, table, levels).astype(jnp.uint8)


@functools.cache
def _find_low_results() -> list[int]:
    """Lists where autocontrast in float64, as in Pillow, falls just below an integer.

    Returns:
        Codes of darkest level, brightest level and level, digits to base 256, sorted.
    """
    codes = []
    for darkest, brightest in itertools.combinations(range(NUM_LEVELS), 2):
        span = brightest - darkest
        scale = 255.0 / span
        offset = -darkest * scale
        # Only at these levels is the exact result an integer.
        for level in range(darkest, brightest + 1, span // math.gcd(span, 255)):
            if int(level * scale + offset) < (level - darkest) * 255 // span:
                codes.append((darkest * NUM_LEVELS + brightest) * NUM_LEVELS + level)
    return codes


def equalize_table(counts: jax.Array) -> jax.Array:
    """Makes all levels of each channel about equally frequent.

    Args:
        counts: [B, 256, 3] int32.

    Returns:
        [B, 256, 3] uint8.
    """
    brightest = jnp.take_along_axis(counts, _find_brightest(counts), axis=1)
    step = (counts.sum(axis=1, keepdims=True) - brightest) // 255
    darker = jnp.cumsum(counts, axis=1) - counts
    table = jnp.minimum((step // 2 + darker) // jnp.maximum(step, 1), 255)
    return jnp.where(step > 0, table, all_levels()).astype(jnp.uint8)


def _find_brightest(counts: jax.Array) -> jax.Array:
    """Returns [B, 1, 3], the highest level that occurs."""
    return 255 - jnp.argmax(counts[:, ::-1] > 0, axis=1, keepdims=True)


def all_levels() -> jax.Array:
    """Returns [1, 256, 1] int32, the identity table."""
    return jnp.arange(NUM_LEVELS)[None, :, None]


def posterize_table(bits: jax.Array) -> jax.Array:
    """Keeps the `bits` highest bits of each level; 0 gives black.

    Args:
        bits: [B] int.

    Returns:
        [B, 256, 1] uint8.
    """
    shift = 8 - jnp.clip(bits, 0, 8)[:, None, None]
    return (all_levels() >> shift << shift).astype(jnp.uint8)


def solarize_table(thresholds: jax.Array) -> jax.Array:
    """Inverts the levels from a threshold on.

    Args:
        thresholds: [B] int.

    Returns:
        [B, 256, 1] uint8.
    """
    levels = all_levels()
    is_dark = levels < thresholds[:, None, None]
    return jnp.where(is_dark, levels, 255 - levels).astype(jnp.uint8)


def solarize_add_table(addends: jax.Array) -> jax.Array:
    """Brightens the levels below 128.

    Args:
        addends: [B] int, not negative.

    Returns:
        [B, 256, 1] uint8.
    """
    levels = all_levels()
    brighter = jnp.minimum(levels + addends[:, None, None], 255)
    return jnp.where(levels < 128, brighter, levels).astype(jnp.uint8)


def look_up(images: jax.Array, tables: jax.Array) -> jax.Array:
    """Replaces each level by its entry in the table.

    Args:
        images: [B, H, W, 3] uint8.
        tables: [B, 256, 3] uint8.

    Returns:
        [B, H, W, 3] uint8.
    """
    pixels = images.reshape(images.shape[0], -1, 3).astype(jnp.int32)
    return jnp.take_along_axis(tables, pixels, axis=1).reshape(images.shape)


def to_gray(images: jax.Array) -> jax.Array:
    """Returns the brightness of each pixel, [B, H, W, 3] uint8 -> [B, H, W] int32."""
    red, green, blue = jnp.moveaxis(images.astype(jnp.int32), -1, 0)
    return (red * 19595 + green * 38470 + blue * 7471 + 2**15) >> 16


def average_gray(images: jax.Array) -> jax.Array:
    """Returns the mean brightness, rounded, [B, H, W, 3] uint8 -> [B] int32."""
    num_pixels = images.shape[1] * images.shape[2]
    total = to_gray(images).sum(axis=(1, 2))
    return (2 * total + num_pixels) // (2 * num_pixels)


def smooth(images: jax.Array) -> jax.Array:
    """Averages each pixel, five times, with its eight neighbors; borders stay.

    Shapes: [B, H, W, 3] uint8 -> [B, H, W, 3] int32.
    """
    x = images.astype(jnp.int32)
    height, width = x.shape[1:3]
    if height < 3 or width < 3:
        return x
    columns = x[:, :-2] + x[:, 1:-1] + x[:, 2:]
    sums = columns[:, :, :-2] + columns[:, :, 1:-1] + columns[:, :, 2:]
    sums = sums + 4 * x[:, 1:-1, 1:-1]
    return x.at[:, 1:-1, 1:-1].set((2 * sums + 13) // 26)


def blend(degenerate: jax.Array, images: jax.Array, factors: jax.Array) -> jax.Array:
    """Moves from a degenerate version (factor 0) to the image (1) and beyond.

    Args:
        degenerate: [B, H, W, 3] int32.
        images: [B, H, W, 3] uint8.
        factors: [B] float32.

    Returns:
        [B, H, W, 3] uint8.
    """
    start = degenerate.astype(jnp.float32)
    step = factors[:, None, None, None] * (images.astype(jnp.float32) - start)
    # The limits are never reached, but they make the product round before the sum.
    step = jnp.clip(step, -(2**15), 2**15)
    return jnp.clip(start + step, 0, 255).astype(jnp.uint8)
