"""Matrix product and bias whose gradients are exact and copy little.

Parameters have more digits than what they are applied to, and so have their gradients:
products and sums over all positions keep the type of the parameter, as does the sum
over the devices that XLA makes of it.
"""

import functools

import jax
import jax.numpy as jnp
from jax.typing import DTypeLike

from litv2_jax.ops.implementations import Operation


@functools.partial(jax.custom_vjp, nondiff_argnums=(2,))
def multiply(
    x: jax.Array, kernel: jax.Array, dtype: DTypeLike | None = None
) -> jax.Array:
    """Multiplies vectors along the last axis with a matrix, in the type of the vectors.

    Args:
        x: [..., C]; its gradient has the same type.
        kernel: [C, D], rounded to the type of `x`; its gradient is not.
        dtype: Of the result; None for that of `x`.

    Returns:
        [..., D].
    """
    return jnp.matmul(x, kernel.astype(x.dtype), preferred_element_type=dtype)


def _multiply_forward(x: jax.Array, kernel: jax.Array, dtype: DTypeLike | None):
    return multiply(x, kernel, dtype), (x, kernel)


def _multiply_backward(
    dtype: DTypeLike | None, residuals: tuple[jax.Array, jax.Array], grad: jax.Array
):
    del dtype
    x, kernel = residuals
    grad = grad.astype(x.dtype)
    # XLA's products on a CPU take a transposed matrix as it is, but copy an array of
    # more dimensions, which is what autodiff would have them multiply.
    flat, flat_grad = (y.reshape(-1, y.shape[-1]) for y in (x, grad))
    exact = jnp.promote_types(x.dtype, kernel.dtype)
    grad_kernel = jnp.matmul(flat.T, flat_grad, preferred_element_type=exact)
    depends = depends_on_platform(len(flat_grad), kernel.shape)
    multiply_transposed = _GRADIENT if depends else _multiply_transposed
    flat_grad_x = multiply_transposed(flat_grad, kernel.astype(x.dtype))
    return flat_grad_x.reshape(x.shape), grad_kernel.astype(kernel.dtype)


multiply.defvjp(_multiply_forward, _multiply_backward)


def depends_on_platform(num_vectors: int, kernel_shape: tuple[int, ...]) -> bool:
    """Returns whether platforms compute the gradient of so many vectors differently."""
    return num_vectors < min(kernel_shape)


def _multiply_transposed(grad: jax.Array, kernel: jax.Array) -> jax.Array:
    return grad @ kernel.T


def _multiply_kernel_first(grad: jax.Array, kernel: jax.Array) -> jax.Array:
    """Reads the kernel as it lies in memory, and transposes the smaller result.

    Eigen is slow to transpose a kernel that is larger than the caches for few vectors.
    """
    # The barrier keeps XLA from joining both into the other product.
    return jax.lax.optimization_barrier(kernel @ grad.T).T


# Gradient [N, D] through a kernel [C, D] -> [N, C].
_GRADIENT = Operation(
    "linear_gradient",
    {"plain": _multiply_transposed, "kernel_first": _multiply_kernel_first},
    cpu="kernel_first",
    default="plain",
)


@jax.custom_vjp
def add_bias(x: jax.Array, bias: jax.Array) -> jax.Array:
    """Adds a bias [C], rounded to the type of `x`, to vectors [..., C]."""
    return x + bias.astype(x.dtype).reshape((1,) * (x.ndim - 1) + (-1,))


def _add_bias_forward(x: jax.Array, bias: jax.Array):
    return add_bias(x, bias), bias


def _add_bias_backward(bias: jax.Array, grad: jax.Array):
    exact = jnp.promote_types(grad.dtype, bias.dtype)
    grad_bias = jnp.sum(_convert(grad, exact), range(grad.ndim - 1))
    return grad, grad_bias.astype(bias.dtype)


add_bias.defvjp(_add_bias_forward, _add_bias_backward)


def _convert(x: jax.Array, dtype: DTypeLike) -> jax.Array:
    if x.dtype != jnp.bfloat16 or dtype != jnp.float32:
        return x.astype(dtype)
    # XLA takes a plain conversion back to where `x` was rounded, and keeps all of it in
    # float32 as well: a step of LITv2-S then moves 13 % more bytes on an H200.
    bits = jax.lax.bitcast_convert_type(x, jnp.uint16).astype(jnp.uint32)
    return jax.lax.bitcast_convert_type(bits << 16, jnp.float32)
