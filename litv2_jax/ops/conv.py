"""Dense convolution whose kernel's gradient keeps the digits of the kernel."""

import jax
import jax.numpy as jnp

from litv2_jax.ops.linear import multiply


def convolve(x: jax.Array, kernel: jax.Array) -> jax.Array:
    """Convolves with stride 1, zeros outside, in the type of `x`.

    Args:
        x: [B, H, W, C]; its gradient has the same type.
        kernel: [k, k, C, D] with odd k, rounded to the type of `x`; its gradient is
            not.

    Returns:
        [B, H, W, D] in the type of `x`.
    """
    if kernel.shape[:2] == (1, 1):
        return multiply(x, kernel[0, 0])
    if kernel.dtype == x.dtype:
        return _convolve(x, kernel)
    return _convolve_rounded(x, kernel)


def _convolve(x: jax.Array, kernel: jax.Array) -> jax.Array:
    return jax.lax.conv_general_dilated(
        x, kernel, (1, 1), "SAME", dimension_numbers=("NHWC", "HWIO", "NHWC")
    )


@jax.custom_vjp
def _convolve_rounded(x: jax.Array, kernel: jax.Array) -> jax.Array:
    return _convolve(x, kernel.astype(x.dtype))


def _forward(x: jax.Array, kernel: jax.Array):
    return _convolve_rounded(x, kernel), (x, kernel)


def _backward(residuals: tuple[jax.Array, jax.Array], grad: jax.Array):
    x, kernel = residuals
    (grad_x,) = jax.vjp(lambda x: _convolve(x, kernel.astype(x.dtype)), x)[1](grad)
    # A product of all patches: cuDNN's gradient of a kernel has no more digits than
    # what it reads, and XLA would have it read maps in float32.
    patches = _gather_patches(x, kernel.shape[0])
    flat, flat_grad = (y.reshape(-1, y.shape[-1]) for y in (patches, grad))
    product = jnp.matmul(flat.T, flat_grad, preferred_element_type=kernel.dtype)
    return grad_x, product.reshape(kernel.shape)


_convolve_rounded.defvjp(_forward, _backward)


def _gather_patches(x: jax.Array, size: int) -> jax.Array:
    """Returns what each position's kernel covers: [B, H, W, k * k * C]."""
    height, width = x.shape[1:3]
    margin = (size // 2, size // 2)
    padded = jnp.pad(x, ((0, 0), margin, margin, (0, 0)))
    shifted = [
        padded[:, i : i + height, j : j + width]
        for i in range(size)
        for j in range(size)
    ]
    return jnp.concatenate(shifted, axis=-1)
