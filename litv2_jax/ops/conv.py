"""Dense convolution whose kernel's gradient keeps the digits of the kernel."""

import functools

import jax
import jax.numpy as jnp

from litv2_jax.ops.linear import multiply
from litv2_jax.ops.padding import pad_map


def convolve(x: jax.Array, kernel: jax.Array, stride: int = 1) -> jax.Array:
    """Convolves with zeros outside, in the type of `x`.

    The first position's kernel is centered on the first of `x`, as PyTorch's padding
    by k // 2 has it; `SAME` would shift it where the stride is 2.

    Args:
        x: [B, H, W, C]; its gradient has the same type.
        kernel: [k, k, C, D] with odd k, rounded to the type of `x`; its gradient is
            not.
        stride: Positions between kernels.

    Returns:
        [B, ceil(H / stride), ceil(W / stride), D] in the type of `x`.
    """
    if kernel.shape[:2] == (1, 1):
        return multiply(x[:, ::stride, ::stride], kernel[0, 0])
    if kernel.dtype == x.dtype:
        return _convolve(x, kernel, stride)
    return _convolve_rounded(x, kernel, stride)


def _convolve(x: jax.Array, kernel: jax.Array, stride: int) -> jax.Array:
    side = kernel.shape[0] // 2
    margin = (side, side)
    return jax.lax.conv_general_dilated(
        x,
        kernel,
        (stride, stride),
        (margin, margin),
        dimension_numbers=("NHWC", "HWIO", "NHWC"),
    )


@functools.partial(jax.custom_vjp, nondiff_argnums=(2,))
def _convolve_rounded(x: jax.Array, kernel: jax.Array, stride: int) -> jax.Array:
    return _convolve(x, kernel.astype(x.dtype), stride)


def _forward(x: jax.Array, kernel: jax.Array, stride: int):
    return _convolve_rounded(x, kernel, stride), (x, kernel)


def _backward(stride: int, residuals: tuple[jax.Array, jax.Array], grad: jax.Array):
    x, kernel = residuals
    rounded = kernel.astype(x.dtype)
    (grad_x,) = jax.vjp(lambda x: _convolve(x, rounded, stride), x)[1](grad)
    # A product of all patches: cuDNN's gradient of a kernel has no more digits than
    # what it reads, and XLA would have it read maps in float32.
    patches = _gather_patches(x, kernel.shape[0], stride)
    flat, flat_grad = (y.reshape(-1, y.shape[-1]) for y in (patches, grad))
    product = jnp.matmul(flat.T, flat_grad, preferred_element_type=kernel.dtype)
    return grad_x, product.reshape(kernel.shape)


_convolve_rounded.defvjp(_forward, _backward)


def _gather_patches(x: jax.Array, size: int, stride: int) -> jax.Array:
    """Returns what each kernel covers: [B, H / stride, W / stride, k * k * C]."""
    height, width = x.shape[1:3]
    margin = (size // 2, size // 2)
    padded = pad_map(x, margin, margin)
    shifted = [
        padded[:, i : i + height : stride, j : j + width : stride]
        for i in range(size)
        for j in range(size)
    ]
    return jnp.concatenate(shifted, axis=-1)
