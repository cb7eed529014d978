"""Depthwise 3x3 convolution and GELU, the costliest part of LITv2, as one operation."""

from collections.abc import Iterator

import jax
import jax.numpy as jnp

from litv2_jax.ops.gelu import gelu, gelu_derivative
from litv2_jax.ops.implementations import Operation


def depthwise_conv3x3_gelu(
    x: jax.Array, kernel: jax.Array, bias: jax.Array
) -> jax.Array:
    """Convolves every channel with its own 3x3 kernel, adds the bias, applies GELU.

    Zeros outside, stride 1; the exact GELU. Computed in float32 at least and rounded
    once.

    Args:
        x: [B, H, W, C].
        kernel: [3, 3, 1, C].
        bias: [C].

    Returns:
        [B, H, W, C] in the type of `x`.
    """
    return _DEPTHWISE(x, kernel, bias)


def _apply_convolution(x: jax.Array, kernel: jax.Array, bias: jax.Array) -> jax.Array:
    """By XLA's grouped convolution, which other runtimes know as one node."""
    y = jax.lax.conv_general_dilated(
        _exact(x),
        _exact(kernel),
        window_strides=(1, 1),
        padding="SAME",
        dimension_numbers=("NHWC", "HWIO", "NHWC"),
        feature_group_count=x.shape[-1],
    )
    return gelu(y + _exact(bias)[None, None, None]).astype(x.dtype)


@jax.custom_vjp
def _apply_shifts(x: jax.Array, kernel: jax.Array, bias: jax.Array) -> jax.Array:
    """By a sum of shifted maps, with a derivative that reads and writes little."""
    return gelu(_convolve(x, kernel) + _exact(bias)[None, None, None]).astype(x.dtype)


def _forward(x: jax.Array, kernel: jax.Array, bias: jax.Array):
    y = _convolve(x, kernel) + _exact(bias)[None, None, None]
    # The barrier makes XLA save only the rounded residual instead of both.
    kept = jax.lax.optimization_barrier(y.astype(x.dtype))
    return gelu(y).astype(x.dtype), (x, kernel, bias, kept)


def _backward(residuals: tuple[jax.Array, ...], grad: jax.Array):
    x, kernel, bias, y = residuals
    grad = (_exact(grad) * gelu_derivative(y)).astype(x.dtype)
    # Left alone, XLA recomputes this in each of its ten uses below: a training step of
    # one block then moves twice the bytes on an H200.
    grad = jax.lax.optimization_barrier(grad)
    # The transposed convolution is the one with the kernel turned by 180 degrees.
    grad_x = _convolve(grad, kernel[::-1, ::-1]).astype(x.dtype)
    sums = _GRADIENT(x, grad)
    grad_kernel = sums[:9].reshape(kernel.shape).astype(kernel.dtype)
    return grad_x, grad_kernel, sums[9].astype(bias.dtype)


_apply_shifts.defvjp(_forward, _backward)

_DEPTHWISE = Operation(
    "depthwise",
    {"shifts": _apply_shifts, "convolution": _apply_convolution},
    cpu="shifts",
    default="shifts",
)


def _convolve(x: jax.Array, kernel: jax.Array) -> jax.Array:
    """Returns the convolution unrounded.

    A sum of shifted products is one loop that takes bias and GELU with it; XLA's
    grouped convolution takes many times as long on a CPU.
    """
    total = jnp.zeros(x.shape, jnp.promote_types(x.dtype, jnp.float32))
    taps = _exact(kernel).reshape(9, 1, 1, 1, -1)
    for tap, shifted in zip(taps, _shifts(x), strict=True):
        total += _exact(shifted) * tap
    return total


def _sum_concatenated(x: jax.Array, grad: jax.Array) -> jax.Array:
    """One sum over all ten products side by side: on a GPU one kernel, not six."""
    grad = _exact(grad)
    products = [_exact(shifted) * grad for shifted in _shifts(x)]
    sums = jnp.sum(jnp.concatenate([*products, grad], axis=-1), (0, 1, 2))
    return sums.reshape(10, -1)


def _sum_tiled(x: jax.Array, grad: jax.Array) -> jax.Array:
    """Adds up tile by tile, a few positions of a row wide, then within the tile.

    On a CPU the sums stay in its cache and are vectors, which those over whole maps
    are not: these take three to five times as long.
    """
    batch, height, width, channels = x.shape
    tile = max((n for n in range(2, 9) if width % n == 0), default=width)
    x = jnp.pad(_exact(x), ((0, 0), (1, 1), (1, 1), (0, 0)))
    grad = _exact(grad)

    def add_tile(index: jax.Array, sums: tuple[jax.Array, ...]):
        row, column = jnp.divmod(index, width // tile)
        start = (0, row, column * tile, 0)
        shape = (batch, 1, tile, channels)
        here = jax.lax.dynamic_slice(grad, start, shape)[:, 0]
        around = jax.lax.dynamic_slice(x, start, (batch, 3, tile + 2, channels))
        products = [
            around[:, i, j : j + tile] * here for i in range(3) for j in range(3)
        ]
        return tuple(map(jnp.add, sums, [*products, here]))

    zeros = jnp.zeros((batch, tile, channels), grad.dtype)
    num_tiles = height * (width // tile)
    sums = jax.lax.fori_loop(0, num_tiles, add_tile, (zeros,) * 10)
    return jnp.stack([jnp.sum(y, (0, 1)) for y in sums])


# (x, gradient of the sum) [B, H, W, C] -> the nine gradients of the kernel, row by row,
# and that of the bias [10, C].
_GRADIENT = Operation(
    "depthwise_gradient",
    {"tiled": _sum_tiled, "concatenated": _sum_concatenated},
    cpu="tiled",
    default="concatenated",
)


def _shifts(x: jax.Array) -> Iterator[jax.Array]:
    """Yields the map that each tap of the kernel multiplies, row by row."""
    height, width = x.shape[1:3]
    padded = jnp.pad(x, ((0, 0), (1, 1), (1, 1), (0, 0)))
    for i in range(3):
        for j in range(3):
            yield padded[:, i : i + height, j : j + width]


def _exact(x: jax.Array) -> jax.Array:
    return x.astype(jnp.promote_types(x.dtype, jnp.float32))
