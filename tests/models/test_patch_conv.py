import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from litv2_jax.models import patch_conv
from litv2_jax.models.patch_conv import PatchConv

# Channels in and out and side of the patches: few channels, then many, decide what is
# rearranged; the last is the border between them.
CASES = {
    "_multiply_patches": [(3, 8, 4), (7, 2, 2), (2, 1, 3)],
    "_pick_products": [(40, 2, 2), (19, 2, 3), (8, 2, 2)],
}


def create(in_features, out_features, size, dtype=jnp.float32):
    return PatchConv(
        in_features,
        out_features,
        size,
        kernel_init=nnx.initializers.normal(1.0),
        bias_init=nnx.initializers.normal(1.0),
        dtype=dtype,
        rngs=nnx.Rngs(0),
    )


def convolve(x, kernel, bias):
    """The same by JAX's convolution."""
    y = jax.lax.conv_general_dilated(
        x,
        kernel,
        kernel.shape[:2],
        "VALID",
        dimension_numbers=("NHWC", "HWIO", "NHWC"),
    )
    return y + bias[None, None, None]


def draw(*shape, seed=0):
    return jnp.asarray(np.random.default_rng(seed).standard_normal(shape, np.float32))


def differentiate(function, x, kernel, bias):
    def run(*arguments):
        y, backward = jax.vjp(function, *arguments)
        return y, *backward(draw(*y.shape, seed=1))

    return jax.jit(run)(x, kernel, bias)


@pytest.mark.parametrize(
    ("way", "sizes"), [(way, sizes) for way, all_ in CASES.items() for sizes in all_]
)
def test_is_a_convolution_with_stride(way, sizes, monkeypatch):
    other = next(name for name in CASES if name != way)
    monkeypatch.setattr(patch_conv, other, None)
    layer = create(*sizes)
    graphdef, state = nnx.split(layer)

    def apply(x, kernel, bias):
        state["kernel"], state["bias"] = kernel, bias
        return nnx.merge(graphdef, state)(x)

    # The patches fill all rows, but the last column is part of none.
    x = draw(2, 12, 13, sizes[0])
    arguments = x, layer.kernel[...], layer.bias[...]
    actual = differentiate(apply, *arguments)
    expected = differentiate(convolve, *arguments)
    assert actual[0].shape == (2, 12 // sizes[2], 13 // sizes[2], sizes[1])
    for ours, theirs in zip(actual, expected, strict=True):
        np.testing.assert_allclose(ours, theirs, rtol=1e-5, atol=3e-5)


@pytest.mark.parametrize("sizes", [(3, 8, 4), (40, 2, 2)])
def test_bfloat16_adds_up_in_the_type_of_the_result(sizes):
    layer = create(*sizes)
    x = draw(2, 8, 12, sizes[0]).astype(jnp.bfloat16)
    kernel = layer.kernel[...].astype(jnp.bfloat16).astype(jnp.float32)
    expected = jax.jit(convolve)(x.astype(jnp.float32), kernel, layer.bias[...])
    actual = jax.jit(lambda x: layer(x))(x)
    assert actual.dtype == jnp.float32
    np.testing.assert_allclose(actual, expected, rtol=1e-5, atol=3e-5)

    half = create(*sizes, dtype=jnp.bfloat16)
    rounded = jax.jit(lambda x: half(x))(x)
    assert rounded.dtype == jnp.bfloat16
    # Products and bias are rounded, and so are sums of products.
    np.testing.assert_allclose(
        np.asarray(rounded, np.float32), expected, rtol=0.02, atol=0.1
    )
