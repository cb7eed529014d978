import jax
import jax.numpy as jnp
import numpy as np
import pytest

from litv2_jax.ops.depthwise import depthwise_conv3x3


def grouped_convolution(x, kernel):
    return jax.lax.conv_general_dilated(
        x,
        kernel,
        (1, 1),
        "SAME",
        dimension_numbers=("NHWC", "HWIO", "NHWC"),
        feature_group_count=x.shape[-1],
    )


@pytest.mark.parametrize("size", [(1, 1), (2, 7), (9, 6)])
def test_is_a_grouped_convolution(size):
    rng = np.random.default_rng(0)
    x = rng.standard_normal((2, *size, 5)).astype(np.float32)
    kernel = rng.standard_normal((3, 3, 1, 5)).astype(np.float32)

    actual, vjp = jax.vjp(depthwise_conv3x3, x, kernel)
    expected, expected_vjp = jax.vjp(grouped_convolution, x, kernel)

    np.testing.assert_allclose(actual, expected, atol=1e-5)
    for ours, theirs in zip(vjp(expected), expected_vjp(expected), strict=True):
        np.testing.assert_allclose(ours, theirs, rtol=1e-5, atol=1e-4)


def test_bfloat16_is_rounded_once():
    rng = np.random.default_rng(0)
    x = jnp.asarray(rng.standard_normal((2, 6, 5, 4)), jnp.bfloat16)
    kernel = jnp.asarray(rng.standard_normal((3, 3, 1, 4)), jnp.float32)

    expected = grouped_convolution(x.astype(jnp.float32), kernel).astype(jnp.bfloat16)
    actual = depthwise_conv3x3(x, kernel)

    assert actual.dtype == jnp.bfloat16
    np.testing.assert_allclose(
        actual.astype("float32"), expected.astype("float32"), 2**-7
    )
