import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from benchmarks.attention.all_positions import MSA, SRA, XCA, Linformer, Performer
from benchmarks.attention.layers import LAYERS
from benchmarks.attention.windows import CrossWindow, PositionConv, WindowAttention
from litv2_jax.models.hilo import HiLo

FLOAT32 = jnp.float32


def random(*shape):
    return np.random.default_rng(0).standard_normal(shape, np.float32)


def strengthen(layer, factor=20):
    """Makes logits so large that attention is far from uniform."""
    kernel = layer.qkv.kernel
    kernel[...] = factor * kernel[...]
    return layer


def compute(layer, x):
    """Compiles the layer as a whole, which is faster than operation by operation."""
    return np.asarray(jax.jit(lambda x: layer(x))(x))


def seen_by(layer, shape):
    """Returns what finds the positions [H, W] that one of the output depends on."""

    @jax.jit
    def differentiate(x, row, column):
        return jax.grad(lambda x: layer(x)[0, row, column].sum())(x)

    def see(row, column):
        return np.abs(differentiate(random(*shape), row, column)[0]).max(-1) > 0

    return see


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
@pytest.mark.parametrize("name", LAYERS)
def test_shape_and_type_stay(name, dtype):
    create = LAYERS[name]
    layer = nnx.eval_shape(lambda: create(24, 4, (9, 16), dtype, nnx.Rngs(0)))
    x = jax.ShapeDtypeStruct((2, 9, 16, 24), dtype)
    y = nnx.eval_shape(lambda layer, x: layer(x), layer, x)
    assert (y.shape, y.dtype) == (x.shape, x.dtype)


def test_msa_is_hilo_with_windows_of_one():
    msa = strengthen(MSA(24, 4, dtype=FLOAT32, rngs=nnx.Rngs(0)))
    hilo = HiLo(24, 4, window_size=1, rngs=nnx.Rngs(1))
    copy_projections(msa, {"low_q": slice(24), "low_kv": slice(24, None)}, hilo)
    hilo.low_out = msa.out
    x = random(2, 5, 6, 24)
    np.testing.assert_allclose(compute(msa, x), compute(hilo, x), rtol=1e-5, atol=1e-6)


def test_sra_without_reduction_is_msa():
    msa = strengthen(MSA(24, 4, dtype=FLOAT32, rngs=nnx.Rngs(0)))
    sra = SRA(24, 4, ratio=1, dtype=FLOAT32, rngs=nnx.Rngs(1))
    copy_projections(msa, {"q": slice(24), "kv": slice(24, None)}, sra)
    sra.out = msa.out
    x = random(2, 5, 6, 24)
    np.testing.assert_allclose(compute(msa, x), compute(sra, x), rtol=1e-5, atol=1e-6)


def copy_projections(source, columns, target):
    for name, part in columns.items():
        linear = getattr(target, name)
        linear.kernel[...] = source.qkv.kernel[...][:, part]
        linear.bias[...] = source.qkv.bias[...][part]


def test_sra_reduces_as_a_strided_convolution():
    layer = SRA(24, 4, ratio=2, dtype=FLOAT32, rngs=nnx.Rngs(0))
    found = []
    layer.norm = lambda x: found.append(x) or x
    x = random(2, 5, 6, 24)
    layer(x)
    kernel = layer.reduce.kernel[...].reshape(2, 2, 24, 24)
    expected = jax.lax.conv_general_dilated(
        x, kernel, (2, 2), "VALID", dimension_numbers=("NHWC", "HWIO", "NHWC")
    )
    assert expected.shape == (2, 2, 3, 24)
    np.testing.assert_allclose(
        found[0], expected.reshape(2, 6, 24), rtol=1e-5, atol=1e-6
    )


def test_linformer_without_mixing_is_msa():
    msa = strengthen(MSA(24, 4, dtype=FLOAT32, rngs=nnx.Rngs(0)))
    linformer = Linformer(24, 4, 30, num_mixtures=30, dtype=FLOAT32, rngs=nnx.Rngs(1))
    linformer.qkv, linformer.out = msa.qkv, msa.out
    linformer.mix_k[...] = linformer.mix_v[...] = jnp.eye(30)
    x = random(2, 5, 6, 24)
    np.testing.assert_allclose(
        compute(msa, x), compute(linformer, x), rtol=1e-5, atol=1e-6
    )


def test_local_windows_see_only_themselves():
    layer = WindowAttention(24, 4, window_size=3, dtype=FLOAT32, rngs=nnx.Rngs(0))
    expected = np.zeros((6, 9), bool)
    expected[3:6, 6:9] = True
    np.testing.assert_array_equal(seen_by(layer, (1, 6, 9, 24))(4, 6), expected)


def test_shifted_windows_see_only_neighbours():
    layer = WindowAttention(
        24, 4, window_size=3, shift=1, dtype=FLOAT32, rngs=nnx.Rngs(0)
    )
    see = seen_by(layer, (1, 6, 9, 24))
    # Borders of windows are at 1, 4, and so on; what is beyond the last moved there
    # shares a window with the first, and must not be mixed with it.
    for row, column, rows, columns in [
        (2, 5, slice(1, 4), slice(4, 7)),
        (0, 0, slice(0, 1), slice(0, 1)),
        (5, 8, slice(4, 6), slice(7, 9)),
        (0, 8, slice(0, 1), slice(7, 9)),
        (5, 0, slice(4, 6), slice(0, 1)),
    ]:
        expected = np.zeros((6, 9), bool)
        expected[rows, columns] = True
        np.testing.assert_array_equal(see(row, column), expected)


