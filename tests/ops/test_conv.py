import jax
import jax.numpy as jnp
import numpy as np
import pytest

from litv2_jax.ops.conv import convolve


def draw(*shape, seed):
    return jnp.asarray(np.random.default_rng(seed).standard_normal(shape, np.float32))


def convolve_by_jax(x, kernel, stride):
    """At all positions, of which the strided ones are taken."""
    y = jax.lax.conv_general_dilated(
        x, kernel, (1, 1), "SAME", dimension_numbers=("NHWC", "HWIO", "NHWC")
    )
    return y[:, ::stride, ::stride]


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
@pytest.mark.parametrize(("size", "stride"), [(1, 1), (3, 1), (5, 1), (1, 2), (3, 2)])
def test_values_and_gradients_are_those_of_jax_in_float32(size, stride, dtype):
    """A kernel's gradient has all digits, even of maps that were rounded."""
    x, kernel = draw(2, 9, 6, 4, seed=0), draw(size, size, 4, 3, seed=1)
    cotangent = draw(2, -(-9 // stride), 6 // stride, 3, seed=2)
    x, cotangent = x.astype(dtype), cotangent.astype(dtype)
    y, backward = jax.vjp(lambda *a: convolve(*a, stride), x, kernel)
    grad_x, grad_kernel = jax.jit(backward)(cotangent)
    assert (y.dtype, grad_x.dtype, grad_kernel.dtype) == (dtype, dtype, "float32")

    rounded = kernel.astype(dtype).astype(jnp.float32)
    exact = x.astype(jnp.float32), rounded
    expected, backward = jax.vjp(lambda *a: convolve_by_jax(*a, stride), *exact)
    expected_x, expected_kernel = backward(cotangent.astype(jnp.float32))
    tolerance = {"float32": 1e-5, "bfloat16": 2**-5}[dtype]
    np.testing.assert_allclose(y.astype("float32"), expected, atol=3 * tolerance)
    np.testing.assert_allclose(grad_x.astype("float32"), expected_x, atol=3 * tolerance)
    np.testing.assert_allclose(grad_kernel, expected_kernel, rtol=1e-5, atol=1e-4)
