import jax
import jax.numpy as jnp
import numpy as np
import pytest

from litv2_jax.ops import resize
from litv2_jax.ops.resize import (
    resample_argmax,
    resample_bilinear,
    resize_bilinear,
    resize_nearest,
)


def interpolate(x: np.ndarray, length: int, axis: int) -> np.ndarray:
    """PyTorch's definition of bilinear, along one axis, in float64."""
    old = x.shape[axis]
    position = np.maximum((np.arange(length) + 0.5) * old / length - 0.5, 0)
    low = np.floor(position).astype(int)
    high = np.minimum(low + 1, old - 1)
    share = np.expand_dims(position - low, [i for i in range(4) if i != axis])
    return (1 - share) * x.take(low, axis) + share * x.take(high, axis)


@pytest.mark.parametrize("size", [(14, 10), (28, 20), (13, 9), (3, 4), (7, 5), (8, 31)])
def test_bilinear_is_pytorchs(size):
    x = np.random.default_rng(0).standard_normal((2, 7, 5, 3))
    expected = interpolate(interpolate(x, size[0], 1), size[1], 2)
    actual = resize_bilinear(jnp.asarray(x, jnp.float32), size)
    np.testing.assert_allclose(actual, expected, atol=3e-6)


@pytest.mark.parametrize("size", [(10, 6), (11, 7), (5, 3), (15, 9), (4, 3)])
def test_nearest_is_pytorchs(size):
    x = np.random.default_rng(0).standard_normal((2, 5, 3, 4)).astype(np.float32)
    rows, columns = (np.arange(n) * m // n for n, m in zip(size, (5, 3), strict=True))
    expected = x[:, rows][:, :, columns]
    np.testing.assert_array_equal(resize_nearest(jnp.asarray(x), size), expected)


def test_each_map_is_resampled_from_its_own_size_to_its_own():
    x = np.random.default_rng(0).standard_normal((3, 8, 12, 2)).astype(np.float32)
    sizes = np.array([[8, 12], [5, 7], [3, 12]])
    new_sizes = np.array([[4, 20], [5, 7], [10, 6]])

    resample = jax.jit(lambda *arrays: resample_bilinear(*arrays, (10, 20)))
    result = resample(x, sizes, new_sizes)

    assert result.shape == (3, 10, 20, 2)
    for i, ((h, w), (new_h, new_w)) in enumerate(zip(sizes, new_sizes, strict=True)):
        expected = resize_bilinear(jnp.asarray(x[i : i + 1, :h, :w]), (new_h, new_w))
        np.testing.assert_allclose(result[i, :new_h, :new_w], expected[0], atol=1e-6)


def test_the_part_of_each_map_is_resized_to_the_nearest_by_itself():
    x = np.random.default_rng(0).standard_normal((3, 5, 6, 2)).astype(np.float32)
    parts = np.array([[5, 6], [3, 4], [1, 5]])
    new_parts = np.array([[11, 12], [7, 8], [3, 11]])
    result = jax.jit(lambda *a: resize_nearest(a[0], (11, 13), *a[1:]))(
        x, parts, new_parts
    )
    assert result.shape == (3, 11, 13, 2)
    for i, ((h, w), (new_h, new_w)) in enumerate(zip(parts, new_parts, strict=True)):
        expected = resize_nearest(jnp.asarray(x[i : i + 1, :h, :w]), (new_h, new_w))
        np.testing.assert_array_equal(result[i, :new_h, :new_w], expected[0])


@pytest.mark.parametrize("strip_size", [1, 20 * 5, 20 * 5 * 3, 20 * 5 * 4, 2**24])
def test_the_largest_channel_is_found_strip_by_strip(strip_size, monkeypatch):
    """One row, two numbers of rows that do not divide the canvas, and all of it."""
    monkeypatch.setattr(resize, "_STRIP_SIZE", strip_size)
    x = np.random.default_rng(0).standard_normal((3, 8, 12, 5)).astype(np.float32)
    sizes = np.array([[8, 12], [5, 7], [3, 12]])
    new_sizes = np.array([[4, 20], [5, 7], [10, 6]])
    result = jax.jit(lambda *a: resample_argmax(*a, (10, 20)))(x, sizes, new_sizes)
    whole = jax.jit(lambda *a: resample_bilinear(*a, (10, 20)))(x, sizes, new_sizes)
    assert result.dtype == np.int32
    np.testing.assert_array_equal(result, whole.argmax(-1))


def test_a_large_map_takes_little_more_memory_than_its_result():
    shapes = [(1, 64, 64, 150), (1, 2), (1, 2)]
    arguments = [
        jax.ShapeDtypeStruct(shape, kind)
        for shape, kind in zip(shapes, ("float32", "int32", "int32"), strict=True)
    ]
    resample = jax.jit(lambda *a: resample_argmax(*a, (3000, 4000)))
    memory = resample.lower(*arguments).compile().memory_analysis()
    # All channels of all pixels are 7.2 GB.
    assert memory.temp_size_in_bytes < 4e8