def test_windows_over_the_whole_map_are_msa():
    msa = strengthen(MSA(24, 4, dtype=FLOAT32, rngs=nnx.Rngs(0)))
    layer = WindowAttention(24, 4, window_size=6, dtype=FLOAT32, rngs=nnx.Rngs(1))
    layer.qkv, layer.out = msa.qkv, msa.out
    x = random(2, 6, 6, 24)
    np.testing.assert_allclose(compute(msa, x), compute(layer, x), rtol=1e-5, atol=1e-6)


def test_stripes_cross():
    layer = CrossWindow(24, 4, stripe=3, dtype=FLOAT32, rngs=nnx.Rngs(0))
    expected = np.zeros((6, 9), bool)
    expected[3:6] = expected[:, 6:9] = True
    np.testing.assert_array_equal(seen_by(layer, (1, 6, 9, 24))(4, 6), expected)


def test_stripes_over_the_whole_map_are_msa_and_a_convolution():
    msa = strengthen(MSA(24, 4, dtype=FLOAT32, rngs=nnx.Rngs(0)))
    layer = CrossWindow(24, 4, stripe=6, dtype=FLOAT32, rngs=nnx.Rngs(1))
    layer.qkv, layer.out = msa.qkv, msa.out
    x = random(2, 6, 6, 24)

    def position(x):
        first, second = jnp.split(msa.qkv(x), 6, axis=-1)[4:]
        positions = layer.vertical_position(first), layer.horizontal_position(second)
        return msa.out(jnp.concatenate(positions, axis=-1))

    # Projections are linear, and this bias is zero.
    expected = compute(msa, x) + compute(position, x)
    np.testing.assert_allclose(compute(layer, x), expected, rtol=1e-5, atol=1e-5)


def test_positions_are_a_depthwise_convolution():
    layer = PositionConv(24, rngs=nnx.Rngs(0))
    layer.bias[...] = random(24)
    x = random(2, 5, 6, 24)
    kernel = layer.kernel[...][:, :, None]
    dimensions = ("NHWC", "HWIO", "NHWC")
    expected = jax.lax.conv_general_dilated(
        x, kernel, (1, 1), "SAME", None, None, dimensions, feature_group_count=24
    )
    expected += layer.bias[...][None, None, None]
    np.testing.assert_allclose(compute(layer, x), expected, rtol=1e-5, atol=1e-5)


def test_performer_nears_softmax_attention():
    msa = strengthen(MSA(32, 4, dtype=FLOAT32, rngs=nnx.Rngs(0)), 5)
    x = random(2, 5, 6, 32)
    expected, errors = compute(msa, x), []
    for num_features in (8, 128, 8192):
        layer = Performer(
            32, 4, num_features=num_features, dtype=FLOAT32, rngs=nnx.Rngs(1)
        )
        layer.qkv, layer.out = msa.qkv, msa.out
        errors.append(np.abs(compute(layer, x) - expected).mean() / expected.std())
    assert errors[0] > 2 * errors[1] > 4 * errors[2]
    assert errors[2] < 0.05


def test_directions_are_orthogonal_and_as_long_as_normal_ones():
    layer = Performer(256, 4, num_features=160, dtype=FLOAT32, rngs=nnx.Rngs(0))
    directions = layer.directions[...]
    products = directions[:64] @ directions[:64].T
    np.testing.assert_allclose(products - np.diag(np.diag(products)), 0, atol=1e-3)
    assert directions.shape == (160, 64)
    lengths = jnp.square(directions).sum(-1)
    assert float(lengths.mean()) == pytest.approx(64, rel=0.1)
    assert float(lengths.std()) == pytest.approx(128**0.5, rel=0.3)


def test_xca_forgets_positions_and_how_many_there_are():
    layer = strengthen(XCA(24, 4, dtype=FLOAT32, rngs=nnx.Rngs(0)))
    x = random(2, 5, 6, 24)
    expected = compute(layer, x)
    order = np.random.default_rng(1).permutation(30)
    shuffled = compute(layer, x.reshape(2, 1, 30, 24)[:, :, order])
    np.testing.assert_allclose(
        shuffled, expected.reshape(2, 1, 30, 24)[:, :, order], rtol=1e-4, atol=1e-5
    )
    twice = compute(layer, np.concatenate([x, x], axis=1))
    np.testing.assert_allclose(twice[:, :5], expected, rtol=1e-4, atol=1e-5)


def test_xca_weighs_channels():
    layer = strengthen(XCA(8, 2, dtype=FLOAT32, rngs=nnx.Rngs(0)))
    x = random(1, 2, 3, 8)
    q, k, v = (
        np.asarray(part).reshape(6, 2, 4).transpose(1, 2, 0)
        for part in jnp.split(layer.qkv(x), 3, axis=-1)
    )
    q, k = (part / np.linalg.norm(part, axis=-1, keepdims=True) for part in (q, k))
    weights = np.exp(q @ k.transpose(0, 2, 1))
    weights /= weights.sum(-1, keepdims=True)
    expected = layer.out((weights @ v).transpose(2, 0, 1).reshape(1, 2, 3, 8))
    np.testing.assert_allclose(compute(layer, x), expected, rtol=1e-5, atol=1e-6)
