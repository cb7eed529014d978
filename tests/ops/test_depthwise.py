import re

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import litv2_jax
from litv2_jax import use_implementation
from litv2_jax.ops.depthwise import depthwise_conv3x3_gelu


def plain(x, kernel, bias):
    """The same from JAX's own convolution and GELU."""
    y = jax.lax.conv_general_dilated(
        x,
        kernel,
        (1, 1),
        "SAME",
        dimension_numbers=("NHWC", "HWIO", "NHWC"),
        feature_group_count=x.shape[-1],
    )
    return jax.nn.gelu(y + bias[None, None, None], approximate=False)


def draw(*shape, seed=0):
    return np.random.default_rng(seed).standard_normal(shape).astype(np.float32)


@pytest.mark.gpu
@pytest.mark.parametrize(
    "implementation",
    [
        {"depthwise_gradient": "tiled"},
        {"depthwise_gradient": "pairs"},
        {"depthwise": "convolution"},
    ],
    ids=str,
)
@pytest.mark.parametrize("size", [(1, 1), (2, 7), (9, 6)])
def test_is_a_grouped_convolution_with_gelu(size, implementation):
    arguments = draw(2, *size, 5), draw(3, 3, 1, 5, seed=1), draw(5, seed=2)
    cotangent = draw(2, *size, 5, seed=3)

    with use_implementation(**implementation):
        actual, vjp = jax.vjp(depthwise_conv3x3_gelu, *arguments)
        gradients = vjp(cotangent)
    expected, expected_vjp = jax.vjp(plain, *arguments)

    np.testing.assert_allclose(actual, expected, atol=1e-5)
    for ours, theirs in zip(gradients, expected_vjp(cotangent), strict=True):
        np.testing.assert_allclose(ours, theirs, rtol=1e-5, atol=1e-4)


@pytest.mark.gpu
def test_bfloat16_is_rounded_once():
    x = jnp.asarray(draw(2, 6, 5, 4), jnp.bfloat16)
    kernel, bias = draw(3, 3, 1, 4, seed=1), draw(4, seed=2)

    expected = plain(x.astype(jnp.float32), kernel, bias).astype(jnp.bfloat16)
    actual = depthwise_conv3x3_gelu(x, kernel, bias)

    assert actual.dtype == jnp.bfloat16
    np.testing.assert_allclose(
        actual.astype("float32"), expected.astype("float32"), 2**-7, atol=1e-6
    )


@pytest.mark.skipif(jax.default_backend() != "cpu", reason="is about programs for CPUs")
def test_a_frame_is_written_together_with_the_bias_before_it():
    """Also where a model has several maps of a size."""

    def mix_twice(x, kernel, bias):
        for _ in range(2):
            x = depthwise_conv3x3_gelu(x + bias[None, None, None], kernel, bias)
        return x

    arguments = draw(1, 8, 8, 16), draw(3, 3, 1, 16), draw(16)
    run = jax.jit(mix_twice, compiler_options=litv2_jax.compiler_options())
    program = run.lower(*arguments).compile().as_text()

    # Within fusions, where the operand is no fusion's result and no parameter.
    assert re.findall(r" pad\(%([a-z_]+)", program) == ["add", "add"]
