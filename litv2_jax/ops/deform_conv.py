"""Deformable convolution for kernels as wide as their stride.

Source: "Deformable Convolutional Networks" (arXiv:1703.06211) with the conventions at
the borders of the CUDA kernel that the published models were trained with.
"""

import math

import jax
import jax.numpy as jnp

from litv2_jax.ops.linear import multiply


def deform_conv(x: jax.Array, offsets: jax.Array, kernel: jax.Array) -> jax.Array:
    """Convolves without overlap, reading each tap where its offset points.

    Args:
        x: [B, H, W, C].
        offsets: [B, H // k, W // k, 2 * k * k] in pixels; taps row by row, each as
            (down, right).
        kernel: [k, k, C, D], converted to the type of `x`.

    Returns:
        [B, H // k, W // k, D] in the type of `x`.
    """
    taps = sample_taps(x, offsets)
    size, _, channels, features = kernel.shape
    taps = taps.reshape(*taps.shape[:3], size * size * channels)
    kernel = kernel.reshape(size * size * channels, features)
    return multiply(taps, kernel)


@jax.custom_vjp
def sample_taps(x: jax.Array, offsets: jax.Array) -> jax.Array:
    """Reads `x` bilinearly at the taps of each k x k patch, moved by their offsets.

    A tap counts if it lies strictly within one pixel of the map; pixels outside the
    map read as zero. The derivative at whole pixels is the right-hand one.

    Args:
        x: [B, H, W, C].
        offsets: [B, H // k, W // k, 2 * k * k] as in `deform_conv`.

    Returns:
        [B, H // k, W // k, k * k, C] in the type of `x`.
    """
    indices, weights = _neighbors(offsets, x.shape[1:3])
    taps = jnp.zeros((*weights.shape[1:], x.shape[-1]), weights.dtype)
    for index, weight in zip(indices, weights, strict=True):
        taps += weight[..., None] * _take_pixels(x, index).astype(weight.dtype)
    return taps.astype(x.dtype)


def _sample_taps_forward(x: jax.Array, offsets: jax.Array):
    return sample_taps(x, offsets), (x, offsets)


def _sample_taps_backward(residuals: tuple[jax.Array, jax.Array], grad: jax.Array):
    x, offsets = residuals

    def weights_of(offsets: jax.Array):
        indices, weights = _neighbors(offsets, x.shape[1:3])
        return weights, indices

    weights, vjp, indices = jax.vjp(weights_of, offsets, has_aux=True)
    exact = weights.dtype
    grad = grad.astype(exact)
    grad_weights = [
        jnp.sum(_take_pixels(x, index).astype(exact) * grad, -1) for index in indices
    ]
    (grad_offsets,) = vjp(jnp.stack(grad_weights))

    # One scatter in float32: autodiff would make four in the type of x, which in
    # bfloat16 lose digits and do not vectorise on a GPU.
    updates = weights[..., None] * grad[None]
    return _add_pixels(x.shape, indices, updates).astype(x.dtype), grad_offsets


sample_taps.defvjp(_sample_taps_forward, _sample_taps_backward)


# Both index within each image, because devices have images of their own: they would
# have to exchange all maps for indices into a map flattened over the batch.
def _take_pixels(x: jax.Array, index: jax.Array) -> jax.Array:
    """Reads pixels of each image: [B, H, W, C] at [B, ...] -> [B, ..., C]."""
    pixels = x.reshape(x.shape[0], -1, x.shape[-1])
    return jax.vmap(lambda pixels, index: pixels[index])(pixels, index)


def _add_pixels(
    shape: tuple[int, ...], indices: jax.Array, updates: jax.Array
) -> jax.Array:
    """Adds updates [4, B, ..., C] to zeros at indices [4, B, ...]: [B, H, W, C]."""
    batch, height, width, channels = shape
    zeros = jnp.zeros((height * width, channels), updates.dtype)
    updates = jnp.moveaxis(updates, 1, 0).reshape(batch, -1, channels)
    indices = jnp.moveaxis(indices, 1, 0).reshape(batch, -1)
    add = jax.vmap(lambda index, update: zeros.at[index].add(update))
    return add(indices, updates).reshape(shape)


def _neighbors(
    offsets: jax.Array, size: tuple[int, ...]
) -> tuple[jax.Array, jax.Array]:
    """Returns the four pixels around each tap and their bilinear weights.

    Both are [4, B, h, w, k * k]: indices into the H * W pixels of the tap's image,
    always in range, and weights, zero where the pixel or the whole tap does not count.
    """
    height, width = size
    batch, rows, cols = offsets.shape[:3]
    side = math.isqrt(offsets.shape[3] // 2)
    exact = jnp.promote_types(offsets.dtype, jnp.float32)
    offsets = offsets.astype(exact).reshape(batch, rows, cols, side * side, 2)
    # Where the taps lie before they are moved: [1, h, 1, k * k] and [1, 1, w, k * k].
    tap_y, tap_x = jnp.divmod(jnp.arange(side * side)[None, None, None], side)
    y = offsets[..., 0] + (side * jnp.arange(rows)[None, :, None, None] + tap_y)
    x = offsets[..., 1] + (side * jnp.arange(cols)[None, None, :, None] + tap_x)
    counts = (y > -1) & (y < height) & (x > -1) & (x < width)

    # Far taps do not count; clipping keeps their positions in the range of int32.
    y, x = jnp.clip(y, -2, height + 1), jnp.clip(x, -2, width + 1)
    top, left = jnp.floor(y), jnp.floor(x)
    down, right = y - top, x - left
    top, left = top.astype(jnp.int32), left.astype(jnp.int32)

    indices, weights = [], []
    for row, weight_y in ((top, 1 - down), (top + 1, down)):
        for col, weight_x in ((left, 1 - right), (left + 1, right)):
            inside = (row >= 0) & (row < height) & (col >= 0) & (col < width)
            weights.append(jnp.where(counts & inside, weight_y * weight_x, 0.0))
            row_inside = jnp.clip(row, 0, height - 1)
            indices.append(row_inside * width + jnp.clip(col, 0, width - 1))
    return jnp.stack(indices), jnp.stack(weights)
