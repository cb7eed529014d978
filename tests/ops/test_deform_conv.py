import jax
import jax.numpy as jnp
import numpy as np
import pytest

from benchmarks.collectives import list_collectives
from litv2_jax.ops.deform_conv import deform_conv, sample_taps
from litv2_jax.training.devices import Devices
from tests.reference import Reference

GOLDEN = Reference("dtm")
CASES = [case for case in GOLDEN.cases if case.startswith("deform/")]


def from_torch(array: np.ndarray) -> np.ndarray:
    return array.transpose(0, 2, 3, 1)


@pytest.mark.gpu
@pytest.mark.parametrize("case", CASES)
def test_matches_pytorch(case):
    x, offsets, cotangent = (
        from_torch(GOLDEN[f"{case}/{name}"]) for name in ("x", "offset", "ct")
    )
    kernel = GOLDEN[f"{case}/weight"].transpose(2, 3, 1, 0)
    bias = GOLDEN[f"{case}/bias"]

    def convolve(x, offsets, kernel, bias):
        return deform_conv(x, offsets, kernel) + bias[None, None, None]

    @jax.jit
    def run(*inputs):
        output, vjp = jax.vjp(convolve, *inputs)
        return output, *vjp(cotangent)

    output, grad_x, grad_offsets, grad_kernel, grad_bias = run(x, offsets, kernel, bias)

    actual = {
        "out": output.transpose(0, 3, 1, 2),
        "grad_x": grad_x.transpose(0, 3, 1, 2),
        "grad_offset": grad_offsets.transpose(0, 3, 1, 2),
        "grad_weight": grad_kernel.transpose(3, 2, 0, 1),
        "grad_bias": grad_bias,
    }
    for key, array in actual.items():
        tolerance = 5e-6 * max(1, GOLDEN.scale(f"{case}/{key}"))
        assert GOLDEN.difference(f"{case}/{key}", array) < tolerance, key


def sample_slowly(x, offsets):
    """The definition, one number at a time: [B, h, w, 4, C]."""
    batch, height, width, channels = x.shape
    rows, cols = offsets.shape[1:3]
    taps = np.zeros((batch, rows, cols, 4, channels))
    for b, r, c, tap in np.ndindex(batch, rows, cols, 4):
        down, right = offsets[b, r, c, 2 * tap : 2 * tap + 2]
        y, z = 2 * r + tap // 2 + down, 2 * c + tap % 2 + right
        if not (-1 < y < height and -1 < z < width):
            continue
        for i in range(height):
            for j in range(width):
                weight = max(0, 1 - abs(y - i)) * max(0, 1 - abs(z - j))
                taps[b, r, c, tap] += weight * x[b, i, j]
    return taps


@pytest.mark.gpu
@pytest.mark.parametrize("scale", [0.5, 2.0, 8.0])
@pytest.mark.parametrize("size", [(2, 2), (5, 8), (9, 3)])
def test_is_bilinear_interpolation(size, scale):
    rng = np.random.default_rng(0)
    x = rng.standard_normal((2, *size, 3)).astype(np.float32)
    shape = (2, size[0] // 2, size[1] // 2, 8)
    offsets = (scale * rng.standard_normal(shape)).astype(np.float32)
    kernel = rng.standard_normal((2, 2, 3, 4)).astype(np.float32)

    expected = np.einsum(
        "bhwtc,tcd->bhwd", sample_slowly(x, offsets), kernel.reshape(4, 3, 4)
    )
    actual = jax.jit(deform_conv)(x, offsets, kernel)
    np.testing.assert_allclose(actual, expected, atol=1e-5)


@pytest.mark.gpu
def test_far_offsets_read_zero_and_get_no_gradient():
    x, kernel = jnp.ones((1, 4, 4, 2)), jnp.ones((2, 2, 2, 3))
    offsets = jnp.full((1, 2, 2, 8), 1e30)

    @jax.jit
    def loss(offsets):
        return deform_conv(x, offsets, kernel).sum()

    value, grad = jax.value_and_grad(loss)(offsets)
    assert value == 0
    np.testing.assert_array_equal(grad, 0)


@pytest.mark.gpu
def test_bfloat16_gradients_are_summed_in_float32():
    # All 128 taps read the first pixel, each with a weight of 1 / 3.
    x = jnp.ones((1, 64, 2, 1), jnp.bfloat16)
    to_corner = np.tile(np.float32([0, 0, 0, -1, -1, 0, -1, -1]), (1, 32, 1, 1))
    upwards = np.float32([1, 0, 1, 0, 1, 0, 1, 0])
    offsets = to_corner - 2 * np.arange(32)[:, None, None] * upwards
    kernel = jnp.full((2, 2, 1, 1), 1 / 3, jnp.bfloat16)

    @jax.jit
    def loss(x):
        return deform_conv(x, offsets, kernel).astype(jnp.float32).sum()

    grad = jax.grad(loss)(x)

    third = float(jnp.bfloat16(1 / 3))
    np.testing.assert_allclose(float(grad[0, 0, 0, 0]), 128 * third, rtol=2**-8)


def test_devices_read_and_add_to_their_own_images_alone():
    devices = Devices()
    rng = np.random.default_rng(0)
    arrays = [
        (scale * rng.standard_normal((8, *shape))).astype(np.float32)
        for scale, shape in ((1, (6, 10, 3)), (2, (3, 5, 8)), (1, (3, 5, 4, 3)))
    ]

    @jax.jit
    def differentiate(x, offsets, cotangent):
        taps, vjp = jax.vjp(sample_taps, x, offsets)
        return taps, *vjp(cotangent)

    sharded = jax.device_put(arrays, devices.batch_sharding)
    program = differentiate.lower(*sharded).compile()
    assert not list_collectives(program.as_text())
    for ours, expected in zip(program(*sharded), differentiate(*arrays), strict=True):
        np.testing.assert_array_equal(ours, expected)
