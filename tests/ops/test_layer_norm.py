import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from litv2_jax.ops.layer_norm import layer_norm, normalize

EPSILON = 1e-5


def draw(*shape, seed=0):
    return jnp.asarray(np.random.default_rng(seed).standard_normal(shape, np.float32))


def by_flax(x, scale, bias, epsilon=EPSILON):
    norm = nnx.LayerNorm(
        x.shape[-1], epsilon=epsilon, use_fast_variance=False, rngs=nnx.Rngs(0)
    )
    graphdef, _ = nnx.split(norm)
    return nnx.merge(graphdef, nnx.State({"scale": scale, "bias": bias}))(x)


def differentiate(function, x, scale, bias):
    def run(*arguments):
        y, backward = jax.vjp(function, *arguments)
        return y, *backward(draw(*x.shape, seed=3).astype(y.dtype))

    return jax.jit(run)(x, scale, bias)


def normalize_exactly(x):
    x = np.asarray(x, np.float64)
    x = x - x.mean(-1, keepdims=True)
    return x / np.sqrt((x**2).mean(-1, keepdims=True) + EPSILON)


def normalize_both_ways(x):
    """As in inference, and as in training, which may take the sums another way."""

    def run(x):
        ones, zeros = jnp.ones(x.shape[-1]), jnp.zeros(x.shape[-1])
        return layer_norm(x, ones, zeros, EPSILON, jnp.float32)

    return jax.jit(run)(x), jax.jit(lambda x: jax.vjp(run, x)[0])(x)


@pytest.mark.gpu
@pytest.mark.usefixtures("all_implementations")
@pytest.mark.parametrize("shape", [(2, 3, 5, 12), (4, 7), (3,)])
@pytest.mark.parametrize("epsilon", [EPSILON, 0.3])
def test_output_and_gradients_are_those_of_flax(shape, epsilon):
    arguments = draw(*shape) + 1.5, draw(shape[-1], seed=1), draw(shape[-1], seed=2)
    actual = differentiate(
        lambda *args: layer_norm(*args, epsilon, jnp.float32), *arguments
    )
    expected = differentiate(lambda *args: by_flax(*args, epsilon), *arguments)
    for ours, theirs in zip(actual, expected, strict=True):
        np.testing.assert_allclose(ours, theirs, rtol=1e-5, atol=5e-6)


@pytest.mark.gpu
@pytest.mark.usefixtures("all_implementations")
def test_a_mean_far_from_zero_costs_no_digits():
    x = draw(64, 96) + 10
    ones, zeros = jnp.ones(96), jnp.zeros(96)
    actual = jax.jit(lambda x: layer_norm(x, ones, zeros, EPSILON, jnp.float32))(x)
    np.testing.assert_allclose(actual, normalize_exactly(x), rtol=0, atol=5e-6)


@pytest.mark.gpu
@pytest.mark.usefixtures("all_implementations")
@pytest.mark.parametrize("mean", [0, 30])
def test_what_comes_in_bfloat16_is_normalized_in_float32(mean):
    x = (draw(64, 96) + mean).astype(jnp.bfloat16)
    for y in normalize_both_ways(x):
        np.testing.assert_allclose(y, normalize_exactly(x), rtol=0, atol=3e-4)


@pytest.mark.gpu
@pytest.mark.usefixtures("all_implementations")
def test_equal_numbers_of_bfloat16_stay_finite():
    for y in normalize_both_ways(jnp.full((4, 96), 77.7, jnp.bfloat16)):
        assert np.abs(y).max() < 1e-2
    # So many that the difference of the two sums comes out below zero for some.
    numbers = jnp.geomspace(1, 1000, 64, dtype=jnp.bfloat16)
    for y in normalize_both_ways(jnp.repeat(numbers[:, None], 769, axis=1)):
        assert np.abs(y).max() < 0.5


@pytest.mark.usefixtures("all_implementations")
def test_bfloat16_is_normalized_to_float32():
    x = (draw(8, 96) + 10).astype(jnp.bfloat16)
    normal = jax.jit(lambda x: normalize(x, EPSILON))(x)
    assert normal.dtype == jnp.float32
    np.testing.assert_allclose(normal, normalize_exactly(x), rtol=0, atol=5e-6)


def test_bfloat16_is_rounded_once():
    x = (draw(8, 96) + 10).astype(jnp.bfloat16)
    scale, bias = draw(96, seed=1), draw(96, seed=2)
    y, grad_x, grad_scale, grad_bias = differentiate(
        lambda *args: layer_norm(*args, EPSILON, jnp.bfloat16), x, scale, bias
    )
    assert (y.dtype, grad_x.dtype) == (jnp.bfloat16, jnp.bfloat16)
    assert (grad_scale.dtype, grad_bias.dtype) == (jnp.float32, jnp.float32)
    exact = normalize_exactly(x) * np.asarray(scale) + np.asarray(bias)
    # Half a step of bfloat16.
    np.testing.assert_allclose(
        np.asarray(y, np.float32), exact, rtol=1.01 * 2**-8, atol=1e-5
    )


def test_bfloat16_gives_float32_if_asked():
    x = draw(8, 96).astype(jnp.bfloat16)
    ones, zeros = jnp.ones(96), jnp.zeros(96)
    y = jax.jit(lambda x: layer_norm(x, ones, zeros, EPSILON, jnp.float32))(x)
    assert y.dtype == jnp.float32
    np.testing.assert_allclose(y, normalize_exactly(x), rtol=0, atol=5e-6)
