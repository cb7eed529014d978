"""Layer normalisation, with a derivative that reads and writes little."""

import functools
from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp

from litv2_jax.ops.implementations import Operation


def layer_norm(
    x: jax.Array, scale: jax.Array, bias: jax.Array, epsilon: float, dtype: jnp.dtype
) -> jax.Array:
    """Normalises each vector along the last axis (arXiv:1607.06450).

    In float32 at least, by two passes: the mean of squares minus the square of the mean
    is off by 3e-5 where the mean is 10, and this by 1.6e-6. Only training on 16-bit
    inputs takes one pass, except on a CPU.

    Args:
        x: [..., C].
        scale: [C].
        bias: [C].
        epsilon: Added to the variance.
        dtype: Type of the result.

    Returns:
        [..., C].
    """
    return _LAYER_NORM(x, scale, bias, epsilon=epsilon, dtype=dtype)


def normalize(x: jax.Array, epsilon: float) -> jax.Array:
    """Returns the same without scale and bias, in float32 at least: [..., C]."""
    return _LAYER_NORM(x, epsilon=epsilon)


class Sums(NamedTuple):
    """The two reductions that LayerNorm needs.

    Attributes:
        average: Over channels, [..., C] -> [..., 1].
        total: Over all positions, of two arrays [..., C] -> [C].
        single_pass: Whether training reads 16-bit inputs in a single pass.
    """

    average: Callable[[jax.Array], jax.Array]
    total: Callable[[jax.Array, jax.Array], tuple[jax.Array, jax.Array]]
    single_pass: bool


def _average(x: jax.Array) -> jax.Array:
    return jnp.mean(x, -1, keepdims=True)


def _total(x: jax.Array, y: jax.Array) -> tuple[jax.Array, jax.Array]:
    # Side by side they are one sum, which a GPU computes in one kernel.
    sums = jnp.concatenate([x, y], axis=-1).sum(range(x.ndim - 1))
    x_sum, y_sum = jnp.split(sums, 2)
    return x_sum, y_sum


def _average_by_product(x: jax.Array) -> jax.Array:
    size = x.shape[-1]
    return jnp.matmul(x, jnp.full((size, 1), 1 / size, x.dtype), precision="highest")


def _total_by_product(x: jax.Array, y: jax.Array) -> tuple[jax.Array, jax.Array]:
    flat_x, flat_y = (z.reshape(-1, z.shape[-1]) for z in (x, y))
    ones = jnp.ones(len(flat_x), x.dtype)
    return (
        jnp.matmul(ones, flat_x, precision="highest"),
        jnp.matmul(ones, flat_y, precision="highest"),
    )


# On a CPU XLA leaves sums along rows to a library, and with them the matrix product
# that reads the result; what the library reads is broadcast to whole maps in memory.
_SUM = Sums(_average, _total, single_pass=True)
_MATMUL = Sums(_average_by_product, _total_by_product, single_pass=False)


def _normalize(x: jax.Array, epsilon: float, sums: Sums) -> jax.Array:
    return _standardize(x, *_measure(x, epsilon, sums))


def _standardize(x: jax.Array, mean: jax.Array, inverse: jax.Array) -> jax.Array:
    return (x.astype(mean.dtype) - mean) * inverse


def _measure(x: jax.Array, epsilon: float, sums: Sums) -> tuple[jax.Array, jax.Array]:
    """Returns the means of vectors and 1 / standard deviation: [..., 1] each."""
    x = x.astype(jnp.promote_types(x.dtype, jnp.float32))
    mean = sums.average(x)
    return mean, jax.lax.rsqrt(sums.average(jnp.square(x - mean)) + epsilon)


def _measure_once(
    x: jax.Array, epsilon: float, sums: Sums
) -> tuple[jax.Array, jax.Array]:
    """Returns the same of 16-bit inputs, in a single pass.

    The digits that this loses are few beside those that such inputs lost when they were
    rounded to 16 bits.
    """
    x = x.astype(jnp.float32)
    mean = sums.average(x)
    variance = sums.average(jnp.square(x)) - jnp.square(mean)
    return mean, jax.lax.rsqrt(jnp.maximum(variance, 0) + epsilon)


@functools.partial(jax.custom_vjp, nondiff_argnums=(3, 4, 5))
def _layer_norm(
    x: jax.Array, scale: jax.Array, bias: jax.Array, epsilon: float, dtype, sums: Sums
) -> jax.Array:
    return _scale(_normalize(x, epsilon, sums), scale, bias, dtype)


def _forward(
    x: jax.Array, scale: jax.Array, bias: jax.Array, epsilon: float, dtype, sums: Sums
):
    is_once = sums.single_pass and x.dtype.itemsize == 2
    mean, inverse = (_measure_once if is_once else _measure)(x, epsilon, sums)
    y = _scale(_standardize(x, mean, inverse), scale, bias, dtype)
    return y, (x, mean, inverse, scale, bias)


def _backward(
    epsilon: float,
    dtype,
    sums: Sums,
    residuals: tuple[jax.Array, ...],
    grad: jax.Array,
):
    del epsilon, dtype
    x, mean, inverse, scale, bias = residuals

    def prepare(x: jax.Array, grad: jax.Array) -> tuple[jax.Array, jax.Array]:
        return _standardize(x, mean, inverse), grad.astype(mean.dtype)

    # The barrier has XLA compute the terms of these sums twice instead of keeping them,
    # in float32, for use below.
    normal, exact = prepare(*jax.lax.optimization_barrier((x, grad)))
    grad_scale, grad_bias = sums.total(exact * normal, exact)

    normal, exact = prepare(x, grad)
    exact *= _as_row(scale, exact)
    along = sums.average(exact * normal)
    grad_x = inverse * (exact - sums.average(exact) - normal * along)
    return (
        grad_x.astype(x.dtype),
        grad_scale.astype(scale.dtype),
        grad_bias.astype(bias.dtype),
    )


_layer_norm.defvjp(_forward, _backward)


def _scale(normal: jax.Array, scale: jax.Array, bias: jax.Array, dtype) -> jax.Array:
    return (normal * _as_row(scale, normal) + _as_row(bias, normal)).astype(dtype)


def _normalize_with(
    x: jax.Array, *scale_and_bias: jax.Array, sums: Sums, epsilon: float, dtype=None
) -> jax.Array:
    if not scale_and_bias:
        return _normalize(x, epsilon, sums)
    return _layer_norm(x, *scale_and_bias, epsilon, dtype, sums)


_LAYER_NORM = Operation(
    "layer_norm",
    {
        "matmul": functools.partial(_normalize_with, sums=_MATMUL),
        "sum": functools.partial(_normalize_with, sums=_SUM),
    },
    cpu="matmul",
    default="sum",
)


def _as_row(vector: jax.Array, like: jax.Array) -> jax.Array:
    return vector.astype(like.dtype).reshape((1,) * (like.ndim - 1) + (-1,))
