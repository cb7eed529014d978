"""Matrix product whose derivative copies little."""

import functools
from typing import Any

import jax
import jax.numpy as jnp
from jax.typing import DTypeLike


@functools.partial(jax.custom_vjp, nondiff_argnums=(2,))
def multiply(
    x: jax.Array, kernel: jax.Array, dtype: DTypeLike | None = None
) -> jax.Array:
    """Multiplies vectors along the last axis with a matrix, both of the same type.

    Args:
        x: [..., C].
        kernel: [C, D].
        dtype: Of the result; None for that of `x`, which gradients have in any case.

    Returns:
        [..., D].
    """
    return jnp.matmul(x, kernel, preferred_element_type=dtype)


def _forward(x: jax.Array, kernel: jax.Array, dtype: DTypeLike | None):
    return multiply(x, kernel, dtype), (x, kernel)


def _backward(
    dtype: DTypeLike | None, residuals: tuple[jax.Array, jax.Array], grad: jax.Array
):
    del dtype
    x, kernel = residuals
    grad = grad.astype(x.dtype)
    # XLA's products on a CPU take a transposed matrix as it is, but copy an array of
    # more dimensions, which is what autodiff would have them multiply.
    flat, flat_grad = (y.reshape(-1, y.shape[-1]) for y in (x, grad))
    return grad @ kernel.T, flat.T @ flat_grad


multiply.defvjp(_forward, _backward)


def dot_general(
    x: jax.Array, kernel: jax.Array, dimension_numbers: Any, **options: Any
) -> jax.Array:
    """Lets `nnx.Linear` use `multiply`."""
    del dimension_numbers, options  # Those of a vector times a matrix.
    return multiply(x, kernel)
