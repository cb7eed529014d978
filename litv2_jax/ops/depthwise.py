"""Depthwise 3x3 convolution in the form that is fast where it runs."""

import jax
import jax.numpy as jnp


@jax.custom_vjp
def depthwise_conv3x3(x: jax.Array, kernel: jax.Array) -> jax.Array:
    """Convolves every channel with its own 3x3 kernel; zeros outside, stride 1.

    Args:
        x: [B, H, W, C].
        kernel: [3, 3, 1, C].

    Returns:
        [B, H, W, C] in the type of `x`, summed in float32 at least.
    """
    # A sum of shifted products is one fused loop. In the training step of a small LITv2
    # on a CPU, XLA's grouped convolution takes 4.2 times as long, and the derivative
    # that JAX makes of this sum 2.2 times; hence the one below.
    exact = jnp.promote_types(x.dtype, jnp.float32)
    kernel = kernel.astype(exact)
    total = jnp.zeros(x.shape, exact)
    for i, j, shifted in _shifts(x):
        total += shifted.astype(exact) * kernel[i, j][None, None]
    return total.astype(x.dtype)


def _forward(x: jax.Array, kernel: jax.Array):
    return depthwise_conv3x3(x, kernel), (x, kernel)


def _backward(residuals: tuple[jax.Array, jax.Array], grad: jax.Array):
    x, kernel = residuals
    exact = jnp.promote_types(x.dtype, jnp.float32)
    sums = [
        jnp.sum(shifted.astype(exact) * grad.astype(exact), (0, 1, 2))
        for _, _, shifted in _shifts(x)
    ]
    grad_kernel = jnp.stack(sums).reshape(kernel.shape).astype(kernel.dtype)
    # The transposed convolution is the one with the kernel turned by 180 degrees.
    return depthwise_conv3x3(grad, kernel[::-1, ::-1]), grad_kernel


depthwise_conv3x3.defvjp(_forward, _backward)


def _shifts(x: jax.Array):
    """Yields (i, j, the map that kernel[i, j] multiplies), row by row."""
    height, width = x.shape[1:3]
    padded = jnp.pad(x, ((0, 0), (1, 1), (1, 1), (0, 0)))
    for i in range(3):
        for j in range(3):
            yield i, j, padded[:, i : i + height, j : j + width]
