"""Depthwise 3x3 convolution and GELU, the costliest part of LITv2, as one operation."""

import functools
from collections.abc import Callable, Iterator
from typing import Any

import jax
import jax.numpy as jnp

from litv2_jax.ops.gelu import gelu, gelu_derivative
from litv2_jax.ops.implementations import Operation
from litv2_jax.ops.padding import pad_map


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


def _apply_shifts(x: jax.Array, kernel: jax.Array, bias: jax.Array) -> jax.Array:
    """By a sum of shifted maps."""
    y = _convolve(_frame(x), kernel) + _exact(bias)[None, None, None]
    return gelu(y).astype(x.dtype)


def _forward(x: jax.Array, kernel: jax.Array, bias: jax.Array, *, keeps_frame: bool):
    framed = _frame(x)
    y = _convolve(framed, kernel) + _exact(bias)[None, None, None]
    # The barrier makes XLA save only the rounded residual instead of both.
    kept = jax.lax.optimization_barrier(y.astype(x.dtype))
    return gelu(y).astype(x.dtype), (framed if keeps_frame else x, kernel, bias, kept)


def _backward(
    residuals: tuple[jax.Array, ...],
    grad: jax.Array,
    *,
    sum_products: Callable[[jax.Array, jax.Array], jax.Array],
):
    x, kernel, bias, y = residuals
    grad = _frame((_exact(grad) * gelu_derivative(y)).astype(x.dtype))
    # The transposed convolution is the one with the kernel turned by 180 degrees.
    grad_x = _convolve(grad, kernel[::-1, ::-1]).astype(x.dtype)
    sums = sum_products(x, grad)
    grad_kernel = sums[:9].reshape(kernel.shape).astype(kernel.dtype)
    return grad_x, grad_kernel, sums[9].astype(bias.dtype)


def _frame(x: jax.Array) -> jax.Array:
    """Puts zeros around a map: [B, H, W, C] -> [B, H + 2, W + 2, C].

    The barrier makes XLA write it. Left alone, it would ask in each of nine reads
    whether the position is inside, and recompute what the map is made of: a GPU then
    waits for instructions, not for memory.
    """
    return jax.lax.optimization_barrier(pad_map(x, (1, 1), (1, 1)))


def _convolve(x: jax.Array, kernel: jax.Array) -> jax.Array:
    """Returns the convolution of a framed map, unrounded, without the frame.

    A sum of shifted products is one loop that takes bias and GELU with it; XLA's
    grouped convolution takes many times as long on a CPU.
    """
    taps = _exact(kernel).reshape(9, 1, 1, 1, -1)
    products = [
        _exact(shift) * tap for tap, shift in zip(taps, _shifts(x), strict=True)
    ]
    return functools.reduce(jnp.add, products)


def _sum_in_pairs(x: jax.Array, grad: jax.Array) -> jax.Array:
    """Returns the gradients of the kernel, row by row, and that of the bias.

    A tap's is the sum of the map times the gradient shifted the other way. Two of the
    ten products are summed at once, which is what a GPU's kernel has room for.

    One sum over all of them side by side took an H200 sixteen times as long as its
    bytes do: XLA chose among the ten anew for each number.

    Args:
        x: Map [B, H, W, C].
        grad: Of the convolution's result, framed [B, H + 2, W + 2, C].

    Returns:
        [10, C].
    """
    shifted = [_exact(shift) for shift in reversed(list(_shifts(grad)))]
    products = [_exact(x) * shift for shift in shifted]
    products.append(shifted[4])
    zero = jnp.zeros((), products[0].dtype)
    # Of each image: XLA makes no all-reduce of a sum of pairs over several devices.
    sums = [
        jax.lax.reduce(pair, (zero, zero), _add_pairs, (1, 2))
        for pair in zip(products[::2], products[1::2], strict=True)
    ]
    return jnp.stack([rows for pair in sums for rows in pair]).sum(1)


def _add_pairs(one: tuple[Any, Any], other: tuple[Any, Any]) -> tuple[Any, Any]:
    return one[0] + other[0], one[1] + other[1]


def _sum_tiled(framed: jax.Array, grad: jax.Array) -> jax.Array:
    """The same of a framed map, tile by tile, a few positions of a row wide.

    On a CPU the sums stay in its cache and are vectors, which those over whole maps
    are not: these take three to five times as long.
    """
    batch, height, width, channels = framed.shape
    height, width = height - 2, width - 2
    tile = max((n for n in range(2, 9) if width % n == 0), default=width)
    framed, grad = _exact(framed), _exact(grad)

    def add_tile(index: jax.Array, sums: tuple[jax.Array, ...]):
        # As jnp.divmod of what is positive, which is several kernels.
        per_row = jnp.asarray(width // tile, index.dtype)
        row, column = jax.lax.div(index, per_row), jax.lax.rem(index, per_row)
        start = (0, row, column * tile, 0)
        shape = (batch, 3, tile + 2, channels)
        here = jax.lax.dynamic_slice(framed, start, shape)[:, 1, 1:-1]
        around = jax.lax.dynamic_slice(grad, start, shape)
        shifted = [around[:, i, j : j + tile] for i in (2, 1, 0) for j in (2, 1, 0)]
        products = [here * shift for shift in shifted]
        return tuple(map(jnp.add, sums, [*products, shifted[4]]))

    zeros = jnp.zeros((batch, tile, channels), grad.dtype)
    num_tiles = height * (width // tile)
    sums = jax.lax.fori_loop(0, num_tiles, add_tile, (zeros,) * 10)
    return jnp.stack([jnp.sum(y, (0, 1)) for y in sums])


def _shifts(x: jax.Array) -> Iterator[jax.Array]:
    """Yields what each tap of the kernel multiplies, row by row, of a framed map."""
    height, width = x.shape[1] - 2, x.shape[2] - 2
    for i in range(3):
        for j in range(3):
            yield x[:, i : i + height, j : j + width]


def _exact(x: jax.Array) -> jax.Array:
    return x.astype(jnp.promote_types(x.dtype, jnp.float32))


_apply_pairs = jax.custom_vjp(_apply_shifts)
_apply_pairs.defvjp(
    functools.partial(_forward, keeps_frame=False),
    functools.partial(_backward, sum_products=_sum_in_pairs),
)
_apply_tiled = jax.custom_vjp(_apply_shifts)
_apply_tiled.defvjp(
    functools.partial(_forward, keeps_frame=True),
    functools.partial(_backward, sum_products=_sum_tiled),
)

# A CPU keeps the map with its frame for the backward pass, so that the one without need
# not be written. On a GPU the product before writes that one anyway.
_SHIFTS = Operation(
    "depthwise_gradient",
    {"tiled": _apply_tiled, "pairs": _apply_pairs},
    cpu="tiled",
    default="pairs",
)
_DEPTHWISE = Operation(
    "depthwise",
    {"shifts": _SHIFTS, "convolution": _apply_convolution},
    cpu="shifts",
    default="shifts",
)
